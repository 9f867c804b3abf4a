"""ReduceMean, ReduceMax, ReduceSum over whole axes, and the global pools, which are reductions over the spatial ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, rank
from exporter.ops.base import (
    Channels,
    Cost,
    Coupling,
    InputRule,
    LayoutRule,
    Lowering,
    Operator,
    OutputRule,
    Port,
    QuantRule,
    Rewriter,
    Role,
    register,
)
from exporter.ops.common import OWN, SHARED, input_of, input_shape, ints_of, is_float, uniform_layout, version

__all__ = ["GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMean", "ReduceSum"]


class _Reduction(Operator):
    """What reductions over whole axes share. Axes are input 1; `keepdims` keeps them with length 1."""

    tflite: ClassVar[str] = ""
    output_rule: ClassVar[OutputRule] = OWN

    def couple(self, node: ir.Node) -> Coupling:
        shape, axes, keep = input_shape(node), _axes(node), bool(attribute(node, "keepdims", 1))
        rest = [axis for axis in range(len(shape)) if axis not in axes]
        ties = [
            (Channels("in", 0, axis, shape[axis]), Channels("out", 0, axis if keep else place, shape[axis]))
            for place, axis in enumerate(rest)
        ]
        return Coupling(tuple(ties), blocked=tuple(Channels("in", 0, axis, shape[axis]) for axis in axes))

    def quantize(self, node: ir.Node) -> QuantRule:
        rules = (InputRule(Role.ACTIVATION), InputRule(Role.PARAMETER))
        return QuantRule(rules[: len(node.inputs)], (self.output_rule,))

    def layout(self, node: ir.Node) -> LayoutRule:
        """Any order: axes are remapped. Where the batch or channel axis goes, what is left comes out in the canonical order."""
        gone = not attribute(node, "keepdims", 1)
        axes = _axes(node)
        first = gone and 0 in axes
        inside = Port.FIRST if first else Port.NODE
        outside = Port.FIRST if gone and (first or 1 in axes) else Port.NODE
        return LayoutRule((inside, *(Port.ANY,) * (len(node.inputs) - 1)), (outside,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """A reduction over no axis is its input."""
        return None if _axes(node) else [input_of(node, 0)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        axes = sorted(to.axis(axis, len(input_shape(node))) for axis in _axes(node))
        keep = bool(attribute(node, "keepdims", 1))
        to.emit(self.tflite, [to.input(0), to.ints(axes)], [to.output()], version(1, 2, to.quantized), keep_dims=keep)

    def cost(self, node: ir.Node) -> Cost:
        return Cost(elementwise=prod(input_shape(node)))


@register
class ReduceMean(_Reduction):
    """Mean over axes."""

    op_type = "ReduceMean"
    tflite = "MEAN"

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        axes = _axes(node)
        return (inputs[0].mean(dim=axes, keepdim=bool(attribute(node, "keepdims", 1))) if axes else inputs[0],)


@register
class ReduceMax(_Reduction):
    """Greatest element over axes."""

    op_type = "ReduceMax"
    tflite = "REDUCE_MAX"
    output_rule = SHARED

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        axes = _axes(node)
        return (inputs[0].amax(dim=axes, keepdim=bool(attribute(node, "keepdims", 1))) if axes else inputs[0],)


@register
class ReduceSum(_Reduction):
    """Sum over axes."""

    op_type = "ReduceSum"
    tflite = "SUM"

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite, a mean times the number of elements: the reference kernel of SUM is wrong in int8 (LiteRT 2.3.0 saturates where
        its optimized kernel and XNNPACK do not), that of MEAN is right everywhere."""
        x, axes = input_of(node, 0), _axes(node)
        if rewriter.runtime != "tflite" or not axes or not is_float(x):
            return super().legalize(node, rewriter)
        count = prod(input_shape(node)[axis] for axis in axes)
        given = rewriter.const(np.asarray(axes, np.int64), "axes")
        mean = rewriter.op("ReduceMean", x, given, keepdims=attribute(node, "keepdims"))
        return [rewriter.op("Mul", mean, rewriter.const(np.asarray(count, np.float32), "count"))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        axes = _axes(node)
        return (inputs[0].sum(dim=axes, keepdim=bool(attribute(node, "keepdims", 1))) if axes else inputs[0],)


class _Global(Operator):
    """A pool whose window is the whole image: the reduction over the spatial axes."""

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


def _axes(node: ir.Node) -> tuple[int, ...]:
    """Axes that a reduction takes away, counted from the front, sorted."""
    given = ints_of(node, 1)
    axes = len(input_shape(node))
    if not given:
        return () if attribute(node, "noop_with_empty_axes", 0) else tuple(range(axes))
    return tuple(sorted(axis % axes for axis in given))
