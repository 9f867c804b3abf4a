"""Normalization by p-norms and by neighbouring channels: LpNormalization, LpPool, GlobalLpPool, LRN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, rank
from exporter.ops.base import Channels, Coupling, Refused, Rewriter, register
from exporter.ops.common import axis_of, elementwise_coupling, input_of, input_shape
from exporter.ops.composite import Composite
from exporter.ops.tape import Tape
from exporter.ops.window_sums import window_sum
from exporter.ops.windows import window_of

__all__ = ["LRN", "GlobalLpPool", "LpNormalization", "LpPool"]

_REFUSES: Final[Mapping[str, str]] = {
    "quantize": "powers and their sums span too many powers of two for 8 bits",
    "lower": "TFLite has no operator for it; the legalize stage makes it of powers, sums and roots",
}
_FLOAT: Final = "part of a norm, whose powers span too many powers of two for 8 bits"
_TINY: Final = float(np.finfo(np.float32).tiny)
_LRN_DEFAULTS: Final = (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))


class _Norm(Composite):
    """What they share: float32 alone, and |x| to the p and back."""

    refuses: ClassVar[Mapping[str, str]] = _REFUSES

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        x = input_of(node, 0)
        if x.dtype != ir.DataType.FLOAT:
            raise Refused(node, f"{self.op_type} of float32 alone is supported")
        return [self._made(node, x, Tape(rewriter, _FLOAT))]

    def _made(self, node: ir.Node, x: ir.Value, to: Tape) -> ir.Value:
        raise NotImplementedError


def _powered(x: ir.Value, p: float, to: Tape) -> ir.Value:
    """|x| to the p."""
    if p == 2:
        return to.op("Mul", x, x)
    return to.op("Abs", x) if p == 1 else to.op("Pow", to.op("Abs", x), p)


def _rooted(x: ir.Value, p: float, to: Tape) -> ir.Value:
    """x to the 1 / p."""
    if p == 2:
        return to.op("Sqrt", x)
    return x if p == 1 else to.op("Pow", x, 1 / p)


@register
class LpNormalization(_Norm):
    """x over its 1-norm or 2-norm along one axis; zeros where that is zero."""

    op_type = "LpNormalization"

    def couple(self, node: ir.Node) -> Coupling:
        axis, shape = axis_of(node, -1), input_shape(node)
        others = elementwise_coupling(node, skip=(axis,))
        return Coupling(others.ties, blocked=(Channels("in", 0, axis, shape[axis]), Channels("out", 0, axis, shape[axis])))

    def _made(self, node: ir.Node, x: ir.Value, to: Tape) -> ir.Value:
        p = float(attribute(node, "p", 2))
        norm = _rooted(to.reduce("ReduceSum", _powered(x, p, to), [axis_of(node, -1)]), p, to)
        return to.op("Div", x, to.op("Max", norm, _TINY))


class _LpPool(_Norm):
    """A p-norm of pixels, channel by channel."""

    def couple(self, node: ir.Node) -> Coupling:
        count = input_shape(node)[1]
        return Coupling(((Channels("in", 0, 1, count), Channels("out", 0, 1, count)),))


@register
class LpPool(_LpPool):
    """The p-norm of each window; padding is zero."""

    op_type = "LpPool"

    def _made(self, node: ir.Node, x: ir.Value, to: Tape) -> ir.Value:
        p, window = float(attribute(node, "p", 2)), window_of(node, attribute(node, "kernel_shape"))
        return _rooted(window_sum(_powered(x, p, to), window, to), p, to)


@register
class GlobalLpPool(_LpPool):
    """The p-norm over the spatial axes, kept with length 1."""

    op_type = "GlobalLpPool"

    def _made(self, node: ir.Node, x: ir.Value, to: Tape) -> ir.Value:
        p = float(attribute(node, "p", 2))
        return _rooted(to.reduce("ReduceSum", _powered(x, p, to), range(2, rank(x))), p, to)


@register
class LRN(_Norm):
    """``x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta`` (Krizhevsky et al. 2012)."""

    op_type = "LRN"

    def couple(self, node: ir.Node) -> Coupling:
        count = input_shape(node)[1]
        others = elementwise_coupling(node, skip=(1,))
        return Coupling(others.ties, blocked=(Channels("in", 0, 1, count), Channels("out", 0, 1, count)))

    def _made(self, node: ir.Node, x: ir.Value, to: Tape) -> ir.Value:
        """The sum over neighbours is a 1x1 convolution with a banded matrix: TFLite's own operator leaves the last neighbour out in its
        reference kernel and takes it in its optimized one."""
        shape, size = input_shape(node), int(attribute(node, "size"))
        alpha, beta, bias = (float(attribute(node, name, value)) for name, value in _LRN_DEFAULTS)
        band = _band(shape[1], size) * (alpha / size)
        image = to.reshape(to.op("Mul", x, x), shape if len(shape) == 4 else (*shape[:2], prod(shape[2:]), 1))
        total = to.op("Conv", image, band[:, :, None, None], np.full(shape[1], bias), kernel_shape=(1, 1))
        return to.op("Div", x, to.op("Pow", to.reshape(total, shape), beta))


def _band(channels: int, size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """[to, from]: one where `from` is among the `size` neighbours of `to`, the odd one of an even size behind."""
    distance = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    return ((distance >= -((size - 1) // 2)) & (distance <= size // 2)).astype(np.float64)
