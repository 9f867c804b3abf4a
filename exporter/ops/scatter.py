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
from exporter.ops.indexing import WIDER, Rigid, flat_places, from_front, is_counted, reshaped
from exporter.ops.kernels import MOVED, dtype_of, in_wider_dtype
from exporter.ops.tape import Tape

__all__ = ["MaxUnpool", "ScatterElements", "ScatterND", "TensorScatter"]

_SEGMENTS: Final = {"mul": "UNSORTED_SEGMENT_PROD", "max": "UNSORTED_SEGMENT_MAX", "min": "UNSORTED_SEGMENT_MIN"}
_COMBINE: Final = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}
_EXTREME: Final = "where no update falls stands the greatest or least float, a range that 8 bits cannot share with the data"
_WIDER: Final = {"int8": "int32", "uint8": "int32", "int16": "int32", "uint16": "int32", "bool": "int32", "float16": "float32"}


def _known_dtype(node: ir.Node) -> bool:
    """ScatterND combines float32 and int32, and adds int64; without a reduction it takes what Gather takes."""
    allowed = {"none": MOVED, "add": ("float32", "int32", "int64")}.get(
        attribute(node, "reduction", "none"), ("float32", "int32")
    )
    return dtype_of(input_of(node, 0)) in allowed


@register
class ScatterND(Rigid):
    """The data, with the updates written at tuples of indices (the last axis of input 1): instead of what is there, or combined with it.

    Where two updates meet at one place without a reduction, ONNX leaves open which stays: here the last.
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
        widened = in_wider_dtype(node, rewriter, WIDER if attribute(node, "reduction", "none") == "none" else _WIDER)
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


def _covered(node: ir.Node) -> bool:
    kernel = attribute(node, "kernel_shape")
    strides = attribute(node, "strides", (1,) * len(kernel))
    pads = attribute(node, "pads", (0,) * 2 * len(kernel))
    covered = tuple(
        (length - 1) * strides[axis] + kernel[axis] - pads[axis] - pads[axis + len(kernel)]
        for axis, length in enumerate(input_shape(node)[2:])
    )
    return output_shape(node)[2:] == covered


@register
class MaxUnpool(Rigid):
    """Each element back at the flat place in the output that a MaxPool took it from; zeros elsewhere."""

    op_type = "MaxUnpool"
    refuses: ClassVar = {
        "quantize": "MaxUnpool writes at computed places, which has no int8 kernel",
        "lower": "legalize makes MaxUnpool a ScatterElements onto zeros where its output has the shape that the windows cover; "
        "of a larger output_shape, runtimes read the places differently",
        "torch": "MaxUnpool is a ScatterElements onto zeros, which the legalize stage makes",
    }

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite" or not _covered(node):
            return None
        shape, x = output_shape(node), input_of(node, 0)
        zeros = rewriter.const(np.zeros(prod(shape), np.dtype(dtype_of(x))), "zeros")
        flat = [reshaped(rewriter, input_of(node, index), (prod(input_shape(node)),)) for index in (1, 0)]
        return [reshaped(rewriter, rewriter.op("ScatterElements", zeros, *flat, axis=0), shape)]


@register
class TensorScatter(Rigid):
    """A cache with an update written along an axis from an index on that each entry of the batch has; `circular` goes on at the start."""

    op_type = "TensorScatter"
    refuses: ClassVar = {
        "quantize": "TensorScatter writes at computed places, which has no int8 kernel",
        "lower": "TensorScatter is a ScatterElements, which the legalize stage makes",
        "torch": "TensorScatter is a ScatterElements, which the legalize stage makes",
    }

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        shape, axis = input_shape(node, 1), int(attribute(node, "axis", -2)) % len(input_shape(node))
        steps = np.arange(shape[axis], dtype=np.int64).reshape((-1,) + (1,) * (len(shape) - 1 - axis))
        places = rewriter.const(steps, "steps")
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            starts = reshaped(rewriter, input_of(node, 2), (shape[0],) + (1,) * (len(shape) - 1))
            places = rewriter.op("Add", starts, places)
        if attribute(node, "mode", "linear") == "circular":
            places = rewriter.op("Mod", places, rewriter.const(np.asarray(input_shape(node)[axis], np.int64), "length"))
        everywhere = rewriter.op("Expand", places, rewriter.const(np.asarray(shape, np.int64), "shape"))
        return [rewriter.op("ScatterElements", input_of(node, 0), everywhere, input_of(node, 1), axis=axis)]


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
    """The flat form, combined with the data.

    Without a reduction, each row of the result is gathered from the data and the updates behind it, so that of the updates that meet at
    one place the last stays, as in onnxruntime. Its number is the greatest of theirs.
    """
    given, old, dtype = constant(places), constant(data), np.dtype(dtype_of(data))
    shape = static_shape(data)
    if given is not None and reduction == "none":
        order = np.arange(shape[0])
        for update, place in enumerate(given.reshape(-1)):
            order[place] = shape[0] + update
        both = rewriter.op("Concat", data, updates, axis=0)
        return rewriter.op("Gather", both, rewriter.const(order.astype(np.int64), "order"), axis=0)
    if reduction == "none":
        last = _onto_constant(rewriter, (shape[0], 1), places, rewriter.const(_column(static_shape(places)[0])), "max")
        behind = rewriter.op("Add", last, rewriter.const(np.full((1, 1), shape[0], np.int32), "rows"))
        source = rewriter.op("Max", behind, rewriter.const(_column(shape[0]), "own"))
        both = rewriter.op("Concat", data, updates, axis=0)
        return rewriter.op("Gather", both, reshaped(rewriter, source, (shape[0],)), axis=0)
    neutral = _identity(reduction, dtype)
    part = _onto_constant(rewriter, shape, places, updates, reduction)
    if old is not None and (old == neutral).all():
        return part
    extreme = reduction in ("max", "min") and dtype.kind == "f"
    tape = Tape(rewriter, _EXTREME if extreme else "")
    both = tape.op(_COMBINE[reduction], data, part)
    if extreme:
        # A row of infinities that no update reaches stays infinite, though the part is finite there.
        idle = tape.op("Equal", part, rewriter.const(np.full((1, 1), neutral, dtype), "idle"))
        return tape.op("Where", idle, data, both)
    return both


def _onto_constant(rewriter: Rewriter, shape: tuple[int, ...], places: ir.Value, updates: ir.Value, reduction: str) -> ir.Value:
    dtype = np.dtype(dtype_of(updates))
    rows = rewriter.const(np.full(shape, _identity(reduction, dtype), dtype), "rows")
    return rewriter.op("ScatterND", rows, places, updates, reduction=reduction)


def _column(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count, dtype=np.int32).reshape(-1, 1)


def _combined(data: Any, axis: int, places: Any, updates: Any, reduction: str) -> Any:
    """Torch's own scatter: the places along one axis, as many axes as the data."""
    if reduction == "none":
        return data.scatter(axis, places, updates)
    name = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[reduction]
    return data.scatter_reduce(axis, places, updates, name, include_self=True)
