"""What strided slices joined as channels become, beside the graph that they stood in."""

from itertools import permutations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.graph.legalize import legalize
from exporter.graph.run import FloatRunner


def focus(phases, step=2, shape=(1, 3, 8, 8), axis=1, group=1):
    """A convolution of the joined slices that begin at `phases` (row, column)."""
    nodes, constants = [], {"step": [step, step], "axes": [2, 3], "end": [99, 99]}
    for number, phase in enumerate(phases):
        constants[f"start{number}"] = phase
        nodes.append(helper.make_node("Slice", ["x", f"start{number}", "end", "axes", "step"], [f"part{number}"]))
    nodes.append(helper.make_node("Concat", [f"part{number}" for number in range(len(phases))], ["joined"], axis=axis))
    nodes.append(helper.make_node("Conv", ["joined", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=group))
    channels = shape[1] * len(phases)
    weight = np.random.default_rng(0).normal(size=(4, channels // group, 3, 3)).astype(np.float32)
    tensors = [numpy_helper.from_array(np.asarray(value, np.int64), name) for name, value in constants.items()]
    proto = helper.make_graph(
        nodes,
        "focus",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.helper.make_empty_tensor_value_info("y")],
        [*tensors, numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))


def kinds_after(model, runtime="tflite"):
    after = legalize(model, runtime)
    shape = [*model.graph.inputs[0].shape]
    feed = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    (wanted,), (found,) = FloatRunner(model)(feed).values(), FloatRunner(after)(feed).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    return [node.op_type for node in after.graph]


FOUR = [(0, 0), (1, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize("phases", permutations(FOUR), ids=str)
def test_every_order_of_the_phases_is_one_space_to_depth(phases):
    assert kinds_after(focus(phases)) == ["SpaceToDepth", "Conv"]


def test_larger_blocks():
    phases = [(row, column) for column in range(3) for row in range(3)]
    assert kinds_after(focus(phases, step=3, shape=(2, 2, 6, 9))) == ["SpaceToDepth", "Conv"]


@pytest.mark.parametrize(
    ("phases", "changed"),
    [
        ([(0, 0), (1, 0), (0, 1), (0, 1)], {}),  # a phase is missing, another there twice
        (FOUR[:2], {}),
        (FOUR, {"group": 2}),
        ([(0, 0), (1, 0), (0, 1), (1, 1)], {"step": 3, "shape": (1, 3, 8, 8)}),
    ],
    ids=["twice", "half", "grouped", "gaps"],
)
def test_other_slices_stay(phases, changed):
    assert "SpaceToDepth" not in kinds_after(focus(phases, **changed))


def test_onnx_keeps_its_slices():
    assert "SpaceToDepth" not in kinds_after(focus(FOUR), "onnx")
