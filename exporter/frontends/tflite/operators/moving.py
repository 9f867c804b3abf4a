"""Elements under another shape, in another order, joined, split, padded, repeated, picked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exporter.backends.tflite.layout import to_channels_first
from exporter.frontends.source import Array
from exporter.frontends.tflite.reading import Reading, first_axis
from exporter.frontends.tflite.registry import reads

__all__: list[str] = []


@reads("RESHAPE")
def reshape(to: Reading) -> None:
    """Reshape to input 1, to the options' shape, or to that of the output tensor where neither is known."""
    shape = to.output_tensor().shape
    wanted = to.constant(1) if to.present(1) else np.asarray(to.option("newShape", []), np.int64)
    if wanted is not None and wanted.size:
        shape = tuple(int(size) for size in wanted.reshape(-1))
    to.give(to.op("Reshape", to.input(0), to.int64(shape), allowzero=1 if 0 in shape else None))


@reads("SQUEEZE")
def squeeze(to: Reading) -> None:
    axes = np.asarray(to.option("squeezeDims", []), np.int64).reshape(-1)
    ones = [axis for axis, length in enumerate(to.shape()) if length == 1]
    to.give(to.op("Squeeze", to.input(0), to.int64([int(axis) for axis in axes] or ones)))


@reads("EXPAND_DIMS")
def expand_dims(to: Reading) -> None:
    to.give(to.op("Unsqueeze", to.input(0), to.int64(to.ints(1))))


@reads("TRANSPOSE")
def transpose(to: Reading) -> None:
    perm = [axis % len(to.shape()) for axis in to.ints(1)]
    if to.prefers_first():
        perm = [first_axis(axis, len(perm)) for axis in perm]
        to.give(to.op("Transpose", to.input(0, first=True), perm=tuple(perm)))
        return
    to.give(to.op("Transpose", to.input(0), perm=tuple(perm)))


@reads("CONCATENATION")
def concatenation(to: Reading) -> None:
    inputs, first = to.aligned(*range(len(to.inputs)))
    axis = int(to.option("axis"))
    to.give(to.op("Concat", *inputs, axis=first_axis(axis, len(to.shape())) if first else axis), first=first)


@reads("PACK")
def pack(to: Reading) -> None:
    axis = int(to.option("axis"))
    parts = [to.op("Unsqueeze", to.input(index), to.int64([axis])) for index in range(len(to.inputs))]
    to.give(to.op("Concat", *parts, axis=axis))


@reads("UNPACK")
def unpack(to: Reading) -> None:
    axis = int(to.option("axis"))
    for index, part in enumerate(_split(to, to.input(0), axis, [1] * len(to.outputs))):
        to.give(to.op("Squeeze", part, to.int64([axis])), index)


