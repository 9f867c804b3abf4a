"""Operators that write elements at indices: ScatterND, ScatterElements (the Scatter of old opsets) and MaxUnpool.

All become one form of ScatterND: rows [N, R], places [M, 1] counted from the front, updates [M, R], where the rows are a constant: zeros for
a sum, ones for a product, the least or greatest number for a maximum or minimum. TFLite has that as SCATTER_ND, which adds up what
meets at one place, and as segment reductions.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, static_shape
from exporter.ops.base import Constraint, Lowering, QuantRule, Refused, Rewriter, register
from exporter.ops.common import (
    SHARED,
    activation_rule,
    axis_of,
    input_of,
    input_shape,
    output_shape,
)
from exporter.ops.indexing import Rigid, flat_places, from_front, is_counted, reshaped
from exporter.ops.kernels import dtype_of, in_wider_dtype

__all__ = ["MaxUnpool", "ScatterElements", "ScatterND"]

_SEGMENTS: Final = {"mul": "UNSORTED_SEGMENT_PROD", "max": "UNSORTED_SEGMENT_MAX", "min": "UNSORTED_SEGMENT_MIN"}
_COMBINE: Final = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}
_WIDER: Final = {"int8": "int32", "uint8": "int32", "int16": "int32", "uint16": "int32", "bool": "int32", "float16": "float32"}


def _known_dtype(node: ir.Node) -> bool:
    """ScatterND is written in float32 and int32, and in int64 with the reductions none and add."""
    allowed = ("float32", "int32") if attribute(node, "reduction", "none") in _SEGMENTS else ("float32", "int32", "int64")
    return dtype_of(input_of(node, 0)) in allowed


@register
class ScatterND(Rigid):
    """The data, with the updates written at tuples of indices (the last axis of input 1): instead of what is there, or combined with it.

    Without a reduction, ONNX leaves open what stays where two updates meet at one place.
    """

    op_type = "ScatterND"
    constraints = (Constraint("tflite", _known_dtype),)
    refuses: ClassVar = {
        "quantize": "ScatterND at computed places has no int8 kernel (at constant ones it becomes Concat and Gather)"
    }

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite: the flat form, combined with the data."""
        shape = input_shape(node)
        if rewriter.runtime != "tflite" or 0 in (*shape, *input_shape(node, 2)) or _is_flat(node):
            return None
        widened = in_wider_dtype(node, rewriter, _WIDER)
        if widened is not None or not _known_dtype(node):
            return widened
        depth = input_shape(node, 1)[-1]
        data = reshaped(rewriter, input_of(node, 0), (prod(shape[:depth]), prod(shape[depth:])))
        updates = reshaped(rewriter, input_of(node, 2), (prod(input_shape(node, 1)[:-1]), prod(shape[depth:])))
        places = _row_places(rewriter, input_of(node, 1), shape[:depth])
        written = _scattered(rewriter, data, places, updates, attribute(node, "reduction", "none"))
        return [reshaped(rewriter, written, shape)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        if not _is_flat(node):
            raise Refused(node, "ScatterND of a tensor without elements is not written")
        given, rows, updates, out = constant(node.inputs[1]), input_shape(node), to.input(2), to.output()
        places = to.input(1) if given is None else to.ints(given)
        if given is None:
            wide, places = places, to.temp(to.ints([0]), input_shape(node, 1))
            to.emit("CAST", [wide], [places], in_data_type="INT64", out_data_type="INT32")
        reduction = attribute(node, "reduction", "none")
        if reduction == "add":
            to.emit("SCATTER_ND", [places, updates, to.ints(rows)], [out])
            return
        flat = to.temp(places, input_shape(node, 1)[:1])
        to.emit("RESHAPE", [places, to.ints(to.shape(flat))], [flat], new_shape=list(to.shape(flat)))
        to.emit(_SEGMENTS[reduction], [updates, flat, to.ints(np.asarray(rows[0]))], [out])

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        data, indices, updates = inputs
        depth = indices.shape[-1]
        strides = torch.tensor([prod(data.shape[axis + 1 : depth]) for axis in range(depth)], device=data.device)
        lengths = torch.tensor(data.shape[:depth], device=data.device)
        places = ((indices.long() % lengths) * strides).sum(-1).reshape(-1)
        rows = data.reshape(prod(data.shape[:depth]), -1)
        chosen = places.unsqueeze(1).expand(-1, rows.shape[1])
        return [
            _combined(rows, 0, chosen, updates.reshape(chosen.shape), attribute(node, "reduction", "none")).reshape(data.shape)
        ]


@register
class ScatterElements(Rigid):
    """``data[indices[i, j], j] = updates[i, j]``, for the axis 0 of two; or combined with what is there."""

    op_type = "ScatterElements"
    refuses: ClassVar = {
        "lower": "ScatterElements is written as a ScatterND of a flat run of elements, which the legalize stage makes"
    }

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED, parameters=(1,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite: the flat form of ScatterND, with rows of one element."""
        shape, count = input_shape(node), prod(input_shape(node, 1))
        if rewriter.runtime != "tflite" or 0 in (*shape, count):
            return None
        data = reshaped(rewriter, input_of(node, 0), (prod(shape), 1))
        updates = reshaped(rewriter, input_of(node, 2), (count, 1))
        places = reshaped(rewriter, flat_places(rewriter, input_of(node, 1), shape, axis_of(node, 0)), (count, 1))
        written = _scattered(rewriter, data, places, updates, attribute(node, "reduction", "none"))
        return [reshaped(rewriter, written, shape)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        data, indices, updates = inputs
        axis = axis_of(node, 0)
        return [_combined(data, axis, indices.long() % data.shape[axis], updates, attribute(node, "reduction", "none"))]


def _apart(node: ir.Node) -> bool:
    """The windows of MaxUnpool do not overlap, and its output has the shape that they cover."""
    kernel = attribute(node, "kernel_shape")
    strides = attribute(node, "strides", (1,) * len(kernel))
    pads = attribute(node, "pads", (0,) * 2 * len(kernel))
    shape = input_shape(node)[2:]
    covered = tuple(
        (length - 1) * stride + size - pads[axis] - pads[axis + len(kernel)]
        for axis, (length, stride, size) in enumerate(zip(shape, strides, kernel, strict=True))
    )
    return all(size <= stride for size, stride in zip(kernel, strides, strict=True)) and output_shape(node)[2:] == covered


@register
class MaxUnpool(Rigid):
    """Each element back at the flat place in the output that a MaxPool took it from; zeros elsewhere."""

    op_type = "MaxUnpool"
    constraints = (Constraint("tflite", _apart),)
    refuses: ClassVar = {
        "quantize": "MaxUnpool writes at computed places, which has no int8 kernel",
        "lower": "MaxUnpool is written as a ScatterND onto zeros, which the legalize stage makes",
        "torch": "MaxUnpool is a ScatterElements onto zeros, which the legalize stage makes",
    }

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite" or not _apart(node):
            return None
        shape, x = output_shape(node), input_of(node, 0)
        zeros = rewriter.const(np.zeros(prod(shape), np.dtype(dtype_of(x))), "zeros")
        flat = [reshaped(rewriter, input_of(node, index), (prod(input_shape(node)),)) for index in (1, 0)]
        return [reshaped(rewriter, rewriter.op("ScatterElements", zeros, *flat, axis=0), shape)]


def _is_flat(node: ir.Node) -> bool:
    shape, indices, reduction = input_shape(node), input_shape(node, 1), attribute(node, "reduction", "none")
    data = constant(node.inputs[0])
    if reduction == "none" or data is None or len(shape) != 2 or len(indices) != 2 or indices[1] != 1 or 0 in (*shape, *indices):
        return False
    given = constant(node.inputs[1])
    counted = bool((given >= 0).all()) if given is not None else is_counted(input_of(node, 1), shape[0])
    return counted and bool((data == _identity(reduction, data.dtype)).all())


def _identity(reduction: str, dtype: np.dtype[Any]) -> Any:
    """What changes nothing: the value that TFLite gives to a row without updates."""
    if reduction in ("add", "mul"):
        return dtype.type(reduction == "mul")
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return dtype.type(limits.min if reduction == "max" else limits.max)


def _row_places(rewriter: Rewriter, indices: ir.Value, lengths: Sequence[int]) -> ir.Value:
    """Tuples of indices [..., K] as places [M, 1] of rows in a tensor that begins with `lengths`."""
    count = prod(static_shape(indices)[:-1])
    strides = np.asarray([prod(lengths[axis + 1 :]) for axis in range(len(lengths))])
    given = constant(indices)
    if given is not None:
        wrapped = np.where(given < 0, given + np.asarray(lengths), given)
        return rewriter.const((wrapped * strides).sum(-1).reshape(count, 1).astype(np.int64), "places")
    places = from_front(rewriter, indices, np.asarray(lengths))
    if len(lengths) > 1:
        scaled = rewriter.op("Mul", places, rewriter.const(strides.astype(dtype_of(indices)), "strides"))
        axis = rewriter.const(np.asarray([-1], np.int64), "axes")
        # The Mod with the number of rows changes nothing: it says that the sum lies in their range.
        places = from_front(rewriter, rewriter.op("ReduceSum", scaled, axis, keepdims=1), prod(lengths))
    return reshaped(rewriter, places, (count, 1))


def _scattered(rewriter: Rewriter, data: ir.Value, places: ir.Value, updates: ir.Value, reduction: str) -> ir.Value:
    """The flat form, combined with the data. At constant places, what replaces is a Gather (the last of the updates that meet stays)."""
    given, old, dtype = constant(places), constant(data), np.dtype(dtype_of(data))
    shape = static_shape(data)
    if given is not None and reduction == "none":
        order = np.arange(shape[0])
        for update, place in enumerate(given.reshape(-1)):
            order[place] = shape[0] + update
        both = rewriter.op("Concat", data, updates, axis=0)
        return rewriter.op("Gather", both, rewriter.const(order.astype(np.int64), "order"), axis=0)
    kind = "add" if reduction == "none" else reduction
    neutral = _identity(kind, dtype)
    part = rewriter.op("ScatterND", rewriter.const(np.full(shape, neutral, dtype), "neutral"), places, updates, reduction=kind)
    if old is not None and (old == neutral).all():
        return part
    if reduction == "none":
        ones = rewriter.const(np.ones(static_shape(places), np.int32), "ones")
        zeros = rewriter.const(np.zeros((shape[0], 1), np.int32), "zeros")
        hits = rewriter.op("ScatterND", zeros, places, ones, reduction="add")
        return rewriter.op("Where", rewriter.op("Equal", hits, rewriter.const(np.zeros((1, 1), np.int32), "none")), data, part)
    both = rewriter.op(_COMBINE[reduction], data, part)
    if reduction in ("max", "min") and dtype.kind == "f":
        # A row of infinities that no update reaches stays infinite, though the part is finite there.
        idle = rewriter.op("Equal", part, rewriter.const(np.full((1, 1), neutral, dtype), "idle"))
        return rewriter.op("Where", idle, data, both)
    return both


def _combined(data: Any, axis: int, places: Any, updates: Any, reduction: str) -> Any:
    """Torch's own scatter: the places along one axis, as many axes as the data."""
    if reduction == "none":
        return data.scatter(axis, places, updates)
    name = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[reduction]
    return data.scatter_reduce(axis, places, updates, name, include_self=True)
