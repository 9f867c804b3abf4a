"""The NPU's conditions: what they let through runs wholly in the emulator as on the CPU, what they refuse has its sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration import open_samples
from diagnostics import TargetError
from exporter.built import Built
from exporter.frontends import load
from exporter.pipeline import Options, build
from exporter.runtimes import open_session
from targets.loader import load_target

X = (1, 8, 5, 6)
EACH = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
HALF = {**EACH, "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}
CORNERS = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
WEIGHT = np.full((8, 6, 3, 3), 0.1, np.float32)


def numbers(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


def whole(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


AROUND = whole(0, 0, 1, 1, 0, 0, 1, 1)

# (operator, attributes, constants behind the first input: None is an absent one)
TAKEN = {
    "max pool": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, []),
    "average of whole windows in ceil mode": ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, []),
    "average with half a window of padding": ("AveragePool", {"kernel_shape": [5, 5], "pads": [2] * 4}, []),
    "average that counts much padding": ("AveragePool", {"kernel_shape": [3, 3], "pads": [2] * 4, "count_include_pad": 1}, []),
    "zeros around": ("Pad", {}, [AROUND]),
    "edges repeated": ("Pad", {"mode": "edge"}, [AROUND]),
    "each number twice": ("Resize", EACH, [None, numbers(1, 1, 2, 2)]),
    "nearest to given lengths": ("Resize", HALF, [None, None, whole(1, 8, 7, 8)]),
    "linear to given lengths": ("Resize", {"mode": "linear"}, [None, None, whole(1, 8, 7, 7)]),
    "linear by a whole number": ("Resize", CORNERS, [None, numbers(1, 1, 2, 2)]),
    "gather by constants": ("Gather", {"axis": 1}, [whole(-1, 0, 2, -3)]),
    "transposed": ("ConvTranspose", {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}, [WEIGHT]),
}
# ... and a part of the sentence
REFUSED = {
    "dilated max pool": ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, [], "not dilated"),
    "dilated average": ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, [], "not dilated"),
    "average of parts of windows": ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, [], "ceil_mode"),
    "average with much padding": ("AveragePool", {"kernel_shape": [3, 3], "pads": [2] * 4}, [], "half of the window"),
    "ones around": ("Pad", {}, [AROUND, np.float32(1)], "is zero"),
    "linear by a scale that gives no whole length": (
        "Resize",
        {"mode": "linear"},
        [None, numbers(1, 1, 1.5, 1.5)],
        "whole output lengths",
    ),
    "antialiased": ("Resize", {"mode": "linear", "antialias": 1}, [None, None, whole(1, 8, 3, 3)], "antialiasing"),
    "nearest upwards": ("Resize", {**HALF, "nearest_mode": "ceil"}, [None, numbers(1, 1, 2, 2)], "half pixels round to"),
    "nearest of two": ("Resize", HALF, [None, None, whole(1, 8, 5, 3)], "as near"),
    "transposed and dilated": ("ConvTranspose", {"dilations": [2, 2]}, [WEIGHT], "not dilated"),
    "transposed, two elements more": (
        "ConvTranspose",
        {"strides": [3, 3], "pads": [1] * 4, "output_padding": [2, 2]},
        [WEIGHT],
        "one element longer",
    ),
}


def model(folder: Path, op_type: str, attributes: dict[str, Any], constants: list[Any]) -> Path:
    names = ["" if array is None else f"c{place}" for place, array in enumerate(constants)]
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in zip(names, constants, strict=True) if name]
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x", *names], ["y"], "the_node", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    path = folder / "model.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(proto, strict_mode=True), path)
    return path


def built(path: Path) -> tuple[Built, dict[str, np.ndarray]]:
    source = load(path)
    data = [{"x": array} for array in np.random.default_rng(0).normal(size=(4, *X)).astype(np.float32)]
    samples = open_samples(data, source.inputs)
    return build(source, load_target("snapdragon-8gen3-npu"), samples, Options(refine=False)), data[0]


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_runs_wholly_on_the_npu_as_on_the_cpu(name: str, tmp_path: Path) -> None:
    found, sample = built(model(tmp_path, *TAKEN[name]))
    path = tmp_path / "artifact.onnx"
    found.artifact.write(path)
    step = found.plan.encodings["y"].scale[0]
    with (
        open_session("qnn-htp", path, options=found.target.verification.options["qnn-htp"]) as npu,
        open_session("onnxruntime", path, options={"optimize": False}) as cpu,
    ):
        assert npu.report()["cpu"] == []
        assert np.abs(npu.run(sample)["y"] - cpu.run(sample)["y"]).max() / step < 1.01


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_so_by_its_sentence(name: str, tmp_path: Path) -> None:
    *given, sentence = REFUSED[name]
    with pytest.raises(TargetError) as caught:
        built(model(tmp_path, *given))
    assert caught.value.code == "EW-T004"
    assert "the_node" in caught.value.why
    assert sentence in caught.value.why


def test_more_than_five_axes_are_refused(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 1, 2, 1, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"], "the_node")], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "model.onnx")
    source = load(tmp_path / "model.onnx")
    with pytest.raises(TargetError) as caught:
        build(
            source,
            load_target("snapdragon-8gen3-npu"),
            open_samples([{"x": np.ones((1, 2, 1, 2, 1, 2), np.float32)}], source.inputs),
        )
    assert "rank is 6" in caught.value.why
