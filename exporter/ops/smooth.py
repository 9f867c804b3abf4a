"""Activations that TFLite has no kernel for: formulas of those that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, rank
from exporter.ops.base import Cost, LayoutRule, Operator, Port, QuantRule, Refused, Rewriter, register
from exporter.ops.common import Elementwise, activation_rule, axis_of, elementwise_cost, input_of, input_shape, uniform_layout
from exporter.ops.formulas import Formula

__all__ = ["Celu", "Hardmax", "Mish", "Selu", "Shrink", "Softplus", "Softsign", "ThresholdedRelu"]

_DERIVED: Final = "TFLite has no kernel for it; legalize makes it others"
_SATURATED: Final = 20.0  # beyond it, n / (n + 2) of Mish is 1 in float32


class Smooth(Elementwise):
    """Base of the activations that become formulas for TFLite. `formula` writes one; with `in_float` it stays in float."""

    in_float: ClassVar[str] = ""
    operations: ClassVar[int] = 4

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        return [self.formula(Formula(node, rewriter, self.in_float), node, input_of(node, 0))]

    def formula(self, f: Formula, node: ir.Node, x: ir.Value) -> ir.Value:
        raise NotImplementedError

    def cost(self, node: ir.Node) -> Cost:
        return elementwise_cost(node, self.operations)


def _number(node: ir.Node, name: str, default: float) -> float:
    return float(attribute(node, name, default))


@register
class Selu(Smooth):
    """gamma * elu(x, alpha) (Klambauer et al. 2017)."""

    op_type, operations = "Selu", 3
    refuses: ClassVar[Mapping[str, str]] = {"lower": _DERIVED}

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def formula(self, f: Formula, node: ir.Node, x: ir.Value) -> ir.Value:
        return f("Mul", f("Elu", x, alpha=self._alpha(node)), self._gamma(node))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.nn.functional.elu(inputs[0], self._alpha(node)) * self._gamma(node)]

    @staticmethod
    def _alpha(node: ir.Node) -> float:
        return _number(node, "alpha", 1.67326319217681884765625)

    @staticmethod
    def _gamma(node: ir.Node) -> float:
        return _number(node, "gamma", 1.05070102214813232421875)


@register
class Celu(Smooth):
    """max(x, 0) + min(0, alpha * (exp(x / alpha) - 1)) = alpha * elu(x / alpha) (Barron 2017)."""

    op_type, operations = "Celu", 3
    refuses: ClassVar[Mapping[str, str]] = {"lower": _DERIVED}

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if _number(node, "alpha", 1.0) <= 0:
            raise Refused(node, "the alpha of Celu is greater than 0: otherwise it is no scaled ELU")
        return super().legalize(node, rewriter)

    def formula(self, f: Formula, node: ir.Node, x: ir.Value) -> ir.Value:
        alpha = _number(node, "alpha", 1.0)
        return f("Elu", x) if alpha == 1 else f("Mul", f("Elu", f("Div", x, alpha)), alpha)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.nn.functional.celu(inputs[0], _number(node, "alpha", 1.0))]


@register
class Mish(Smooth):
    """x * tanh(softplus(x)) (Misra 2019) = x * n / (n + 2) with n = e**x * (e**x + 2)."""

    op_type, operations = "Mish", 6
    in_float = "Mish runs in float: its exponentials span more than 8 bits"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": in_float, "lower": _DERIVED}

    def formula(self, f: Formula, node: ir.Node, x: ir.Value) -> ir.Value:
        e = f("Exp", f("Min", x, _SATURATED))
        n = f("Mul", e, f("Add", e, 2))
        return f("Mul", x, f("Div", n, f("Add", n, 2)))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.nn.functional.mish(inputs[0])]


@register
class Softplus(Smooth):
    """log(1 + e**x) = max(x, 0) + log1p(e**-abs(x))."""

    op_type, operations = "Softplus", 14
    in_float = "Softplus runs in float: its logarithm cancels in 8 bits"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": in_float, "lower": _DERIVED}

    def formula(self, f: Formula, node: ir.Node, x: ir.Value) -> ir.Value:
        return f("Add", f("Relu", x), f.log1p(f("Exp", f("Neg", f("Abs", x)))))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].clamp(min=0) + (-inputs[0].abs()).exp().log1p()]


@register
class Softsign(Smooth):
    """x / (1 + abs(x))."""

    op_type, operations = "Softsign", 3
    in_float = "no runtime has an int8 kernel of the quotient that Softsign is"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": in_float, "lower": _DERIVED}

    def formula(self, f: Formula, node: ir.Node, x: ir.Value) -> ir.Value:
        return f("Div", x, f("Add", f("Abs", x), 1))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] / (1 + inputs[0].abs())]


@register
class ThresholdedRelu(Smooth):
    """x where x > alpha, else 0."""

    op_type, operations = "ThresholdedRelu", 2
    in_float = "ThresholdedRelu runs in float: rounding would move its jump"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": in_float, "lower": _DERIVED}

    def formula(self, f: Formula, node: ir.Node, x: ir.Value) -> ir.Value:
        return f.chosen(f("Greater", x, _number(node, "alpha", 1.0)), x, 0)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] * (inputs[0] > _number(node, "alpha", 1.0))]


@register
class Shrink(Smooth):
    """x + bias where x < -lambd, x - bias where x > lambd, else 0."""

    op_type, operations = "Shrink", 6
    in_float = "Shrink runs in float: rounding would move its jumps"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": in_float, "lower": _DERIVED}

    def formula(self, f: Formula, node: ir.Node, x: ir.Value) -> ir.Value:
        border, bias = _number(node, "lambd", 0.5), _number(node, "bias", 0.0)
        above = f.chosen(f("Greater", x, border), f("Sub", x, bias), 0)
        return f.chosen(f("Less", x, -border), f("Add", x, bias), above)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        x, border, bias = inputs[0], _number(node, "lambd", 0.5), _number(node, "bias", 0.0)
        return [(x + bias) * (x < -border) + (x - bias) * (x > border)]


@register
class Hardmax(Operator):
    """1 at the first of the greatest elements along an axis, 0 elsewhere."""

    op_type = "Hardmax"
    refuses: ClassVar[Mapping[str, str]] = {
        "couple": "Hardmax compares the channels along its axis",
        "quantize": "Hardmax stays in float, where ties are what they were",
        "lower": _DERIVED,
    }

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.FIRST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Where the place along the axis is that of ArgMax."""
        if rewriter.runtime != "tflite":
            return None
        x, axis = input_of(node, 0), axis_of(node, -1)
        places = np.arange(input_shape(node)[axis]).reshape([-1 if place == axis else 1 for place in range(rank(x))])
        first = rewriter.op("ArgMax", x, axis=axis, keepdims=1)
        chosen = rewriter.op("Equal", first, rewriter.const(places.astype(np.int64), "places"))
        return [rewriter.op("Cast", chosen, to=None if x.dtype is None else int(x.dtype))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        axis = axis_of(node, -1)
        return [torch.zeros_like(inputs[0]).scatter(axis, inputs[0].argmax(axis, keepdim=True), 1)]

    def cost(self, node: ir.Node) -> Cost:
        return elementwise_cost(node, 2)
