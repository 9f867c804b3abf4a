"""What a WHILE collects: tensors into which each step writes its own row, so that no row of what they start as is left.

::

    y = DYNAMIC_UPDATE_SLICE(y, row, [i, 0, 0])          y = CONCATENATION(SLICE(y, [0, 0], [i, -1]), row, SLICE(y, [i + 1, 0], [-1, -1]))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.frontends.source import Array
from exporter.frontends.tflite.counting import is_fused, producer
from exporter.frontends.tflite.file import Operator, Subgraph

__all__ = ["Collector", "collector"]


@dataclass(frozen=True)
class Collector:
    """A carried tensor into which each step writes the tensor `row`, of length 1 along `axis`, at its own place, the first or last first."""

    row: int
    axis: int
    backward: bool


@dataclass(frozen=True)
class _Write:
    """`row` is written into `before` at the place `at` of `axis`, by operators that read `before`."""

    before: int
    row: int
    axis: int
    at: int
    readers: tuple[Operator, ...]


def collector(body: Subgraph, place: int, counter: int, steps: int) -> Collector | None:
    """The carried value `place`, where it is written whole by `steps` steps that the carried value `counter` counts from zero."""
    before, after = body.inputs[place], body.outputs[place]
    write = _update(body, after) or _list_item(body, after)
    if write is None or write.before != before or before in body.outputs or body.outputs.count(after) > 1:
        return None
    reading = [operator for operator in body.operators for index in operator.inputs if index == before]
    if reading != list(write.readers) or any(after in operator.inputs for operator in body.operators):
        return None
    axis, shape, row = write.axis, body.tensors[before].shape, body.tensors[write.row].shape
    if axis >= len(shape) or shape[axis] != steps or row != (*shape[:axis], 1, *shape[axis + 1 :]):
        return None
    at, backward = _reversed(body, write.at, steps)
    return Collector(write.row, axis, backward) if _renamed(body, at) == body.inputs[counter] else None


def _update(body: Subgraph, tensor: int) -> _Write | None:
    """DYNAMIC_UPDATE_SLICE that starts at MUL(1 at one axis, place)."""
    write = producer(body, tensor)
    start = producer(body, write.inputs[2]) if write is not None and write.kind == "DYNAMIC_UPDATE_SLICE" else None
    if write is None or start is None or start.kind != "MUL" or is_fused(start):
        return None
    for mask, at in (start.inputs, start.inputs[::-1]):
        data = body.tensors[mask].data
        if data is not None and data.ndim == 1 and sorted(data.tolist()) == [0] * (data.size - 1) + [1]:
            return _Write(write.inputs[0], write.inputs[1], int(np.argmax(data)), at, (write,))
    return None


def _list_item(body: Subgraph, tensor: int) -> _Write | None:
    """CONCATENATION of what lies before the place, the row, and what lies behind: an item of a TensorList is set so."""
    joined = producer(body, tensor)
    if joined is None or joined.kind != "CONCATENATION" or len(joined.inputs) != 3 or is_fused(joined) or joined.options.axis:
        return None
    head, tail = producer(body, joined.inputs[0]), producer(body, joined.inputs[2])
    if head is None or tail is None or {head.kind, tail.kind} != {"SLICE"} or head.inputs[0] != tail.inputs[0]:
        return None
    shape = body.tensors[head.inputs[0]].shape
    first, length = _known(body, head.inputs[1]), _known(body, tail.inputs[2])
    at, others = _led(body, head.inputs[2])
    behind, starts = _led(body, tail.inputs[1])
    if first is None or first.any() or length is None or length[0] != -1 or not _is_whole(length[1:], shape):
        return None
    if others is None or not _is_whole(others, shape) or starts is None or starts.any() or not _follows(body, behind, at):
        return None
    return _Write(head.inputs[0], joined.inputs[1], 0, at, tuple(sorted((head, tail), key=body.operators.index)))


def _led(body: Subgraph, tensor: int) -> tuple[int, Array | None]:
    """The computed first entry of a vector, and its constant others."""
    joined = producer(body, tensor)
    if joined is None or joined.kind != "CONCATENATION" or len(joined.inputs) != 2:
        return -1, None
    return _renamed(body, joined.inputs[0]), _known(body, joined.inputs[1])


def _is_whole(sizes: Array, shape: tuple[int, ...]) -> bool:
    """Whether SLICE takes all of the axes behind the first at these sizes."""
    return len(sizes) == len(shape) - 1 and all(size in (-1, full) for size, full in zip(sizes, shape[1:], strict=True))


def _follows(body: Subgraph, behind: int, at: int) -> bool:
    """Whether `behind` is `at` and one."""
    added = producer(body, behind)
    if added is None or added.kind != "ADD" or is_fused(added) or at not in [_renamed(body, index) for index in added.inputs]:
        return False
    return any((data := _known(body, index)) is not None and data.size == 1 and data.item() == 1 for index in added.inputs)


def _reversed(body: Subgraph, at: int, steps: int) -> tuple[int, bool]:
    """What is subtracted from the last step, and True; else `at` itself, and False."""
    difference = producer(body, at)
    if difference is None or difference.kind != "SUB" or is_fused(difference):
        return at, False
    last = _known(body, difference.inputs[0])
    counts_down = last is not None and last.size == 1 and last.item() == steps - 1
    return (difference.inputs[1], True) if counts_down else (at, False)


def _renamed(body: Subgraph, tensor: int) -> int:
    """The tensor whose one integer `tensor` has as well, under another dtype or shape."""
    operator = producer(body, tensor)
    if operator is None or operator.kind not in ("CAST", "RESHAPE"):
        return tensor
    return _renamed(body, operator.inputs[0])


def _known(body: Subgraph, tensor: int) -> Array | None:
    return body.tensors[tensor].data
