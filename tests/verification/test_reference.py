"""The comparison with the integer reference sees a fault in the node that has it, and only there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tiny_models import add_int8

from diagnostics import DataError
from exporter.quantization.plan import Encoding, Plan
from exporter.verification.reference import Comparison, reference_parity

pytest.importorskip("torch")

LAYOUTS = dict.fromkeys(("x", "sum", "y"), "channels_last")
SCALES = {"x": (0.05, 3), "offset": (0.02, 0), "sum": (0.06, -5), "y": (0.03, -128)}
PLAN = Plan(
    "any",
    precision={"add": "int8", "relu": "int8"},
    encodings={name: Encoding("int8", (float(np.float32(scale)),), (zero,)) for name, (scale, zero) in SCALES.items()},
    layout=LAYOUTS,
    io_layout="channels_last",
    io_dtype="int8",
)


def network(offset=(1.0, -1.0, 0.0)) -> ir.Model:
    """relu(x + offset), as `tiny_models.add_int8` has it."""
    x = ir.Value(name="x")
    constant = ir.Value(name="offset", const_value=ir.tensor(np.array(offset, np.float32).reshape(1, 3, 1, 1), name="offset"))
    add = ir.node("Add", [x, constant], name="add", outputs=[ir.Value(name="sum")])
    relu = ir.node("Relu", [add.outputs[0]], name="relu", outputs=[ir.Value(name="y")])
    for value in (x, *add.outputs, *relu.outputs):
        value.shape, value.type = ir.Shape((1, 3, 2, 2)), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], relu.outputs, nodes=[add, relu], initializers=[constant], opset_imports={"": 21}, name="add")
    return ir.Model(graph, ir_version=10)


def samples(count=3):
    return [{"x": np.random.default_rng(seed).uniform(-5, 5, (1, 3, 2, 2)).astype(np.float32)} for seed in range(count)]


def test_an_artifact_of_the_plan_is_the_reference(tmp_path: Path) -> None:
    parity = reference_parity(network(), PLAN, add_int8(tmp_path / "m.tflite"), samples())
    assert [(layer.name, layer.op, layer.elements, layer.max_lsb) for layer in parity] == [
        ("sum", "Add", 36, 0),
        ("y", "Relu", 36, 0),
    ]
    assert parity.samples == 3
    assert parity.uncompared == ()


def test_a_fault_shows_in_its_own_node_only(tmp_path: Path) -> None:
    parity = reference_parity(network((1.0, -1.0, 0.06)), PLAN, add_int8(tmp_path / "m.tflite"), samples())
    assert [(layer.name, layer.equal, layer.max_lsb) for layer in parity] == [("sum", 24, 1), ("y", 36, 0)]


def test_a_value_without_a_tensor_of_its_own_is_named() -> None:
    comparison = Comparison(network(), replace(PLAN, layout={}, io_layout="keep"))
    zeros = np.zeros((1, 3, 2, 2), np.int8)
    comparison.update({"x": zeros, "y": zeros})
    assert comparison.result().uncompared == ("sum",)
    assert [layer.name for layer in comparison.result()] == ["y"]


def test_there_must_be_a_sample(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="EW-D001"):
        reference_parity(network(), PLAN, add_int8(tmp_path / "m.tflite"), [])
