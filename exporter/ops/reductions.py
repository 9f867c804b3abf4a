"""Reductions over whole axes that TFLite has, and the global pools, which are reductions over the spatial ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, is_constant, rank
from exporter.ops.base import (
    Channels,
    Constraint,
    Cost,
    Coupling,
    InputRule,
    LayoutRule,
    Lowering,
    Operator,
    OutputRule,
    Port,
    QuantRule,
    Refused,
    Rewriter,
    Role,
    register,
)
from exporter.ops.common import INT8_AND_INT16, OWN, SHARED, input_of, input_shape, ints_of, output_shape, uniform_layout
from exporter.ops.fixed_point import multiply, quantize_multiplier
from exporter.ops.kernels import builtin_version, dtype_of, in_wider_dtype, most_axes, stored_dtype, takes
from exporter.ops.reference import Affine, Stored, clamped, encoding_of, single

__all__ = [
    "GlobalAveragePool",
    "GlobalMaxPool",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Reduction",
    "reduced_axes",
]


_DTYPES: Final = ("float32", "int8", "uint8", "int16", "int32", "int64")
_WIDER: Final = {"float16": "float32", "uint16": "int32", "uint32": "int64"}


def _constant_axes(node: ir.Node) -> bool:
    """The axes of a reduction are constant."""
    return len(node.inputs) < 2 or node.inputs[1] is None or is_constant(node.inputs[1])


class Reduction(Operator):
    """What reductions over whole axes share. Axes are input 1; `keepdims` keeps them with length 1."""

    def couple(self, node: ir.Node) -> Coupling:
        shape, axes, keep = input_shape(node), reduced_axes(node), bool(attribute(node, "keepdims", 1))
        rest = [axis for axis in range(len(shape)) if axis not in axes]
        ties = [
            (Channels("in", 0, axis, shape[axis]), Channels("out", 0, axis if keep else place, shape[axis]))
            for place, axis in enumerate(rest)
        ]
        return Coupling(tuple(ties), blocked=tuple(Channels("in", 0, axis, shape[axis]) for axis in axes))

    def layout(self, node: ir.Node) -> LayoutRule:
        """Any order: axes are remapped. Where the batch or channel axis goes, what is left comes out in the canonical order."""
        gone = not attribute(node, "keepdims", 1)
        axes = reduced_axes(node)
        first = gone and 0 in axes
        inside = Port.FIRST if first else Port.NODE
        outside = Port.FIRST if gone and (first or 1 in axes) else Port.NODE
        return LayoutRule((inside, *(Port.ANY,) * (len(node.inputs) - 1)), (outside,))

    def cost(self, node: ir.Node) -> Cost:
        return Cost(elementwise=prod(input_shape(node)))


class _Builtin(Reduction):
    """A reduction that is one of TFLite's."""

    builtin: ClassVar[str] = ""
    boolean: ClassVar[str] = ""  # the builtin for booleans, where there is one
    output_rule: ClassVar[OutputRule] = OWN
    empty: ClassVar[float] = 0  # what a reduction over no element gives

    def quantize(self, node: ir.Node) -> QuantRule:
        rules = (InputRule(Role.ACTIVATION), InputRule(Role.PARAMETER))
        return QuantRule(rules[: len(node.inputs)], (self.output_rule,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """A reduction over no axis is its input; one over no element a constant."""
        x, axes = input_of(node, 0), reduced_axes(node)
        if not axes:
            return [x]
        if 0 in input_shape(node):
            dtype = np.dtype(dtype_of(x))
            # The least and greatest integers stand for the infinities.
            value = self.empty if dtype.kind == "f" or abs(self.empty) <= 1 else _bound(dtype, self.empty)
            return [rewriter.const(np.full(output_shape(node), value, dtype), "empty")]
        return in_wider_dtype(node, rewriter, _WIDER)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        axes = sorted(to.axis(axis, len(input_shape(node))) for axis in reduced_axes(node))
        keep, dtype = bool(attribute(node, "keepdims", 1)), stored_dtype(node, to)
        builtin = self.boolean if dtype == "bool" else self.builtin
        to.emit(builtin, [to.input(0), to.ints(axes)], [to.output()], builtin_version(builtin, dtype), keep_dims=keep)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        axes = reduced_axes(node)
        return [self._reduce(inputs[0], axes, bool(attribute(node, "keepdims", 1))) if axes else inputs[0]]

    def _reduce(self, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        raise NotImplementedError


def _bound(dtype: np.dtype[Any], sign: float) -> int | bool:
    if dtype.kind == "b":
        return sign > 0
    limits = np.iinfo(dtype)
    return int(limits.max if sign > 0 else limits.min)


@register
class ReduceMean(_Builtin):
    """Mean over axes."""

    op_type = "ReduceMean"
    references_int16 = True
    kernel_dtypes = INT8_AND_INT16
    builtin = "MEAN"
    empty = np.nan
    constraints = (
        Constraint("tflite", _constant_axes),
        takes("ReduceMean", ("float32",)),  # of integers, ONNX leaves open how the mean is rounded
        most_axes("ReduceMean", 6),
    )

    def _reduce(self, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        return x.mean(dim=axes, keepdim=keep)

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        """Source: QuantizedMeanOrSum in LiteRT `kernels/internal/reference/reduce.h`."""
        x, to, axes = single(inputs[0]), encoding_of(outputs), reduced_axes(node)
        count = prod(x.array.shape[axis] for axis in axes)
        multiplier, shift = quantize_multiplier(float(x.scale) / to.scale[0])
        more = min(count.bit_length() - 1, 32, 31 + shift)
        sums = x.centred.sum(axis=axes, keepdims=bool(attribute(node, "keepdims", 1)))
        return [clamped(node, multiply(sums, (multiplier << more) // count, shift - more), to)]


@register
class ReduceMax(_Builtin):
    """Greatest element over axes; of booleans, whether any is true."""

    op_type = "ReduceMax"
    kernel_dtypes = INT8_AND_INT16
    builtin, boolean = "REDUCE_MAX", "REDUCE_ANY"
    output_rule = SHARED
    empty = -np.inf
    constraints = (Constraint("tflite", _constant_axes), takes("ReduceMax", (*_DTYPES, "bool")), most_axes("ReduceMax", 6))

    def _reduce(self, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        return x.amax(dim=axes, keepdim=keep)


@register
class ReduceMin(_Builtin):
    """Least element over axes; of booleans, whether all are true."""

    op_type = "ReduceMin"
    kernel_dtypes = INT8_AND_INT16
    builtin, boolean = "REDUCE_MIN", "REDUCE_ALL"
    output_rule = SHARED
    empty = np.inf
    constraints = (Constraint("tflite", _constant_axes), takes("ReduceMin", (*_DTYPES, "bool")), most_axes("ReduceMin", 6))

    def _reduce(self, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        return x.amin(dim=axes, keepdim=keep)


@register
class ReduceProd(_Builtin):
    """Product over axes."""

    op_type = "ReduceProd"
    builtin = "REDUCE_PROD"
    empty = 1
    constraints = (
        Constraint("tflite", _constant_axes),
        takes("ReduceProd", ("float32", "int32", "int64")),
        most_axes("ReduceProd", 6),
    )

    def quantize(self, node: ir.Node) -> QuantRule:
        raise Refused(node, "the scale of a product of many factors has no integer form")

    def _reduce(self, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        for axis in sorted(axes, reverse=True):
            x = x.prod(dim=axis, keepdim=keep).to(x.dtype)
        return x


@register
class ReduceSum(_Builtin):
    """Sum over axes."""

    op_type = "ReduceSum"
    kernel_dtypes = INT8_AND_INT16
    builtin = "SUM"
    constraints = (
        Constraint("tflite", _constant_axes),
        takes("ReduceSum", ("float32", "int32", "int64")),
        most_axes("ReduceSum", 6),
    )

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite, a mean times the number of elements: the reference kernel of SUM is wrong in int8 (LiteRT 2.3.0 saturates where
        its optimized kernel and XNNPACK do not), that of MEAN is right everywhere."""
        x, axes = input_of(node, 0), reduced_axes(node)
        if rewriter.runtime != "tflite" or not axes or dtype_of(x) != "float32" or 0 in input_shape(node):
            return super().legalize(node, rewriter)
        count = prod(input_shape(node)[axis] for axis in axes)
        given = rewriter.const(np.asarray(axes, np.int64), "axes")
        mean = rewriter.op("ReduceMean", x, given, keepdims=attribute(node, "keepdims"))
        return [rewriter.op("Mul", mean, rewriter.const(np.asarray(count, np.float32), "count"))]

    def _reduce(self, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
        return x.sum(dim=axes, keepdim=keep).to(x.dtype)


class _Global(Operator):
    """A pool whose window is the whole image: the reduction over the spatial axes."""

    kernel_dtypes = INT8_AND_INT16

    reduction: ClassVar[str] = ""
    output_rule: ClassVar[OutputRule] = OWN
    refuses: ClassVar = {"lower": "global pools are written as reductions over the spatial axes, which the legalize stage makes"}

    def couple(self, node: ir.Node) -> Coupling:
        channels = input_shape(node)[1]
        return Coupling(((Channels("in", 0, 1, channels), Channels("out", 0, 1, channels)),))

    def quantize(self, node: ir.Node) -> QuantRule:
        return QuantRule((InputRule(Role.ACTIVATION),), (self.output_rule,))

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.NODE)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """TFLite's pools have windows of a fixed size; its reductions take axes."""
        if rewriter.runtime != "tflite":
            return None
        x = input_of(node, 0)
        axes = rewriter.const(np.arange(2, rank(x), dtype=np.int64), "axes")
        return [rewriter.op(self.reduction, x, axes, keepdims=1)]

    def cost(self, node: ir.Node) -> Cost:
        return Cost(elementwise=prod(input_shape(node)))


@register
class GlobalAveragePool(_Global):
    """Mean over the spatial axes, kept with length 1."""

    op_type = "GlobalAveragePool"
    reduction = "ReduceMean"

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return (inputs[0].mean(dim=tuple(range(2, inputs[0].dim())), keepdim=True),)


@register
class GlobalMaxPool(_Global):
    """Greatest element over the spatial axes, kept with length 1."""

    op_type = "GlobalMaxPool"
    reduction = "ReduceMax"
    output_rule = SHARED

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return (inputs[0].amax(dim=tuple(range(2, inputs[0].dim())), keepdim=True),)


def reduced_axes(node: ir.Node) -> tuple[int, ...]:
    """Axes that a reduction takes away, counted from the front, sorted."""
    given = ints_of(node, 1)
    axes = len(input_shape(node))
    if not given:
        return () if attribute(node, "noop_with_empty_axes", 0) else tuple(range(axes))
    return tuple(sorted(axis % axes for axis in given))
