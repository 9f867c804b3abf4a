"""In which order a program needs least memory: the same operators and the same numbers, another order.

A search over the sets of operators that may have run: of all orders that lead to one set only the one with the lowest peak is kept. That
is exact as long as no more sets are alive than `_WIDTH`; beyond, those with the highest peaks are dropped, and the order found is still valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from exporter.backends.tflite.arena import planned
from exporter.backends.tflite.kernel_memory import scratch
from exporter.backends.tflite.program import Program, buffers_of
from targets.arena import aligned, greedy
from targets.schema import Scratch

__all__ = ["least_memory"]

_WIDTH: Final = 256
# Operators that do more than to compute their outputs from their inputs.
_EFFECTS: Final = frozenset({"ASSIGN_VARIABLE", "CALL_ONCE", "IF", "READ_VARIABLE", "VAR_HANDLE", "WHILE"})


@dataclass(frozen=True)
class _Way:
    """The best way to have run a set of operators: its peak so far, what is alive after it, the order, and what may run next."""

    peak: int
    live: int
    order: tuple[int, ...]
    ready: tuple[int, ...]


def least_memory(program: Program, kernels: Scratch) -> tuple[int, ...] | None:
    """Positions of the operators in an order whose arena is smaller than that of the order they have; None where there is no such.

    The arena is the runtime's layout of activations and scratch (`targets.arena.greedy`), not only what is alive at once.
    """
    if any(operator.op in _EFFECTS for operator in program.operators):
        return None
    found = _lowest_peak(program, kernels)
    if found is None:
        return None
    before, after = (greedy(planned(entry, kernels)).bytes for entry in (program, program.reordered(found)))
    return found if after < before else None


def _lowest_peak(program: Program, kernels: Scratch) -> tuple[int, ...] | None:
    """The order with the lowest peak of live bytes; None where the given one has it."""
    sizes = {index: buffer.bytes for index, buffer in buffers_of(program).items()}
    operators = program.operators
    reads = [frozenset(operator.inputs) & sizes.keys() for operator in operators]
    writes = [frozenset(operator.outputs) & sizes.keys() for operator in operators]
    temporary = [sum(map(aligned, scratch(program, operator, kernels))) for operator in operators]
    writer = {tensor: position for position, tensors in enumerate(writes) for tensor in tensors}
    needs = [sum(1 << writer[tensor] for tensor in tensors if tensor in writer) for tensors in reads]
    readers = {tensor: sum(1 << position for position, entry in enumerate(reads) if tensor in entry) for tensor in sizes}
    kept = frozenset(program.outputs)

    def step(done: int, way: _Way, position: int) -> tuple[int, _Way]:
        running = way.live + sum(sizes[tensor] for tensor in writes[position])
        after = done | 1 << position
        gone = [tensor for tensor in reads[position] | writes[position] if tensor not in kept and not readers[tensor] & ~after]
        left = running - sum(sizes[tensor] for tensor in gone)
        ready = [other for other in way.ready if other != position]
        ready += [other for other in behind[position] if not needs[other] & ~after]
        return after, _Way(max(way.peak, running + temporary[position]), left, (*way.order, position), tuple(sorted(ready)))

    behind = [[other for other, needed in enumerate(needs) if needed >> position & 1] for position in range(len(operators))]
    free = tuple(position for position, needed in enumerate(needs) if not needed)
    start = _Way(0, sum(sizes[tensor] for tensor in program.inputs if tensor in sizes), (), free)
    given, done = start, 0
    for position in range(len(operators)):
        done, given = step(done, given, position)
    ways = {0: start}
    for _ in operators:
        reached: dict[int, _Way] = {}
        for done, way in ways.items():
            for position in way.ready:
                after, further = step(done, way, position)
                if further.peak < given.peak and (after not in reached or _rank(further) < _rank(reached[after])):
                    reached[after] = further
        ways = dict(sorted(reached.items(), key=lambda item: _rank(item[1]))[:_WIDTH])
    return min(ways.values(), key=_rank).order if ways and operators else None


def _rank(way: _Way) -> tuple[int, int, tuple[int, ...]]:
    """Of two ways with the same memory the one nearer to the given order."""
    return way.peak, way.live, way.order
