"""Operators of models that are already quantized: their integers are computed exactly, in float32 where TFLite has no kernel of them.

A TFLite tensor of 8 bits carries one meaning from its encoding; these operators give theirs as inputs. So each is written as the arithmetic
that the standard defines, which the integers of 8 and 16 bits pass through without a rounding of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import KEPT, attribute, constant, rank
from exporter.ops.base import Cost, Refused, Rewriter, register
from exporter.ops.common import input_of, input_shape, output_shape
from exporter.ops.composite import Composite
from exporter.ops.tape import Operand, Tape

__all__ = ["ConvInteger", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "QuantizeLinear"]

Array = np.ndarray[Any, Any]

_INTEGERS: Final = ("INT8", "UINT8", "INT16", "UINT16")
_EXACT: Final = 1 << 24  # float32 holds every integer below, so sums that stay below are exact in any order
_ROUNDS: Final = "the source rounds to integers of its own here"


class Quantized(Composite):
    """Base: these operators are integers already, and what they are made of stays in float."""

    refuses: ClassVar[Mapping[str, str]] = {
        "couple": "a quantized operator of the source is not cut",
        "quantize": "it has the source's own scales; export the model from before its quantization",
        "lower": "this form of a quantized operator has no exact equivalent in TFLite",
    }

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if KEPT in node.metadata_props or rewriter.runtime != "tflite":
            return None
        return [self.write(node, Tape(rewriter, _ROUNDS))]

    def write(self, node: ir.Node, tape: Tape) -> ir.Value:
        """The output by other operators."""
        raise NotImplementedError


@register
class QuantizeLinear(Quantized):
    """saturate(round(x / scale) + zero_point), ties to even."""

    op_type = "QuantizeLinear"

    def write(self, node: ir.Node, tape: Tape) -> ir.Value:
        scale = _spread(node, tape, 1)
        return _saturated(node, tape, tape.op("Div", input_of(node, 0), scale), _spread(node, tape, 2))


@register
class DequantizeLinear(Quantized):
    """(x - zero_point) * scale."""

    op_type = "DequantizeLinear"

    def write(self, node: ir.Node, tape: Tape) -> ir.Value:
        x = input_of(node, 0)
        if x.dtype is None or x.dtype.name not in (*_INTEGERS, "INT32"):
            raise Refused(node, f"DequantizeLinear of {x.dtype and x.dtype.name} has no equivalent in TFLite")
        real, point = tape.op("Cast", x, to=int(ir.DataType.FLOAT)), _spread(node, tape, 2)
        return tape.op("Mul", real if point is None else tape.op("Sub", real, point), _spread(node, tape, 1))


@register
class QLinearMatMul(Quantized):
    """The product of two quantized matrices, requantized: inputs a, its scale and zero point, b, its own, and the output's."""

    op_type = "QLinearMatMul"

    def write(self, node: ir.Node, tape: Tape) -> ir.Value:
        a, b = input_of(node, 0), input_of(node, 3)
        scales = [_parameter(node, index) for index in (1, 4, 6)]
        if scales[0].size > 1 or scales[2].size > 1 or (scales[1].size > 1 and rank(b) != 2):
            raise Refused(node, "QLinearMatMul has scales of rows; one scale a matrix, or one a column of B, are supported")
        total = tape.op("MatMulInteger", a, b, _flat(node, 2), _flat(node, 5))
        factor = scales[0].reshape(()) * scales[1] / scales[2].reshape(())
        return _requantized(node, tape, total, factor, 7)


@register
class ConvInteger(Quantized):
    """The convolution of 8-bit integers less their zero points, in int32; padding is by the zero point."""

    op_type = "ConvInteger"

    def write(self, node: ir.Node, tape: Tape) -> ir.Value:
        """Convolutions in float32 of stretches of the input's channels that are short enough to be exact, added up in int32."""
        x, weight, point = input_of(node, 0), _parameter(node, 1), _parameter(node, 2, optional=True)
        offset = _parameter(node, 3, optional=True)
        if offset is not None:
            weight = weight.astype(np.int64) - offset.reshape((-1,) + (1,) * (weight.ndim - 1)).astype(np.int64)
        real: ir.Value = tape.op("Cast", x, to=int(ir.DataType.FLOAT))
        if point is not None and point.any():
            real = tape.op("Sub", real, point.astype(np.float32).reshape(()))
        bounds = _stretches(node, weight, _farthest(x, point))
        names = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
        window = {name: attribute(node, name) for name in names if name in node.attributes}
        group = int(attribute(node, "group", 1))
        if len(bounds) > 2 and group > 1:
            raise Refused(node, "the groups of ConvInteger are too large to be exact in float32")
        sums = []
        for start, end in pairwise(bounds):
            part = real if len(bounds) == 2 else tape.part(real, 1, start, end)
            kernel = weight[:, start:end] if group == 1 else weight
            zeros = np.zeros(len(kernel), np.float32)
            found = tape.op("Conv", part, kernel.astype(np.float32), zeros, group=group, **window)
            sums.append(tape.op("Cast", found, to=int(ir.DataType.INT32)))
        total = sums[0]
        for part in sums[1:]:
            total = tape.op("Add", total, part)
        return total

    def cost(self, node: ir.Node) -> Cost:
        return Cost(macs=prod(output_shape(node)) * prod(input_shape(node, 1)[1:]))


