"""What a WHILE counts: loops whose condition compares counters with bounds run a number of times that is known before they start.

::

    WHILE(i = 0, ...) while LESS(i, n) {ADD(i, 1), ...}          Loop(n, , ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exporter.frontends.tflite.file import Operator, Subgraph

__all__ = ["Counter", "counters", "is_fused", "needed", "producer", "unchanged"]


@dataclass(frozen=True)
class Counter:
    """The carried value `place` goes up by one in each step. `bound`: where it stops, or the place of the carried value that says so."""

    place: int
    bound: int | None
    bound_place: int = -1


def unchanged(body: Subgraph) -> list[bool]:
    """Which carried values the body gives as it got them."""
    return [before == after for before, after in zip(body.inputs, body.outputs, strict=True)]


def counters(condition: Subgraph, body: Subgraph) -> tuple[Counter, ...]:
    """What the loop counts: it goes on while all of these are below their bounds. Nothing where its condition is another."""
    found = [_counter(condition, body, less) for less in _conjunction(condition, condition.outputs[0])]
    return tuple(counter for counter in found if counter is not None) if None not in found else ()


def needed(graph: Subgraph, ends: Sequence[int]) -> Subgraph:
    """The graph with those of its operators that the tensors `ends` are computed from."""
    wanted, kept = set(ends), []
    for operator in reversed(graph.operators):
        if wanted.intersection(operator.outputs):
            wanted.update(operator.inputs)
            kept.append(operator)
    return replace(graph, operators=tuple(reversed(kept)))


def producer(graph: Subgraph, tensor: int) -> Operator | None:
    """The operator that writes a tensor; None for an input or a constant."""
    return next((operator for operator in graph.operators if tensor in operator.outputs), None)


def is_fused(operator: Operator) -> bool:
    """Whether an activation is fused behind an operator."""
    return int(getattr(operator.options, "fusedActivationFunction", 0)) != 0


def _conjunction(condition: Subgraph, tensor: int) -> list[Operator | None]:
    """The operators that compute what `tensor` is the logical and of."""
    operator = producer(condition, tensor)
    if operator is None or operator.kind != "LOGICAL_AND":
        return [operator]
    return [part for index in operator.inputs for part in _conjunction(condition, index)]


def _counter(condition: Subgraph, body: Subgraph, less: Operator | None) -> Counter | None:
    if less is None or less.kind != "LESS" or less.inputs[0] not in condition.inputs:
        return None
    place = condition.inputs.index(less.inputs[0])
    tensor, step = body.tensors[body.inputs[place]], producer(body, body.outputs[place])
    if tensor.dtype not in ("int32", "int64") or tensor.encoding is not None or tensor.shape not in ((), (1,)):
        return None
    if step is None or step.kind != "ADD" or not _adds_one(body, step, body.inputs[place]):
        return None
    bound = condition.tensors[less.inputs[1]].data
    if bound is not None:
        return Counter(place, int(bound.item())) if bound.size == 1 else None
    if less.inputs[1] not in condition.inputs:
        return None
    at = condition.inputs.index(less.inputs[1])
    single = body.tensors[body.inputs[at]].shape in ((), (1,))
    return Counter(place, None, at) if single and unchanged(body)[at] else None


def _adds_one(body: Subgraph, step: Operator, before: int) -> bool:
    if before not in step.inputs or is_fused(step):
        return False
    other = step.inputs[1 - step.inputs.index(before)]
    data = body.tensors[other].data
    return data is not None and data.size == 1 and data.item() == 1
