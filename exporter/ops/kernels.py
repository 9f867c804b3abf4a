"""Facts of TFLite's builtin kernels that many operators ask for: the dtypes they take and the version that a dtype or rank needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import constant, rank, static_shape
from exporter.ops.base import Constraint, Lowering, Rewriter
from exporter.ops.common import input_of, is_float, output_shape

__all__ = ["MOVED", "builtin_version", "dtype_of", "in_fewer_axes", "in_wider_dtype", "most_axes", "stored_dtype", "takes"]

# What the kernels that only move elements take (LiteRT 2.x, probed on its reference, optimized and XNNPACK kernels alike).
MOVED: Final = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")

# The version that an input dtype needs where it is not 1, and the one that more than four axes need, by operator (TensorFlow's op_version.cc).
_BY_DTYPE: Final[Mapping[str, Mapping[str, int]]] = {
    "ARG_MAX": {"int8": 2, "bool": 3},
    "ARG_MIN": {"int8": 2, "bool": 3},
    "BROADCAST_TO": {"int8": 3, "int16": 3},
    "CONCATENATION": {"int8": 2, "int16": 3, "uint32": 4},
    "DEPTH_TO_SPACE": {"int8": 2},
    "GATHER": {"int8": 2, "bool": 3, "int16": 4},
    "GATHER_ND": {"int16": 3, "bool": 5},
    "MEAN": {"int8": 2, "int16": 3},
    "MIRROR_PAD": {"int8": 2, "int16": 3},
    "PAD": {"int8": 2, "int16": 3, "bool": 5},
    "PADV2": {"int8": 2, "int16": 3, "bool": 5},
    "REDUCE_MAX": {"int8": 2, "int16": 3},
    "REDUCE_MIN": {"int8": 2, "int16": 3},
    "REDUCE_PROD": {"int8": 2, "int16": 2},
    "REVERSE_V2": {"int8": 3, "bool": 2},
    "SLICE": {"int8": 2, "int16": 4, "uint32": 6},
    "SPACE_TO_DEPTH": {"int8": 2},
    "SPLIT": {"int8": 2, "int32": 3, "int16": 4},
    "SPLIT_V": {"int8": 2},
    "STRIDED_SLICE": {"int8": 2, "bool": 3, "uint32": 7},
    "SUM": {"int8": 2},
    "TOPK_V2": {"int8": 2, "int16": 3},
    "TRANSPOSE": {"int8": 2, "bool": 3, "int16": 5},
}
_ABOVE_FOUR_AXES: Final[Mapping[str, int]] = {"PAD": 4, "PADV2": 4, "SLICE": 5, "STRIDED_SLICE": 4, "TRANSPOSE": 4}
_LOWEST: Final[Mapping[str, int]] = {"BROADCAST_TO": 2}  # version 1 was withdrawn


def builtin_version(op: str, dtype: str, axes: int = 0) -> int:
    """The lowest version of a builtin operator whose kernels take `dtype` (a numpy name) and that many `axes`."""
    by_rank = _ABOVE_FOUR_AXES.get(op, 1) if axes > 4 else 1
    if op == "TRANSPOSE" and axes > 5:
        by_rank = 6
    return max(_LOWEST.get(op, 1), _BY_DTYPE.get(op, {}).get(dtype, 1), by_rank)


def dtype_of(value: ir.Value) -> str:
    """The numpy name of a value's dtype; "undefined" where it is not known."""
    return "undefined" if value.dtype is None else str(value.dtype.numpy().name)


def stored_dtype(node: ir.Node, to: Lowering, index: int = 0) -> str:
    """The dtype in which a node that is being lowered reads its computed input `index`."""
    value = input_of(node, index)
    return "int8" if to.quantized and is_float(value) else dtype_of(value)


def takes(op: str, dtypes: Sequence[str], index: int = 0) -> Constraint:
    """The constraint that input `index` has one of `dtypes`, those that TFLite has a kernel for."""

    def holds(node: ir.Node) -> bool:
        return dtype_of(input_of(node, index)) in dtypes

    holds.__doc__ = f"{op} has kernels for {', '.join(dtypes)} alone."
    return Constraint("tflite", holds)


def most_axes(op: str, count: int, index: int = 0) -> Constraint:
    """The constraint that input `index` has at most `count` axes."""

    def holds(node: ir.Node) -> bool:
        return rank(input_of(node, index)) <= count

    holds.__doc__ = f"{op} has at most {count} axes."
    return Constraint("tflite", holds)


def in_wider_dtype(node: ir.Node, rewriter: Rewriter, wider: Mapping[str, str]) -> Sequence[ir.Value] | None:
    """The node between two Casts, where TFLite has no kernel for the dtype of its input 0 but one for a dtype that holds all its values.

    `wider` maps numpy names to such dtypes. Outputs of the input's own dtype are cast back, others (indices) stay; further inputs of
    that dtype are cast as well. None where there is nothing to do.
    """
    own = dtype_of(input_of(node, 0))
    if rewriter.runtime != "tflite" or own not in wider:
        return None
    narrow = input_of(node, 0).dtype
    assert narrow is not None
    to = int(ir.DataType.from_numpy(np.dtype(wider[own])))
    inputs = [value if value is None or value.dtype != narrow else rewriter.op("Cast", value, to=to) for value in node.inputs]
    attributes = {name: found.value for name, found in node.attributes.items()}
    first = rewriter.op(node.op_type, *inputs, outputs=len(node.outputs), **attributes)
    made = first.producer()
    assert made is not None
    return [
        rewriter.op("Cast", new, to=int(narrow)) if old.dtype == narrow else new
        for old, new in zip(node.outputs, made.outputs, strict=True)
    ]


def in_fewer_axes(node: ir.Node, rewriter: Rewriter, most: int) -> Sequence[ir.Value] | None:
    """An elementwise node of more than `most` axes on reshaped inputs, where neighbouring axes are broadcast alike; None where it fits as it is.

    ::

        [B, H, 7, 7, 7, 7] + [B, H, 7, 7, 7, 1]     is     [B*H*7*7*7, 7] + [B*H*7*7*7, 1]

    Exact: nothing is computed otherwise. Still more than `most` groups of axes are left as they are, for the constraint to refuse.
    """
    out = output_shape(node)
    if rewriter.runtime != "tflite" or len(out) <= most:
        return None
    values = [input_of(node, index) for index in range(len(node.inputs))]
    shapes = [(1,) * (len(out) - rank(value)) + static_shape(value) for value in values]
    groups: list[list[int]] = []
    last: tuple[bool, ...] | None = None
    for axis, length in enumerate(out):
        pattern = tuple(shape[axis] != 1 for shape in shapes) if length != 1 else last
        if not groups or (pattern != last and last is not None):
            groups.append([])
        groups[-1].append(axis)
        last = pattern
    if len(groups) > most:
        return None

    def grouped(value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        merged = [prod(shape[axis] for axis in group) for group in groups]
        array = constant(value)
        if array is not None:
            return rewriter.const(array.reshape(merged), value.name or "")
        return rewriter.op("Reshape", value, rewriter.const(np.asarray(merged, np.int64), "shape"))

    attributes = {name: found.value for name, found in node.attributes.items()}
    inputs = [grouped(value, shape) for value, shape in zip(values, shapes, strict=True)]
    found = rewriter.op(node.op_type, *inputs, **attributes)
    return [rewriter.op("Reshape", found, rewriter.const(np.asarray(out, np.int64), "shape"))]
