"""Arithmetic on the elements of two or more tensors, with ONNX's (numpy's) broadcasting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import constant, rank
from exporter.ops.base import Constraint, Lowering, QuantRule, Rewriter, register
from exporter.ops.common import SHARED, Elementwise, activation_rule, input_of, input_shape, is_float, version
from exporter.ops.hard_swish import hard_swish_of

__all__ = ["Add", "Div", "Max", "Min", "Mul", "Sub", "Sum"]


def _broadcasts_high(node: ir.Node) -> bool:
    """Whether inputs of different shape meet in more than 4 axes: younger kernels, with versions of their own."""
    return rank(node.outputs[0]) > 4 and len({input_shape(node, index) for index in range(len(node.inputs))}) > 1


def _rank_at_most_5(node: ir.Node) -> bool:
    """Inputs that are broadcast have at most 5 axes."""
    return rank(node.outputs[0]) <= 5 or not _broadcasts_high(node)


class Binary(Elementwise):
    """Base of the operators of two inputs."""

    constraints = (Constraint("tflite", _rank_at_most_5),)


@register
class Add(Binary):
    """x + y."""

    op_type = "Add"
    fuses_activation = True

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        _emit_binary("ADD", to, version(1, 2, to.quantized))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] + inputs[1]]


@register
class Sub(Binary):
    """x - y."""

    op_type = "Sub"
    fuses_activation = True

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        _emit_binary("SUB", to, 3 if _broadcasts_high(node) else version(1, 2, to.quantized))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] - inputs[1]]


@register
class Mul(Binary):
    """x * y."""

    op_type = "Mul"
    fuses_activation = True

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        return _as_hard_swish(node, rewriter)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        left, right, out = to.input(0), to.input(1), to.output()
        # Kernels before version 3 only multiply by less than one when they requantize.
        grows = to.quantized and np.float32(to.scale(left)) * np.float32(to.scale(right)) / np.float32(to.scale(out)) >= 1
        to.emit(
            "MUL",
            [left, right],
            [out],
            version=3 if grows else version(1, 2, to.quantized),
            fused_activation_function=to.activation,
        )

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] * inputs[1]]


@register
class Div(Binary):
    """x / y; integers are truncated."""

    op_type = "Div"
    fuses_activation = True
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "no runtime has an int8 kernel of Div (by a constant it becomes Mul)"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """x / c = x * (1/c) for a constant c: equal for powers of two, else within one unit in the last place."""
        divisor = constant(node.inputs[1])
        if divisor is None or not is_float(node.outputs[0]):
            return None
        found = _as_hard_swish(node, rewriter)
        if found is not None:
            return found
        with np.errstate(divide="ignore", over="ignore"):
            reciprocal = (1 / divisor.astype(np.float64)).astype(divisor.dtype)
        # A reciprocal that is infinite or subnormal has lost what the quotient keeps.
        if not np.isfinite(reciprocal).all() or (np.abs(reciprocal) < np.finfo(divisor.dtype).tiny).any():
            return None
        return [rewriter.op("Mul", input_of(node, 0), rewriter.const(reciprocal))]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        _emit_binary("DIV", to, 2 if _broadcasts_high(node) else 1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        if inputs[0].is_floating_point():
            return [inputs[0] / inputs[1]]
        return [inputs[0].div(inputs[1], rounding_mode="trunc")]


def _as_hard_swish(node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
    source = hard_swish_of(node.outputs[0]) if rewriter.runtime == "tflite" else None
    return None if source is None else [rewriter.op("HardSwish", source)]


def _emit_binary(builtin: str, to: Lowering, at: int) -> None:
    to.emit(builtin, [to.input(0), to.input(1)], [to.output()], version=at, fused_activation_function=to.activation)


class Variadic(Binary):
    """Base of the operators of any number of inputs: legalized to a chain of two at a time."""

    pairwise: ClassVar[str]

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if len(node.inputs) == 2 and self.pairwise == self.op_type:
            return None
        value = input_of(node, 0)
        if len(node.inputs) == 1:
            return [value]
        for index in range(1, len(node.inputs)):
            value = rewriter.op(self.pairwise, value, input_of(node, index))
        return [value]


class Extremum(Variadic):
    """Base of Max and Min, whose integer kernels compare integers as they are: one encoding for all."""

    builtin: ClassVar[str]

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        at = 3 if _broadcasts_high(node) else version(1, 2, to.quantized)
        to.emit(self.builtin, [to.input(0), to.input(1)], [to.output()], version=at)


@register
class Max(Extremum):
    """The greatest of any number of tensors."""

    op_type = pairwise = "Max"
    builtin = "MAXIMUM"

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [_reduce("maximum", inputs)]


@register
class Min(Extremum):
    """The least of any number of tensors."""

    op_type = pairwise = "Min"
    builtin = "MINIMUM"

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [_reduce("minimum", inputs)]


@register
class Sum(Variadic):
    """The sum of any number of tensors."""

    op_type = "Sum"
    pairwise = "Add"
    refuses: ClassVar[Mapping[str, str]] = {"lower": "Sum becomes a chain of Add before an artifact is written"}

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [_reduce("add", inputs)]


def _reduce(name: str, inputs: Sequence[Any]) -> Any:
    import torch

    total = inputs[0]
    for value in inputs[1:]:
        total = getattr(torch, name)(total, value)
    return total