@register
class QLinearConv(Quantized):
    """The convolution of quantized values, requantized: inputs x, its scale and zero point, w, its own, the output's, and a bias in int32."""

    op_type = "QLinearConv"

    def write(self, node: ir.Node, tape: Tape) -> ir.Value:
        scales = [_parameter(node, index) for index in (1, 4, 6)]
        if scales[0].size > 1 or scales[2].size > 1:
            raise Refused(node, "QLinearConv has several scales of its input or output; one scale each is supported")
        names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
        window = {name: attribute(node, name) for name in names if name in node.attributes}
        inputs = (input_of(node, 0), input_of(node, 3), _flat(node, 2), _flat(node, 5))
        total = tape.op("ConvInteger", *inputs, **window)
        shape = (-1,) + (1,) * (rank(node.outputs[0]) - 2)
        bias = _parameter(node, 8, optional=True)
        if bias is not None:
            total = tape.op("Add", total, bias.astype(np.int32).reshape(shape))
        factor = scales[0].reshape(()) * scales[1] / scales[2].reshape(())
        return _requantized(node, tape, total, factor.reshape(shape) if factor.size > 1 else factor, 7)

    def cost(self, node: ir.Node) -> Cost:
        return Cost(macs=prod(output_shape(node)) * prod(input_shape(node, 3)[1:]))


# --- parameters -------------------------------------------------------------------------------------------------------


def _parameter(node: ir.Node, index: int, optional: bool = False) -> Any:
    """The array of a constant input; None where it is absent and may be."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None and optional:
        return None
    array = constant(input_of(node, index))
    if array is None:
        raise Refused(node, f"the scales, zero points and weights of {node.op_type} must be constants; input {index} is computed")
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _flat(node: ir.Node, index: int) -> Array:
    """A zero point as MatMulInteger and ConvInteger want it: one number, or a vector."""
    point: Array = _parameter(node, index)
    return point.reshape(()) if point.size == 1 else point.reshape(-1)


def _spread(node: ir.Node, tape: Tape, index: int) -> Operand | None:
    """A scale or zero point of QuantizeLinear or DequantizeLinear in float, broadcast along the input: one, one a place, or one a block."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    shape, array = input_shape(node), constant(value)
    axis, block = int(attribute(node, "axis", 1)) % max(len(shape), 1), int(attribute(node, "block_size", 0))
    if array is None:
        if block or input_shape(node, index) not in ((), (1,)):
            raise Refused(node, f"{node.op_type} has computed scales or zero points of several places; only one can be computed")
        value = tape.reshape(value, ())
        return value if value.dtype == ir.DataType.FLOAT else tape.op("Cast", value, to=int(ir.DataType.FLOAT))
    array = array.astype(np.float32)
    if block:
        return array.repeat(block, axis).take(np.arange(shape[axis]), axis)
    if array.size == 1:
        return array.reshape(())
    return array.reshape([length if place == axis else 1 for place, length in enumerate(shape)])


def _farthest(x: ir.Value, point: Array | None) -> int:
    """The greatest magnitude of an 8-bit value less its zero point."""
    assert x.dtype is not None
    limits, at = np.iinfo(x.dtype.numpy()), 0 if point is None else int(point.reshape(()))
    return max(int(limits.max) - at, at - int(limits.min))


def _stretches(node: ir.Node, weight: Array, farthest: int) -> list[int]:
    """Bounds of runs of input channels whose sums of products are exact in float32."""
    each = np.abs(weight.astype(np.int64)).sum(axis=tuple(range(2, weight.ndim))) * farthest  # [out, in]
    bounds, total = [0], np.zeros(len(each), np.int64)
    for channel in range(each.shape[1]):
        if (total + each[:, channel]).max(initial=0) >= _EXACT:
            if bounds[-1] == channel:
                raise Refused(node, f"the kernel of {node.op_type} is too large to be exact in float32")
            bounds.append(channel)
            total = np.zeros_like(total)
        total = total + each[:, channel]
    return [*bounds, each.shape[1]]


# --- rounding ---------------------------------------------------------------------------------------------------------


def _requantized(node: ir.Node, tape: Tape, total: ir.Value, factor: Array, point: int) -> ir.Value:
    """round(total * factor) + zero point: the sum is rounded to float32 and multiplied by a float32, as onnxruntime does."""
    real = tape.op("Mul", tape.op("Cast", total, to=int(ir.DataType.FLOAT)), factor.astype(np.float32))
    offset = _parameter(node, point)
    return _saturated(node, tape, real, offset.astype(np.float32).reshape(()))


def _saturated(node: ir.Node, tape: Tape, real: ir.Value, point: Operand | None) -> ir.Value:
    """``round(real) + point`` clamped to the output's dtype."""
    dtype = node.outputs[0].dtype
    if dtype is None or dtype.name not in _INTEGERS:
        raise Refused(node, f"{node.op_type} to {dtype and dtype.name} has no equivalent in TFLite")
    limits = np.iinfo(dtype.numpy())
    rounded = tape.op("Round", real)
    moved = rounded if point is None or (isinstance(point, np.ndarray) and not point.any()) else tape.op("Add", rounded, point)
    return tape.op("Cast", tape.op("Clip", moved, float(limits.min), float(limits.max)), to=int(dtype))
