"""Normalization by the values' own mean and variance: layers, groups and instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, rank
from exporter.ops.base import Channels, Coupling, Refused, Rewriter, register
from exporter.ops.common import axis_of, input_of, input_shape
from exporter.ops.composite import Composite
from exporter.ops.tape import Operand, Tape

__all__ = ["PART_OF_NORMALIZATION", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "standardized"]

PART_OF_NORMALIZATION: Final = "part of a normalization, whose variance and its reciprocal root 8 bits do not hold"
_REFUSES: Final[Mapping[str, str]] = {
    "quantize": "the variance of 8-bit differences and its reciprocal root lose what they measure",
    "lower": "TFLite has no operator for it; the legalize stage makes it of means, differences and a quotient",
}


def standardized(x: ir.Value, axes: Sequence[int], epsilon: float, to: Tape) -> tuple[ir.Value, ir.Value, ir.Value]:
    """``(x - mean) / sqrt(variance + epsilon)`` over `axes`; also gives the mean and the square root, with the axes kept."""
    mean = to.reduce("ReduceMean", x, axes)
    centred = to.op("Sub", x, mean)
    variance = to.reduce("ReduceMean", to.op("Mul", centred, centred), axes)
    deviation = to.op("Sqrt", to.op("Add", variance, epsilon))
    return to.op("Div", centred, deviation), mean, deviation


class _Standardizing(Composite):
    """What they share: float32 alone, and how scale and bias follow."""

    refuses: ClassVar[Mapping[str, str]] = _REFUSES

    def _check(self, node: ir.Node) -> None:
        if input_of(node, 0).dtype != ir.DataType.FLOAT:
            raise Refused(node, f"{self.op_type} of float32 alone is supported")


@register
class LayerNormalization(_Standardizing):
    """Each sample standardized over the axes from `axis` on, times a scale, plus a bias; also the mean and 1 / deviation."""

    op_type = "LayerNormalization"

    def couple(self, node: ir.Node) -> Coupling:
        shape, axis = input_shape(node), axis_of(node, -1)
        ties = tuple((Channels("in", 0, other, shape[other]), Channels("out", 0, other, shape[other])) for other in range(axis))
        blocked = tuple(Channels(side, 0, other, shape[other]) for other in range(axis, len(shape)) for side in ("in", "out"))
        return Coupling(ties, blocked=blocked)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        self._check(node)
        x, axis = input_of(node, 0), axis_of(node, -1)
        to = Tape(rewriter, PART_OF_NORMALIZATION)
        y, mean, deviation = standardized(x, range(axis, rank(x)), float(attribute(node, "epsilon", 1e-5)), to)
        y = to.op("Mul", y, input_of(node, 1))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            y = to.op("Add", y, node.inputs[2])
        return [y, mean, to.op("Reciprocal", deviation)][: len(node.outputs)]


@register
class InstanceNormalization(_Standardizing):
    """Each channel of each sample standardized over its pixels, times a scale, plus a bias."""

    op_type = "InstanceNormalization"

    def couple(self, node: ir.Node) -> Coupling:
        count = input_shape(node)[1]
        return Coupling(
            (
                (
                    Channels("in", 0, 1, count),
                    Channels("in", 1, 0, count),
                    Channels("in", 2, 0, count),
                    Channels("out", 0, 1, count),
                ),
            )
        )

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        self._check(node)
        x, to = input_of(node, 0), Tape(rewriter, PART_OF_NORMALIZATION)
        y, _, _ = standardized(x, range(2, rank(x)), float(attribute(node, "epsilon", 1e-5)), to)
        return [_scaled(node, y, to)]


@register
class GroupNormalization(_Standardizing):
    """Each group of channels of each sample standardized, then times a scale a channel, plus a bias a channel."""

    op_type = "GroupNormalization"

    def couple(self, node: ir.Node) -> Coupling:
        count, shape = input_shape(node)[1], input_shape(node)
        spatial = tuple(Channels(side, 0, axis, shape[axis]) for axis in range(2, len(shape)) for side in ("in", "out"))
        return Coupling((), blocked=(Channels("in", 0, 1, count), Channels("out", 0, 1, count), *spatial))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        self._check(node)
        x, shape, groups = input_of(node, 0), input_shape(node), int(attribute(node, "num_groups"))
        epsilon, to = float(attribute(node, "epsilon", 1e-5)), Tape(rewriter, PART_OF_NORMALIZATION)
        if groups in (1, shape[1]):  # over all channels, or over none
            y, _, _ = standardized(x, range(1 if groups == 1 else 2, len(shape)), epsilon, to)
        else:
            apart = to.reshape(x, (shape[0], groups, prod(shape[1:]) // groups))
            y = to.reshape(standardized(apart, (2,), epsilon, to)[0], shape)
        return [_scaled(node, y, to)]


def _scaled(node: ir.Node, y: ir.Value, to: Tape) -> ir.Value:
    """`y` [N, C, ...] times input 1, plus input 2, one entry a channel each (or a group of channels, before opset 21)."""
    for op_type, index in (("Mul", 1), ("Add", 2)):
        y = to.op(op_type, y, _along_channels(node, index, to))
    return y


def _along_channels(node: ir.Node, index: int, to: Tape) -> Operand:
    channels, axes = input_shape(node)[1], len(input_shape(node))
    value, shape = input_of(node, index), (channels, *(1,) * (axes - 2))
    array = constant(value)
    if array is not None:
        return np.repeat(array, channels // array.size).reshape(shape)
    if input_shape(node, index) != (channels,):
        raise Refused(node, f"input {index} of {node.op_type} is computed and has not one entry a channel")
    return to.reshape(value, shape)
