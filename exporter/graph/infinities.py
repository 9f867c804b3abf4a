"""Masks of minus infinity survive: TFLite's kernels of sums clamp to finite numbers, and its maxima start from the least of them.

So infinities are chosen by Where, which copies what it is given, and not added. The rules are exact (infinity plus its opposite aside).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.rewriter import GraphRewriter
from exporter.graph.values import constant, static_shape

__all__ = ["choose_infinities", "compare_infinities", "pass_infinities", "reshape_choices"]

_RESHAPES: Final = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))


def choose_infinities(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """``x + C`` where the constant C holds infinities is ``Where(C is finite, x + finite C, C)``."""
    for x, other in _sums(node, rewriter):
        array = constant(other)
        if array is None or array.dtype.kind != "f" or not np.isinf(array).any():
            continue
        finite = np.isfinite(array)
        rest = np.where(finite, array, 0).astype(array.dtype)
        total = rewriter.op("Add", x, rewriter.const(rest)) if rest.any() else x
        kinds = np.unique(array[~finite])
        infinite = rewriter.const(kinds.reshape(())) if kinds.size == 1 else other
        return [rewriter.op("Where", rewriter.const(finite, "finite"), total, infinite)]
    return None


def pass_infinities(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """``Where(c, x, inf) + y`` is ``Where(c, x + y, inf)``, on either side of the choice."""
    for y, chosen in _sums(node, rewriter):
        where = chosen.producer()
        if where is None or where.op_type != "Where" or where.domain:
            continue
        sides = list(where.inputs[1:])
        infinite = [_infinite(side) for side in sides]
        if not any(infinite):
            continue
        sums = [side if masked else _sum(rewriter, side, y) for side, masked in zip(sides, infinite, strict=True)]
        made = rewriter.op("Where", where.inputs[0], *sums)
        return [made] if static_shape(made) == static_shape(node.outputs[0]) else None
    return None


def reshape_choices(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """A reshaped ``Where(c, 0, -inf)`` is the choice by the reshaped condition, so that sums behind it see the choice."""
    source = node.inputs[0] if node.inputs else None
    where = source.producer() if source is not None else None
    if rewriter.runtime != "tflite" or node.op_type not in _RESHAPES or node.domain or where is None or where.op_type != "Where":
        return None
    if not any(_infinite(side) for side in where.inputs[1:]):
        return None
    full, shape = static_shape(where.outputs[0]), static_shape(node.outputs[0])
    moved: list[ir.Value] = []
    for value in where.inputs:
        array = constant(value)
        if value is None or (static_shape(value) != full and (array is None or array.size > 1)):
            return None
        if array is None:
            moved.append(rewriter.copy(node, [value, *node.inputs[1:]]))
        else:
            moved.append(rewriter.const(array.reshape(() if array.size == 1 else shape)))
    made = rewriter.op("Where", *moved)
    return [made] if static_shape(made) == shape else None


def compare_infinities(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """``ReduceMax(x) == -inf`` asks whether all of x are minus infinity: ``ReduceMin(x == -inf)``, and the other way round."""
    if rewriter.runtime != "tflite" or node.op_type != "Equal" or node.domain:
        return None
    for value, other in (node.inputs, tuple(node.inputs)[::-1]):
        reduced, bound = value.producer() if value is not None else None, constant(other)
        if reduced is None or bound is None or bound.dtype.kind != "f" or not np.isinf(bound).all():
            continue
        least = {"ReduceMax": -np.inf, "ReduceMin": np.inf}.get(reduced.op_type)
        if least is not None and (bound == least).all() and other is not None:
            limit = rewriter.const(np.asarray(least, bound.dtype))
            same = rewriter.op("Equal", reduced.inputs[0], limit)
            attributes = {name: entry.value for name, entry in reduced.attributes.items()}
            found = rewriter.op("ReduceMin", same, *reduced.inputs[1:], **attributes)
            return [found] if static_shape(found) == static_shape(node.outputs[0]) else None
    return None


def _infinite(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and array.dtype.kind == "f" and bool(np.isinf(array).all())


def _sums(node: ir.Node, rewriter: GraphRewriter) -> list[tuple[ir.Value, ir.Value]]:
    """Both orders of an Add's operands, for TFLite."""
    if rewriter.runtime != "tflite" or node.op_type != "Add" or node.domain:
        return []
    left, right = node.inputs
    return [] if left is None or right is None else [(left, right), (right, left)]


def _sum(rewriter: GraphRewriter, side: ir.Value | None, y: ir.Value) -> ir.Value:
    array = constant(side)
    if array is not None and not array.any() and len(array.shape) <= len(static_shape(y)) and array.size == 1:
        return y
    return rewriter.op("Add", side, y)
