"""Nodes that give back what they are given disappear.

::

    x -> Dropout -> Identity -> Cast(to float32) -> Reshape(same shape) -> Mul(1) -> y          x -> y

Requires: static shapes, constants are initializers. Ensures: no Identity and no inference-mode Dropout is left, other than between a graph
input (or a constant, or another output) and a graph output, where only a node can carry the second name.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.edit import bypass
from exporter.graph.values import attribute, constant

__all__ = ["eliminate_noops"]

_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand"})
_NEUTRAL = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0}
_COMMUTING = frozenset({"Mul", "Add"})


def eliminate_noops(model: ir.Model) -> int:
    """Remove no-ops in place; returns how many."""
    count = 0
    for node in list(model.graph):
        x = _passed_on(node)
        if x is not None and bypass(node, x):
            count += 1
    return count


def _passed_on(node: ir.Node) -> ir.Value | None:
    """The input that the node's first output equals, or None where it computes something."""
    if node.domain or not node.inputs or node.inputs[0] is None:
        return None
    x, y = node.inputs[0], node.outputs[0]
    if node.op_type in _COMMUTING and constant(x) is not None and node.inputs[1] is not None:
        x = node.inputs[1]
    same = x.shape is not None and x.shape == y.shape and x.dtype == y.dtype
    kind = node.op_type
    if kind == "Identity" or (kind == "Dropout" and _inference(node)):
        return x
    if not same:
        return None
    if kind == "Cast" or kind in _RESHAPES:
        return x
    if kind == "Concat" and len(node.inputs) == 1:
        return x
    if kind == "Transpose":
        perm = attribute(node, "perm")
        return x if perm is not None and tuple(perm) == tuple(range(len(perm))) else None
    if kind in ("MaxPool", "AveragePool"):
        ones = all(length == 1 for name in ("kernel_shape", "strides") for length in attribute(node, name, (1,)))
        return x if ones and len(node.outputs) == 1 else None
    if kind == "Pad":
        pads = constant(node.inputs[1])
        return x if pads is not None and not pads.any() else None
    if kind in _NEUTRAL:
        other = constant(node.inputs[0] if x is node.inputs[1] else node.inputs[1])
        return x if other is not None and np.all(other == _NEUTRAL[kind]) else None
    return None


def _inference(node: ir.Node) -> bool:
    """A Dropout that drops nothing: no training flag, and its mask is not used."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    flag = node.inputs[2] if len(node.inputs) > 2 else None
    array = constant(flag)
    return flag is None or (array is not None and not array.any())
