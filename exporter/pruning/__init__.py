"""Structured pruning: whole channels cut out of the canonical graph, so that what stays is a smaller ordinary network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from exporter.pruning.cut import cut, kept_indices, removed_classes
from exporter.pruning.groups import Groups, find_groups
from exporter.pruning.importance import CRITERIA, importance
from exporter.pruning.schedule import Goal, count_macs, parse_goal, schedule

__all__ = ["CRITERIA", "Goal", "Groups", "Pruned", "count_macs", "find_groups", "parse_goal", "prune", "replay"]

_importance = importance


@dataclass(frozen=True)
class Pruned:
    """A pruned model and the decision behind it.

    Attributes:
        model: the smaller model, a new one.
        kept: indices that stayed of every initializer axis that lost some, by "initializer:axis"; for `Plan.kept` and `replay`.
        macs_before, macs_after: multiply-accumulates of one inference.
        groups: what could be cut, and why not the rest (of the model before).
    """

    model: ir.Model
    kept: Mapping[str, tuple[int, ...]]
    macs_before: int
    macs_after: int
    groups: Groups


def prune(model: ir.Model, *, macs: float, tile: int = 1, importance: str = "magnitude") -> Pruned:
    """Cut the least important channels until at most the share `macs` of the multiply-accumulates stays. `model` is not changed.

    Args:
        model: canonical graph (`exporter.graph.passes.canonicalize`), BatchNorm folded.
        macs: share that may stay, in (0, 1]; 1 cuts nothing.
        tile: the width of every cut layer becomes a multiple of this (`Target.pruning.tile`).
        importance: one of `CRITERIA`.

    Raises UsageError EW-P002 for a bad goal, tile or criterion; ModelError EW-P001 where the goal is out of reach.
    """
    goal = Goal(macs)
    before = count_macs(model)
    groups = find_groups(model)
    scores = _importance(model, groups, importance)
    removed = schedule(
        groups, scores, int(goal.macs * before), lambda mask: count_macs(cut(model, groups, mask, verify=False)), tile
    )
    smaller = cut(model, groups, removed)
    return Pruned(smaller, kept_indices(model, groups, removed), before, count_macs(smaller), groups)


def replay(model: ir.Model, kept: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """Cut a canonical model by a recorded decision (`Plan.kept`): the same model as `prune` gave.

    Raises ModelError EW-Q002 where the decision does not fit the model.
    """
    groups = find_groups(model)
    return cut(model, groups, removed_classes(model, groups, kept))
