"""Operators that pick elements by index: Gather, GatherElements, GatherND and Compress.

TFLite's kernels want indices within ``[0, length)``; ONNX counts negative ones from the end. Constant indices are counted from the
front here, computed ones by a Mod with the length, which is exact for every index that ONNX allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, is_constant, rank
from exporter.ops import hexagon
from exporter.ops.base import (
    Channels,
    Cost,
    Coupling,
    InputRule,
    LayoutRule,
    Lowering,
    Operator,
    Port,
    QuantRule,
    Rewriter,
    Role,
    register,
)
from exporter.ops.common import (
    INT8_AND_INT16,
    SHARED,
    activation_rule,
    axis_of,
    input_of,
    input_shape,
    same_layout,
    uniform_layout,
)
from exporter.ops.kernels import MOVED, builtin_version, dtype_of, in_wider_dtype, stored_dtype, takes

__all__ = [
    "WIDER",
    "Compress",
    "Gather",
    "GatherElements",
    "GatherND",
    "Rigid",
    "flat_places",
    "from_front",
    "is_counted",
    "reshaped",
]

WIDER = {"uint16": "int32", "uint32": "int64"}  # dtypes without kernels, and ones that hold all of their values


class Rigid(Operator):
    """Base of the operators whose axes pruning leaves whole and that run in the canonical order of axes."""

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(())

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.FIRST)

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


@register
class Gather(Operator):
    """The places that indices name along one axis; the indices' axes take the place of it."""

    op_type = "Gather"
    kernel_dtypes = INT8_AND_INT16
    weight_only: ClassVar[Mapping[int, int | None]] = {0: 0}
    constraints = (takes("Gather", MOVED), *hexagon.GATHER)

    def couple(self, node: ir.Node) -> Coupling:
        """The gathered axis stays whole; those behind it move by as many places as the indices have axes more than one."""
        shape, axis = input_shape(node), axis_of(node, 0)
        moved = rank(input_of(node, 1)) - 1
        ties = tuple(
            (Channels("in", 0, other, length), Channels("out", 0, other + (moved if other > axis else 0), length))
            for other, length in enumerate(shape)
            if other not in (0, axis)
        )
        return Coupling(ties, blocked=(Channels("in", 0, axis, shape[axis]),))

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED, parameters=(1,))

    def layout(self, node: ir.Node) -> LayoutRule:
        if is_constant(node.inputs[0]) or rank(input_of(node, 1)) != 1:
            return uniform_layout(node, Port.FIRST)
        return same_layout(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """One constant index, or a run of them, is a Slice: every runtime has it, in integers too. Computed ones are counted from the front."""
        indices, axis = constant(node.inputs[1]), axis_of(node, 0)
        if indices is None:
            length = input_shape(node)[axis]
            if rewriter.runtime != "tflite" or is_counted(input_of(node, 1), length):
                return in_wider_dtype(node, rewriter, WIDER)
            return [rewriter.op("Gather", input_of(node, 0), from_front(rewriter, input_of(node, 1), length), axis=axis)]
        if indices.ndim > 1 or indices.size == 0:
            return in_wider_dtype(node, rewriter, WIDER)
        places = _wrapped(indices.reshape(-1), input_shape(node)[axis])
        if (np.diff(places) != 1).any():
            return in_wider_dtype(node, rewriter, WIDER)
        bounds = [rewriter.const(np.asarray([number], np.int64)) for number in (places[0], places[-1] + 1, axis)]
        cut = rewriter.op("Slice", input_of(node, 0), *bounds)
        return [cut if indices.ndim == 1 else rewriter.op("Squeeze", cut, rewriter.const(np.asarray([axis], np.int64)))]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        axis, indices = axis_of(node, 0), constant(node.inputs[1])
        places = to.input(1) if indices is None else to.ints(_wrapped(indices, input_shape(node)[axis]))
        at = builtin_version("GATHER", stored_dtype(node, to))
        stored = to.axis(axis, rank(input_of(node, 0)))
        to.emit("GATHER", [to.input(0), places], [to.output()], version=at, axis=stored, batch_dims=0)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        data, indices = inputs
        axis = axis_of(node, 0)
        indices = indices.long() % data.shape[axis]
        shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
        return [data.index_select(axis, indices.reshape(-1)).reshape(shape)]

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


@register
class GatherElements(Rigid):
    """``out[i, j] = data[indices[i, j], j]``, for the axis 0 of two."""

    op_type = "GatherElements"
    refuses: ClassVar = {
        "lower": "GatherElements is written as a Gather of a flat run of elements, which the legalize stage makes"
    }

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED, parameters=(1,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite: the flat place of an element is its index times the stride of the axis plus a constant that its own place gives."""
        if rewriter.runtime != "tflite":
            return None
        shape, axis = input_shape(node), axis_of(node, 0)
        flat = rewriter.op("Reshape", input_of(node, 0), rewriter.const(np.asarray((-1,), np.int64), "flat"))
        return [rewriter.op("Gather", flat, flat_places(rewriter, input_of(node, 1), shape, axis), axis=0)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        data, indices = inputs
        axis = axis_of(node, 0)
        return [data.gather(axis, indices.long() % data.shape[axis])]


@register
class GatherND(Rigid):
    """Slices of the data at tuples of indices, the last axis of input 1; the first `batch_dims` axes are shared."""

    op_type = "GatherND"
    kernel_dtypes = INT8_AND_INT16
    constraints = (takes("GatherND", MOVED),)

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED, parameters=(1,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite, batch axes become further indices, and computed indices are counted from the front."""
        if rewriter.runtime != "tflite":
            return None
        batch, indices, shape = int(attribute(node, "batch_dims", 0)), input_of(node, 1), input_shape(node)
        own = input_shape(node, 1)
        lengths = np.asarray(shape[batch : batch + own[-1]])
        if batch == 0 and (is_constant(indices) or is_counted(indices, lengths)):
            return in_wider_dtype(node, rewriter, WIDER)
        given = constant(indices)
        grid = (
            np.stack(np.meshgrid(*(np.arange(length) for length in own[:batch]), indexing="ij"), -1) if batch else np.zeros((0,))
        )
        grid = grid.reshape(*own[:batch], *(1,) * (len(own) - 1 - batch), batch)
        first = np.broadcast_to(grid, (*own[:-1], batch)).astype(_indices_dtype(indices))
        if given is not None:
            places = rewriter.const(np.concatenate([first, _wrapped(given, lengths)], -1).astype(np.int64), "indices")
        else:
            if batch:
                indices = rewriter.op("Concat", rewriter.const(first, "batch"), indices, axis=-1)
            places = from_front(rewriter, indices, np.asarray(shape[: batch + own[-1]]))
        return [rewriter.op("GatherND", input_of(node, 0), places)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        given = constant(node.inputs[1])
        places = to.input(1)
        if given is not None:
            places = to.ints(_wrapped(given, np.asarray(input_shape(node)[: given.shape[-1]])))
        to.emit("GATHER_ND", [to.input(0), places], [to.output()], version=builtin_version("GATHER_ND", stored_dtype(node, to)))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        data, indices = inputs[0], inputs[1].long()
        batch = int(attribute(node, "batch_dims", 0))
        places = [indices[..., place] % data.shape[batch + place] for place in range(indices.shape[-1])]
        ranges = [
            torch.arange(length, device=data.device).reshape((-1,) + (1,) * (indices.dim() - 2 - axis))
            for axis, length in enumerate(indices.shape[:batch])
        ]
        return [data[tuple(ranges + places)]]


@register
class Compress(Rigid):
    """The places along an axis (of the flat tensor without one) where a constant condition is true."""

    op_type = "Compress"
    refuses: ClassVar = {
        "lower": "Compress with a constant condition is a Gather, which the legalize stage makes; with a computed one its shape depends on data",
        "torch": "Compress with a constant condition is a Gather, which the legalize stage makes",
    }

    def quantize(self, node: ir.Node) -> QuantRule:
        return QuantRule((InputRule(Role.ACTIVATION), InputRule(Role.PARAMETER)), (SHARED,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        condition, x = constant(node.inputs[1]), input_of(node, 0)
        if condition is None:
            return None
        if "axis" not in node.attributes:
            x = rewriter.op("Reshape", x, rewriter.const(np.asarray((-1,), np.int64), "flat"))
        axis = axis_of(node, 0) if "axis" in node.attributes else 0
        return [rewriter.op("Gather", x, rewriter.const(np.flatnonzero(condition).astype(np.int64), "places"), axis=axis)]


# --- places -----------------------------------------------------------------------------------------------------------


def from_front(rewriter: Rewriter, indices: ir.Value, length: int | np.ndarray[Any, Any]) -> ir.Value:
    """Indices within ``[-length, length)`` as ones within ``[0, length)``; `length` may hold one entry an entry of the last axis."""
    given = constant(indices)
    if given is not None:
        return rewriter.const(_wrapped(given, length).astype(given.dtype), "indices")
    return rewriter.op("Mod", indices, rewriter.const(np.asarray(length, _indices_dtype(indices)), "lengths"))


def flat_places(rewriter: Rewriter, indices: ir.Value, shape: Sequence[int], axis: int) -> ir.Value:
    """Flat places in a tensor of `shape` of the elements that `indices` (as many axes as `shape`) name along `axis`."""
    own = tuple(int(length) for length in indices.shape or ())  # type: ignore[arg-type]
    stride = prod(shape[axis + 1 :])
    strides = [prod(shape[other + 1 :]) for other in range(len(shape))]
    rest = np.zeros(own, np.int64)
    for other, length in enumerate(own):
        if other != axis:
            rest += (np.arange(length) * strides[other]).reshape((-1,) + (1,) * (len(own) - 1 - other))
    given = constant(indices)
    if given is not None:
        return rewriter.const(_wrapped(given, shape[axis]) * stride + rest, "places")
    dtype = _indices_dtype(indices)
    places = from_front(rewriter, indices, shape[axis])
    if stride != 1:
        places = rewriter.op("Mul", places, rewriter.const(np.asarray(stride, dtype), "stride"))
    if rest.any():
        places = rewriter.op("Add", places, rewriter.const(rest.astype(dtype), "rest"))
    return places


def reshaped(rewriter: Rewriter, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    """The value under another shape; a constant stays one."""
    given = constant(value)
    if given is not None:
        return rewriter.const(given.reshape(tuple(shape)), "constant")
    return rewriter.op("Reshape", value, rewriter.const(np.asarray(shape, np.int64), "shape"))


def _wrapped(indices: np.ndarray[Any, Any], length: int | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    places = indices.astype(np.int64)
    return np.where(places < 0, places + length, places)


def is_counted(indices: ir.Value, length: int | np.ndarray[Any, Any]) -> bool:
    """Whether computed indices are known to lie within ``[0, length)``."""
    greatest = _greatest(indices)
    return greatest is not None and bool(np.all(greatest < length))


def _greatest(indices: ir.Value) -> np.ndarray[Any, Any] | None:
    """What computed integers that cannot be negative are at most, one entry an entry of the last axis or one for all; None: not known.

    Known behind a Mod with a positive constant, scaled and moved by constants that are not negative, under any shape.
    """
    producer = indices.producer()
    if producer is None:
        return None
    if producer.op_type in ("Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        below = _greatest(input_of(producer, 0))
        return None if below is None else np.asarray(below.max())
    if producer.op_type not in ("Mod", "Mul", "Add"):
        return None
    left, right = producer.inputs[0], constant(producer.inputs[1])
    if left is None or right is None or (right < 0).any():
        return None
    if producer.op_type == "Mod":
        return None if attribute(producer, "fmod", 0) or (right == 0).any() else np.asarray(right - 1)
    before, most = _greatest(left), right.max(initial=0)
    if before is None:
        return None
    return np.asarray(before * most if producer.op_type == "Mul" else before + most)


def _indices_dtype(indices: ir.Value) -> np.dtype[Any]:
    return np.dtype(dtype_of(indices))
