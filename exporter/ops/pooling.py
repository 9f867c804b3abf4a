"""MaxPool and AveragePool: pools over windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, rank
from exporter.ops import hexagon
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
    Refused,
    Rewriter,
    Role,
    register,
)
from exporter.ops.common import INT8_AND_INT16, SHARED, input_of, input_shape, output_shape, uniform_layout, version
from exporter.ops.fixed_point import divide_rounding
from exporter.ops.kernels import takes
from exporter.ops.reference import Affine, Stored, encoding_of, limits, single, through_torch
from exporter.ops.tape import Tape
from exporter.ops.window_sums import by_planes, window_counts, window_maximum, window_sum, window_taps
from exporter.ops.windows import Window, lifted, spatial_pads, unlifted, window_of

__all__ = ["AveragePool", "MaxPool", "is_nonnegative"]


def _values_alone(node: ir.Node) -> bool:
    """Only the values are used, not the indices that the pool can also give."""
    return len(node.outputs) == 1 or not (node.outputs[1].uses() or node.outputs[1].is_graph_output())


def _windows_hold_elements(node: ir.Node) -> bool:
    """Every window covers an element of the input."""
    window = _window(node)
    taps = [window.positions(axis) for axis in range(len(window.kernel))]
    return all(bool(((places >= 0) & (places < size)).any(axis=1).all()) for places, size in zip(taps, window.size, strict=True))


def _not_dilated(node: ir.Node) -> bool:
    """The window is not dilated."""
    return max(_window(node).dilations) == 1


def _two_spatial_axes(node: ir.Node) -> bool:
    """The pool has one or two spatial axes."""
    return len(input_shape(node)) in (3, 4)


class _Pool(Operator):
    """What pools share: a window over channels that do not mix."""

    kernel_dtypes = INT8_AND_INT16

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
    """Greatest element of each window; padding never wins. Its second output says which element of the input that is."""

    op_type = "MaxPool"
    tflite = "MAX_POOL_2D"
    constraints = (
        Constraint("tflite", _values_alone),
        Constraint("tflite", _windows_hold_elements),
        Constraint("tflite", _not_dilated),
        Constraint("tflite", _two_spatial_axes),
        takes("MaxPool", ("float32", "int8", "uint8")),
        *hexagon.MAX_POOL,
    )

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite. Padding that it cannot name becomes a Pad that never changes a maximum, nor the range of the values:
        zeros where nothing is negative; else a reflection, as long as the window that covers a reflected element covers its original
        too (kernel > 2 * padding); else copies of the edge, which every window that reaches the padding covers.

        More than two axes are pooled two at a time, dilated windows tap by tap, and indices are an ArgMax over all taps.
        """
        if rewriter.runtime != "tflite" or not _windows_hold_elements(node):
            return None
        x, window, to = input_of(node, 0), _window(node), Tape(rewriter)
        if not _values_alone(node):
            plain = {name: attribute(node, name) for name in node.attributes if name != "storage_order"}
            return [rewriter.op("MaxPool", x, **plain), _indices(node, window, to)]
        if not _not_dilated(node):
            return self._with_indices(node, window_maximum(x, window, to))
        if rank(x) == 3:
            return self._with_indices(node, _lifted_pool(node, rewriter))
        if rank(x) > 4:
            return self._with_indices(node, by_planes(x, window, to, partial(_plane, "MaxPool", to)))
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
        return self._with_indices(node, rewriter.op("MaxPool", padded, kernel_shape=window.kernel, strides=window.strides))

    @staticmethod
    def _with_indices(node: ir.Node, value: ir.Value) -> Sequence[ir.Value]:
        """The replacements of all outputs where nobody reads the indices."""
        return [value, *node.outputs[1:]][: len(node.outputs)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        if not _values_alone(node):
            raise Refused(node, "the indices of MaxPool are not simulated")
        x, window = inputs[0], _window(node)
        for axis in range(len(window.kernel)):
            taps = window_taps(window, axis)
            x = _gather(x, axis + 2, taps).amax(dim=axis + 3)
        return (x,)


@register
class AveragePool(_Pool):
    """Mean of each window; `count_include_pad` says whether padding counts."""

    op_type = "AveragePool"
    references_int16 = True
    tflite = "AVERAGE_POOL_2D"
    constraints = (
        Constraint("tflite", _windows_hold_elements),
        Constraint("tflite", _not_dilated),
        Constraint("tflite", _two_spatial_axes),
        takes("AveragePool", ("float32",)),
        *hexagon.AVERAGE_POOL,
    )

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """TFLite never counts padding. Where the window's form differs: zeros by a Pad, a mean of whole windows, and, where some
        window counts fewer elements than it spans, a factor of span / count by position.

        More than two axes are pooled two at a time; dilated windows are summed by a convolution with ones.
        """
        if rewriter.runtime != "tflite" or input_of(node, 0).dtype != ir.DataType.FLOAT or not _windows_hold_elements(node):
            return None
        x, window, to = input_of(node, 0), _window(node), Tape(rewriter)
        counts = _all_counts(node, window)
        if not _not_dilated(node):
            return [to.op("Mul", window_sum(x, window, to), 1 / counts)]
        padding = window.tflite_padding if rank(x) == 4 else None
        if padding == "VALID" or (padding == "SAME" and not attribute(node, "count_include_pad", 0)):
            return None
        if rank(x) == 3:
            return [_lifted_pool(node, rewriter)]
        if rank(x) > 4:
            y = by_planes(x, window, to, partial(_plane, "AveragePool", to))
        else:
            padded = rewriter.op("Pad", x, rewriter.const(spatial_pads(*window.touched), "pads"), mode="constant")
            y = rewriter.op("AveragePool", padded, kernel_shape=window.kernel, strides=window.strides)
        factor = prod(window.kernel) / counts
        return [y if (factor == 1).all() else to.op("Mul", y, factor)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        x, window = inputs[0], _window(node)
        counts = x.new_tensor(_all_counts(node, window))
        for axis in range(len(window.kernel)):
            taps, size = window.positions(axis), window.size[axis]
            inside = x.new_tensor((taps >= 0) & (taps < size)).reshape(*taps.shape, *(1,) * (x.dim() - axis - 3))
            x = (_gather(x, axis + 2, np.clip(taps, 0, size - 1)) * inside).sum(dim=axis + 3)
        return (x / counts,)

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        """Source: AveragePool in LiteRT `kernels/internal/reference/integer_ops/pooling.h`, which means the integers as they are."""
        x, to, window = single(inputs[0]), encoding_of(outputs), _window(node)
        whole = Stored(x.array.astype(np.float64))
        counts = _all_counts(node, window).astype(np.int64)
        sums = np.rint(through_torch(node, [whole])[0] * counts).astype(np.int64)
        return [np.clip(divide_rounding(sums, counts), *limits(node, to))]


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


def _plane(op_type: str, to: Tape, x: ir.Value, window: Window) -> ir.Value:
    """A pool over two axes whose windows all lie in the padded input; padding counts."""
    pads = [side for sides in window.touched for side in sides]
    counted = 1 if op_type == "AveragePool" else None
    return to.op(op_type, x, kernel_shape=window.kernel, strides=window.strides, pads=tuple(pads), count_include_pad=counted)


def _all_counts(node: ir.Node, window: Window) -> np.ndarray[Any, Any]:
    """Elements that each window counts, [1, 1, count...]."""
    counted = bool(attribute(node, "count_include_pad", 0))
    counts = np.ones((1, 1, *(1,) * len(window.kernel)))
    for axis in range(len(window.kernel)):
        along = window_counts(window, axis, counted)
        counts = counts * along.reshape([-1 if place == axis + 2 else 1 for place in range(counts.ndim)])
    return counts


def _indices(node: ir.Node, window: Window, to: Tape) -> ir.Value:
    """Places of the greatest elements in the whole input, counted through [N, C, spatial...]: an ArgMax over the taps of every window.

    Taps are in the order of their places, so that the first of equal elements is taken. `storage_order` 1 counts columns first.
    """
    x, axes = input_of(node, 0), len(window.kernel)
    images = prod(input_shape(node)[:2])
    places = np.zeros((1,) * 2 * axes, np.int64)
    order = range(axes) if attribute(node, "storage_order", 0) else reversed(range(axes))
    taken, stride = x, 1
    for axis in order:
        taps = window_taps(window, axis)
        shape = [1] * 2 * axes
        shape[axis], shape[axes + axis] = taps.shape
        places, stride = places + taps.reshape(shape) * stride, stride * window.size[axis]
        taken = to.op("Gather", taken, taps.reshape(-1), axis=axis + 2)
    split = [length for axis in range(axes) for length in (window.count[axis], window.kernel[axis])]
    apart = to.reshape(taken, (images, *split))
    gathered = to.transpose(apart, (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2)))
    windows, taps_each = prod(window.count), prod(window.kernel)
    first = to.op("ArgMax", to.reshape(gathered, (images, windows, taps_each)), axis=2, keepdims=0)
    row = to.op("Add", first, np.arange(windows, dtype=np.int64)[None] * taps_each)
    inside = to.op("Gather", places.reshape(-1), row, axis=0)
    everywhere = to.op("Add", inside, np.arange(images, dtype=np.int64)[:, None] * prod(window.size))
    return to.reshape(everywhere, output_shape(node, 1))


def _gather(x: Any, axis: int, taps: np.ndarray[Any, Any]) -> Any:
    """`x` [.., size, ..] as [.., count, kernel, ..]: every tap of every window along `axis`."""
    import torch

    index = torch.as_tensor(np.ascontiguousarray(taps), device=x.device)
    return x.index_select(axis, index.reshape(-1)).reshape(*x.shape[:axis], *taps.shape, *x.shape[axis + 1 :])
