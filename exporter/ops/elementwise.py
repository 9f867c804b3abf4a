"""Arithmetic on the elements of two or more tensors, with ONNX's (numpy's) broadcasting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import FLOAT, constant, is_constant, rank
from exporter.ops.agreement import same_products
from exporter.ops.base import Constraint, Lowering, QuantRule, Rewriter, register
from exporter.ops.common import INT8_AND_INT16, SHARED, Elementwise, activation_rule, input_of, input_shape, is_float, version
from exporter.ops.fixed_point import multiply, quantize_multiplier
from exporter.ops.formulas import Formula
from exporter.ops.gates import gate_floor
from exporter.ops.hard_swish import hard_swish_of
from exporter.ops.integers import long_quotient, unsigned_quotient
from exporter.ops.kernels import dtype_of, in_fewer_axes, in_wider_dtype, takes
from exporter.ops.reference import Affine, Stored, encoding_of, pair, rescaled
from exporter.ops.standardize import PART_OF_NORMALIZATION

__all__ = ["Add", "Div", "Max", "Mean", "Min", "Mul", "Sub", "Sum"]

# add.cc and sub.cc abort where an output's scale is less than 2**-20 of twice the greater input's; what 8-bit inputs leave is far coarser.
_LEAST_RANGE: Final = 2.0**-12
_HEADROOM: Final = 20  # bits by which 8-bit addends are raised before they are brought to one scale
_HEADROOM_INT16: Final = 15  # the same of 16-bit ones
_SMALL: Final = dict.fromkeys(("int8", "uint8", "int16", "uint16"), "int32")
_UNSIGNED: Final = {"uint32": "int64", "uint64": "int64"}  # what overflows is cut off alike: two's complement


def _broadcasts_high(node: ir.Node) -> bool:
    """Whether inputs of different shape meet in more than 4 axes: younger kernels, with versions of their own."""
    return rank(node.outputs[0]) > 4 and len({input_shape(node, index) for index in range(len(node.inputs))}) > 1


def _rank_at_most_5(node: ir.Node) -> bool:
    """Inputs that are broadcast have at most 5 axes."""
    return rank(node.outputs[0]) <= 5 or not _broadcasts_high(node)


class Binary(Elementwise):
    """Base of the operators of two inputs. Integers that have no kernel go through a wider dtype."""

    kernel_dtypes = INT8_AND_INT16

    wider: ClassVar[Mapping[str, str]] = {**_SMALL, **_UNSIGNED}
    constraints = (Constraint("tflite", _rank_at_most_5), takes("Arithmetic", ("float32", "int32", "int64")))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        found = in_wider_dtype(node, rewriter, self.wider)
        return in_fewer_axes(node, rewriter, 5) if found is None and _broadcasts_high(node) else found


@register
class Add(Binary):
    """x + y."""

    op_type = "Add"
    references_int16 = True
    fuses_activation = True

    def quantize(self, node: ir.Node) -> QuantRule:
        return replace(activation_rule(node), sums=True, least_range=_LEAST_RANGE)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        _emit_binary("ADD", to, 4 if _is_int64(node) else version(1, 2, to.quantized))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] + inputs[1]]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        left, right, scale = _at_common_scale(*pair(inputs))
        return [rescaled(node, left + right, scale / encoding_of(outputs).scale[0], encoding_of(outputs))]


@register
class Sub(Binary):
    """x - y."""

    op_type = "Sub"
    references_int16 = True
    fuses_activation = True

    def quantize(self, node: ir.Node) -> QuantRule:
        return replace(activation_rule(node), least_range=_LEAST_RANGE)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        at = 3 if _broadcasts_high(node) else version(1, 2, to.quantized)
        _emit_binary("SUB", to, 4 if _is_int64(node) else at)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] - inputs[1]]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        left, right, scale = _at_common_scale(*pair(inputs))
        return [rescaled(node, left - right, scale / encoding_of(outputs).scale[0], encoding_of(outputs))]


@register
class Mul(Binary):
    """x * y."""

    op_type = "Mul"
    references_int16 = True
    fuses_activation = True
    wider: ClassVar[Mapping[str, str]] = {**_SMALL, **_UNSIGNED, "uint16": "int64"}

    def quantize(self, node: ir.Node) -> QuantRule:
        left, right = input_of(node, 0), input_of(node, 1)
        return activation_rule(node, floors={0: gate_floor(right, left), 1: gate_floor(left, right)})

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        return _as_activation(node, rewriter) or super().legalize(node, rewriter)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        left, right, out = to.input(0), to.input(1), to.output()
        # Kernels before version 3 only multiply by less than one when they requantize.
        grows = to.quantized and np.float32(to.scale(left)) * np.float32(to.scale(right)) / np.float32(to.scale(out)) >= 1
        to.emit(
            "MUL",
            [left, right],
            [out],
            version=5 if _is_int64(node) else 3 if grows else version(1, 2, to.quantized),
            fused_activation_function=to.activation,
        )

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] * inputs[1]]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        left, right = pair(inputs)
        factor = left.scale * right.scale / np.float32(encoding_of(outputs).scale[0])
        return [rescaled(node, left.centred * right.centred, float(factor), encoding_of(outputs))]

    def agrees(self, node: ir.Node, inputs: Sequence[Affine | None], outputs: Sequence[Affine | None]) -> bool:
        return same_products(encoding_of(inputs), encoding_of(inputs[1:]), encoding_of(outputs))


@register
class Div(Binary):
    """x / y; integers are truncated."""

    constraints = (Constraint("tflite", _rank_at_most_5), takes("Div", ("float32", "int32")))
    op_type = "Div"
    fuses_activation = True
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "no runtime has an int8 kernel of Div (by a constant it becomes Mul)"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """x / c = x * (1/c) for a constant c: equal for powers of two, else within one unit in the last place.

        So it is for the few deviations of a normalization: a product takes a fraction of a quotient's time, and their reciprocals neither
        overflow nor vanish. Integers of more than 32 bits are divided in steps."""
        if not is_float(node.outputs[0]):
            wider = in_wider_dtype(node, rewriter, {**_SMALL, "uint32": "int64"})
            divide = {"int64": long_quotient, "uint64": unsigned_quotient}.get(dtype_of(input_of(node, 0)))
            if divide is not None and rewriter.runtime == "tflite":
                return [divide(Formula(node, rewriter), input_of(node, 0), input_of(node, 1))]
            return wider
        found = _as_activation(node, rewriter)
        if found is not None:
            return found
        if rewriter.runtime == "tflite" and _by_deviations(node):
            return [rewriter.op("Mul", input_of(node, 0), rewriter.op("Reciprocal", input_of(node, 1)))]
        divisor = constant(node.inputs[1])
        if divisor is None or FLOAT in node.metadata_props:  # without an integer kernel to gain, the quotient stays exact
            return in_fewer_axes(node, rewriter, 5) if _broadcasts_high(node) else None
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


def _by_deviations(node: ir.Node) -> bool:
    """Whether a quotient is that of a normalization, by fewer numbers than it divides."""
    fewer = prod(input_shape(node, 1)) < prod(input_shape(node, 0))
    return fewer and node.metadata_props.get(FLOAT) == PART_OF_NORMALIZATION and not is_constant(input_of(node, 1))


def _is_int64(node: ir.Node) -> bool:
    return dtype_of(input_of(node, 0)) == "int64"


def _as_activation(node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
    """The activation that the product is the last operator of, times a constant, where every allowed TFLite has a kernel for the whole."""
    if rewriter.runtime != "tflite" or not is_float(node.outputs[0]) or not rewriter.runs("HARD_SWISH"):
        return None
    found = hard_swish_of(node.outputs[0])
    if found is None:
        return None
    y = rewriter.op("HardSwish", found[0])
    return [y if found[1] == 1 else rewriter.op("Mul", y, rewriter.const(np.asarray(found[1], np.float32)))]


def _at_common_scale(left: Stored, right: Stored) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    """Both inputs in steps of twice the greater scale over 2**20 (2**15 for int16), and that step.

    Source: LiteRT `kernels/add.cc`, `kernels/sub.cc` and `kernels/internal/reference/integer_ops/add.h`.
    """
    common = 2 * float(max(left.scale, right.scale))
    room = _HEADROOM_INT16 if left.array.dtype == np.int16 else _HEADROOM
    found = [multiply(side.centred << room, *quantize_multiplier(float(side.scale) / common)) for side in (left, right)]
    return found[0], found[1], common / (1 << room)


def _emit_binary(builtin: str, to: Lowering, at: int) -> None:
    to.emit(builtin, [to.input(0), to.input(1)], [to.output()], version=at, fused_activation_function=to.activation)


class Variadic(Binary):
    """Base of the operators of any number of inputs: legalized to a chain of two at a time."""

    pairwise: ClassVar[str]

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if len(node.inputs) == 2 and self.pairwise == self.op_type:
            return super().legalize(node, rewriter)
        value = input_of(node, 0)
        if len(node.inputs) == 1:
            return [value]
        for index in range(1, len(node.inputs)):
            value = rewriter.op(self.pairwise, value, input_of(node, index))
        return [value]


class Extremum(Variadic):
    """Base of Max and Min, whose integer kernels compare integers as they are: one encoding for all."""

    builtin: ClassVar[str]
    better: ClassVar[str]  # the comparison that holds where the first input is taken
    wider: ClassVar[Mapping[str, str]] = {"uint16": "int32", "uint32": "int64"}
    constraints = (
        Constraint("tflite", _rank_at_most_5),
        takes("Max and Min", ("float32", "int8", "uint8", "int16", "int32", "int64")),
    )

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite" or len(node.inputs) != 2 or dtype_of(input_of(node, 0)) != "uint64":
            return super().legalize(node, rewriter)
        left, right = input_of(node, 0), input_of(node, 1)
        return [rewriter.op("Where", rewriter.op(self.better, left, right), left, right)]

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        at = 3 if _broadcasts_high(node) else version(1, 2, to.quantized or dtype_of(input_of(node, 0)) == "int8")
        at = 4 if dtype_of(input_of(node, 0)) == "int16" else at
        to.emit(self.builtin, [to.input(0), to.input(1)], [to.output()], version=at)


@register
class Max(Extremum):
    """The greatest of any number of tensors."""

    op_type = pairwise = "Max"
    builtin, better = "MAXIMUM", "Greater"

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [_reduce("maximum", inputs)]


@register
class Min(Extremum):
    """The least of any number of tensors."""

    op_type = pairwise = "Min"
    builtin, better = "MINIMUM", "Less"

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


@register
class Mean(Variadic):
    """The mean of any number of tensors."""

    op_type = "Mean"
    pairwise = "Add"
    refuses: ClassVar[Mapping[str, str]] = {"lower": "Mean becomes a sum and a quotient before an artifact is written"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if len(node.inputs) == 1:
            return [input_of(node, 0)]
        f = Formula(node, rewriter)
        return [f("Div", f("Sum", *(input_of(node, index) for index in range(len(node.inputs)))), len(node.inputs))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [_reduce("add", inputs) / len(inputs)]


def _reduce(name: str, inputs: Sequence[Any]) -> Any:
    import torch

    total = inputs[0]
    for value in inputs[1:]:
        total = getattr(torch, name)(total, value)
    return total
