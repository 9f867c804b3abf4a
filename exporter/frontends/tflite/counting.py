"""What a WHILE counts: loops whose condition compares a counter with a bound run a number of times that is known before they start.

::

    WHILE(i = 0, ...) while LESS(i, n) {ADD(i, 1), ...}          Loop(n, , ...)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.frontends.source import Array
from exporter.frontends.tflite.file import Operator, Subgraph

__all__ = ["Collector", "Counter", "collector", "counter", "unchanged"]


@dataclass(frozen=True)
class Counter:
    """The carried value `place` goes up by one in each step. `bound`: where it stops, or the place of the carried value that says so."""

    place: int
    bound: int | None
    bound_place: int = -1


@dataclass(frozen=True)
class Collector:
    """A carried tensor into which each step writes the tensor `row` at its own place of `axis`."""

    row: int
    axis: int
    backward: bool


def unchanged(body: Subgraph) -> list[bool]:
    """Which carried values the body gives as it got them."""
    return [before == after for before, after in zip(body.inputs, body.outputs, strict=True)]


def counter(condition: Subgraph, body: Subgraph) -> Counter | None:
    """What the loop counts; None where its condition is another."""
    if len(condition.operators) != 1 or condition.operators[0].kind != "LESS":
        return None
    less = condition.operators[0]
    if less.outputs != condition.outputs or less.inputs[0] not in condition.inputs:
        return None
    place = condition.inputs.index(less.inputs[0])
    tensor, step = body.tensors[body.inputs[place]], _producer(body, body.outputs[place])
    if tensor.dtype not in ("int32", "int64") or tensor.encoding is not None or tensor.shape not in ((), (1,)):
        return None
    if step is None or step.kind != "ADD" or not _adds_one(body, step, body.inputs[place]):
        return None
    bound = condition.tensors[less.inputs[1]].data
    if bound is not None:
        return Counter(place, int(bound.reshape(()))) if bound.size == 1 else None
    at = condition.inputs.index(less.inputs[1])
    single = body.tensors[body.inputs[at]].shape in ((), (1,))
    return Counter(place, None, at) if single and unchanged(body)[at] else None


def _adds_one(body: Subgraph, step: Operator, before: int) -> bool:
    if before not in step.inputs or _is_fused(step):
        return False
    other = step.inputs[1 - step.inputs.index(before)]
    data = body.tensors[other].data if other != before else None
    return data is not None and data.size == 1 and data.item() == 1


def collector(body: Subgraph, place: int, counter: int, steps: int) -> Collector | None:
    """The carried value `place`, where it is written whole by `steps` steps that the carried value `counter` counts from zero.

    What it starts as does not matter then.
    """
    before = body.inputs[place]
    write = _producer(body, body.outputs[place])
    readers = [operator for operator in body.operators if before in operator.inputs]
    if write is None or write.kind != "DYNAMIC_UPDATE_SLICE" or readers != [write] or write.inputs[0] != before:
        return None
    if before in (*write.inputs[1:], *body.outputs) or body.outputs.count(body.outputs[place]) > 1:
        return None
    axis, at = _row_start(body, write.inputs[2])
    shape, row = body.tensors[before].shape, body.tensors[write.inputs[1]].shape
    if axis is None or axis >= len(shape) or shape[axis] != steps or row != (*shape[:axis], 1, *shape[axis + 1 :]):
        return None
    if any(write.outputs[0] in operator.inputs for operator in body.operators):
        return None
    at, backward = _reversed(body, at, steps)
    return Collector(write.inputs[1], axis, backward) if _uncast(body, at) == body.inputs[counter] else None


def _row_start(body: Subgraph, start: int) -> tuple[int | None, int]:
    """Axis and place of the row at `start`, which is MUL(1 at that axis, place)."""
    product = _producer(body, start)
    if product is None or product.kind != "MUL" or _is_fused(product):
        return None, -1
    for mask, at in (product.inputs, product.inputs[::-1]):
        data = body.tensors[mask].data
        if data is not None and data.ndim == 1 and sorted(data.tolist()) == [0] * (data.size - 1) + [1]:
            return int(np.argmax(data)), at
    return None, -1


def _reversed(body: Subgraph, at: int, steps: int) -> tuple[int, bool]:
    """What is subtracted from the last step, and True; else `at` itself, and False."""
    difference = _producer(body, at)
    if difference is None or difference.kind != "SUB" or _is_fused(difference):
        return at, False
    last: Array | None = body.tensors[difference.inputs[0]].data
    counts_down = last is not None and last.size == 1 and last.item() == steps - 1
    return (difference.inputs[1], True) if counts_down else (at, False)


def _uncast(body: Subgraph, at: int) -> int:
    cast = _producer(body, at)
    return cast.inputs[0] if cast is not None and cast.kind == "CAST" else at


def _is_fused(operator: Operator) -> bool:
    return int(getattr(operator.options, "fusedActivationFunction", 0)) != 0


def _producer(body: Subgraph, tensor: int) -> Operator | None:
    return next((operator for operator in body.operators if tensor in operator.outputs), None)
