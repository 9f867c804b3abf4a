"""Circular and hyperbolic functions and their inverses.

TFLite has sine, cosine and the arc tangent of a quotient; the rest are formulas of these that keep all digits: none subtracts numbers of one
size (Higham, Accuracy and Stability of Numerical Algorithms, 2002, chapter 1). TFLite's arithmetic saturates at the greatest float: a result
that is too large is that rather than infinity, and an infinite argument is taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.ops.base import Cost, Lowering, Rewriter, register
from exporter.ops.common import Elementwise, elementwise_cost, input_of
from exporter.ops.formulas import Formula
from exporter.ops.kernels import takes

__all__ = ["Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan"]

_FLOAT: Final = "circular and hyperbolic functions run in float: no runtime has them in 8 bits"
_CUT: Final = 1e9  # from here on sqrt(x**2 + 1) is x in float32


class Circular(Elementwise):
    """Base of the functions that are one TFLite operator on float32."""

    compute: ClassVar[str]
    constraints = (takes("It", ("float32",)),)
    refuses: ClassVar[Mapping[str, str]] = {"quantize": _FLOAT}

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit(node.op_type.upper(), [to.input(0)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [getattr(inputs[0], self.compute)()]


@register
class Sin(Circular):
    """Sine of an angle in radians."""

    op_type, compute = "Sin", "sin"


@register
class Cos(Circular):
    """Cosine of an angle in radians."""

    op_type, compute = "Cos", "cos"


@register
class Atan(Circular):
    """The angle in (-pi/2, pi/2) whose tangent is x: that of the point (1, x)."""

    op_type, compute = "Atan", "atan"

    def lower(self, node: ir.Node, to: Lowering) -> None:
        source = to.input(0)
        shape = to.shape(source)
        ones = to.floats(np.ones(shape, np.float32))
        if prod(shape) > 1:  # the kernel does not broadcast; one number of the file fills the tensor when it is loaded
            ones = to.temp(source, shape)
            to.emit("FILL", [to.ints(shape), to.floats(np.asarray(1, np.float32))], [ones], version=1)
        to.emit("ATAN2", [source, ones], [to.output()], version=1)


class Derived(Elementwise):
    """Base of the functions that become others for TFLite. `formula` writes one."""

    compute: ClassVar[str]
    operations: ClassVar[int] = 8
    refuses: ClassVar[Mapping[str, str]] = {"quantize": _FLOAT, "lower": "TFLite has no kernel for it; legalize makes it others"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        return [self.formula(Formula(node, rewriter, _FLOAT), input_of(node, 0))]

    def formula(self, f: Formula, x: ir.Value) -> ir.Value:
        raise NotImplementedError

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [getattr(inputs[0], self.compute)()]

    def cost(self, node: ir.Node) -> Cost:
        return elementwise_cost(node, self.operations)


@register
class Tan(Derived):
    """sin(x) / cos(x)."""

    op_type, compute, operations = "Tan", "tan", 3

    def formula(self, f: Formula, x: ir.Value) -> ir.Value:
        return f("Div", f("Sin", x), f("Cos", x))


@register
class Asin(Derived):
    """atan(x / sqrt((1 - x) * (1 + x))), which is an infinite quotient at 1 and -1 and no number beyond."""

    op_type, compute, operations = "Asin", "asin", 6

    def formula(self, f: Formula, x: ir.Value) -> ir.Value:
        return f("Atan", f("Div", x, f("Sqrt", f("Mul", f("Sub", 1, x), f("Add", x, 1)))))


@register
class Acos(Derived):
    """2 * atan(sqrt((1 - x) / (1 + x)))."""

    op_type, compute, operations = "Acos", "acos", 6

    def formula(self, f: Formula, x: ir.Value) -> ir.Value:
        return f("Mul", f("Atan", f("Sqrt", f("Div", f("Sub", 1, x), f("Add", x, 1)))), 2)


@register
class Cosh(Derived):
    """(e**x + e**-x) / 2, by e**(x/2), whose square overflows no earlier than the result."""

    op_type, compute, operations = "Cosh", "cosh", 7

    def formula(self, f: Formula, x: ir.Value) -> ir.Value:
        large, small = _halves(f, x)
        return f("Add", large, small)


@register
class Sinh(Derived):
    """(e**x - e**-x) / 2; for abs(x) < 1, where that cancels, 2 * t / (1 - t**2) with t = tanh(x / 2)."""

    op_type, compute, operations = "Sinh", "sinh", 16

    def formula(self, f: Formula, x: ir.Value) -> ir.Value:
        large, small = _halves(f, x)
        t = f("Tanh", f("Mul", x, 0.5))
        inner = f("Div", f("Add", t, t), f("Mul", f("Sub", 1, t), f("Add", t, 1)))
        return f.chosen(f("Less", f("Abs", x), 1), inner, f("Sub", large, small))


def _halves(f: Formula, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """e**x / 2 and e**-x / 2."""
    root = f("Exp", f("Mul", x, 0.5))
    return f("Mul", f("Mul", root, 0.5), root), f("Div", f("Div", 0.5, root), root)


@register
class Asinh(Derived):
    """sign(x) * log(a + sqrt(a**2 + 1)) with a = abs(x), as log1p(m * (1 + m / (1 + sqrt(m**2 + 1)))) + log(a / m), with m = min(a, 1e9)."""

    op_type, compute, operations = "Asinh", "asinh", 20

    def formula(self, f: Formula, x: ir.Value) -> ir.Value:
        a = f("Abs", x)
        m = f("Min", _CUT, a)  # in this order NaN stays NaN
        root = f("Sqrt", f("Add", f("Mul", m, m), 1))
        u = f("Add", m, f("Mul", m, f("Div", m, f("Add", root, 1))))
        # The quotient is 1, its logarithm 0, up to the cut; a zero must not divide itself.
        beyond = f("Log", f("Div", f("Max", _CUT, a), _CUT))
        return f.odd(x, f("Add", f.log1p(u), beyond))


@register
class Acosh(Derived):
    """log(x + sqrt(x**2 - 1)), as 2 * log1p(sqrt(h) + h / (1 + sqrt(1 + h))) with h = (x - 1) / 2."""

    op_type, compute, operations = "Acosh", "acosh", 17

    def formula(self, f: Formula, x: ir.Value) -> ir.Value:
        h = f("Mul", f("Sub", x, 1), 0.5)
        root = f("Sqrt", f("Add", h, 1))
        # The quotient is the root itself where h is large, and no number where h is infinite.
        rest = f.chosen(f("Less", h, _CUT), f("Div", h, f("Add", root, 1)), root)
        return f("Mul", f.log1p(f("Add", f("Sqrt", h), rest)), 2)


@register
class Atanh(Derived):
    """log((1 + x) / (1 - x)) / 2, as sign(x) * log1p(2 * a / (1 - a)) / 2 with a = abs(x)."""

    op_type, compute, operations = "Atanh", "atanh", 19

    def formula(self, f: Formula, x: ir.Value) -> ir.Value:
        a = f("Abs", x)
        u = f("Div", f("Add", a, a), f("Sub", 1, a))
        value = f.odd(x, f("Mul", f.log1p(u), 0.5))
        # The kernels of arithmetic saturate at the greatest float, whose logarithm is far from infinite.
        return f.chosen(f("Equal", x, 1), np.inf, f.chosen(f("Equal", x, -1), -np.inf, value))
