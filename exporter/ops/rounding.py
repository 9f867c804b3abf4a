"""Rounding, signs and remainders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import onnx_ir as ir

from exporter.graph.values import attribute, constant
from exporter.ops.base import Constraint, Lowering, Rewriter, register
from exporter.ops.common import Elementwise, input_of, is_float
from exporter.ops.formulas import Formula
from exporter.ops.kernels import dtype_of, in_wider_dtype, takes

__all__ = ["Ceil", "Floor", "Mod", "Round", "Sign"]

_TO_INT32: Final = dict.fromkeys(("int8", "uint8", "int16", "uint16"), "int32")


class Rounding(Elementwise):
    """Base of the three ways to an integer; their kernels take float32."""

    builtin: ClassVar[str]
    compute: ClassVar[str]
    constraints = (takes("Rounding", ("float32",)),)
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "rounding stays in float: a step of 8 bits is seldom a whole number"}

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit(self.builtin, [to.input(0)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [getattr(inputs[0], self.compute)()]


@register
class Ceil(Rounding):
    """The least integer that is not less than x."""

    op_type, builtin, compute = "Ceil", "CEIL", "ceil"


@register
class Floor(Rounding):
    """The greatest integer that is not greater than x."""

    op_type, builtin, compute = "Floor", "FLOOR", "floor"


@register
class Round(Rounding):
    """The nearest integer, the even one of two that are as near."""

    op_type, builtin, compute = "Round", "ROUND", "round"


@register
class Sign(Elementwise):
    """-1, 0 or 1."""

    op_type = "Sign"
    constraints = (takes("Sign", ("float32", "int32")),)
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "the sign stays in float, so that rounding moves no border"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Integers of 64 bits and unsigned ones of 32 have no kernel: (x > 0) - (x < 0)."""
        x = input_of(node, 0)
        dtype = dtype_of(x)
        if rewriter.runtime != "tflite" or dtype not in ("int64", "uint32", "uint64"):
            return in_wider_dtype(node, rewriter, _TO_INT32)
        f = Formula(node, rewriter)
        to = None if x.dtype is None else int(x.dtype)
        if dtype != "int64":
            return [f("Cast", f("Not", f("Equal", x, 0)), to=to)]
        return [f("Sub", f("Cast", f("Greater", x, 0), to=to), f("Cast", f("Less", x, 0), to=to))]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("SIGN", [to.input(0)], [to.output()], version=1 if is_float(input_of(node, 0)) else 2)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].sign()]


def _remainder_is_floored(node: ir.Node) -> bool:
    """The remainder has the sign of the divisor, or nothing is negative (Mod with fmod = 1 becomes that)."""
    return not attribute(node, "fmod", 0) or all(_not_negative(value) for value in node.inputs)


@register
class Mod(Elementwise):
    """The remainder: with the divisor's sign (fmod = 0, as Python's), or with the dividend's (fmod = 1, as C's)."""

    op_type = "Mod"
    constraints = (takes("Mod", ("float32", "int32", "int64")), Constraint("tflite", _remainder_is_floored))
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "a remainder jumps, which 8 bits would make noise"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """TFLite has the floored remainder. The truncated one of floats is that of absolute values, with the sign of the dividend;
        that of integers is one divisor less where the signs differ, which is exact for the least integer as well."""
        if rewriter.runtime != "tflite":
            return None
        f, x, y = Formula(node, rewriter), input_of(node, 0), input_of(node, 1)
        if dtype_of(x) == "uint64":
            return [f("Sub", x, f("Mul", f("Div", x, y), y))]
        wider = in_wider_dtype(node, rewriter, {**_TO_INT32, "uint32": "int64"})
        if wider is not None or _remainder_is_floored(node):
            return wider
        if is_float(x):
            return [f.odd(x, f("Mod", f("Abs", x), f("Abs", y), fmod=1))]
        floored = f("Mod", x, y)
        differ = f("Xor", f("Less", floored, 0), f("Less", x, 0))
        off = f("And", f("Not", f("Equal", floored, 0)), differ)
        return [f.chosen(off, f("Sub", floored, y), floored)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("FLOOR_MOD", [to.input(0), to.input(1)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [(torch.fmod if attribute(node, "fmod", 0) else torch.remainder)(inputs[0], inputs[1])]


def _not_negative(value: ir.Value | None) -> bool:
    array, producer = constant(value), value.producer() if value is not None else None
    if array is not None:
        return bool((array >= 0).all())
    return producer is not None and producer.op_type == "Abs" and value is not None and is_float(value)
