"""Sliding windows: kernel, stride, dilation and padding of convolutions and pools, resolved, and what TFLite calls them.

TFLite knows two paddings. VALID: no window leaves the input. SAME: ``ceil(in / stride)`` windows, the missing
``max((out - 1) * stride + reach - in, 0)`` elements split in halves, the odd one behind (kernels/padding.h). Everything else becomes
an explicit Pad in front of a VALID window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute
from exporter.ops.base import Refused, Rewriter
from exporter.ops.common import input_shape, output_shape

__all__ = ["Window", "lifted", "spatial_pads", "unlifted", "window_of"]


@dataclass(frozen=True)
class Window:
    """One window over the spatial axes: every field has one entry an axis (lengths in elements).

    `before` and `after` are the paddings; `size` and `count` the lengths of input and output.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    size: tuple[int, ...]
    count: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Length that one window spans: ``(kernel - 1) * dilation + 1``."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def pads(self) -> tuple[int, ...]:
        """Paddings in the order of the ONNX attribute."""
        return self.before + self.after

    @property
    def touched(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Elements before and behind the input that some window covers: a stride may never reach all of the padding."""
        ends = (
            (n - 1) * stride + reach - before - size
            for n, stride, reach, before, size in zip(self.count, self.strides, self.reach, self.before, self.size, strict=True)
        )
        return self.before, tuple(max(end, 0) for end in ends)

    @property
    def tflite_padding(self) -> str | None:
        """ "VALID" or "SAME" where that computes exactly this window, else None."""
        axes = list(zip(self.size, self.count, self.strides, self.reach, self.before, self.touched[1], strict=True))
        if all(
            before == 0 and behind == 0 and count == (size - reach) // stride + 1
            for size, count, stride, reach, before, behind in axes
        ):
            return "VALID"
        if all(
            count == -(-size // stride) and before == max((count - 1) * stride + reach - size, 0) // 2
            for size, count, stride, reach, before, _ in axes
        ):
            return "SAME"
        return None

    def positions(self, axis: int) -> np.ndarray[Any, Any]:
        """Input index of every tap of every window along `axis`, shape [count, kernel]; outside of [0, size) lies padding."""
        starts = np.arange(self.count[axis]) * self.strides[axis] - self.before[axis]
        return np.asarray(starts[:, None] + np.arange(self.kernel[axis]) * self.dilations[axis])


def window_of(node: ir.Node, kernel: Sequence[int]) -> Window:
    """The window of a Conv or pool node with static shapes; `auto_pad` and `ceil_mode` are resolved.

    Raises Refused for negative paddings, which crop instead of pad.
    """
    size, count = input_shape(node)[2:], output_shape(node)[2:]
    ones = (1,) * len(size)
    strides = attribute(node, "strides", ones)
    dilations = attribute(node, "dilations", ones)
    automatic = attribute(node, "auto_pad", "NOTSET")
    pads = attribute(node, "pads", (0,) * 2 * len(size))
    before, after = pads[: len(size)], pads[len(size) :]
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        missing = [
            max((n - 1) * s + (k - 1) * d + 1 - length, 0)
            for n, s, k, d, length in zip(count, strides, kernel, dilations, size, strict=True)
        ]
        less, more = tuple(m // 2 for m in missing), tuple(m - m // 2 for m in missing)
        before, after = (less, more) if automatic == "SAME_UPPER" else (more, less)
    elif automatic == "VALID":
        before = after = (0,) * len(size)
    if min(before + after, default=0) < 0:
        raise Refused(node, f"{node.op_type} has negative paddings {before + after}")
    return Window(tuple(kernel), strides, dilations, before, after, size, count)


def spatial_pads(before: Sequence[int], after: Sequence[int]) -> np.ndarray[Any, Any]:
    """The `pads` input of an ONNX Pad of a value [N, C, spatial...]."""
    return np.asarray((0, 0, *before, 0, 0, *after), np.int64)


def lifted(value: ir.Value, rewriter: Rewriter) -> ir.Value:
    """[N, C, L] as an image of height 1, [N, C, 1, L]: TFLite's windows are two-dimensional."""
    return rewriter.op("Unsqueeze", value, rewriter.const(np.asarray([2], np.int64), "axes"))


def unlifted(value: ir.Value, rewriter: Rewriter) -> ir.Value:
    """The inverse of `lifted`."""
    return rewriter.op("Squeeze", value, rewriter.const(np.asarray([2], np.int64), "axes"))
