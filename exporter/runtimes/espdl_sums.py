"""How far the sums of a kernel go on their way: accumulators of 20 bits saturate at every product, wherever the sum ends.

The order is that of ESP-DL's vector kernels: the window row by row, at each place one input channel after another, 16 outputs at once
(ESP32-S3 Technical Reference Manual, EE.VMULAS.S8.QACC). Like the worker it imports nothing of edgewright.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["greatest_sum", "reachable_sum"]

Array = np.ndarray[Any, Any]

_POSITIONS = 256  # outputs of each channel that are looked at, spread over the picture


def reachable_sum(weight: Array, bias: Array) -> int:
    """What no sum of int8 activations with these integers exceeds in any order: weight [out, in, *kernel], bias [out]."""
    return int((128 * np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1) + np.abs(bias.astype(np.int64))).max())


def greatest_sum(
    x: Array,
    weight: Array,
    bias: Array,
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    dilations: Sequence[int] = (),
    group: int = 1,
) -> int:
    """The greatest magnitude of a sum of products on its way, the bias first, of a convolution.

    Args:
        x: integers [batch, in, *space]; weight: [out, in / group, *kernel]; bias: [out].
        strides, dilations: along each axis of the kernel, 1 where there is none; pads: before each, then behind each.
    """
    axes = x.ndim - 2
    kernel, pads = weight.shape[2:], pads or (0,) * (2 * axes)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:])])  # noqa: B905 - Python 3.9
    dilations, strides = dilations or (1,) * axes, strides or (1,) * axes
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations)]  # noqa: B905
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    windows = np.moveaxis(windows[(slice(None), slice(None), *steps)], 1, 1 + axes)  # batch, *space, in, *kernel
    places = int(np.prod(windows.shape[: 1 + axes]))
    flat = windows.reshape(places, group, -1, int(np.prod(kernel)))[:: max(1, places // _POSITIONS)].astype(np.int32)
    factors = weight.reshape(group, len(weight) // group, -1, flat.shape[-1]).astype(np.int32)
    sums = np.broadcast_to(bias.astype(np.int32).reshape(group, -1), (len(flat), group, factors.shape[1])).copy()
    greatest = int(np.abs(sums).max())
    for tap in range(flat.shape[-1]):
        for channel in range(flat.shape[2]):
            sums += flat[:, :, channel, tap, None] * factors[None, :, :, channel, tap]
            greatest = max(greatest, int(sums.max()), -int(sums.min()))
    return greatest
