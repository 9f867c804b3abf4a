"""Small networks of one kind of integer kernel each, of random shapes, weights and attributes, which kernels are compared by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

__all__ = ["FAMILIES", "Array", "Draw", "feeds", "graph", "single"]

Array = np.ndarray[Any, Any]


def graph(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[int]], outputs: Sequence[str], **constants: Any
) -> ir.Model:
    """A canonical graph of `helper.make_node` nodes; `inputs` maps names to shapes, `constants` names to arrays."""
    proto = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))


def single(op_type: str, *inputs: Any, outputs: int = 1, leaky: bool = False, **attributes: Any) -> ir.Model:
    """One node. A tuple is the shape of a computed float input, an array a constant, None an absent input.

    `leaky` puts a LeakyRelu before each computed input: operators that only move numbers run in integers beside one that does anyway.
    """
    names = [
        "" if value is None else f"c{index}" if isinstance(value, np.ndarray) else f"x{index}"
        for index, value in enumerate(inputs)
    ]
    results = [f"y{index}" for index in range(outputs)]
    computed = {name: value for name, value in zip(names, inputs, strict=True) if isinstance(value, tuple)}
    constants = {name: value for name, value in zip(names, inputs, strict=True) if isinstance(value, np.ndarray)}
    before = (
        [helper.make_node("LeakyRelu", [name], [f"{name}_leaky"], name=f"leaky_{name}") for name in computed] if leaky else []
    )
    names = [f"{name}_leaky" if leaky and name in computed else name for name in names]
    node = helper.make_node(op_type, names, results, name="node", **attributes)
    return graph([*before, node], computed, results, **constants)


def feeds(model: ir.Model, random: np.random.Generator, spread: float, shift: float, count: int = 2) -> list[dict[str, Array]]:
    """Normal numbers around `shift` for every input."""
    return [
        {
            str(value.name): random.normal(shift, spread, list(value.shape or ())).astype(np.float32)
            for value in model.graph.inputs
        }
        for _ in range(count)
    ]


class Draw:
    """Random lengths, weights and numbers of one example."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def length(self, low: int = 1, high: int = 9) -> int:
        return int(self.random.integers(low, high + 1))

    def shape(self, rank: int) -> tuple[int, ...]:
        return tuple(self.length() for _ in range(rank))

    def weight(self, *shape: int) -> Array:
        return (self.random.normal(size=shape) * self.random.uniform(0.02, 2)).astype(np.float32)

    def number(self, low: float, high: float) -> float:
        return float(self.random.uniform(low, high))


_Family = Callable[[Draw], ir.Model]


def _array(*values: Any, dtype: type = np.int64) -> Array:
    return np.array(values[0] if len(values) == 1 else values, dtype)


