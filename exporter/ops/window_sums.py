"""Sums and maxima over windows that TFLite's pools do not have: dilated ones, and ones over three axes and more."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import static_shape
from exporter.ops.tape import Tape
from exporter.ops.windows import Window

__all__ = ["by_planes", "over_axes", "window_counts", "window_maximum", "window_sum", "window_taps"]


def over_axes(window: Window, first: int, behind: int) -> Window:
    """The window over the axes from `first` up to `behind` alone."""
    cut = slice(first, behind)
    return Window(
        window.kernel[cut],
        window.strides[cut],
        window.dilations[cut],
        window.before[cut],
        window.after[cut],
        window.size[cut],
        window.count[cut],
    )


def by_planes(x: ir.Value, window: Window, to: Tape, plane: Callable[[ir.Value, Window], ir.Value]) -> ir.Value:
    """A reduction over windows of any number of axes, two axes at a time.

    ::

        [N, C, D, H, W] -> [N, C * D, H, W] -> plane(H, W) -> [N, C, D, H' * W'] -> plane(D, 1) -> [N, C, D', H', W']
    """
    batch, channels, *size = static_shape(x)
    if len(size) == 2:
        return plane(x, window)
    if len(size) == 1:
        lifted = to.reshape(x, (batch, channels, 1, *size))
        return to.reshape(plane(lifted, _beside(window, 1, behind=False)), (batch, channels, *window.count))
    inner = over_axes(window, len(size) - 2, len(size))
    reduced = plane(to.reshape(x, (batch, channels * prod(size[:-2]), *size[-2:])), inner)
    pixels = to.reshape(reduced, (batch, channels, *size[:-2], prod(inner.count)))
    outer = _beside(over_axes(window, 0, len(size) - 2), prod(inner.count), behind=True)
    return to.reshape(by_planes(pixels, outer, to, plane), (batch, channels, *window.count))


def _beside(window: Window, length: int, *, behind: bool) -> Window:
    """The window with an axis more, of which every element is a window of its own; the last one or the first."""

    def grown(entries: tuple[int, ...], entry: int) -> tuple[int, ...]:
        return (*entries, entry) if behind else (entry, *entries)

    return Window(
        grown(window.kernel, 1),
        grown(window.strides, 1),
        grown(window.dilations, 1),
        grown(window.before, 0),
        grown(window.after, 0),
        grown(window.size, length),
        grown(window.count, length),
    )


def window_sum(x: ir.Value, window: Window, to: Tape) -> ir.Value:
    """The sum over every window, padding being zero: a depthwise convolution with ones, two axes at a time."""

    def plane(value: ir.Value, part: Window) -> ir.Value:
        channels = static_shape(value)[1]
        before, behind = part.touched
        return to.op(
            "Conv",
            value,
            np.ones((channels, 1, *part.kernel)),
            np.zeros(channels),
            kernel_shape=part.kernel,
            strides=part.strides,
            dilations=part.dilations,
            pads=before + behind,
            group=channels,
        )

    return by_planes(x, window, to, plane)


def window_counts(window: Window, axis: int, with_padding: bool) -> np.ndarray[Any, Any]:
    """Elements that each window counts along `axis`; those beyond the declared padding (`ceil_mode`) never count."""
    taps, size = window.positions(axis), window.size[axis]
    low, high = (-window.before[axis], size + window.after[axis]) if with_padding else (0, size)
    return np.asarray(((taps >= low) & (taps < high)).sum(axis=1), np.float32)


def window_taps(window: Window, axis: int) -> np.ndarray[Any, Any]:
    """[count, kernel]: the input index of every tap along `axis`; a tap on padding reads the nearest tap of its window that is inside.

    Reading an element twice changes no maximum, nor which one comes first. Every window covers an element.
    """
    taps, size = window.positions(axis), window.size[axis]
    inside = (taps >= 0) & (taps < size)
    places = np.arange(taps.shape[1])
    distance = np.where(inside[:, None, :], np.abs(places[None, :, None] - places[None, None, :]), taps.shape[1])
    return np.asarray(np.take_along_axis(taps, distance.argmin(axis=2), axis=1))


def window_maximum(x: ir.Value, window: Window, to: Tape) -> ir.Value:
    """The greatest element of every window, one axis after the other: a Gather a tap, and the maximum of them. Any dtype, any rank."""
    for axis in range(len(window.kernel)):
        columns = np.unique(window_taps(window, axis), axis=1).T
        parts = [to.op("Gather", x, column, axis=axis + 2) for column in columns]
        x = parts[0]
        for part in parts[1:]:
            x = to.op("Max", x, part)
    return x
