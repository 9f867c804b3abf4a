"""Functions that were written out become the one operator that they are, so that kernels, encodings and readers see the whole.

::

    x --+--> Mul 1/sqrt(2) --> Erf --> Add 1 --> Mul --> Mul 1/2                   x --> Gelu
        +--------------------------------------> /

    x --+--> Mul 0.0447 x**2 --> Add 1 --> Mul 0.798 x --> Tanh --> Add 1 --> Mul --> Mul 1/2          x --> Gelu(tanh)
        +-------------------------------------------------------------------> /

    x --+--> ReduceMax --> Sub --> Exp --+--> ReduceSum --> Div          x --> Softmax
        +----------------> /             +----------------> /

In pieces each step is rounded to 8 bits: the cube of a GELU and the exponentials of a softmax have nothing left then.

Requires: constants are initializers, static shapes. Ensures: nothing; the numbers are the same within float rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product as product_of
from math import isclose, pi, sqrt
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.rewriter import GraphRewriter, Names
from exporter.graph.values import constant, static_shape
from exporter.ops.common import is_float, scalar_of
from exporter.ops.hard_swish import gatings

__all__ = ["gelu_of", "recognize", "softmax_of"]

_EQUAL: Final = 1e-6  # relative, of constants that were multiplied in float32
_DEEP: Final = 10  # operators in a row that a polynomial is read through
_RESHAPES: Final = frozenset(("Reshape", "Squeeze", "Unsqueeze"))
# tanh(p(x)) of Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"; (1 + tanh(p)) / 2 is sigmoid(2 p).
_INNER: Final = {1: sqrt(2 / pi), 3: sqrt(2 / pi) * 0.044715}


def recognize(model: ir.Model) -> int:
    """Replace them in place; returns how many. What only they used is left for `remove_dead_code`."""
    graph, names, count = model.graph, Names(model.graph), 0
    for node in list(graph):
        if node.op_type not in ("Mul", "Div") or node.domain or not is_float(node.outputs[0]):
            continue
        rewriter = GraphRewriter(graph, node, "", names)
        gelu, softmax = gelu_of(node.outputs[0]), softmax_of(node.outputs[0])
        if gelu is not None:
            rewriter.replace([rewriter.op("Gelu", gelu[0], approximate=gelu[1])])
        elif softmax is not None:
            rewriter.replace([rewriter.op("Softmax", softmax[0], axis=softmax[1])])
        count += gelu is not None or softmax is not None
    return count


# --- GELU -------------------------------------------------------------------------------------------------------------


def gelu_of(value: ir.Value) -> tuple[ir.Value, str] | None:
    """The x for which `value` computes GELU(x), its factors in any order, and how ("none", "tanh"); else None."""
    for x, gate, scale in gatings(value):
        found = _gate_of(gate, x)
        if found is not None and isclose(scale, found[1], rel_tol=_EQUAL):
            return x, found[0]
    return None


def _gate_of(gate: ir.Value, x: ir.Value) -> tuple[str, float] | None:
    """The approximation whose gate of `x` this is, and the factor that makes the product with `x` the function."""
    node = gate.producer()
    if node is None:
        return None
    if node.op_type == "Sigmoid":
        doubled = {power: 2 * factor for power, factor in _INNER.items()}
        return ("tanh", 1.0) if _is_polynomial(node.inputs[0], x, doubled) else None
    for one, other in (node.inputs, reversed(node.inputs)) if node.op_type == "Add" else ():
        inner = one.producer() if one is not None else None
        if scalar_of(other) != 1 or inner is None:
            continue
        if inner.op_type == "Tanh" and _is_polynomial(inner.inputs[0], x, _INNER):
            return "tanh", 0.5
        if inner.op_type == "Erf" and _is_polynomial(inner.inputs[0], x, {1: sqrt(1 / 2)}):
            return "none", 0.5
    return None


def _is_polynomial(value: ir.Value | None, x: ir.Value, wanted: Mapping[int, float]) -> bool:
    found = _polynomial(value, x, _DEEP)
    return (
        found is not None and found.keys() == wanted.keys() and all(isclose(found[p], wanted[p], rel_tol=_EQUAL) for p in wanted)
    )


def _polynomial(value: ir.Value | None, x: ir.Value, deep: int) -> dict[int, float] | None:
    """The coefficients of `value` as a polynomial of `x`, by power, or None where it is something else."""
    if value is x:
        return {1: 1.0}
    number = scalar_of(value)
    if number is not None:
        return {0: number}
    node = value.producer() if value is not None else None
    if node is None or deep == 0 or node.op_type not in ("Add", "Mul", "Div", "Pow"):
        return None
    left, right = _polynomial(node.inputs[0], x, deep - 1), _polynomial(node.inputs[1], x, deep - 1)
    if left is None or right is None:
        return None
    if node.op_type == "Add":
        return {power: left.get(power, 0.0) + right.get(power, 0.0) for power in {*left, *right}}
    if node.op_type == "Mul":
        return _times(left, right)
    if right.keys() != {0} or not right[0]:
        return None
    if node.op_type == "Div":
        return {power: factor / right[0] for power, factor in left.items()}
    return {2.0: _times(left, left), 3.0: _times(left, _times(left, left))}.get(right[0])


def _times(left: Mapping[int, float], right: Mapping[int, float]) -> dict[int, float]:
    found: dict[int, float] = {}
    for (one, some), (other, more) in product_of(left.items(), right.items()):
        found[one + other] = found.get(one + other, 0.0) + some * more
    return found


# --- softmax ----------------------------------------------------------------------------------------------------------


def softmax_of(value: ir.Value) -> tuple[ir.Value, int] | None:
    """The x and the axis for which `value` computes softmax(x), with or without the greatest entry taken out first, else None."""
    node = value.producer()
    if node is None or node.op_type not in ("Mul", "Div") or None in node.inputs:
        return None
    exponential, divisor = node.inputs
    if node.op_type == "Mul":
        inverses = [(one, other.producer()) for one, other in (node.inputs, reversed(node.inputs)) if other is not None]
        found = [(one, inverse.inputs[0]) for one, inverse in inverses if inverse is not None and inverse.op_type == "Reciprocal"]
        if len(found) != 1:
            return None
        exponential, divisor = found[0]
    exp = exponential.producer() if exponential is not None else None
    if exponential is None or divisor is None or exp is None or exp.op_type != "Exp" or exp.inputs[0] is None:
        return None
    axis = _reduced("ReduceSum", divisor, exponential)
    return None if axis is None else (_without_peak(exp.inputs[0], axis), axis)


def _without_peak(value: ir.Value, axis: int) -> ir.Value:
    """x where `value` is x less its greatest entry along `axis`, which softmax does not change by; else `value`."""
    node = value.producer()
    if node is None or node.op_type != "Sub" or None in node.inputs:
        return value
    x, peak = node.inputs
    assert x is not None
    assert peak is not None
    return x if static_shape(x) == static_shape(value) and _reduced("ReduceMax", peak, x) == axis else value


def _reduced(op_type: str, value: ir.Value, x: ir.Value) -> int | None:
    """The one axis over which `value` is a reduction of `x`, in a shape that broadcasts against `x` along that axis; else None."""
    shape, source = static_shape(x), value
    while (node := source.producer()) is not None and node.inputs[0] is not None:
        if node.op_type in _RESHAPES:
            source = node.inputs[0]
        elif (
            node.op_type == "Max" and len(node.inputs) == 2 and -np.inf in (bounds := [scalar_of(entry) for entry in node.inputs])
        ):
            source = node.inputs[1 - bounds.index(-np.inf)]  # type: ignore[assignment]
        else:
            break
    axes = constant(node.inputs[1]) if node is not None and node.op_type == op_type and len(node.inputs) > 1 else None
    if node is None or axes is None or axes.size != 1 or node.inputs[0] is not x:
        return None
    axis = int(axes.reshape(())) % len(shape)
    kept = tuple(1 if place == axis else length for place, length in enumerate(shape))
    return axis if static_shape(value) == kept else None
