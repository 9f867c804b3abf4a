"""int16 activations: every operator that claims a kernel computes on LiteRT what float does, to a few of its fine steps; others stay float."""

import numpy as np
import pytest

from exporter.ops import all_operators
from exporter.ops.base import operator_of
from exporter.ops.forms import hybrid_version, int16_version, lacking
from tests.ops.op_bench import lowered, node_of, single


def i(*numbers):
    return np.asarray(numbers, np.int64)


def f(number):
    return np.asarray(number, np.float32)


def w(*shape):
    """Weights that int8 holds exactly along any channel axis: sixty-fourths up to 127, which occurs in every row and column."""
    integers = np.random.default_rng(shape).integers(-127, 128, shape)
    rows, columns = np.arange(max(shape[:2])) % shape[0], np.arange(max(shape[:2])) % shape[1]
    integers[rows, columns] = 127
    return (integers / 64).astype(np.float32)


IMAGE = (1, 4, 6, 6)
CASES = {
    "Abs": ("Abs", [IMAGE], {}),
    "Add": ("Add", [IMAGE, IMAGE], {}),
    "Add broadcast": ("Add", [IMAGE, (1, 4, 1, 1)], {}),
    "Sub": ("Sub", [IMAGE, IMAGE], {}),
    "Mul": ("Mul", [IMAGE, IMAGE], {}),
    "AveragePool": ("AveragePool", [IMAGE], {"kernel_shape": [2, 2]}),
    "AveragePool of many": ("AveragePool", [(1, 4, 40, 40)], {"kernel_shape": [40, 40]}),
    "MaxPool": ("MaxPool", [IMAGE], {"kernel_shape": [2, 2]}),
    "GlobalAveragePool": ("GlobalAveragePool", [IMAGE], {}),
    "GlobalMaxPool": ("GlobalMaxPool", [IMAGE], {}),
    "Concat": ("Concat", [IMAGE, IMAGE], {"axis": 1}),
    "MatMul": ("MatMul", [(2, 3, 8), (2, 8, 5)], {}),
    "Gather": ("Gather", [(5, 6), i(3, 1)], {"axis": 1}),
    "GatherND": ("GatherND", [(5, 6), np.asarray([[0, 1], [2, 3]], np.int64)], {}),
    "LeakyRelu": ("LeakyRelu", [IMAGE], {"alpha": 0.1}),
    "Sigmoid": ("Sigmoid", [IMAGE], {}),
    "Tanh": ("Tanh", [IMAGE], {}),
    "Softmax": ("Softmax", [(3, 10)], {}),
    "HardSigmoid": ("HardSigmoid", [IMAGE], {}),
    "Max": ("Max", [IMAGE, IMAGE], {}),
    "Min": ("Min", [IMAGE, f([[[0.5]], [[1]], [[-1]], [[2]]])], {}),
    "ReduceMean": ("ReduceMean", [IMAGE, i(2, 3)], {}),
    "ReduceMean of channels": ("ReduceMean", [IMAGE, i(1)], {}),
    "ReduceMax": ("ReduceMax", [IMAGE, i(2, 3)], {}),
    "ReduceMin": ("ReduceMin", [IMAGE, i(1)], {}),
    "ReduceSum": ("ReduceSum", [IMAGE, i(2, 3)], {}),
    "Pad": ("Pad", [IMAGE, i(0, 0, 1, 1, 0, 0, 1, 1)], {}),
    "Pad reflect": ("Pad", [IMAGE, i(0, 0, 1, 1, 0, 0, 1, 1)], {"mode": "reflect"}),
    "Pad value": ("Pad", [IMAGE, i(0, 0, 1, 1, 0, 0, 1, 1), f(0.7)], {}),
    "Relu": ("Relu", [IMAGE], {}),
    "Clip at 6": ("Clip", [IMAGE, f(0), f(6)], {}),
    "Clip anywhere": ("Clip", [IMAGE, f(-0.5), f(0.7)], {}),
    "Neg": ("Neg", [IMAGE], {}),
    "Reshape": ("Reshape", [IMAGE, i(4, 36)], {}),
    "Transpose": ("Transpose", [IMAGE], {"perm": [0, 2, 1, 3]}),
    "Slice": ("Slice", [IMAGE, i(1), i(5), i(2)], {}),
    "Slice in steps": ("Slice", [IMAGE, i(1), i(6), i(2), i(2)], {}),
    "Split": ("Split", [IMAGE], {"axis": 1, "num_outputs": 2, "outputs": 2}),
    "Split unevenly": ("Split", [IMAGE, i(1, 3)], {"axis": 1, "outputs": 2}),
    "Resize nearest": (
        "Resize",
        [IMAGE, None, f([1, 1, 2, 2])],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "Resize linear": ("Resize", [IMAGE, None, f([1, 1, 2, 2])], {"mode": "linear"}),
    "Expand": ("Expand", [(1, 4, 1, 6), i(2, 4, 3, 6)], {}),
    "Tile": ("Tile", [IMAGE, i(1, 2, 1, 2)], {}),
    "TopK": ("TopK", [(3, 10), i(4)], {"outputs": 2}),
}
WEIGHTED = {
    "Conv": ("Conv", [IMAGE, w(5, 4, 3, 3), f([0.1, -0.2, 3, 0, 1])], {}),
    "Conv in groups": ("Conv", [IMAGE, w(6, 2, 3, 3), f([0.1, -0.2, 3, 0, 1, 2])], {"group": 2}),
    "Conv dilated": ("Conv", [(1, 4, 9, 9), w(6, 4, 3, 3), f([0.1, -0.2, 3, 0, 1, 2])], {"dilations": [2, 2]}),
    "Conv depthwise": ("Conv", [IMAGE, w(4, 1, 3, 3), f([0.1, -0.2, 3, 0])], {"group": 4}),
    "Conv depthwise multiplied": ("Conv", [IMAGE, w(8, 1, 3, 3), f(range(8))], {"group": 4}),
    "ConvTranspose": ("ConvTranspose", [IMAGE, w(4, 5, 3, 3), f([0.1, -0.2, 3, 0, 1])], {"strides": [2, 2]}),
    "ConvTranspose alone": ("ConvTranspose", [IMAGE, w(4, 5, 3, 3)], {"strides": [2, 2]}),
    "Gemm": ("Gemm", [(3, 16), w(7, 16), f(range(7))], {"transB": 1}),
}
FLOAT = {
    "LogSoftmax": ("LogSoftmax", [(3, 10)], {}),
    "HardSwish": ("HardSwish", [IMAGE], {}),
    "Elu": ("Elu", [IMAGE], {}),
    "PRelu": ("PRelu", [IMAGE, f([[[0.5]], [[1]], [[-1]], [[2]]])], {}),
    "DepthToSpace": ("DepthToSpace", [(1, 8, 6, 6)], {"blocksize": 2}),
    "Clip at one": ("Clip", [IMAGE, f(-1), f(1)], {}),
}


def made(case):
    op_type, inputs, arguments = case
    return single(op_type, *inputs, leaky=True, **arguments)


@pytest.mark.parametrize("kernels", ["ref", "builtin"])
@pytest.mark.parametrize("name", CASES)
def test_int16_is_float_to_a_few_steps(name, kernels):
    found = lowered(made(CASES[name]), "int16x8", kernels=kernels)
    assert found.steps, "the node ran in float"
    # Rounding an input costs half a step times the slope: at most 8 of the product of two numbers up to 4. The output of Tanh is fixed while its
    # input, up to 4, has one bit of headroom: 4 steps, once for the input and once for what LeakyRelu hands on, and one for its table.
    assert max(found.steps.values()) <= (9 if name == "Tanh" else 5)


@pytest.mark.parametrize("kernels", ["ref", "builtin"])
@pytest.mark.parametrize("name", WEIGHTED)
def test_exact_weights_beside_int16_are_float_to_a_few_steps(name, kernels):
    found = lowered(made(WEIGHTED[name]), "int16x8", kernels=kernels)
    assert found.steps
    assert max(found.steps.values()) <= 2


@pytest.mark.parametrize("name", FLOAT)
def test_what_has_no_int16_kernel_stays_float(name):
    found = lowered(made(FLOAT[name]), "int16x8", kernels="builtin")
    assert not found.steps
    assert max(found.errors.values()) < 1e-3


def test_lacking_says_so():
    model = single("HardSwish", IMAGE)
    operator = operator_of(node_of(model))
    assert lacking(operator, node_of(model), "int16", "tflite") == "HardSwish has no int16 kernel"
    assert lacking(operator, node_of(model), "int8", "tflite") == ""
    assert lacking(operator, node_of(model), "int16", "onnx") == ""


def test_every_operator_with_int16_kernels_was_run():
    claimed = {
        op_type
        for (_, op_type), operator in all_operators().items()
        if "int16" in operator.kernel_dtypes and operator.has("quantize")
    }
    run = {case[0] for case in (*CASES.values(), *WEIGHTED.values())}
    # Legalized into others of the list, or RESHAPE by another name.
    assert claimed - run == {"Flatten", "Squeeze", "Unsqueeze", "Identity", "Mean", "Sum"}


def test_versions():
    assert hybrid_version("DEPTHWISE_CONV_2D", per_channel=False) is None
    assert hybrid_version("FULLY_CONNECTED", per_channel=True, blocks=True) == 14
    assert hybrid_version("CONV_2D", per_channel=True, blocks=True) is None
    assert int16_version("ELU") is None
