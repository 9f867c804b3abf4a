"""Writes formulas of a node as operators: what `legalize` facets of mathematical functions are made with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.ops.base import Rewriter
from exporter.ops.common import input_of
from exporter.ops.tape import Operand, Tape

__all__ = ["Formula"]


class Formula(Tape):
    """A tape that is called: plain numbers become constants of `dtype`, by default that of the node's first input.

    With `float_because`, all of them stay in float where the rest of the graph runs in integers: a formula that cancels, or whose middle
    terms span many powers of two, is not to be had in 8 bits.

    ::

        f = Formula(node, rewriter)
        return [f("Div", x, f("Add", f("Abs", x), 1))]      # x / (|x| + 1)
    """

    def __init__(self, node: ir.Node, rewriter: Rewriter, float_because: str = "", dtype: str = "") -> None:
        super().__init__(rewriter, float_because)
        own = input_of(node, 0).dtype
        self._dtype = np.dtype(dtype) if dtype or own is None else own.numpy()

    def __call__(self, op_type: str, *operands: Operand | None, **attributes: Any) -> ir.Value:
        """The first output of a new `op_type` of `operands`."""
        return self.op(op_type, *operands, **attributes)

    def value(self, entry: Operand) -> ir.Value:
        """An operand as a value of the graph; numbers have the formula's dtype, arrays keep theirs."""
        return entry if isinstance(entry, ir.Value) else self.rewriter.const(np.asarray(entry, self._dtype_of(entry)))

    def number(self, value: float, dtype: str = "") -> ir.Value:
        """A constant scalar; of the formula's dtype where none is given."""
        return self.rewriter.const(np.asarray(value, dtype or self._dtype))

    def cast(self, value: ir.Value, dtype: str) -> ir.Value:
        """The value in another dtype (a numpy name), or itself where it has that."""
        wanted = ir.DataType.from_numpy(np.dtype(dtype))
        return value if value.dtype == wanted else self("Cast", value, to=int(wanted))

    def _dtype_of(self, entry: float | np.ndarray[Any, Any]) -> np.dtype[Any]:
        return entry.dtype if isinstance(entry, np.ndarray) else self._dtype

    def chosen(self, condition: ir.Value, x: ir.Value | float, y: ir.Value | float) -> ir.Value:
        """x where `condition` holds, else y."""
        return self("Where", condition, x, y)

    def odd(self, x: ir.Value, positive: ir.Value) -> ir.Value:
        """An odd function of x, given its value at abs(x)."""
        return self.chosen(self("Less", x, 0), self("Neg", positive), positive)

    def log1p(self, u: ir.Value) -> ir.Value:
        """log(1 + u) for u >= 0, without the loss of digits near 0: log(w) + (u - (w - 1)) / w for w = 1 + u (the term is w's rounding error).

        From 2**24 on 1 + u is u, so that an infinite u gives infinity.
        """
        w = self("Add", u, 1)
        plain = self("Log", w)
        lost = self("Sub", u, self("Sub", w, 1))
        return self.chosen(self("Less", u, 2**24), self("Add", plain, self("Div", lost, w)), plain)

    def polynomial(self, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
        """coefficients[0] + coefficients[1] * x + ..., by Horner's rule."""
        value = self("Add", self("Mul", x, coefficients[-1]), coefficients[-2])
        for coefficient in reversed(coefficients[:-2]):
            value = self("Add", self("Mul", value, x), coefficient)
        return value
