"""Rewrite rules between neighbours: pairs that cancel, and shape changes that move out of the way. Each is exact.

A rule takes a node and a rewriter and gives the values that replace the node's outputs, or None where it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.cut_early import cut_before_joining
from exporter.graph.infinities import choose_infinities, compare_infinities, pass_infinities, reshape_choices
from exporter.graph.phases import phases_to_depth
from exporter.graph.rewriter import GraphRewriter
from exporter.graph.values import attribute, constant, is_constant, rank, static_shape
from exporter.ops.slicing import BEFORE_ALL, slice_ranges

__all__ = ["RULES", "Rule", "absorb_bias", "merge_reshapes", "merge_slices", "merge_transposes", "sink_squeeze"]

Rule = Callable[[ir.Node, GraphRewriter], Sequence[ir.Value] | None]

_UNARY: Final = frozenset(
    (
        "Relu",
        "LeakyRelu",
        "Clip",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Elu",
        "Gelu",
        "Exp",
        "Sqrt",
        "Abs",
        "Neg",
        "Erf",
    )
)
_BINARY: Final = frozenset(("Add", "Sub", "Mul", "Div", "Min", "Max"))
_RESHAPES: Final = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))


def merge_transposes(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """``Transpose(Transpose(x, p), q)`` is one Transpose; one that moves nothing is none."""
    x = node.inputs[0] if node.inputs else None
    if node.op_type != "Transpose" or x is None:
        return None
    perm = _perm(node)
    if perm == tuple(range(len(perm))):
        return [x]
    before = x.producer()
    if before is None or before.op_type != "Transpose" or before.inputs[0] is None:
        return None
    first = _perm(before)
    return [rewriter.op("Transpose", before.inputs[0], perm=tuple(first[axis] for axis in perm))]


def merge_reshapes(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """Of two reshapes in a row the last counts; where it restores the shape before both, neither does.

    ``Unsqueeze(Squeeze(x))`` between two lifted convolutions disappears. A pair that does not cancel becomes a Reshape only where one
    of the two was: Squeeze and Unsqueeze keep the order of axes, a Reshape hides it from the layout solver.
    """
    x = node.inputs[0] if node.inputs else None
    if node.op_type not in _RESHAPES or x is None:
        return None
    shape = static_shape(node.outputs[0])
    if static_shape(x) == shape:
        return [x]
    before = x.producer()
    if before is None or before.op_type not in _RESHAPES or before.inputs[0] is None:
        return None
    source = before.inputs[0]
    if static_shape(source) == shape:
        return [source]
    if {node.op_type, before.op_type} & {"Reshape", "Flatten"}:
        return [rewriter.op("Reshape", source, rewriter.const(np.asarray(shape, np.int64), "shape"))]
    return None


def sink_squeeze(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """``Relu(Squeeze(x))`` is ``Squeeze(Relu(x))``, so that the Squeeze behind a lifted convolution meets the next one's Unsqueeze.

    Elementwise operators of two inputs do the same where both are squeezed alike, or one is a constant of one element.
    """
    if node.op_type in _UNARY:
        data = [node.inputs[0]]
    elif node.op_type in _BINARY and len(node.inputs) == 2:
        data = [value for value in node.inputs if (array := constant(value)) is None or array.size > 1]
    else:
        return None
    found = [_squeezed(value) for value in data]
    first = found[0] if found else None
    if first is None or any(entry is None or entry[1] != first[1] for entry in found):
        return None
    if len({static_shape(value) for value in data if value is not None}) > 1:
        return None
    inside = {value: entry[0] for value, entry in zip(data, found, strict=True) if entry is not None}
    y = rewriter.copy(node, [inside.get(value, value) if value is not None else None for value in node.inputs])
    return [rewriter.op("Squeeze", y, rewriter.const(np.asarray(first[1], np.int64), "axes"))]


def absorb_bias(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """``Add(Gemm(a, b), c)`` with a constant c of one entry a column is ``Gemm(a, b, c)``; a Reshape that keeps columns may lie between.

    A convolution without bias takes a constant of one entry a channel in the same way.
    """
    if node.op_type != "Add":
        return None
    for index in (0, 1):
        x, addend = node.inputs[index], constant(node.inputs[1 - index])
        if x is None or addend is None or static_shape(x) != static_shape(node.outputs[0]) or not _only_use(x):
            continue
        behind = x.producer()
        reshape = behind if behind is not None and behind.op_type == "Reshape" else None
        value = reshape.inputs[0] if reshape is not None else x
        product = value.producer() if value is not None else None
        if value is None or product is None or not _only_use(value) or any(product.inputs[2:3]):
            continue
        axis = {"Gemm": -1, "Conv": 1}.get(product.op_type)
        if axis is None or (axis == 1 and reshape is not None) or attribute(product, "beta", 1.0) != 1.0:
            continue
        bias = _along(addend, axis, static_shape(value), static_shape(x))
        if bias is None:
            continue
        y = rewriter.copy(product, [*product.inputs[:2], rewriter.const(bias, "bias")])
        return [y if reshape is None else rewriter.copy(reshape, [y, reshape.inputs[1]])]
    return None


def merge_slices(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """A Slice of a Slice is one Slice: with what it cuts away nothing is moved first.

    Other readers of the first Slice keep it: of the elements that both write, one Slice writes no more.
    """
    before = node.inputs[0].producer() if node.op_type == "Slice" and node.inputs[0] is not None else None
    if before is None or before.op_type != "Slice" or before.inputs[0] is None:
        return None
    if any(value is not None and not is_constant(value) for value in (*node.inputs[1:], *before.inputs[1:])):
        return None
    inner, outer = slice_ranges(before), slice_ranges(node)
    ranges = [(a + b * step, count, step * jump) for (a, _, step), (b, count, jump) in zip(inner, outer, strict=True)]
    bounds = [(start, start + count * step, axis, step) for axis, (start, count, step) in enumerate(ranges)]
    columns = zip(*((start, end if end >= 0 else BEFORE_ALL, axis, step) for start, end, axis, step in bounds), strict=True)
    names = ("starts", "ends", "axes", "steps")
    constants = [rewriter.const(np.asarray(column, np.int64), name) for column, name in zip(columns, names, strict=True)]
    return [rewriter.op("Slice", before.inputs[0], *constants)]


RULES: Final[tuple[Rule, ...]] = (
    merge_transposes,
    merge_reshapes,
    cut_before_joining,
    merge_slices,
    phases_to_depth,
    sink_squeeze,
    absorb_bias,
    choose_infinities,
    pass_infinities,
    reshape_choices,
    compare_infinities,
)


def _perm(node: ir.Node) -> tuple[int, ...]:
    value = node.inputs[0]
    axes = rank(value) if value is not None else 0
    return tuple(attribute(node, "perm", tuple(reversed(range(axes)))))


def _squeezed(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """Source and axes of the Squeeze behind a value, where there is one."""
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "Squeeze" or producer.inputs[0] is None:
        return None
    source = producer.inputs[0]
    array = constant(producer.inputs[1]) if len(producer.inputs) > 1 else None
    if array is None:
        return None
    return source, tuple(sorted(int(axis) % rank(source) for axis in array.reshape(-1)))


def _only_use(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _along(
    addend: np.ndarray[Any, Any], axis: int, shape: tuple[int, ...], outer: tuple[int, ...]
) -> np.ndarray[Any, Any] | None:
    """`addend` as one entry an index of `axis` of `shape`, where it varies along that axis alone when broadcast to `outer`."""
    if outer[axis] != shape[axis] or addend.ndim > len(outer):
        return None
    full = addend.reshape((1,) * (len(outer) - addend.ndim) + addend.shape)
    position = axis % len(outer)
    if any(length != 1 for place, length in enumerate(full.shape) if place != position):
        return None
    return np.broadcast_to(full.reshape(-1), (shape[axis],)).astype(addend.dtype)
