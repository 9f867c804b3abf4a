"""Where activations lie in one block of memory: buffers with lifetimes, laid out so that no two that exist at once overlap.

`greedy` is the planner of TensorFlow Lite Micro (tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc): largest first, each into the
lowest gap among those that exist at the same time. `pack` tries further orders, and is never worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["ALIGNMENT", "Buffer", "Layout", "aligned", "greedy", "live", "pack"]

ALIGNMENT: Final = 16  # bytes; MicroArenaBufferAlignment of TensorFlow Lite Micro


@dataclass(frozen=True)
class Buffer:
    """`bytes` that exist from step `first` to step `last`, both included."""

    name: str
    bytes: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Whether both exist at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Layout:
    """The offset of every buffer, in their order, and the bytes of the whole block."""

    offsets: tuple[int, ...]
    bytes: int


def aligned(count: int) -> int:
    """`count` rounded up to a multiple of `ALIGNMENT`."""
    return -(-count // ALIGNMENT) * ALIGNMENT


def greedy(buffers: Sequence[Buffer], fixed: Mapping[int, int] | None = None) -> Layout:
    """As TensorFlow Lite Micro lays them out: `fixed` ones (index -> offset) first, then by size; of equal ones the later first."""
    fixed = fixed or {}
    rest = sorted(
        (index for index in range(len(buffers)) if index not in fixed), key=lambda index: (-buffers[index].bytes, -index)
    )
    return _placed(buffers, rest, fixed)


def pack(buffers: Sequence[Buffer]) -> Layout:
    """The least of `greedy` and of layouts in further orders: by lifetime, by both, by time, and with what is at the peak first."""
    steps = live(buffers)
    high = max(range(len(steps)), key=steps.__getitem__, default=0)
    orders: tuple[Callable[[int], tuple[int, ...]], ...] = (
        lambda index: (buffers[index].first - buffers[index].last, -buffers[index].bytes, index),
        lambda index: (-buffers[index].bytes * (buffers[index].last - buffers[index].first + 1), index),
        lambda index: (buffers[index].first, -buffers[index].bytes, index),
        lambda index: (-buffers[index].last, -buffers[index].bytes, index),
        lambda index: (not buffers[index].first <= high <= buffers[index].last, -buffers[index].bytes, index),
        lambda index: (not buffers[index].first <= high <= buffers[index].last, buffers[index].first, index),
        lambda index: (abs(buffers[index].first - high), -buffers[index].bytes, index),
    )
    layouts = [greedy(buffers), *(_placed(buffers, sorted(range(len(buffers)), key=order), {}) for order in orders)]
    return min(layouts, key=lambda layout: layout.bytes)


def live(buffers: Sequence[Buffer]) -> list[int]:
    """Bytes that exist at every step, from 0 to the last: no layout is smaller than the largest of them."""
    steps = [0] * (1 + max((buffer.last for buffer in buffers), default=-1))
    for buffer in buffers:
        for step in range(max(buffer.first, 0), buffer.last + 1):
            steps[step] += buffer.bytes
    return steps


def _placed(buffers: Sequence[Buffer], order: Sequence[int], fixed: Mapping[int, int]) -> Layout:
    offsets = [-1] * len(buffers)
    taken: list[int] = []  # by offset; of equal ones the earlier placed first
    for index in (*fixed, *order):
        at = fixed.get(index, -1)
        if index not in fixed:
            at = 0
            for other in taken:
                if not buffers[other].meets(buffers[index]):
                    continue
                if offsets[other] - at >= buffers[index].bytes:
                    break
                at = max(at, offsets[other] + buffers[other].bytes)
        offsets[index] = at
        position = next((place for place, other in enumerate(taken) if offsets[other] > at), len(taken))
        taken.insert(position, index)
    return Layout(tuple(offsets), max((offsets[index] + buffer.bytes for index, buffer in enumerate(buffers)), default=0))
