"""Reductions that are made of others: norms, sums of squares, logarithms of sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute
from exporter.ops.base import Constraint, Coupling, QuantRule, Refused, Rewriter, register
from exporter.ops.common import input_of, input_shape
from exporter.ops.composite import Composite
from exporter.ops.kernels import dtype_of
from exporter.ops.reductions import reduced_axes

__all__ = ["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"]


class _Made(Composite):
    """A reduction of one function of the elements, then another of the result."""

    refuses: ClassVar[Mapping[str, str]] = {"lower": "legalize makes it elementwise operators and a ReduceSum"}

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(())

    def quantize(self, node: ir.Node) -> QuantRule:
        raise Refused(node, f"{node.op_type} runs in integers in the parts that it is made of")

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        x = input_of(node, 0)
        if 0 in input_shape(node) and not reduced_axes(node):
            return [x]
        return [self._made(node, x, rewriter)]

    def _made(self, node: ir.Node, x: ir.Value, rewriter: Rewriter) -> ir.Value:
        raise NotImplementedError


def _total(node: ir.Node, x: ir.Value, rewriter: Rewriter, keep: bool | None = None, kind: str = "ReduceSum") -> ir.Value:
    """The sum of `x` over the axes of `node`."""
    axes = reduced_axes(node)
    keepdims = int(attribute(node, "keepdims", 1) if keep is None else keep)
    return rewriter.op(kind, x, rewriter.const(np.asarray(axes, np.int64), "axes"), keepdims=keepdims, noop_with_empty_axes=1)


@register
class ReduceL1(_Made):
    """Sum of absolute values."""

    op_type = "ReduceL1"

    def _made(self, node: ir.Node, x: ir.Value, rewriter: Rewriter) -> ir.Value:
        return _total(node, rewriter.op("Abs", x), rewriter)


@register
class ReduceSumSquare(_Made):
    """Sum of squares."""

    op_type = "ReduceSumSquare"

    def _made(self, node: ir.Node, x: ir.Value, rewriter: Rewriter) -> ir.Value:
        return _total(node, rewriter.op("Mul", x, x), rewriter)


def _of_floats(node: ir.Node) -> bool:
    """The elements are floats (a root or logarithm of integers is rounded as each runtime likes)."""
    return dtype_of(input_of(node, 0)) in ("float32", "float16")


class _OfFloats(_Made):
    constraints = (Constraint("tflite", _of_floats),)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        return super().legalize(node, rewriter) if _of_floats(node) else None


@register
class ReduceL2(_OfFloats):
    """Square root of the sum of squares."""

    op_type = "ReduceL2"

    def _made(self, node: ir.Node, x: ir.Value, rewriter: Rewriter) -> ir.Value:
        return rewriter.op("Sqrt", _total(node, rewriter.op("Mul", x, x), rewriter))


@register
class ReduceLogSum(_OfFloats):
    """Logarithm of the sum."""

    op_type = "ReduceLogSum"

    def _made(self, node: ir.Node, x: ir.Value, rewriter: Rewriter) -> ir.Value:
        return rewriter.op("Log", _total(node, x, rewriter))


@register
class ReduceLogSumExp(_OfFloats):
    """Logarithm of the sum of exponentials."""

    op_type = "ReduceLogSumExp"

    def _made(self, node: ir.Node, x: ir.Value, rewriter: Rewriter) -> ir.Value:
        """The greatest element is taken out first, so that nothing overflows: log(sum(exp(x - m))) + m; an infinite m is made finite."""
        axes = reduced_axes(node)
        if not axes or 0 in input_shape(node):
            return rewriter.op("Log", _total(node, rewriter.op("Exp", x), rewriter))
        dtype = np.dtype(dtype_of(x))
        least, most = (rewriter.const(np.asarray(bound, dtype), "bound") for bound in (np.finfo(dtype).min, np.finfo(dtype).max))
        greatest = rewriter.op("Min", rewriter.op("Max", _total(node, x, rewriter, keep=True, kind="ReduceMax"), least), most)
        total = rewriter.op("Log", _total(node, rewriter.op("Exp", rewriter.op("Sub", x, greatest)), rewriter, keep=True))
        y = rewriter.op("Add", total, greatest)
        if attribute(node, "keepdims", 1):
            return y
        return rewriter.op("Squeeze", y, rewriter.const(np.asarray(axes, np.int64), "axes"))
