"""Layer by layer against the float original: the layer that loses the signal is the one that is named."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tiny_models import add_int8, onnx_add

from diagnostics import DataError, RuntimeFailure
from exporter.quantization.plan import Encoding, Plan
from exporter.verification.kept import stored_layouts
from exporter.verification.layers import LayerWatch, layer_sqnr, watch_layers

ENCODINGS = {
    name: Encoding("int8", (float(np.float32(scale)),), (zero,))
    for name, scale, zero in (("x", 0.05, 3), ("sum", 0.06, -5), ("y", 0.03, -128))
}
LAST = dict.fromkeys(("x", "sum", "y"), "channels_last")
PLAN = Plan("any", encodings=ENCODINGS, layout=LAST, io_layout="channels_last", io_dtype="int8")


def float_graph() -> ir.Model:
    """The float original of `add_int8`: y = relu(x + offset)."""
    offset = ir.tensor(np.array([1, -1, 0], np.float32).reshape(1, 3, 1, 1), name="offset")
    x, c = ir.Value(name="x"), ir.Value(name="offset", const_value=offset)
    add = ir.node("Add", [x, c], name="add", outputs=[ir.Value(name="sum")])
    relu = ir.node("Relu", [add.outputs[0]], name="relu", outputs=[ir.Value(name="y")])
    for value in (x, add.outputs[0], relu.outputs[0]):
        value.shape, value.type = ir.Shape((1, 3, 2, 2)), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], relu.outputs, nodes=[add, relu], initializers=[c], opset_imports={"": 21}, name="add")
    return ir.Model(graph, ir_version=10)


def samples(limit: float) -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(seed).uniform(-limit, limit, (1, 3, 2, 2)).astype(np.float32)} for seed in range(4)]


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_every_quantized_value_is_measured_in_either_form(form: str, tmp_path: Path) -> None:
    if form == "tflite":
        path, plan = add_int8(tmp_path / "m.tflite"), PLAN
    else:
        path, plan = onnx_add(tmp_path / "m.onnx"), Plan("any", encodings=ENCODINGS)
    layers = {layer.name: layer for layer in watch_layers(float_graph(), plan, path, samples(3.0))}
    assert list(layers) == ["x", "sum", "y"]
    assert layers["x"].max_abs <= 0.05 / 2 + 1e-6
    assert layers["sum"].max_abs <= (0.05 + 0.06) / 2 + 1e-6
    assert all(layer.clipped == 0 and layer.sqnr_db > 30 for layer in layers.values())


def test_clipping_is_counted_where_it_happens(tmp_path: Path) -> None:
    values = samples(9.0)  # the encoding of x reaches from -6.55 to 6.2
    layers = {layer.name: layer for layer in watch_layers(float_graph(), PLAN, add_int8(tmp_path / "m.tflite"), values)}
    x = np.stack([sample["x"] for sample in values])
    assert layers["x"].clipped == ((x > 0.05 * 124.5) | (x < -0.05 * 131.5)).mean() > 0.1
    assert layers["y"].sqnr_db < 20


def test_sqnr_by_name(tmp_path: Path) -> None:
    found = layer_sqnr(float_graph(), PLAN, add_int8(tmp_path / "m.tflite"), samples(3.0), layouts=LAST)
    assert found.keys() == {"x", "sum", "y"}
    assert all(30 < sqnr < 50 for sqnr in found.values())


def test_no_sample_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="EW-D001"):
        watch_layers(float_graph(), PLAN, add_int8(tmp_path / "m.tflite"), [])


def test_the_watch_transposes_and_dequantizes() -> None:
    real = np.arange(6, dtype=np.float32).reshape(1, 3, 2) * 0.5
    stored = np.moveaxis(real / 0.5, 1, -1).astype(np.int8) + np.int8(7)
    watch = LayerWatch({"v": Encoding("int8", (0.5,), (7,))}, {"v": "channels_last"})
    watch.update({"v": real, "fused": real}, {"v": stored})
    (quality,) = watch.result()
    assert (quality.name, quality.sqnr_db, quality.to_dict()["sqnr_db"]) == ("v", math.inf, "inf")


def test_a_value_of_another_shape_is_an_error_that_names_it() -> None:
    with pytest.raises(RuntimeFailure, match=r"EW-R005.*v has shape"):
        LayerWatch({}).update({"v": np.zeros(3)}, {"v": np.zeros(4)})


def test_inputs_and_outputs_are_stored_as_the_users_of_the_artifact_see_them() -> None:
    graph = float_graph()
    assert stored_layouts(graph, PLAN) == LAST
    assert stored_layouts(graph, Plan("any", layout=LAST)) == {"x": "keep", "sum": "channels_last", "y": "keep"}
