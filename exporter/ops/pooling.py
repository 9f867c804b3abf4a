"""MaxPool and AveragePool: pools over windows."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, rank
from exporter.ops.base import (
    Channels,
    Constraint,
    Cost,
    Coupling,
    InputRule,
    LayoutRule,
    Lowering,
    Operator,
    Port,
    QuantRule,
    Rewriter,
    Role,
    register,
)
from exporter.ops.common import SHARED, input_of, input_shape, output_shape, uniform_layout, version
from exporter.ops.windows import Window, lifted, spatial_pads, unlifted, window_of

__all__ = ["AveragePool", "MaxPool", "is_nonnegative"]


def _values_alone(node: ir.Node) -> bool:
    """Only the values are used, not the indices that the pool can also give."""
    return len(node.outputs) == 1 or not node.outputs[1].uses()


def _not_dilated(node: ir.Node) -> bool:
    """The window is not dilated."""
    return max(_window(node).dilations) == 1


def _two_spatial_axes(node: ir.Node) -> bool:
    """The pool has one or two spatial axes."""
    return len(input_shape(node)) in (3, 4)


class _Pool(Operator):
    """What pools share: a window over channels that do not mix."""

    tflite: ClassVar[str] = ""

    def couple(self, node: ir.Node) -> Coupling:
        channels = input_shape(node)[1]
        return Coupling(((Channels("in", 0, 1, channels), Channels("out", 0, 1, channels)),))

    def quantize(self, node: ir.Node) -> QuantRule:
        return QuantRule((InputRule(Role.ACTIVATION),), (SHARED,) * len(node.outputs))

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.LAST)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        window = _window(node)
        to.emit(
            self.tflite,
            [to.input(0)],
            [to.output()],
            version(1, 2, to.quantized),
            padding=window.tflite_padding,
            stride_h=window.strides[0],
            stride_w=window.strides[1],
            filter_height=window.kernel[0],
            filter_width=window.kernel[1],
            fused_activation_function=to.activation,
        )

    def cost(self, node: ir.Node) -> Cost:
        return Cost(elementwise=prod(output_shape(node)) * prod(attribute(node, "kernel_shape")))


@register
class MaxPool(_Pool):
    """Greatest element of each window; padding never wins."""

    op_type = "MaxPool"
    tflite = "MAX_POOL_2D"
    constraints = (
        Constraint("tflite", _values_alone),
        Constraint("tflite", _not_dilated),
        Constraint("tflite", _two_spatial_axes),
    )

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Padding that TFLite cannot name becomes a Pad that never changes a maximum, nor the range of the values.

        Zeros where nothing is negative; else a reflection, as long as the window that covers a reflected element covers its original
        too (kernel > 2 * padding); else copies of the edge, which every window that reaches the padding covers.
        """
        if rewriter.runtime != "tflite" or not all(rule.holds(node) for rule in self.constraints):
            return None
        x, window = input_of(node, 0), _window(node)
        if rank(x) == 3:
            return [_lifted_pool(node, rewriter)]
        if window.tflite_padding is not None:
            return None
        before, behind = window.touched
        sides = list(zip(window.kernel, window.size, zip(before, behind, strict=True), strict=True))
        if is_nonnegative(x):
            mode = "constant"
        elif all(kernel > 2 * max(pads) and max(pads) < size for kernel, size, pads in sides):
            mode = "reflect"
        else:
            mode = "edge"
        padded = rewriter.op("Pad", x, rewriter.const(spatial_pads(before, behind), "pads"), mode=mode)
        return [rewriter.op("MaxPool", padded, kernel_shape=window.kernel, strides=window.strides)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        x, window = inputs[0], _window(node)
        for axis in range(len(window.kernel)):
            taps = window.positions(axis)
            x = _gather(x, axis + 2, taps, window.size[axis], float("-inf")).amax(dim=axis + 3)
        return (x,)


@register
class AveragePool(_Pool):
    """Mean of each window; `count_include_pad` says whether padding counts."""

    op_type = "AveragePool"
    tflite = "AVERAGE_POOL_2D"
    constraints = (Constraint("tflite", _not_dilated), Constraint("tflite", _two_spatial_axes))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """TFLite never counts padding. Where the window's form differs: zeros by a Pad, a mean of whole windows, and, where some
        window counts fewer elements than it spans, a factor of span / count by position."""
        if rewriter.runtime != "tflite" or not all(rule.holds(node) for rule in self.constraints):
            return None
        x, window = input_of(node, 0), _window(node)
        counted = bool(attribute(node, "count_include_pad", 0))
        if rank(x) == 3:
            return [_lifted_pool(node, rewriter)]
        padding = window.tflite_padding
        if padding == "VALID" or (padding == "SAME" and not counted):
            return None
        before, behind = window.touched
        padded = rewriter.op("Pad", x, rewriter.const(spatial_pads(before, behind), "pads"), mode="constant")
        y = rewriter.op("AveragePool", padded, kernel_shape=window.kernel, strides=window.strides)
        counts = np.outer(*(_counts(window, axis, counted) for axis in range(2)))
        if (counts == prod(window.kernel)).all():
            return [y]
        factor = (prod(window.kernel) / counts).astype(np.float32)[None, None]
        return [rewriter.op("Mul", y, rewriter.const(factor, "factor"))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        x, window = inputs[0], _window(node)
        counted = bool(attribute(node, "count_include_pad", 0))
        for axis in range(len(window.kernel)):
            total = _gather(x, axis + 2, window.positions(axis), window.size[axis], 0.0).sum(dim=axis + 3)
            counts = total.new_tensor(_counts(window, axis, counted))
            x = total / counts.reshape(-1, *(1,) * (total.dim() - axis - 3))
        return (x,)


_NONNEGATIVE = frozenset(("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt"))
_KEEPS_SIGN = frozenset(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "Reshape"))
_KEEPS_SIGN_OF_ALL = frozenset(("Concat", "Add", "Mul", "Max"))


def is_nonnegative(value: ir.Value, depth: int = 8) -> bool:
    """Whether a value is known to hold no negative element, looking back over at most `depth` nodes."""
    array = constant(value)
    if array is not None:
        return bool((array >= 0).all())
    node = value.producer()
    if node is None or depth == 0:
        return False
    if node.op_type in _NONNEGATIVE:
        return True
    if node.op_type == "Clip":
        low = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return low is not None and float(low) >= 0.0
    data = [entry for entry in node.inputs if entry is not None]
    if node.op_type in ("Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice") or node.op_type in _KEEPS_SIGN:
        return is_nonnegative(data[0], depth - 1)
    return node.op_type in _KEEPS_SIGN_OF_ALL and all(is_nonnegative(entry, depth - 1) for entry in data)


def _window(node: ir.Node) -> Window:
    return window_of(node, attribute(node, "kernel_shape"))


def _lifted_pool(node: ir.Node, rewriter: Rewriter) -> ir.Value:
    """A pool over one axis as one over two, of height 1."""
    window = _window(node)
    y = rewriter.op(
        node.op_type,
        lifted(input_of(node, 0), rewriter),
        kernel_shape=(1, *window.kernel),
        strides=(1, *window.strides),
        pads=(0, *window.before, 0, *window.after),
        ceil_mode=attribute(node, "ceil_mode"),
        count_include_pad=attribute(node, "count_include_pad"),
    )
    return unlifted(y, rewriter)


def _counts(window: Window, axis: int, with_padding: bool) -> np.ndarray[Any, Any]:
    """Elements that each window counts along `axis`; those beyond the declared padding (`ceil_mode`) never count."""
    taps, size = window.positions(axis), window.size[axis]
    low, high = (-window.before[axis], size + window.after[axis]) if with_padding else (0, size)
    return np.asarray(((taps >= low) & (taps < high)).sum(axis=1), np.float32)


def _gather(x: Any, axis: int, taps: np.ndarray[Any, Any], size: int, padding: float) -> Any:
    """`x` [.., size, ..] as [.., count, kernel, ..]: every tap of every window along `axis`, `padding` outside of the input."""
    import torch

    index = torch.as_tensor(np.clip(taps, 0, size - 1), device=x.device)
    inside = torch.as_tensor((taps >= 0) & (taps < size), device=x.device)
    shape = (*x.shape[:axis], *taps.shape, *x.shape[axis + 1 :])
    picked = x.index_select(axis, index.reshape(-1)).reshape(shape)
    mask = inside.reshape(*taps.shape, *(1,) * (len(shape) - axis - 2))
    return torch.where(mask, picked, picked.new_tensor(padding))
