"""Operators that cut tensors apart and join them, with constant places."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import is_constant, rank
from exporter.ops.base import (
    Channels,
    Constraint,
    Cost,
    Coupling,
    LayoutRule,
    Lowering,
    Operator,
    QuantRule,
    Rewriter,
    register,
)
from exporter.ops.common import (
    INT8_AND_INT16,
    SHARED,
    activation_rule,
    axis_of,
    elementwise_coupling,
    input_of,
    input_shape,
    ints_of,
    output_shape,
    replace_ints,
    same_layout,
)
from exporter.ops.kernels import MOVED, builtin_version, dtype_of, in_wider_dtype, most_axes, stored_dtype, takes

__all__ = ["BEFORE_ALL", "Concat", "Slice", "Split", "slice_ranges"]


@register
class Concat(Operator):
    """Tensors one behind the other along an axis."""

    op_type = "Concat"
    kernel_dtypes = INT8_AND_INT16
    constraints = (takes("Concat", (*MOVED, "uint32")), most_axes("Concat", 6))

    def couple(self, node: ir.Node) -> Coupling:
        axis, offset = axis_of(node, 0), 0
        ties = list(elementwise_coupling(node, skip=(axis,)).ties)
        for index in range(len(node.inputs)):
            count = input_shape(node, index)[axis]
            ties.append((Channels("in", index, axis, count), Channels("out", 0, axis, count, offset=offset)))
            offset += count
        return Coupling(tuple(ties))

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED)

    def layout(self, node: ir.Node) -> LayoutRule:
        return same_layout(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """One tensor alone is itself."""
        return [input_of(node, 0)] if len(node.inputs) == 1 else in_wider_dtype(node, rewriter, {"uint16": "int32"})

    def lower(self, node: ir.Node, to: Lowering) -> None:
        inputs = [to.input(index) for index in range(len(node.inputs))]
        axis = to.axis(axis_of(node, 0), rank(node.outputs[0]))
        to.emit(
            "CONCATENATION", inputs, [to.output()], version=builtin_version("CONCATENATION", stored_dtype(node, to)), axis=axis
        )

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.cat(list(inputs), axis_of(node, 0))]

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


_SPLIT_DTYPES: Final = ("float32", "int8", "uint8", "int16", "int32", "int64")


@register
class Split(Operator):
    """A tensor in parts along an axis."""

    op_type = "Split"
    kernel_dtypes = INT8_AND_INT16
    constraints = (takes("Split", _SPLIT_DTYPES), most_axes("Split", 6))

    def couple(self, node: ir.Node) -> Coupling:
        axis = axis_of(node, 0)
        others = _ties_beside(node, axis)
        offset, parts = 0, []
        for index, count in enumerate(_split_sizes(node)):
            parts.append((Channels("in", 0, axis, count, offset=offset), Channels("out", index, axis, count)))
            offset += count
        return Coupling((*parts, *others), update=_update_split)

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED, parameters=(1,))

    def layout(self, node: ir.Node) -> LayoutRule:
        return same_layout(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """One part is all of it; where TFLite has no kernel for the dtype, each part is a Slice."""
        if len(node.outputs) == 1:
            return [input_of(node, 0)]
        if rewriter.runtime != "tflite" or dtype_of(input_of(node, 0)) in _SPLIT_DTYPES:
            return None
        ends = np.cumsum(_split_sizes(node))
        axis = rewriter.const(np.asarray([axis_of(node, 0)], np.int64), "axis")
        bounds = [rewriter.const(np.asarray([end], np.int64), "bound") for end in (0, *ends)]
        return [rewriter.op("Slice", input_of(node, 0), start, end, axis) for start, end in pairwise(bounds)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        sizes = _split_sizes(node)
        source, outputs = to.input(0), [to.output(index) for index in range(len(node.outputs))]
        axis = to.ints(np.asarray(to.axis(axis_of(node, 0), rank(input_of(node, 0))), np.int32))
        equal = len(set(sizes)) == 1
        name, inputs = ("SPLIT", [axis, source]) if equal else ("SPLIT_V", [source, to.ints(sizes), axis])
        to.emit(name, inputs, outputs, version=builtin_version(name, stored_dtype(node, to)), num_splits=len(sizes))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return list(inputs[0].split(list(_split_sizes(node)), axis_of(node, 0)))

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


def _ties_beside(node: ir.Node, axis: int) -> list[tuple[Channels, ...]]:
    """Ties of the axes that a node leaves alone: all but `axis`, from input 0 to all outputs."""
    shape = input_shape(node)
    return [
        (Channels("in", 0, other, length), *(Channels("out", index, other, length) for index in range(len(node.outputs))))
        for other, length in enumerate(shape)
        if other not in (0, axis)
    ]


def _split_sizes(node: ir.Node) -> tuple[int, ...]:
    axis = axis_of(node, 0)
    return tuple(output_shape(node, index)[axis] for index in range(len(node.outputs)))


def _update_split(node: ir.Node, kept: tuple[Sequence[int], ...]) -> None:
    """Parts may have become unequal: their sizes are said one by one."""
    node.attributes.pop("num_outputs", None)
    replace_ints(node, 1, tuple(len(kept[index]) for index in range(len(node.outputs))))


# --- Slice ------------------------------------------------------------------------------------------------------------


def slice_ranges(node: ir.Node) -> tuple[tuple[int, int, int], ...]:
    """(start, count, step) of every axis of a Slice, start counted from the front. Raises Refused where a bound is computed."""
    shape = input_shape(node)
    starts, ends = ints_of(node, 1) or (), ints_of(node, 2) or ()
    axes = ints_of(node, 3)
    steps = ints_of(node, 4) or (1,) * len(starts)
    ranges = [(0, length, 1) for length in shape]
    for start, end, axis, step in zip(starts, ends, axes if axes is not None else range(len(starts)), steps, strict=True):
        # Python's slices clamp as ONNX's do.
        picked = range(shape[axis])[slice(start, None if step < 0 and end < -shape[axis] else end, step)]
        ranges[axis % len(shape)] = (picked.start, len(picked), step)
    return tuple(ranges)


def _slice_constant(node: ir.Node) -> bool:
    """The starts, ends, axes and steps of Slice are constant."""
    return all(value is None or is_constant(value) for value in node.inputs[1:])


@register
class Slice(Operator):
    """A range of places, with a step, along some axes."""

    op_type = "Slice"
    kernel_dtypes = INT8_AND_INT16
    constraints = (
        Constraint("tflite", _slice_constant),
        most_axes("Slice", 8),
        takes("Slice", (*MOVED, "uint16", "uint32")),
    )

    def couple(self, node: ir.Node) -> Coupling:
        """A cut of whole channels is three runs: before, in and behind it. With steps, channels stay whole."""
        ties: list[tuple[Channels, ...]] = []
        blocked: list[Channels] = []
        shape = input_shape(node)
        for axis, (start, count, step) in enumerate(slice_ranges(node)):
            if axis == 0:
                continue
            if step != 1:
                blocked += [Channels("in", 0, axis, shape[axis]), Channels("out", 0, axis, count)]
                continue
            ties.append((Channels("in", 0, axis, count, offset=start), Channels("out", 0, axis, count)))
            for offset, length in ((0, start), (start + count, shape[axis] - start - count)):
                if length:
                    ties.append((Channels("in", 0, axis, length, offset=offset),))
        return Coupling(
            tuple(ties), blocked=tuple(blocked), update=partial(_update_slice, ties=tuple(ties), ranges=slice_ranges(node))
        )

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED, parameters=(1, 2, 3, 4))

    def layout(self, node: ir.Node) -> LayoutRule:
        return same_layout(node)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        ranges = slice_ranges(node)
        count = len(ranges)
        stored: list[tuple[int, int, int]] = [(0, 0, 1)] * count
        for axis, triple in enumerate(ranges):
            stored[to.axis(axis, count)] = triple
        begin, sizes, steps = (list(column) for column in zip(*stored, strict=True))
        source, out = to.input(0), to.output()
        if all(step == 1 for step in steps):
            at = builtin_version("SLICE", stored_dtype(node, to), count)
            to.emit("SLICE", [source, to.ints(begin), to.ints(sizes)], [out], version=at)
            return
        end = [start + size * step for start, size, step in stored]
        # Behind index 0 there is no index to name: -1 would count from the end.
        open_ends = sum(1 << axis for axis, (stop, step) in enumerate(zip(end, steps, strict=True)) if step < 0 and stop < 0)
        at = builtin_version("STRIDED_SLICE", stored_dtype(node, to), count)
        inputs = [source, to.ints(begin), to.ints(end), to.ints(steps)]
        to.emit("STRIDED_SLICE", inputs, [out], version=at, begin_mask=0, end_mask=open_ends)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        value = inputs[0]
        for axis, (start, count, step) in enumerate(slice_ranges(node)):
            if (start, count, step) != (0, input_shape(node)[axis], 1):
                value = value.index_select(axis, torch.arange(count, device=value.device) * step + start)
        return [value]

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


def _update_slice(
    node: ir.Node,
    kept: tuple[Sequence[int], ...],
    *,
    ties: tuple[tuple[Channels, ...], ...],
    ranges: tuple[tuple[int, int, int], ...],
) -> None:
    """Names all axes anew: the start is how much stayed before the cut, the end follows from what stayed of it."""
    starts, steps = [start for start, _, _ in ranges], [step for _, _, step in ranges]
    ends = [BEFORE_ALL if start + count * step < 0 else start + count * step for start, count, step in ranges]
    for tie in ties:
        if len(tie) == 2:
            axis = tie[0].axis
            before = [
                len(stay) for other, stay in zip(ties, kept, strict=True) if len(other) == 1 and _lies_before(other[0], tie[0])
            ]
            starts[axis] = sum(before)
            ends[axis] = starts[axis] + len(kept[ties.index(tie)])
    for index, entries in enumerate((starts, ends, range(len(ranges)), steps), start=1):
        replace_ints(node, index, tuple(entries))


BEFORE_ALL: Final = -(2**31)  # an end that a backward slice never reaches


def _lies_before(run: Channels, other: Channels) -> bool:
    return run.axis == other.axis and run.offset < other.offset
