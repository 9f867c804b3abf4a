"""Comparison of elements, logic of booleans, and the choice between two values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant
from exporter.ops.base import Lowering, QuantRule, Refused, Rewriter, register
from exporter.ops.common import SHARED, Elementwise, activation_rule, input_of
from exporter.ops.formulas import Formula
from exporter.ops.kernels import dtype_of, in_wider_dtype, takes

__all__ = ["And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Where", "Xor"]

_WIDER: Final = {**dict.fromkeys(("int8", "uint8", "int16", "uint16"), "int32"), "uint32": "int64"}
_MASK: Final = 1e4  # a constant branch of Where beyond it marks places; no activation of a network lies there


class Comparison(Elementwise):
    """Base of the comparisons of two tensors. Small integers are compared as int32, unsigned ones of 32 bits as int64."""

    builtin: ClassVar[str]
    compare: ClassVar[str]
    constraints = (takes("A comparison", ("float32", "int32", "int64")),)
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "a comparison stays in float, so that rounding moves no border"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime == "tflite" and dtype_of(input_of(node, 0)) == "uint64":
            return [self._unsigned(node, rewriter)]
        return in_wider_dtype(node, rewriter, _WIDER)

    def _unsigned(self, node: ir.Node, rewriter: Rewriter) -> ir.Value:
        """Of 64 bits read as signed integers: the order is the signed one, the other way round where the signs differ."""
        left, right = (rewriter.op("Cast", value, to=int(ir.DataType.INT64)) for value in node.inputs)
        zero = rewriter.const(np.asarray(0, np.int64))
        differ = rewriter.op("Xor", rewriter.op("Less", left, zero), rewriter.op("Less", right, zero))
        return rewriter.op("Xor", rewriter.op(node.op_type, left, right), differ)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit(self.builtin, [to.input(0), to.input(1)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [getattr(torch, self.compare)(inputs[0], inputs[1])]


@register
class Equal(Comparison):
    """x = y."""

    op_type, builtin, compare = "Equal", "EQUAL", "eq"
    constraints = (takes("Equal", ("float32", "int32", "int64", "bool")),)

    def _unsigned(self, node: ir.Node, rewriter: Rewriter) -> ir.Value:
        left, right = (rewriter.op("Cast", value, to=int(ir.DataType.INT64)) for value in node.inputs)
        return rewriter.op("Equal", left, right)


@register
class Greater(Comparison):
    """x > y."""

    op_type, builtin, compare = "Greater", "GREATER", "gt"


@register
class GreaterOrEqual(Comparison):
    """x >= y."""

    op_type, builtin, compare = "GreaterOrEqual", "GREATER_EQUAL", "ge"


@register
class Less(Comparison):
    """x < y."""

    op_type, builtin, compare = "Less", "LESS", "lt"


@register
class LessOrEqual(Comparison):
    """x <= y."""

    op_type, builtin, compare = "LessOrEqual", "LESS_EQUAL", "le"


class Logic(Elementwise):
    """Base of the operators on booleans."""

    builtin: ClassVar[str]
    compute: ClassVar[str]
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "booleans are not quantized"}

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit(self.builtin, [to.input(index) for index in range(len(node.inputs))], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [getattr(torch, self.compute)(*inputs)]


@register
class And(Logic):
    """Both."""

    op_type, builtin, compute = "And", "LOGICAL_AND", "logical_and"


@register
class Or(Logic):
    """Either, or both."""

    op_type, builtin, compute = "Or", "LOGICAL_OR", "logical_or"


@register
class Xor(Logic):
    """Either, but not both: two booleans that are not equal."""

    op_type, builtin, compute = "Xor", "NOT_EQUAL", "logical_xor"


@register
class Not(Logic):
    """The opposite."""

    op_type, builtin, compute = "Not", "LOGICAL_NOT", "logical_not"


class Special(Elementwise):
    """Base of the questions after special floats, which comparisons answer."""

    refuses: ClassVar[Mapping[str, str]] = {
        "quantize": "integers hold neither infinity nor NaN",
        "lower": "TFLite has no kernel for it; legalize makes it a comparison",
    }


@register
class IsNaN(Special):
    """Whether x is no number: then alone it is not equal to itself."""

    op_type = "IsNaN"

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        x = input_of(node, 0)
        return [rewriter.op("Not", rewriter.op("Equal", x, x))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].isnan()]


@register
class IsInf(Special):
    """Whether x is infinite, of the signs that are asked for."""

    op_type = "IsInf"

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        f, x = Formula(node, rewriter), input_of(node, 0)
        negative, positive = _signs(node)
        if negative and positive:
            return [f("Equal", f("Abs", x), np.inf)]
        if not negative and not positive:
            return [f("And", *[f("Less", x, 0), f("Less", 0.0, x)])]
        return [f("Equal", x, np.inf if positive else -np.inf)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        negative, positive = _signs(node)
        return [(inputs[0].isneginf() & negative) | (inputs[0].isposinf() & positive)]


def _signs(node: ir.Node) -> tuple[bool, bool]:
    """Whether negative and positive infinity count."""
    return bool(attribute(node, "detect_negative", 1)), bool(attribute(node, "detect_positive", 1))


@register
class Where(Elementwise):
    """x where the condition holds, else y. Its kernel takes every dtype: it moves elements."""

    op_type = "Where"

    def quantize(self, node: ir.Node) -> QuantRule:
        for value in node.inputs[1:]:
            array = constant(value)
            if array is not None and array.size and not np.abs(array).max() < _MASK:
                raise Refused(
                    node, "a constant branch that only marks places (minus infinity) would take the whole range of 8 bits"
                )
        return activation_rule(node, SHARED, parameters=(0,))

    def lower(self, node: ir.Node, to: Lowering) -> None:
        at = 2 if dtype_of(input_of(node, 1)) == "uint32" else 1
        to.emit("SELECT_V2", [to.input(0), to.input(1), to.input(2)], [to.output()], version=at)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.where(*inputs)]
