"""Poolings come before multiplications and additions of one constant a channel, which then work on fewer elements.

::

    x -> Mul(s) -> Add(t) -> MaxPool -> y          x -> MaxPool -> Mul(s) -> Add(t) -> y        s >= 0

The largest of values that were all scaled by a factor of 0 or more, and shifted alike, is the largest one scaled and shifted: equal to the last
bit, since rounding keeps order. Means take any factor, within float rounding; a shift only where padding is not counted. What has gone
behind a pooling `fold_affine` often finds in front of a convolution.

Requires: explicit windows, constants are initializers, static shapes. Ensures: nothing; moving is an optimization.
"""

from __future__ import annotations

from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.edit import only_user
from exporter.graph.fold_affine import Affine, affine_of
from exporter.graph.rewriter import GraphRewriter, Names
from exporter.graph.values import attribute, constant, static_shape

__all__ = ["pool_first"]

_MAXIMA: Final = ("MaxPool", "GlobalMaxPool")
_MEANS: Final = ("AveragePool", "GlobalAveragePool")
_ARITHMETIC: Final = ("Mul", "Div", "Add", "Sub")


def pool_first(model: ir.Model) -> int:
    """Move in place; returns how many nodes moved, each behind one pooling."""
    names, count = Names(model.graph), 0
    for pool in list(model.graph):
        if pool.domain or pool.op_type not in (*_MAXIMA, *_MEANS) or len(pool.outputs) != 1:
            continue
        found = _affine_before(pool)
        if found is not None:
            node, affine = found
            to = GraphRewriter(model.graph, pool, "", names)
            pooled = to.copy(pool, [affine.x])
            to.replace([to.copy(node, [pooled if value is affine.x else value for value in node.inputs])])
            model.graph.remove(node, safe=True)
            count += 1
    return count


def _affine_before(pool: ir.Node) -> tuple[ir.Node, Affine] | None:
    """What scales or shifts the channels of the pooling's input, for it alone, and may as well do so behind it."""
    value = pool.inputs[0]
    node = value.producer() if value is not None else None
    if value is None or node is None or node.domain or node.op_type not in _ARITHMETIC or only_user(value) is not pool:
        return None
    if prod(static_shape(pool.outputs[0])) > prod(static_shape(value)):
        return None
    channels = static_shape(value)[1]
    for x in node.inputs:
        affine = affine_of(node, x, channels) if x is not None and constant(x) is None else None
        if affine is not None:
            return (node, affine) if _commutes(pool, affine) else None
    return None


def _commutes(pool: ir.Node, affine: Affine) -> bool:
    if pool.op_type in _MAXIMA:
        return bool(np.all(affine.scale >= 0))
    counted = any(attribute(pool, "pads", ())) or attribute(pool, "ceil_mode", 0)
    return not (affine.shift.any() and counted and attribute(pool, "count_include_pad", 0))