def _convolution(d: Draw) -> ir.Model:
    channels, group = 2 * d.length(1, 3), int(d.random.choice((1, 2)))
    weight = d.weight(2 * d.length(1, 3), channels // group, d.length(1, 3), d.length(1, 3))
    return single("Conv", (1, channels, 8, 7), weight, d.weight(len(weight)), group=group, strides=[d.length(1, 2), 1])


def _depthwise(d: Draw) -> ir.Model:
    channels = d.length(2, 5)
    return single("Conv", (1, channels, 8, 7), d.weight(channels * d.length(1, 2), 1, 3, 3), group=channels, pads=[1, 1, 1, 1])


def _transposed(d: Draw) -> ir.Model:
    channels, filters = d.length(1, 4), d.length(1, 4)
    weight = d.weight(channels, filters, d.length(1, 3), 3)
    return single("ConvTranspose", (1, channels, *d.shape(2)), weight, d.weight(filters), strides=[2, d.length(1, 2)])


def _connected(d: Draw) -> ir.Model:
    depth, filters = d.length(1, 80), d.length()
    return single("Gemm", (d.length(), depth), d.weight(filters, depth), d.weight(filters), transB=1)


def _clamped_convolution(d: Draw) -> ir.Model:
    high = float(d.random.choice((1.0, 6.0)))
    bounds = {"low": np.array(-1.0 if high == 1.0 else 0.0, np.float32), "high": np.array(high, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c", "low", "high"], ["y"], name="clip"),
    ]
    return graph(nodes, {"x": (1, 3, *d.shape(2))}, ["y"], w=d.weight(d.length(), 3, 3, 3), **bounds)


def _binary(op_type: str) -> _Family:
    def make(d: Draw) -> ir.Model:
        shape = d.shape(4)
        other = tuple(int(d.random.choice((1, length))) for length in shape)
        return single(op_type, shape, d.weight(*other) if d.length(0, 1) else other)

    return make


def _unary(op_type: str, **attributes: Any) -> _Family:
    return lambda d: single(op_type, d.shape(3), **attributes)


def _resize(**attributes: Any) -> _Family:
    def make(d: Draw) -> ir.Model:
        rows, columns = d.shape(2)
        sizes = _array(1, 3, d.length(rows, 20), d.length(columns, 20))
        return single("Resize", (1, 3, rows, columns), None, None, sizes, leaky=True, **attributes)

    return make


def _pooled(op_type: str) -> _Family:
    return lambda d: single(
        op_type, (1, d.length(), 8, 7), kernel_shape=[d.length(1, 3), 2], strides=[d.length(1, 2), 1], leaky=True
    )


# A kernel, or one of its forms -> a network of it.
FAMILIES: Final[Mapping[str, _Family]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _connected,
    "fused activation": _clamped_convolution,
    "BATCH_MATMUL": lambda d: single("MatMul", (2, d.length(), 7), (2, 7, d.length())),
    "ADD": _binary("Add"),
    "SUB": _binary("Sub"),
    "MUL": _binary("Mul"),
    "AVERAGE_POOL_2D": _pooled("AveragePool"),
    "MAX_POOL_2D": _pooled("MaxPool"),
    "MEAN of images": lambda d: single("GlobalAveragePool", d.shape(4)),
    "MEAN": lambda d: single("ReduceMean", d.shape(3), _array([d.length(0, 2)]), keepdims=d.length(0, 1)),
    "SUM": lambda d: single("ReduceSum", d.shape(3), _array([d.length(0, 2)])),
    "SOFTMAX": lambda d: single("Softmax", (d.length(), d.length(1, 200)), axis=-1),
    "LOG_SOFTMAX": lambda d: single("LogSoftmax", (d.length(), d.length(1, 200)), axis=-1),
    "LOGISTIC": _unary("Sigmoid"),
    "TANH": _unary("Tanh"),
    "ELU": _unary("Elu"),
    "GELU": _unary("Gelu"),
    "GELU by tanh": _unary("Gelu", approximate="tanh"),
    "HARD_SWISH": _unary("HardSwish"),
    "hard sigmoid": _unary("HardSigmoid"),
    "LEAKY_RELU": lambda d: single("LeakyRelu", d.shape(3), alpha=d.number(-0.5, 1.5)),
    "PRELU": lambda d: single("PRelu", (2, 5, d.length()), d.weight(5, 1)),
    "RELU": _unary("Relu"),
    "RELU6": lambda d: single("Clip", d.shape(3), _array(0, dtype=np.float32), _array(6, dtype=np.float32)),
    "clamp": lambda d: single("Clip", d.shape(3), _array(-0.3, dtype=np.float32), _array(0.7, dtype=np.float32)),
    "ABS": _unary("Abs"),
    "RESIZE_BILINEAR half pixel": _resize(mode="linear"),
    "RESIZE_BILINEAR corners": _resize(mode="linear", coordinate_transformation_mode="align_corners"),
    "RESIZE_BILINEAR asymmetric": _resize(mode="linear", coordinate_transformation_mode="asymmetric"),
    "RESIZE_NEAREST_NEIGHBOR": _resize(mode="nearest"),
    "CONCATENATION": lambda d: single("Concat", (1, d.length(), 4), (1, d.length(), 4), axis=1, leaky=True),
    "MAXIMUM": lambda d: single("Max", (3, d.length(), 4), d.weight(4), leaky=True),
    "MINIMUM": lambda d: single("Min", (3, 2, 4), (3, 2, 4), leaky=True),
    "PAD": lambda d: single("Pad", (1, 3, d.length(2), 4), _array([0, 0, 1, 0, 0, 0, 2, 1]), leaky=True),
    "PADV2": lambda d: single(
        "Pad", (3, d.length()), _array([0, 2, 1, 0]), _array(d.number(-9, 9), dtype=np.float32), leaky=True
    ),
    "MIRROR_PAD": lambda d: single("Pad", (1, 3, 5, 4), _array([0, 0, 1, 2, 0, 0, 2, 1]), mode="reflect", leaky=True),
    "TRANSPOSE": lambda d: single("Transpose", d.shape(3), perm=[2, 0, 1], leaky=True),
    "SLICE": lambda d: single("Slice", (3, 5 + d.length()), _array([1]), _array([5]), _array([1]), leaky=True),
    "GATHER": lambda d: single("Gather", (3, 5, d.length()), _array([1, 4, 1]), axis=1, leaky=True),
    "TOPK_V2": lambda d: single("TopK", (3, 2 + d.length()), _array([2]), outputs=2, leaky=True),
    "ARG_MAX": lambda d: single("ArgMax", d.shape(3), axis=2, leaky=True),
    "REDUCE_MAX": lambda d: single("ReduceMax", d.shape(3), _array([1]), leaky=True),
    "DEPTH_TO_SPACE": lambda d: single("DepthToSpace", (1, 8, *d.shape(2)), blocksize=2, leaky=True),
    "SPACE_TO_DEPTH": lambda d: single("SpaceToDepth", (1, d.length(), 4, 6), blocksize=2, leaky=True),
    "SPLIT": lambda d: single("Split", (2, 4, d.length()), outputs=2, axis=1, num_outputs=2, leaky=True),
    "TILE": lambda d: single("Tile", (1, 3, d.length()), _array([2, 1, 3]), leaky=True),
}
