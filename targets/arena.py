"""Where activations lie in one block of memory: buffers with lifetimes, laid out so that no two that exist at once overlap.

`greedy` is the planner of TensorFlow Lite Micro (tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc): largest first, each into the
lowest gap among those that exist at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["ALIGNMENT", "Buffer", "Layout", "aligned", "greedy", "live"]

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


def greedy(buffers: Sequence[Buffer]) -> Layout:
    """As TensorFlow Lite Micro lays them out; of buffers of one size the later is placed first."""
    offsets = [0] * len(buffers)
    taken: list[int] = []  # by offset; of equal ones the earlier placed first
    for index in sorted(range(len(buffers)), key=lambda index: (-buffers[index].bytes, -index)):
        at = 0
        for other in taken:
            if not buffers[other].meets(buffers[index]):
                continue
            if offsets[other] - at >= buffers[index].bytes:
                break
            at = max(at, offsets[other] + buffers[other].bytes)
        offsets[index] = at
        taken.insert(next((place for place, other in enumerate(taken) if offsets[other] > at), len(taken)), index)
    return Layout(tuple(offsets), max((at + buffer.bytes for at, buffer in zip(offsets, buffers, strict=True)), default=0))


def live(buffers: Sequence[Buffer]) -> list[int]:
    """Bytes that exist at every step, from 0 to the last: no layout is smaller than the largest of them."""
    steps = [0] * (1 + max((buffer.last for buffer in buffers), default=-1))
    for buffer in buffers:
        for step in range(max(buffer.first, 0), buffer.last + 1):
            steps[step] += buffer.bytes
    return steps
