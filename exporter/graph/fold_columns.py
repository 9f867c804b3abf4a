"""Convolutions of few channels on neighbouring columns at once: b columns become channels of one, which fills vectors that were mostly empty.

::

    Conv(8 -> 8 channels, 3 x 39)       Reshape, Transpose -> Conv(32 -> 32 channels, 3 x 11) -> Transpose, Reshape

A column of the new output has b columns of the old one; its window covers those of all of them, so that weights repeat, each time shifted by
a stride, with zeros around. Of finite inputs sums are the same, in another order; an infinity, which those zeros make NaN, reaches all
columns whose common window holds it.
Requires: explicit windows. Ensures: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.dead_code import remove_dead_code
from exporter.graph.edit import only_user
from exporter.graph.rewriter import GraphRewriter, Names
from exporter.graph.values import attribute, constant, is_constant, static_shape
from targets.cost import CostModel
from targets.schema import Form, Target

__all__ = ["columns_at_once", "fold_columns", "folded_for"]

Array = np.ndarray[Any, Any]

_COUNTS: Final = (2, 4, 8, 16, 32)
# Channels that kernels of convolutions hold in one vector: of outputs in all, of inputs where runs of them are copied (int8).
_VECTOR: Final = 16
_GAIN: Final = 1.5  # an estimate is no clock
_GROWTH, _WEIGHTS = 2, 1 << 14  # times as many weights at most, or so many


def folded_for(model: ir.Model, target: Target) -> ir.Model:
    """The model as onnxruntime runs it fastest on a CPU, as far as `columns_at_once` estimates it; as it is for any other runtime or unit."""
    if target.artifact.runtime != "onnxruntime" or target.units[0].kind != "cpu":
        return model
    folded = model.clone()
    form: Form = "int8" if target.artifact.calibrated else "float32"
    fold_columns(folded, partial(columns_at_once, cost=CostModel(target), form=form))
    return folded


def fold_columns(model: ir.Model, columns: Callable[[ir.Node], int]) -> int:
    """Fold convolutions of `model`, in place; returns how many were folded.

    Args:
        columns: how many columns of its output a convolution shall compute as one; asked of those that can be folded.
    """
    names, found = Names(model.graph), 0
    for node in list(model.graph):
        count = columns(node) if _foldable(node) else 1
        if count > 1:
            _fold(model.graph, node, count, names)
            found += 1
    if found:
        remove_dead_code(model)
    return found


def columns_at_once(node: ir.Node, cost: CostModel, form: Form) -> int:
    """For how many columns at once a convolution on onnxruntime is estimated to be fastest, moving them included; 1: as it is.

    It is folded where that takes a third less, and its weights do not take much memory thereby.
    """
    stride, (outputs, inputs, *rows, width) = attribute(node, "strides")[-1], static_shape(_given(node, 1))
    window, sums = inputs * prod(rows), prod(static_shape(node.outputs[0]))

    def work(width: int, inputs: int, outputs: int) -> float:
        used = min(outputs / _VECTOR, 1.0) * (1.0 if form == "float32" else min(inputs / _VECTOR, 1.0))
        return cost.node_us("Conv", round(sums * window * width / used), 0, form)

    elements = prod(static_shape(_given(node, 0))) + sums
    moved = 2 * elements * (4 if form == "float32" else 1)  # bytes read and written
    moving = cost.node_us("Transpose", 0, moved, form) + cost.node_us("Pad", 0, moved, form)
    best, least = 1, work(width, inputs, outputs) / _GAIN
    for count in _COUNTS:
        block, taps = _blocks(count, stride, width)
        found = work(taps * block, inputs * block, outputs * count) + moving
        weights = outputs * count * window * block * taps
        if found < least and weights <= max(_GROWTH * outputs * window * width, _WEIGHTS):
            best, least = count, found
    return best


def _foldable(node: ir.Node) -> bool:
    if (
        node.op_type != "Conv"
        or node.domain
        or attribute(node, "group", 1) != 1
        or not 3 <= len(static_shape(_given(node, 0))) <= 4
    ):
        return False
    if _given(node, 0).dtype != ir.DataType.FLOAT or attribute(node, "dilations")[-1] != 1:
        return False
    return all(value is None or is_constant(value) for value in node.inputs[1:])


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _blocks(count: int, stride: int, width: int) -> tuple[int, int]:
    """Columns of the input in one where so many of the output are, and of how many such the window is wide."""
    block = count * stride
    return block, -(-(stride * (count - 1) + width) // block)


def _fold(graph: ir.Graph, node: ir.Node, count: int, names: Names) -> None:
    """Rewrite one convolution; a clamp behind it stays right behind it, where kernels apply it for free."""
    behind = only_user(node.outputs[0])
    clamp = behind if behind is not None and behind.op_type in ("Relu", "Clip") and behind.inputs[0] is node.outputs[0] else None
    to = GraphRewriter(graph, clamp or node, "onnx", names)
    weight, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    assert weight is not None
    x, wide = _given(node, 0), static_shape(node.outputs[0])
    shape, pads, stride = static_shape(x), attribute(node, "pads"), attribute(node, "strides")[-1]
    axes, (block, taps) = len(shape) - 2, _blocks(count, stride, weight.shape[-1])
    before = pads[axes - 1]
    blocks = max(-(-wide[-1] // count) + taps - 1, -(-(before + shape[-1]) // block))
    room = np.zeros((2, len(shape)), np.int64)
    room[:, -1] = before, blocks * block - before - shape[-1]
    if room.any():
        x = to.op("Pad", x, to.const(room.reshape(-1), "pads"), mode="constant")
    x = _reshaped(to, x, (*shape[:-1], blocks, block))
    x = to.op("Transpose", x, perm=(0, axes + 2, *range(1, axes + 2)))
    x = _reshaped(to, x, (shape[0], block * shape[1], *shape[2:-1], blocks))
    y = to.op(
        "Conv",
        x,
        to.const(_weights(weight, count, stride), "weight"),
        to.const(np.tile(bias, count), "bias") if bias is not None else None,
        kernel_shape=(*weight.shape[2:-1], taps),
        strides=(*attribute(node, "strides")[:-1], 1),
        dilations=attribute(node, "dilations"),
        pads=(*pads[: axes - 1], 0, *pads[axes : 2 * axes - 1], 0),
        auto_pad="NOTSET",
        group=1,
    )
    if clamp is not None:
        y = to.copy(clamp, [y, *clamp.inputs[1:]])
    made = static_shape(y)[-1]
    y = _reshaped(to, y, (wide[0], count, *wide[1:-1], made))
    y = to.op("Transpose", y, perm=(0, *range(2, axes + 3), 1))
    y = _reshaped(to, y, (*wide[:-1], made * count))
    if made * count > wide[-1]:
        y = to.op("Slice", y, *(to.const(np.asarray([number], np.int64)) for number in (0, wide[-1], len(wide) - 1)))
    to.replace([y])


def _reshaped(to: GraphRewriter, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    return to.op("Reshape", value, to.const(np.asarray(shape, np.int64), "shape"))


def _weights(weight: Array, count: int, stride: int) -> Array:
    """[count * M, block * C, ..., taps] from [M, C, ..., width]."""
    outputs, inputs, *rows, width = weight.shape
    block, taps = _blocks(count, stride, width)
    found = np.zeros((count, outputs, block, inputs, *rows, taps), weight.dtype)
    for column in range(count):
        for place in range(width):
            tap, within = divmod(column * stride + place, block)
            found[column, :, within, ..., tap] = weight[..., place]
    return found.reshape(count * outputs, block * inputs, *rows, taps)
