"""The error function. A GELU that is written with it is one operator before it comes here (`exporter.graph.recognize`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import onnx_ir as ir

from exporter.ops.base import Cost, Rewriter, register
from exporter.ops.common import Elementwise, elementwise_cost, input_of
from exporter.ops.formulas import Formula

__all__ = ["Erf"]

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
        """x * P(x**2) / Q(x**2)."""
        if rewriter.runtime != "tflite":
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
