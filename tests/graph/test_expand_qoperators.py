"""Each quantized operator of onnxruntime is the float operator between roundings: run beside onnxruntime's own kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.graph.coverage import unsupported
from exporter.graph.passes import canonicalize

RANDOM = np.random.default_rng(0)
X, Y = (np.float32(0.02), np.uint8(120)), (np.float32(0.03), np.uint8(90))
SHAPE = (1, 4, 6, 6)


def model(op_type, inputs, constants, shape, out_shape, dtype=TensorProto.UINT8, **attributes):
    """One node of com.microsoft; inputs named x... are of uint8 and `shape`."""
    fed = [name for name in inputs if name.startswith("x")]
    node = helper.make_node(op_type, inputs, ["y"], name="node", domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in fed],
        [helper.make_tensor_value_info("y", dtype, out_shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return proto, {name: RANDOM.integers(0, 256, shape, dtype=np.uint8) for name in fed}


PARAMETERS = {"s": X[0], "z": X[1], "t": Y[0], "p": Y[1]}
ONE, TWO = ["x", "s", "z", "t", "p"], ["x", "s", "z", "x2", "t", "p", "t", "p"]
CASES = {
    "add": ("QLinearAdd", TWO, SHAPE, {}),
    "multiply": ("QLinearMul", TWO, SHAPE, {}),
    "sigmoid": ("QLinearSigmoid", ONE, SHAPE, {}),
    "leaky relu": ("QLinearLeakyRelu", ONE, SHAPE, {"alpha": 0.2}),
    "softmax": ("QLinearSoftmax", ONE, SHAPE, {"axis": 1, "opset": 17}),
    "global average": ("QLinearGlobalAveragePool", ONE, (1, 4, 1, 1), {}),
    "average": ("QLinearAveragePool", ONE, (1, 4, 3, 3), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "concat": ("QLinearConcat", ["t", "p", "x", "s", "z", "x2", "t", "p"], (1, 8, 6, 6), {"axis": 1}),
}


def check(proto, feed, steps=1):
    wanted = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feed)[0]
    canonical = canonicalize(ir.from_proto(proto))
    assert not any(node.domain for node in canonical.graph)
    plainly = onnxruntime.SessionOptions()  # else onnxruntime would make of it again what it was
    plainly.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (found,) = onnxruntime.InferenceSession(ir.to_proto(canonical).SerializeToString(), plainly).run(None, feed)
    assert found.dtype == wanted.dtype
    apart = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    # onnxruntime's kernels of activations look the result up, those of pools average integers: a tie may go the other way
    assert apart.max() <= steps
    return apart


@pytest.mark.parametrize("name", CASES)
def test_an_operator_between_roundings(name):
    op_type, inputs, out_shape, attributes = CASES[name]
    apart = check(*model(op_type, inputs, PARAMETERS, SHAPE, out_shape, **attributes))
    assert np.mean(apart > 0) < 0.05


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("to_float", [False, True])
def test_gemm_with_a_bias_in_steps_of_both_scales(per_channel, to_float):
    scale = RANDOM.uniform(0.001, 0.01, 5 if per_channel else 1).astype(np.float32)
    constants = {
        **PARAMETERS,
        "b": RANDOM.integers(-127, 128, (5, 8)).astype(np.int8),
        "bias": RANDOM.integers(-900, 900, 5).astype(np.int32),
    }
    constants |= {"bs": scale if per_channel else scale[0], "bz": np.zeros(5, np.int8) if per_channel else np.int8(0)}
    inputs = ["x", "s", "z", "b", "bs", "bz", "bias", *([] if to_float else ["t", "p"])]
    dtype = TensorProto.FLOAT if to_float else TensorProto.UINT8
    check(*model("QGemm", inputs, constants, (2, 8), (2, 5), dtype, transB=1), steps=1e-4 if to_float else 1)


def test_another_form_stays_to_be_refused_by_name():
    window = {"kernel_shape": [2, 2], "strides": [2, 2], "channels_last": 1}
    proto, _ = model("QLinearAveragePool", ONE, PARAMETERS, SHAPE, (1, 2, 3, 6), **window)
    canonical = canonicalize(ir.from_proto(proto))
    (refused,) = unsupported(canonical, "lower")
    assert "com.microsoft.QLinearAveragePool" in refused.reason
