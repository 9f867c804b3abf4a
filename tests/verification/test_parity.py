"""Parity sees each layer apart: a fault in one layer shows there and not behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tiny_models import add_int8, onnx_add, onnx_relu

from diagnostics import DataError, ModelError
from exporter.quantization.plan import Encoding, Plan
from exporter.verification.cut import cut_layers, encoding_of, find_points
from exporter.verification.parity import LayerParity, artifact_parity, layer_parity

LAYOUTS = dict.fromkeys(("x", "sum", "y"), "channels_last")


def samples(count: int = 5) -> Iterator[dict[str, np.ndarray]]:
    for seed in range(count):
        yield {"x": np.random.default_rng(seed).uniform(-5, 5, (1, 3, 2, 2)).astype(np.float32)}


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("optimize", [True, False])
def test_artifacts_of_one_integer_model_agree_within_one_step(dtype: str, optimize: bool, tmp_path: Path) -> None:
    tflite, qdq = add_int8(tmp_path / "m.tflite"), onnx_add(tmp_path / "m.onnx", dtype=dtype)
    parity = artifact_parity(tflite, qdq, samples(), layouts=LAYOUTS, optimize=optimize)
    assert [(layer.name, layer.op, layer.elements) for layer in parity.layers] == [
        ("x", "QuantizeLinear", 60),
        ("sum", "Add", 60),
        ("y", "Relu", 60),
    ]
    assert parity.samples == 5
    assert parity.uncompared == ()
    assert parity.max_lsb <= 1
    assert parity.beyond(1) == ()
    assert parity.layers[0] == LayerParity("x", "QuantizeLinear", 60, 0, 0, 0)


def test_a_fault_shows_in_its_own_layer_only(tmp_path: Path) -> None:
    qdq = onnx_add(tmp_path / "m.onnx", constant=(50, -50, 100))  # channel 2 is 2.0 higher: 33 steps of 0.06
    parity = artifact_parity(add_int8(tmp_path / "m.tflite"), qdq, samples(), layouts=LAYOUTS)
    (bad,) = parity.beyond(1)
    assert (bad.name, bad.more, bad.max_lsb) == ("sum", 20, 34)
    assert bad.equal + bad.off_by_one == 40
    assert parity.to_dict()["max_lsb"] == 34


def test_a_value_of_another_encoding_is_left_inside_of_its_reader(tmp_path: Path) -> None:
    qdq = onnx_add(tmp_path / "m.onnx", sum_zero_point=-6)
    parity = artifact_parity(add_int8(tmp_path / "m.tflite"), qdq, samples(2), layouts=LAYOUTS)
    assert parity.uncompared == ("sum",)
    assert [layer.name for layer in parity.layers] == ["x", "y"]
    assert parity.max_lsb <= 2  # the reader rounds once to 0.06 and once to 0.03


def test_artifacts_that_share_no_value_are_not_of_one_plan(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="EW-Q002"):
        artifact_parity(add_int8(tmp_path / "m.tflite"), onnx_relu(tmp_path / "m.onnx"), samples(1), layouts=LAYOUTS)


def test_parity_without_a_sample(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="EW-D001"):
        artifact_parity(add_int8(tmp_path / "m.tflite"), onnx_add(tmp_path / "m.onnx"), [], layouts=LAYOUTS)


def test_every_layer_of_the_cut_model_reads_fed_integers_only(tmp_path: Path) -> None:
    model = onnx.load(str(onnx_add(tmp_path / "m.onnx")))
    tensors = {name: np.zeros((1, 2, 2, 3), np.int8) for name in ("x", "sum", "y")}
    encodings = {
        name: Encoding("int8", (float(np.float32(scale)),), (zero,))
        for name, scale, zero in (("x", 0.05, 3), ("sum", 0.06, -5), ("y", 0.03, -128))
    }
    points, alone = find_points(model, tensors, encodings, LAYOUTS)
    cut = onnx.load_from_string(cut_layers(model, points))
    onnx.checker.check_model(cut)
    assert alone == ()
    assert {entry.name for entry in cut.graph.input} == {"x", "x_quantized_fed", "sum_quantized_fed"}
    assert [entry.name for entry in cut.graph.output] == ["x_quantized", "sum_quantized", "y_quantized"]
    assert "offset_quantized" in {entry.name for entry in cut.graph.initializer}


def test_integers_move_between_int8_channels_last_and_uint8_channels_first(tmp_path: Path) -> None:
    model = onnx.load(str(onnx_add(tmp_path / "m.onnx")))
    x = np.arange(-6, 6, dtype=np.int8).reshape(1, 2, 2, 3)
    encoding = Encoding("int8", (float(np.float32(0.05)),), (3,))
    points, _ = find_points(model, {"7:x": x}, {"7:x": encoding}, {"x": "channels_last"})
    (point,) = points
    assert (point.source, point.offset, point.shape) == ("7:x", 128, (1, 3, 2, 2))
    moved = point.of_tflite({"7:x": x})
    assert moved.dtype == np.uint8
    assert moved[0, :, 0, 0].tolist() == [122, 123, 124]


def test_an_encoding_without_a_zero_point_is_uint8_zero() -> None:
    node = onnx.helper.make_node("QuantizeLinear", ["x", "s"], ["q"])
    assert encoding_of(node, {"s": np.float32(0.5)}) == Encoding("uint8", (0.5,), (0,))
    assert encoding_of(node, {}) is None


def test_the_qdq_side_can_be_made_from_graph_and_plan(tmp_path: Path) -> None:
    x = ir.Value(name="x")
    offset = ir.Value(name="offset", const_value=ir.tensor(np.array([1, -1, 0], np.float32).reshape(1, 3, 1, 1), name="offset"))
    add = ir.node("Add", [x, offset], name="add", outputs=[ir.Value(name="sum")])
    relu = ir.node("Relu", [add.outputs[0]], name="relu", outputs=[ir.Value(name="y")])
    for value in (x, *add.outputs, *relu.outputs):
        value.shape, value.type = ir.Shape((1, 3, 2, 2)), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], relu.outputs, nodes=[add, relu], initializers=[offset], opset_imports={"": 21}, name="add")
    scales = {"x": (0.05, 3), "offset": (0.02, 0), "sum": (0.06, -5), "y": (0.03, -128)}
    plan = Plan(
        "any",
        precision={"add": "int8", "relu": "int8"},
        encodings={name: Encoding("int8", (float(np.float32(scale)),), (zero,)) for name, (scale, zero) in scales.items()},
        layout=LAYOUTS,
        io_layout="channels_last",
        io_dtype="int8",
    )
    parity = layer_parity(ir.Model(graph, ir_version=10), plan, add_int8(tmp_path / "m.tflite"), samples())
    assert [layer.op for layer in parity] == ["Add", "Relu"]
    assert parity.max_lsb <= 1
    assert parity.uncompared == ()
    assert x.dtype == ir.DataType.FLOAT  # the graph is left as it was
