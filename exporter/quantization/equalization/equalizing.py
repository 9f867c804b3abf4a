"""Channels of one encoding are brought together: outliers go into branches, scales migrate, as far as the outputs on samples confirm it.

One encoding a tensor gives every channel the step of the widest. Dividing channels by scales, and multiplying the weights behind by them, moves
the difficulty into weights, which have a scale an output channel: between convolutions, behind the normalizations of transformers, and through
residual sums (`channels`, `scales`). Where an activation between two products lets no scale through, the few channels that are far wider than
the others are computed apart (`splits`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from calibration import Statistics
from calibration.reservoir import spread
from exporter.graph.run import FloatRunner
from exporter.quantization.costs import LARGE_MODEL_MACS, affordable, model_macs
from exporter.quantization.equalization.migrations import migrate
from exporter.quantization.equalization.restated import restated
from exporter.quantization.equalization.scales import best_scales
from exporter.quantization.equalization.splits import bottlenecks, split
from exporter.quantization.mixing.sensitivity import planned_db
from exporter.quantization.plan import Effort, Plan
from exporter.quantization.planner import make_plan
from targets.schema import Target

__all__ = ["BRANCH_DB", "Equalized", "equalize", "outliers", "replay"]

Array = np.ndarray[Any, Any]

_SAMPLES: Final = 16  # that judge, at least
_FEW: Final = 4
# Least expected gains of the groups that a proposal takes. A proposal must gain more than the margin over doing nothing.
_GAINS_DB: Final = (0.5, 2.0, 6.0)
_MARGIN_DB: Final = 2.0  # between halves of the calibration samples of facemesh and mtcnn_onet a gain differs by 1 to 4
# Among proposals, so much less is as good where fewer groups change: those that promise little gain on these samples alone.
_NEAR_DB: Final = 0.5
BRANCH_DB: Final = 1.0  # that branches have to gain over none: they take time in every inference
_APART: Final = 2.0  # times as wide as all others: then a channel goes into a branch
_MOST: Final = 0.01  # of the channels of a bottleneck: more would cost what the integers save


@dataclass(frozen=True, eq=False)
class Equalized:
    """A graph with branches and migrated scales, and its statistics.

    Attributes:
        splits, scales: as `Plan.splits` and `Plan.migrations` hold them.
        whole: of a graph with branches, the best without any; a plan that gives some nodes other precisions may do without them.
    """

    model: ir.Model
    statistics: Statistics | None
    splits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    whole: Equalized | None = None


def equalize(model: ir.Model, statistics: Statistics, target: Target, effort: Effort = "balanced") -> Equalized:
    """The legalized graph with the branches and scales that raise the SQNR of the worst output on a few samples, if any do.

    With the effort "fast" only what promises much is tried of large models, and on fewer samples. Raises what `make_plan` raises.
    """
    nothing = Equalized(model, statistics)
    if target.artifact.activations != "int8":
        return nothing
    quick = effort == "fast" and model_macs(model) > LARGE_MODEL_MACS
    # Where weights have one scale a tensor, levelling them out promises less for each group, and few samples mislead.
    shared = not target.quantization.per_channel
    gains_db = (_GAINS_DB[1:] if shared else _GAINS_DB[-1:]) if quick else _GAINS_DB
    runs = 2 * (2 + len(gains_db))  # as the graph came, with branches, and with each of the scales; in float as well
    held = spread(statistics.reservoir, max(_FEW if quick and not shared else _SAMPLES, affordable(model, runs, effort)))
    # Where there are enough of them, others judge than those that the scales are made from.
    seen, held = (held[::2], held[1::2]) if len(held) >= 2 * _SAMPLES else (held, held)
    moved, reached = _best(nothing, _migrated(nothing, target, seen, gains_db), -inf, target, held)
    branched = _branched(nothing, seen)
    if branched is None:
        return moved
    base = _reached(moved, target, held) if reached == -inf else reached
    apart, found = _best(branched, _migrated(branched, target, seen, gains_db), _reached(branched, target, held), target, held)
    return replace(apart, whole=moved) if found > base + BRANCH_DB else moved


def _best(
    start: Equalized,
    candidates: Sequence[Equalized],
    reached: float,
    target: Target,
    samples: Sequence[Mapping[str, Array]],
) -> tuple[Equalized, float]:
    """The best of the candidates where it gains more than the margin over `start`, which reaches `reached` (-inf: not known), else that; of
    those that are about as good the one that changes least, and what it reaches.
    """
    if candidates and reached == -inf:
        reached = _reached(start, target, samples)
    found = [_reached(candidate, target, samples) for candidate in candidates]
    if max(found, default=-inf) <= reached + _MARGIN_DB:
        return start, reached
    near = [index for index in range(len(found)) if found[index] > max(found) - _NEAR_DB]
    index = min(near, key=lambda index: len(candidates[index].scales))
    return candidates[index], found[index]


def replay(model: ir.Model, plan: Plan) -> ir.Model:
    """The graph that a plan was made for, from the legalized one. Raises ModelError EW-Q002 where it was made for another graph."""
    return migrate(split(model, plan.splits).model, plan.migrations).model


def outliers(model: ir.Model, samples: Sequence[Mapping[str, Array]]) -> dict[str, tuple[int, ...]]:
    """Channels of bottlenecks that are at least `_APART` times as wide as all others of theirs, by the bottleneck's name."""
    found = bottlenecks(model.graph)
    peaks = {entry.name: np.zeros(entry.count) for entry in found}
    run = FloatRunner(model, list(peaks))
    for sample in samples if found else ():
        for entry, array in zip(found, run(sample).values(), strict=True):
            rows = np.abs(np.moveaxis(array, entry.axis, -1)).reshape(-1, entry.count)
            peaks[entry.name] = np.maximum(peaks[entry.name], rows.max(axis=0))
    chosen = {}
    for name, peak in peaks.items():
        order = np.argsort(-peak, kind="stable")
        most = int(_MOST * len(peak))
        falls = [number for number in range(1, most + 1) if peak[order[number - 1]] > _APART * peak[order[number]]]
        if falls:
            chosen[name] = tuple(sorted(int(index) for index in order[: falls[-1]]))
    return chosen


def _branched(base: Equalized, samples: Sequence[Mapping[str, Array]]) -> Equalized | None:
    """`base` with branches for its outliers, where it has any."""
    assert base.statistics is not None
    splits = outliers(base.model, samples)
    if not splits:
        return None
    rewritten = split(base.model, splits)
    return Equalized(rewritten.model, restated(rewritten, base.statistics), splits)


def _migrated(
    base: Equalized, target: Target, samples: Sequence[Mapping[str, Array]], gains_db: Sequence[float]
) -> list[Equalized]:
    """`base` with the scales of those groups that promise at least so many decibels, for each that differs.

    Of a target with one scale a tensor, too, those that look at values alone: how much weights matter is a guess.
    """
    assert base.statistics is not None
    judged = [best_scales(base.model, samples, each) for each in dict.fromkeys((target.quantization.per_channel, True))]
    proposals = [
        {name: scale for name, (gain, scale) in gains.items() if gain >= least} for gains in judged for least in gains_db
    ]
    found = []
    for number, scales in enumerate(proposals):
        if scales and scales not in proposals[:number]:
            rewritten = migrate(base.model, scales)
            found.append(Equalized(rewritten.model, restated(rewritten, base.statistics), base.splits, scales))
    return found


def _reached(equalized: Equalized, target: Target, samples: Sequence[Mapping[str, Array]]) -> float:
    assert equalized.statistics is not None
    return planned_db(equalized.model, make_plan(equalized.model, equalized.statistics, target), samples)
