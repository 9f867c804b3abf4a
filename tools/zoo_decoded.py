"""`zoo.yolox_char` with its boxes decoded in the graph, as detectors are mostly exported: pixels beside scores in one output."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

__all__ = ["STRIDES", "decoded", "grid_of"]

STRIDES: Final = (8, 16, 32)


def grid_of(size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Column and row of every cell, float32 [cells, 2], and its stride in pixels, float32 [cells, 1], of an image `size` pixels wide."""
    places, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: size // stride, : size // stride]
        places.append(np.stack([columns.ravel(), rows.ravel()], 1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(places).astype(np.float32), np.concatenate(strides).astype(np.float32)


def decoded(raw: Path, folder: Path, size: int = 416) -> Path:
    """Write ``decoded.onnx`` into `folder`: the model `raw` with ((x, y) + cell) * stride, exp(w, h) * stride and P(object) * P(class)
    behind its output [1, cells, 6], as [1, 5, cells]."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(raw))
    graph = model.graph
    cells, strides = grid_of(size)
    bounds = {"xy": (0, 2), "wh": (2, 4), "object": (4, 5), "class": (5, 6)}
    constants = {"cells": cells[None], "strides": strides[None], "last_axis": np.int64([2])}
    constants |= {
        f"{name}_{end}": np.int64([bound]) for name, pair in bounds.items() for end, bound in zip("ab", pair, strict=True)
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(array), f"decode_{name}") for name, array in constants.items())
    source = graph.output[0].name

    def add(op_type: str, inputs: list[str], output: str, **attributes: Any) -> None:
        graph.node.append(helper.make_node(op_type, inputs, [output], name=f"decode/{output}", **attributes))

    for name in bounds:
        add("Slice", [source, f"decode_{name}_a", f"decode_{name}_b", "decode_last_axis"], f"raw_{name}")
    add("Add", ["raw_xy", "decode_cells"], "placed_xy")
    add("Mul", ["placed_xy", "decode_strides"], "pixels_xy")
    add("Exp", ["raw_wh"], "grown_wh")
    add("Mul", ["grown_wh", "decode_strides"], "pixels_wh")
    add("Mul", ["raw_object", "raw_class"], "score")
    add("Concat", ["pixels_xy", "pixels_wh", "score"], "joined", axis=-1)
    add("Transpose", ["joined"], "detections", perm=[0, 2, 1])
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("detections", onnx.TensorProto.FLOAT, [1, 5, len(cells)]))
    path = folder / "decoded.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