@reads("SPLIT", "SPLIT_V")
def split(to: Reading) -> None:
    """Split; of the sizes of SPLIT_V one may be -1, the rest."""
    source = 1 if to.kind == "SPLIT" else 0
    axis = to.ints(0 if to.kind == "SPLIT" else 2)[0] % max(len(to.shape(source)), 1)
    length = to.shape(source)[axis]
    sizes = [length // len(to.outputs)] * len(to.outputs) if to.kind == "SPLIT" else to.ints(1)
    sizes = [length - sum(size for size in sizes if size >= 0) if size < 0 else size for size in sizes]
    x, first = to.loose(source)
    for index, part in enumerate(_split(to, x, first_axis(axis, len(to.shape(source))) if first else axis, sizes)):
        to.give(part, index, first)


def _split(to: Reading, x: ir.Value, axis: int, sizes: Sequence[int]) -> Sequence[ir.Value]:
    return [x] if len(sizes) == 1 else to.ops("Split", x, to.int64(list(sizes)), outputs=len(sizes), axis=axis)


@reads("PAD", "PADV2")
def pad(to: Reading) -> None:
    x, first = to.loose()
    pads = _paddings(to, first)
    value = to.input(2) if to.present(2) else None
    to.give(to.op("Pad", x, to.int64(pads.T.reshape(-1).tolist()), value, mode="constant"), first=first)


@reads("MIRROR_PAD")
def mirror_pad(to: Reading) -> None:
    """Pad by reflection; the symmetric mode, which repeats the edge, picks every padded axis's entries."""
    x, first = to.loose()
    pads = _paddings(to, first)
    if to.option("mode") == 0:
        to.give(to.op("Pad", x, to.int64(pads.T.reshape(-1).tolist()), mode="reflect"), first=first)
        return
    shape = to.shape()
    for axis in [axis for axis in range(len(shape)) if pads[axis].any()]:
        length = shape[to_channels_first(len(shape))[axis]] if first else shape[axis]
        x = to.op("Gather", x, to.int64(np.pad(np.arange(length), pads[axis], mode="symmetric").tolist()), axis=axis)
    to.give(x, first=first)


def _paddings(to: Reading, first: bool) -> Array:
    """Amounts before and behind of every axis [rank, 2], in the order of axes asked for."""
    pads = np.asarray(to.ints(1), np.int64).reshape(len(to.shape()), 2)
    return pads[list(to_channels_first(len(pads)))] if first else pads


@reads("SLICE")
def slice_(to: Reading) -> None:
    """From begin on, size entries of every axis; -1 is all that are left."""
    shape = to.shape()
    begin, size = to.ints(1), to.ints(2)
    ends = [length if count < 0 else start + count for start, count, length in zip(begin, size, shape, strict=True)]
    _give_slice(to, begin, ends, [1] * len(shape), ())


def _give_slice(to: Reading, begin: Sequence[int], end: Sequence[int], steps: Sequence[int], dropped: Sequence[int]) -> None:
    """The slice of every axis that is not taken whole, without the axes `dropped`."""
    shape, rank = to.shape(), len(to.shape())
    x, first = to.loose()
    if dropped:
        x, first = to.input(0), False
    taken = [axis for axis in range(rank) if (begin[axis], end[axis], steps[axis]) != (0, shape[axis], 1)]
    if taken:
        axes = [first_axis(axis, rank) if first else axis for axis in taken]
        parts = [to.int64([part[axis] for axis in taken]) for part in (begin, end)]
        x = to.op("Slice", x, *parts, to.int64(axes), to.int64([steps[axis] for axis in taken]))
    if dropped:
        x = to.op("Squeeze", x, to.int64(list(dropped)))
    to.give(x, first=first)


@reads("STRIDED_SLICE")
def strided_slice(to: Reading) -> None:
    """NumPy's basic slicing by masks: bit i is about entry i of begin, end and strides."""
    masks = {name: int(to.option(f"{name}Mask")) for name in ("begin", "end", "ellipsis", "newAxis", "shrinkAxis")}
    if masks["ellipsis"] or masks["newAxis"] or to.option("offset", False):
        raise to.refuse("its ellipsis, new-axis or offset form is not read")
    begin, end, steps = (to.ints(index) for index in (1, 2, 3))
    starts: list[int] = []
    stops: list[int] = []
    strides: list[int] = []
    dropped: list[int] = []
    for axis, length in enumerate(to.shape()):
        if axis >= len(begin):
            starts, stops, strides = [*starts, 0], [*stops, length], [*strides, 1]
            continue
        if masks["shrinkAxis"] >> axis & 1:
            place = begin[axis] + length if begin[axis] < 0 else begin[axis]
            starts, stops, strides = [*starts, place], [*stops, place + 1], [*strides, 1]
            dropped.append(axis)
            continue
        low = None if masks["begin"] >> axis & 1 else begin[axis]
        high = None if masks["end"] >> axis & 1 else end[axis]
        start, stop, step = slice(low, high, steps[axis]).indices(length)
        # ONNX counts a negative end from behind: one that lies before the first entry is length + 1 from there.
        starts, stops, strides = [*starts, start], [*stops, stop if stop >= 0 else stop - length], [*strides, step]
    _give_slice(to, starts, stops, strides, dropped)


@reads("TILE")
def tile(to: Reading) -> None:
    to.give(to.op("Tile", to.input(0), to.int64(to.ints(1))))


@reads("BROADCAST_TO")
def broadcast_to(to: Reading) -> None:
    to.give(to.op("Expand", to.input(0), to.int64(to.ints(1))))


@reads("BROADCAST_ARGS")
def broadcast_args(to: Reading) -> None:
    shape = np.broadcast_shapes(tuple(to.ints(0)), tuple(to.ints(1)))
    to.give(to.const(np.asarray(shape, to.output_tensor().dtype)))


@reads("REVERSE_V2")
def reverse(to: Reading) -> None:
    """Slice with steps of -1."""
    shape = to.shape()
    axes = {axis % len(shape) for axis in to.ints(1)}
    begin = [length - 1 if axis in axes else 0 for axis, length in enumerate(shape)]
    end = [-length - 1 if axis in axes else length for axis, length in enumerate(shape)]
    _give_slice(to, begin, end, [-1 if axis in axes else 1 for axis in range(len(shape))], ())


@reads("SPACE_TO_BATCH_ND")
def space_to_batch(to: Reading) -> None:
    """Pad, split every spatial axis into (rows, block), and move the blocks before the batch."""
    block, shape = to.ints(1), to.shape()
    count = len(block)
    pads = np.zeros((len(shape), 2), np.int64)
    pads[1 : count + 1] = np.asarray(to.ints(2), np.int64).reshape(count, 2)
    x = to.op("Pad", to.input(0), to.int64(pads.T.reshape(-1).tolist()))
    sizes = [(shape[axis + 1] + int(pads[axis + 1].sum())) // block[axis] for axis in range(count)]
    rest = shape[count + 1 :]
    parts = [part for pair in zip(sizes, block, strict=True) for part in pair]
    x = to.op("Reshape", x, to.int64((shape[0], *parts, *rest)))
    perm = [*range(2, 2 * count + 1, 2), 0, *range(1, 2 * count, 2), *range(2 * count + 1, 2 * count + 1 + len(rest))]
    x = to.op("Transpose", x, perm=tuple(perm))
    to.give(to.op("Reshape", x, to.int64((-1, *sizes, *rest))))


@reads("BATCH_TO_SPACE_ND")
def batch_to_space(to: Reading) -> None:
    """The way back: blocks from before the batch into the spatial axes, then cropped."""
    block, shape = to.ints(1), to.shape()
    count, rest = len(block), shape[len(block) + 1 :]
    crops = np.asarray(to.ints(2), np.int64).reshape(count, 2)
    batch = shape[0] // max(int(np.prod(block)), 1)
    x = to.op("Reshape", to.input(0), to.int64((*block, batch, *shape[1:])))
    spread = [axis for place in range(count) for axis in (count + 1 + place, place)]
    x = to.op("Transpose", x, perm=(count, *spread, *range(2 * count + 1, 2 * count + 1 + len(rest))))
    sizes = [shape[axis + 1] * block[axis] for axis in range(count)]
    x = to.op("Reshape", x, to.int64((batch, *sizes, *rest)))
    if crops.any():
        ends = [size - int(behind) for size, behind in zip(sizes, crops[:, 1], strict=True)]
        x = to.op("Slice", x, to.int64(crops[:, 0].tolist()), to.int64(ends), to.int64(list(range(1, count + 1))))
    to.give(x)


@reads("GATHER")
def gather(to: Reading) -> None:
    if to.option("batchDims"):
        raise to.refuse("its batch axes are not read")
    to.give(to.op("Gather", to.input(0), to.input(1), axis=int(to.option("axis"))))


@reads("GATHER_ND")
def gather_nd(to: Reading) -> None:
    to.give(to.op("GatherND", to.input(0), to.op("Cast", to.input(1), to=ir.DataType.INT64)))


@reads("SCATTER_ND")
def scatter_nd(to: Reading) -> None:
    """ScatterND into zeros; entries that are given twice are summed."""
    zeros = to.const(np.zeros(to.ints(2), to.dtype(1)))
    indices = to.op("Cast", to.input(0), to=ir.DataType.INT64)
    to.give(to.op("ScatterND", zeros, indices, to.input(1), reduction="add"))


@reads(*(f"UNSORTED_SEGMENT_{kind}" for kind in ("MAX", "MIN", "PROD", "SUM")))
def unsorted_segment(to: Reading) -> None:
    """ScatterND into what the reduction leaves alone; rows with a negative segment are left out by TensorFlow and refused here."""
    segments = to.constant(1)
    if segments is None or (segments < 0).any():
        raise to.refuse("its segments are computed or negative")
    kind, dtype = to.kind.rpartition("_")[2], np.dtype(to.dtype())
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    neutral = {"MAX": limits.min, "MIN": limits.max, "PROD": 1, "SUM": 0}[kind]
    start = to.const(np.full((*to.ints(2), *to.shape()[segments.ndim :]), neutral, dtype))
    reduction = {"MAX": "max", "MIN": "min", "PROD": "mul", "SUM": "add"}[kind]
    places = to.const(segments[..., None].astype(np.int64))
    to.give(to.op("ScatterND", start, places, to.input(0), reduction=reduction))


@reads("DYNAMIC_UPDATE_SLICE")
def dynamic_update_slice(to: Reading) -> None:
    """A choice by place, where one row is written; what begins outside is written at the nearest place inside, as the kernel does."""
    whole, part = to.shape(0), to.shape(1)
    axes = [axis for axis, (length, written) in enumerate(zip(whole, part, strict=True)) if length != written]
    if not axes:
        to.give(to.input(1))
        return
    if len(axes) > 1 or part[axes[0]] != 1:
        raise to.refuse(f"it writes {part} into {whole}; only single rows along one axis are read")
    (axis,) = axes
    place = to.op("Gather", to.op("Cast", to.input(2), to=ir.DataType.INT32), to.int64(axis), axis=0)
    low, high = (to.const(np.asarray(bound, np.int32)) for bound in (0, whole[axis] - 1))
    places = np.arange(whole[axis], dtype=np.int32).reshape([-1 if index == axis else 1 for index in range(len(whole))])
    here = to.op("Equal", to.const(places), to.op("Min", to.op("Max", place, low), high))
    to.give(to.op("Where", here, to.input(1), to.input(0)))


@reads("SHAPE")
def shape(to: Reading) -> None:
    to.give(to.const(np.asarray(to.shape(), to.output_tensor().dtype)))


@reads("RANK")
def rank(to: Reading) -> None:
    to.give(to.const(np.asarray(len(to.shape()), np.int32)))


@reads("FILL")
def fill(to: Reading) -> None:
    to.give(to.op("Expand", to.input(1), to.int64(to.ints(0))))


@reads("RANGE")
def range_(to: Reading) -> None:
    start, limit, delta = (to.parameter(index).item() for index in range(3))
    to.give(to.const(np.arange(start, limit, delta).astype(to.dtype())))


@reads("ONE_HOT")
def one_hot(to: Reading) -> None:
    """OneHot; TensorFlow knows no negative indices, so that one before the first hits nothing."""
    values = to.op("Concat", *(to.op("Reshape", to.input(index), to.int64([1])) for index in (3, 2)), axis=0)
    depth = to.const(np.asarray(to.ints(1)[0], to.dtype()))
    indices, zero = to.input(0), to.const(np.zeros((), to.dtype()))
    outside = to.op("Where", to.op("Less", indices, zero), depth, indices)
    to.give(to.op("OneHot", outside, depth, values, axis=int(to.option("axis", -1))))
