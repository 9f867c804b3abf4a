"""How much is cut where: the least important channels of the whole network first, in whole tiles, until the goal is met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, gcd, isfinite, lcm
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError, UsageError
from exporter.ops.base import Refused, operator_of
from exporter.pruning.groups import Group, Groups

__all__ = ["MAX_RATIO", "Goal", "count_macs", "parse_goal", "schedule"]

MAX_RATIO: Final = 0.9  # of a group's channels at most: a layer squeezed to nothing breaks the network, however small its weights

_ROOM: Final = 0.01  # of the goal's MACs: less room than this is not filled
_TRIES: Final = (
    50  # chunks that are tried to come back: large networks hit the goal closely anyway, and counting them takes longer
)

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class _Chunk:
    """Classes of one group (by its place in `Groups.groups`) that go together."""

    group: int
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Goal:
    """What pruning aims at: the multiply-accumulates that may stay, as a share of the original's, in (0, 1]."""

    macs: float

    def __post_init__(self) -> None:
        if not (isfinite(self.macs) and 0.0 < self.macs <= 1.0):
            raise UsageError(
                "EW-P002",
                f"the pruning goal macs={self.macs:g} is not a share in (0, 1]",
                why="it is the part of the multiply-accumulates that stays",
                fix="write for example --prune macs=0.8 to keep at most 80 %",
            )


def parse_goal(text: str) -> Goal:
    """Read ``"macs=0.8"``. Raises UsageError EW-P002 where it is anything else."""
    key, _, number = (part.strip() for part in text.partition("="))
    if key != "macs":
        raise UsageError(
            "EW-P002", f"the pruning specification {text!r} is not known", fix="write macs=RATIO, for example macs=0.8"
        )
    try:
        return Goal(float(number))
    except ValueError as error:
        raise UsageError("EW-P002", f"{number!r} in {text!r} is not a number", fix="write for example macs=0.8") from error


def count_macs(model: ir.Model) -> int:
    """Multiply-accumulates of one inference, as the operators' costs say; an operator without a cost counts none."""
    total = 0
    for node in model.graph:
        try:
            total += operator_of(node).cost(node).macs
        except Refused:
            continue
    return total


def schedule(groups: Groups, scores: np.ndarray[Any, Any], goal: int, macs_without: Callable[[Mask], int], tile: int = 1) -> Mask:
    """The classes to remove, shape [groups.count], so that at most `goal` MACs stay.

    The channels of a group are lined up by rising importance and go in chunks, each of which leaves a width that is a multiple of
    `tile`; the chunks of all groups go in the order of their mean importance, the shortest such sequence that reaches the goal (found by
    bisection: MACs only fall as chunks go). Where the last chunk was a large one, the goal leaves room: chunks come back into it,
    the most important first. At least one tile and ``1 - MAX_RATIO`` of a group stay.

    Args:
        macs_without: exact MACs of the network without the marked classes.

    Raises UsageError EW-P002 for a tile below 1, ModelError EW-P001 where the goal is out of reach (it says what is within).
    """
    if tile < 1:
        raise UsageError("EW-P002", f"the pruning tile {tile} is not positive")
    chunks = _ranked(groups, scores, tile)
    before, least = macs_without(_marked(groups, ())), macs_without(_marked(groups, chunks))
    if least > goal:
        raise _unreachable(before, least, goal, groups, tile)
    low, high = 0, len(chunks)
    while low < high:
        middle = (low + high) // 2
        if macs_without(_marked(groups, chunks[:middle])) <= goal:
            high = middle
        else:
            low = middle + 1
    return _marked(groups, _give_back(groups, chunks[:low], goal, macs_without))


def _ranked(groups: Groups, scores: np.ndarray[Any, Any], tile: int) -> list[_Chunk]:
    """The chunks of all groups, the least important first; those of one group in the order they must go."""
    keyed = []
    for number, group in enumerate(groups.groups):
        for step, classes in enumerate(_chunks(group, scores, tile)):
            keyed.append(((round(float(scores[classes].mean()), 9), number, step), _Chunk(number, tuple(classes))))
    return [chunk for _, chunk in sorted(keyed, key=lambda entry: entry[0])]


def _marked(groups: Groups, chunks: Sequence[_Chunk]) -> Mask:
    removed = np.zeros(groups.count, bool)
    for chunk in chunks:
        removed[list(chunk.classes)] = True
    return removed


def _give_back(groups: Groups, chunks: Sequence[_Chunk], goal: int, macs_without: Callable[[Mask], int]) -> list[_Chunk]:
    """What still has to go of `chunks`. A group's chunks come back in the reverse of their order; one that does not fit ends its group."""
    gone, macs = list(chunks), macs_without(_marked(groups, chunks))
    ended: set[int] = set()
    tries = _TRIES
    for chunk in reversed(chunks):
        if chunk.group in ended:
            continue
        if tries == 0 or macs > (1 - _ROOM) * goal:
            break
        tries -= 1
        rest = [other for other in gone if other is not chunk]
        with_it = macs_without(_marked(groups, rest))
        if with_it <= goal:
            gone, macs = rest, with_it
        else:
            ended.add(chunk.group)
    return gone


def _chunks(group: Group, scores: np.ndarray[Any, Any], tile: int) -> list[list[int]]:
    """A group's classes in the order they go: each chunk leaves a number of filters that is a multiple of `tile` in every producer."""
    step = lcm(*(tile // gcd(tile, width) for width in group.widths))
    count = len(group.classes)
    floor = max(step, ceil(round(count * (1.0 - MAX_RATIO), 6)))
    order = sorted(group.classes, key=lambda label: (scores[label], label))
    chunks, gone = [], 0
    for stay in range((count - 1) // step * step, 0, -step):
        if stay < floor:
            break
        chunks.append(order[gone : count - stay])
        gone = count - stay
    return chunks


def _unreachable(before: int, least: int, goal: int, groups: Groups, tile: int) -> ModelError:
    ratio = least / before if before else 1.0
    why = f"{groups.prunable} of {groups.produced} channels may be cut, in tiles of {tile}, at most {MAX_RATIO:.0%} of each group"
    if not groups.groups and groups.blocked:
        why = f"no channel may be cut: {next(iter(groups.blocked.values()))}"
    return ModelError(
        "EW-P001",
        f"pruning cannot bring the model to {goal / before if before else 0:.3f} of its MACs",
        why=why,
        fix=f"the least within reach is macs={ceil(ratio * 1000) / 1000:.3f}",
    )
