"""The error function, and the GELU that is written with it.

::

    x --+--> Mul 1/sqrt(2) --> Erf --> Add 1 --> Mul --> Mul 1/2        x --> Gelu
        +--------------------------------------> /
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product as product_of
from math import sqrt
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import rank
from exporter.ops.base import Cost, Rewriter, register
from exporter.ops.common import Elementwise, elementwise_cost, input_of, scalar_of
from exporter.ops.formulas import Formula
from exporter.ops.hard_swish import unscaled

__all__ = ["Erf", "gelu_of"]

# erf(x) / x = P(x**2) / Q(x**2) on abs(x) <= 3.92, where erf reaches 1 in float32: least relative error, by Lawson's reweighted least squares.
# Its error is 2e-8, that of its float32 arithmetic 4e-7.
_REACH: Final = 3.92
_P: Final = (1.12837911, 0.190406501, 0.0527487248, 0.00376561773, 0.00028488267, 2.05008587e-06)
_Q: Final = (1.0, 0.502076089, 0.114109121, 0.0149692176, 0.00116253563, 3.80916972e-05)
_FLOAT: Final = "the error function runs in float: no runtime has it in 8 bits"


@register
class Erf(Elementwise):
    """2 / sqrt(pi) times the integral of exp(-t**2) from 0 to x."""

    op_type = "Erf"
    refuses: ClassVar[Mapping[str, str]] = {
        "quantize": _FLOAT,
        "lower": "TFLite has no kernel of Erf; legalize makes it a quotient",
    }

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """x * P(x**2) / Q(x**2), unless it is part of a GELU, which goes first as a whole."""
        if rewriter.runtime != "tflite" or (rewriter.runs("GELU", 2) and _part_of_gelu(node)):
            return None
        f = Formula(node, rewriter, _FLOAT)
        # In this order NaN stays NaN.
        x = f("Min", _REACH, f("Max", -_REACH, input_of(node, 0)))
        square = f("Mul", x, x)
        quotient = f("Div", f("Mul", x, f.polynomial(square, _P)), f.polynomial(square, _Q))
        return [f("Clip", quotient, -1, 1)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].erf()]

    def cost(self, node: ir.Node) -> Cost:
        return elementwise_cost(node, 2 * (len(_P) + len(_Q)) + 4)


def gelu_of(value: ir.Value) -> ir.Value | None:
    """The x for which `value` computes x * (1 + erf(x / sqrt(2))) / 2, in any order of its factors (within float32 rounding), or None."""
    for product, outer in unscaled(value):
        node = product.producer()
        if node is None or node.op_type != "Mul" or None in node.inputs:
            continue
        left, right = (list(unscaled(operand)) for operand in node.inputs if operand is not None)
        for some, others in ((left, right), (right, left)):
            for (x, x_factor), (gate, gate_factor) in product_of(some, others):
                if np.float32(outer * x_factor * gate_factor) == 0.5 and rank(x) == rank(value) and _is_gate(gate, x):
                    return x
    return None


def _is_gate(gate: ir.Value, x: ir.Value) -> bool:
    """Whether `gate` is 1 + erf(x / sqrt(2))."""
    add = gate.producer()
    if add is None or add.op_type != "Add":
        return False
    for one, other in (add.inputs, reversed(add.inputs)):
        erf = one.producer() if one is not None else None
        if scalar_of(other) != 1 or erf is None or erf.op_type != "Erf":
            continue
        for inner, factor in unscaled(input_of(erf, 0)):
            if inner is x and abs(factor * sqrt(2) - 1) < 1e-6:
                return True
    return False


def _part_of_gelu(erf: ir.Node) -> bool:
    """Whether a product behind this Erf is a GELU."""
    front = list(erf.outputs)
    for _ in range(4):  # Add, and up to three factors
        front = [
            output
            for value in front
            for node, _ in value.uses()
            for output in node.outputs
            if node.op_type in ("Add", "Mul", "Div")
        ]
        if any(gelu_of(value) is not None for value in front):
            return True
    return False
