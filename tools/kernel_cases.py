"""Operators alone, at sizes that mobile networks have: what `tools.kernels` times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CASES", "Case"]

Array = np.ndarray[Any, Any]

_IMAGE: Final = (1, 64, 80, 80)
_TOKENS: Final = (1, 128, 384)
_SCORES: Final = (1, 12, 64, 64)


@dataclass(frozen=True)
class Case:
    """A model of one operator: inputs of the given shapes, then constants.

    Attributes:
        kernel: under what its time is listed, see `exporter.ops.base.Operator.kernel`.
        positive: whether its inputs are to be above 0.1.
    """

    kernel: str
    op_type: str
    inputs: tuple[tuple[int, ...], ...]
    constants: tuple[Array, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    positive: bool = False

    def write(self, path: Path) -> Path:
        """The model as an ONNX file."""
        names = [f"x{index}" for index in range(len(self.inputs))]
        stored = [numpy_helper.from_array(array, f"c{index}") for index, array in enumerate(self.constants)]
        outputs = [f"y{index}" for index in range(self.outputs)]
        graph = helper.make_graph(
            [helper.make_node(self.op_type, [*names, *(entry.name for entry in stored)], outputs, **self.attributes)],
            "case",
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in zip(names, self.inputs, strict=True)
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            stored,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
        return path

    def sample(self, seed: int) -> dict[str, Array]:
        """Inputs by name."""
        random = np.random.default_rng(seed)
        arrays = [random.standard_normal(shape).astype(np.float32) for shape in self.inputs]
        return {f"x{index}": np.abs(array) + 0.1 if self.positive else array for index, array in enumerate(arrays)}


def _weight(*shape: int) -> Array:
    values = np.random.default_rng(0).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return np.asarray(values, np.float32)


def _one(op_type: str, *constants: Array, shape: tuple[int, ...] = _IMAGE, **attributes: Any) -> Case:
    return Case(op_type, op_type, (shape,), constants, attributes)


def _two(op_type: str, first: tuple[int, ...] = _IMAGE, second: tuple[int, ...] = _IMAGE, **attributes: Any) -> Case:
    return Case(op_type, op_type, (first, second), (), attributes)


def _conv(kernel: str, channels: int, group: int, size: int) -> Case:
    weights = (_weight(channels, channels // group, size, size), _weight(channels))
    return Case(kernel, "Conv", (_IMAGE,), weights, {"pads": [size // 2] * 4, "group": group})


_INT64: Final = np.int64
CASES: Final[tuple[Case, ...]] = (
    _conv("Conv", 64, 1, 3),
    _conv("Conv", 64, 1, 1),
    _conv("DepthwiseConv", 64, 64, 3),
    _conv("DepthwiseConv", 64, 64, 5),
    _conv("GroupedConv", 64, 4, 3),
    _one("ConvTranspose", _weight(64, 32, 2, 2), _weight(32), strides=[2, 2]),
    Case("Gemm", "Gemm", (_TOKENS[1:],), (_weight(1536, 384), _weight(1536)), {"transB": 1}),
    Case("Gemm", "Gemm", (_TOKENS[1:],), (_weight(384, 384), _weight(384)), {"transB": 1}),
    *(_two("MatMul", (1, 12, n, 32), (1, 12, 32, n)) for n in (64, 128)),  # attention: scores, then what they weigh
    *(_two("MatMul", (1, 12, n, n), (1, 12, n, 32)) for n in (64, 128)),
    *(
        _one(op_type)
        for op_type in ("Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu", "LeakyRelu", "Gelu", "Abs", "Exp")
    ),
    *(Case(op_type, op_type, (_IMAGE,), positive=True) for op_type in ("Sqrt", "Log", "Reciprocal")),
    _one("Clip", np.float32(0), np.float32(5)),
    _one("PRelu", np.abs(_weight(64, 1, 1)) / 4),
    _one("Softmax", shape=_SCORES, axis=-1),
    _one("LogSoftmax", shape=_SCORES, axis=-1),
    _one("LayerNormalization", _weight(384), _weight(384), shape=_TOKENS),
    *(_two(op_type) for op_type in ("Add", "Sub", "Mul", "Max", "Min")),
    *(_one(op_type, _weight(64, 1, 1)) for op_type in ("Add", "Sub", "Mul")),
    *(_two(op_type, second=(1, 64, 1, 1)) for op_type in ("Add", "Mul")),
    Case("Div", "Div", (_IMAGE, _IMAGE), positive=True),
    _two("Concat", axis=1),
    Case("Split", "Split", (_IMAGE,), (), {"axis": 1, "num_outputs": 2}, outputs=2),
    _one("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
    _one("MaxPool", kernel_shape=[3, 3], pads=[1] * 4),
    _one("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    _one("GlobalAveragePool"),
    *(_one(op_type, np.asarray([-1], _INT64), shape=_TOKENS) for op_type in ("ReduceMean", "ReduceSum", "ReduceMax")),
    _one("ReduceMean", np.asarray([2, 3], _INT64)),
    _one(
        "Resize",
        np.zeros(0, np.float32),
        np.asarray([1, 1, 2, 2], np.float32),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    _one("Transpose", shape=(1, 128, 12, 32), perm=[0, 2, 1, 3]),
    _one("Reshape", np.asarray([1, 64, 6400], _INT64)),
    _one("Slice", np.asarray([1], _INT64), np.asarray([41], _INT64), np.asarray([2], _INT64)),
    _one("Pad", np.asarray([0, 0, 1, 1, 0, 0, 1, 1], _INT64)),
    _one("DepthToSpace", blocksize=2),
    _one("SpaceToDepth", blocksize=2),
    _one("Gather", np.arange(0, 128, 2, dtype=_INT64), shape=_TOKENS, axis=1),
)
