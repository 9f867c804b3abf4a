"""Windows in full: automatic padding and defaults become numbers, and padding by zeros moves into the convolution behind it.

::

    Conv(auto_pad=SAME_UPPER, strides=2)       Conv(auto_pad=NOTSET, pads=[0, 0, 1, 1], kernel_shape=[3, 3], dilations=[1, 1], ...)
    x -> Pad([1, 1, 2, 2], 0) -> Conv(pads=0)  x -> Conv(pads=[1, 1, 2, 2])

Requires: static shapes. Ensures: Conv and its integer forms, ConvTranspose, MaxPool and AveragePool have ``auto_pad`` NOTSET
(ConvTranspose also no ``output_shape``), and ``pads``, ``strides``, ``dilations`` and ``kernel_shape`` are all there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.edit import bypass, only_user
from exporter.graph.values import attribute, constant, static_shape

__all__ = ["explicit_windows", "fold_padding"]

_WINDOWS: Final = frozenset({"Conv", "ConvInteger", "ConvTranspose", "QLinearConv", "MaxPool", "AveragePool"})


def explicit_windows(model: ir.Model) -> int:
    """Write the windows of convolutions and pools out, in place; returns how many nodes changed. ONNX operator spec, Conv and MaxPool."""
    count = 0
    for node in model.graph:
        if node.op_type not in _WINDOWS or node.domain:
            continue
        wanted = _window(node)
        if any(attribute(node, name) != value for name, value in wanted.items()):
            for name, value in wanted.items():
                node.attributes.add(ir.AttrString(name, value) if isinstance(value, str) else ir.AttrInt64s(name, value))
            node.attributes.pop("output_shape", None)
            count += 1
    return count


def fold_padding(model: ir.Model) -> int:
    """Move constant padding by zeros of the spatial axes into the only Conv behind it, in place; returns how many disappeared."""
    count = 0
    for node in list(model.graph):
        x = node.inputs[0] if node.inputs else None
        if node.op_type != "Pad" or node.domain or x is None or attribute(node, "mode", "constant") != "constant":
            continue
        conv = only_user(node.outputs[0])
        pads = _padding(node, len(static_shape(x)))
        if conv is None or conv.op_type != "Conv" or conv.inputs[0] is not node.outputs[0] or pads is None:
            continue
        if attribute(conv, "auto_pad", "NOTSET") != "NOTSET" or pads[:, :2].any() or (pads < 0).any():
            continue
        own = attribute(conv, "pads", (0,) * (2 * (pads.shape[1] - 2)))
        if bypass(node, x):
            total = pads[:, 2:].reshape(-1) + np.asarray(own)
            conv.attributes.add(ir.AttrInt64s("pads", [int(size) for size in total]))
            count += 1
    return count


def _padding(node: ir.Node, rank: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]] | None:
    """Padding by zeros as [begin | end, axis], None where it is not constant or not zeros."""
    pads = constant(node.inputs[1])
    fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(())
    axes_value = node.inputs[3] if len(node.inputs) > 3 else None
    axes = constant(axes_value) if axes_value is not None else np.arange(rank)
    if pads is None or fill is None or axes is None or fill.size != 1 or fill.reshape(-1)[0] != 0:
        return None
    full = np.zeros((2, rank), np.int64)
    full[:, [int(axis) % rank for axis in axes]] = pads.reshape(2, -1)
    return full


def _window(node: ir.Node) -> dict[str, list[int] | tuple[int, ...] | str]:
    """The node's window attributes in full."""
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    size, made = static_shape(x)[2:], static_shape(y)[2:]
    kernel = attribute(node, "kernel_shape")
    if kernel is None:
        weight = node.inputs[3 if node.op_type == "QLinearConv" else 1]
        assert weight is not None
        kernel = static_shape(weight)[2:]
    ones = (1,) * len(kernel)
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    pads = attribute(node, "pads", (0,) * 2 * len(kernel))
    auto = attribute(node, "auto_pad", "NOTSET")
    reach = [(length - 1) * dilation + 1 for length, dilation in zip(kernel, dilations, strict=True)]
    window: dict[str, list[int] | tuple[int, ...] | str] = {}
    if node.op_type == "ConvTranspose":
        extra = attribute(node, "output_padding", (0,) * len(kernel))
        if auto != "NOTSET" or "output_shape" in node.attributes:
            total = [
                max(stride * (old - 1) + add + span - new, 0)
                for old, new, stride, add, span in zip(size, made, strides, extra, reach, strict=True)
            ]
            pads = _split(total, odd_at_end=auto == "SAME_UPPER") if auto != "VALID" else (0,) * 2 * len(kernel)
        window["output_padding"] = extra
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((new - 1) * stride + span - old, 0) for old, new, stride, span in zip(size, made, strides, reach, strict=True)
        ]
        pads = _split(total, odd_at_end=auto == "SAME_UPPER")
    elif auto == "VALID":
        pads = (0,) * 2 * len(kernel)
    return {**window, "auto_pad": "NOTSET", "kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}


def _split(total: list[int], *, odd_at_end: bool) -> tuple[int, ...]:
    """Padding of each axis split to begins and ends; the odd one goes to the end (SAME_UPPER) or the beginning (SAME_LOWER)."""
    small, large = tuple(size // 2 for size in total), tuple(size - size // 2 for size in total)
    return (*small, *large) if odd_at_end else (*large, *small)
