"""What the precision "auto" aims at: the user's gates, judged on calibration samples by the code that judges them on others in the end.

The search for what leaves the 8 bits runs in decibels, so a gate has to say how many of them it is away from holding. One on `sqnr_db` knows.
Of any other, the error that it allows is set beside the one that was found: of `cosine` 1 - cos follows the power of the noise (to second
order), all others are taken to follow its amplitude. The number guides the search alone: its sign says whether the gate holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite, isnan, log10
from typing import Final

import onnx_ir as ir

from calibration.reservoir import spread
from exporter.graph.columns import column_groups
from exporter.graph.run import FloatRunner
from exporter.graph.values import name_of
from exporter.progress import Progress
from exporter.quantization.mixing.sensitivity import dynamic_nodes, judges_of, planned_db, planned_error_db
from exporter.quantization.mixing.switches import Sample, Switchboard
from exporter.quantization.plan import Plan
from exporter.verification.compare import Comparison, Run, compare
from exporter.verification.gates import Gate, GateResult, check
from exporter.verification.metric import TaskScore, judges_unlabelled, scores_of
from exporter.verification.metrics import HIGHER_IS_BETTER

__all__ = ["Aim", "Goal", "shortfall_db"]

_DEFAULT: Final = Gate("sqnr_db", ">=", 20.0)
_MARGIN_DB: Final = 1.0  # beyond each gate on calibration samples, at least: others come out a little worse
_MEANS: Final = frozenset(("sqnr_db", "cosine", "mean_abs"))  # some samples tell; extremes and decisions are judged on all
_FAR_DB: Final = 40.0  # nothing is taken to be further away
_GUESS_DB: Final = 8.0  # nor what is only estimated


@dataclass(frozen=True)
class Goal:
    """What the precision "auto" shall keep.

    Attributes:
        gates: all of the user's; those that cannot be aimed at are left to verification, and a warning says why. Without any that can,
            every output shall have 20 dB.
        metric: ``module:callable`` whose scores gates may name.
    """

    gates: tuple[Gate, ...] = ()
    metric: str | None = None

    @classmethod
    def parse(cls, gates: Iterable[str], metric: str | None = None) -> Goal:
        """Of gates as text. Raises UsageError EW-G002 where one cannot be read."""
        return cls(tuple(Gate.parse(gate, task=metric is not None) for gate in gates), metric)


class Aim:
    """A goal for one graph: how far a plan of it is from holding on calibration samples.

    Attributes:
        gates: those that are aimed at.
        handicaps: the outputs that they are about, see `sensitivity.Judge`; None: all alike.
        margin: decibels by which a gate has to hold on calibration samples, see `allow`.

    Args:
        model: the graph that plans are made for.
        samples: that calibration kept, walked once for each plan; a task metric is given them as they are.
        progress: is warned of every gate that is not aimed at.
    Raises:
        UsageError: EW-G002, a gate names an output or a score that there is not; EW-U003, the metric cannot be used.
    """

    def __init__(self, goal: Goal, model: ir.Model, samples: Iterable[Sample], progress: Progress) -> None:
        self._model, self._samples, self._metric = model, samples, goal.metric
        self._judges = judges_of(model, samples)
        self._columns, self._original = column_groups(model), FloatRunner(model)
        self._outputs = self._original.outputs
        self._scores = self._own_scores(goal)
        self._ideals = dict(self._aimed(goal.gates, progress))
        if not self._ideals:
            self._outputs = _float_outputs(model) or self._outputs
            self._ideals = {_DEFAULT: inf}
        self.gates = tuple(self._ideals)
        self.handicaps = self._weighed()
        self.margin = _MARGIN_DB
        self._judged: list[tuple[Plan, list[GateResult]]] = []

    @property
    def in_decibels(self) -> bool:
        """Whether all is said in decibels, so that the choice of nodes can be told its goal."""
        return all(gate.metric == "sqnr_db" for gate in self.gates)

    def spare(self, plan: Plan) -> float:
        """Decibels by which all gates hold with the margin; below 0 where one does not. +inf where nothing is lost at all."""
        return -self.margin - max(shortfall_db(found.gate, self._ideals[found.gate], found.value) for found in self.reached(plan))

    def decibels(self, plan: Plan, samples: Iterable[Sample] | None = None) -> float:
        """The SQNR of the worst output that a gate is about, which is what the choice of nodes aims at; of `samples` some are looked at."""
        judges = self._judges if samples is None else judges_of(self._model, samples)
        return planned_db(self._model, plan, judges, self.handicaps)

    def error_db(self, plan: Plan) -> float:
        """Standard error of `decibels`, for the few samples that there are."""
        return planned_error_db(self._model, plan, self._judges, self.handicaps)

    def allow(self, decibels: float) -> None:
        """Widens the margin to what other samples may well be worse by."""
        self.margin = max(_MARGIN_DB, decibels)

    def reached(self, plan: Plan) -> list[GateResult]:
        """Every gate that is aimed at, as the plan's simulator keeps it. A plan that was judged before is not run again."""
        known = next((results for judged, results in self._judged if judged is plan), None)
        if known is None:
            board = Switchboard(self._model, plan, dynamic_nodes(plan))
            known = check(self.gates, self._comparison(lambda sample: board(sample, lambda switch: True)))
            self._judged.append((plan, known))
        return known

    def _comparison(self, run: Run) -> Comparison:
        few = all(gate.metric in _MEANS for gate in self.gates)
        samples = self._judges if few else self._samples
        found = compare(self._original, run, samples, self._outputs, columns=self._columns)
        if self._scores is None or self._metric is None:
            return found
        scores = scores_of(self._metric, run, self._samples, self._original)
        return replace(found, task={name: TaskScore(self._scores[name], score) for name, score in scores.items()})

    def _own_scores(self, goal: Goal) -> Mapping[str, float] | None:
        """What the original itself scores; None where no gate asks, or the metric cannot judge calibration samples."""
        if goal.metric is None or not any(map(_is_task, goal.gates)) or not judges_unlabelled(goal.metric):
            return None
        return scores_of(goal.metric, self._original, self._samples, self._original)

    def _aimed(self, gates: Iterable[Gate], progress: Progress) -> Iterator[tuple[Gate, float]]:
        """The gates that can be aimed at, each with what the original itself has."""
        ideal = compare(self._original, self._original, spread(self._samples, 1), self._outputs, columns=self._columns)
        ideal = replace(ideal, task={name: TaskScore(score, score) for name, score in (self._scores or {}).items()})
        for gate in gates:
            if _is_task(gate) and self._metric is not None and self._scores is None:
                why = f"{self._metric} has no parameter `original` to judge samples without labels by"
            else:
                [found] = check([gate], ideal)
                if found.passed and not _wants_less(gate):
                    yield gate, found.value
                    continue
                why = (
                    f"of calibration samples the original itself has {found.value:.6g}"
                    if not found.passed
                    else "it asks for a distance"
                )
            progress.warn(f"precision auto does not aim at the gate {gate}: {why}")

    def _weighed(self) -> Mapping[str, float] | None:
        """By how many decibels each output that a gate is about counts for more than it has: by none where the strictest gate is."""
        outputs = _float_outputs(self._model)
        parts = [part.name for part in self._columns]
        names = {gate.output for gate in self.gates if gate.output is not None}
        if not names or not names <= {*outputs, *parts}:
            return None
        if any(gate.output is None for gate in self.gates):
            parted = {part.output for part in self._columns}
            names |= {*parts, *(name for name in outputs if name not in parted)}
        limits = [(gate.output, gate.limit) for gate in self.gates if gate.metric == "sqnr_db"]
        strictest = max((limit for _, limit in limits), default=0.0)
        return {
            name: strictest - max((limit for output, limit in limits if output in (None, name)), default=strictest)
            for name in sorted(names)
        }


def shortfall_db(gate: Gate, ideal: float, value: float) -> float:
    """By how many decibels the noise would have to fall for a value to reach a gate's limit; below 0: may rise.

    Args:
        ideal: the value of no noise.
    """
    if gate.metric == "sqnr_db":
        short = gate.limit - value if isfinite(value) else -inf if gate.holds(value) else inf
        return min(short, _FAR_DB)
    lost, allowed = _loss(gate, ideal, value), _loss(gate, ideal, gate.limit)
    if isnan(lost) or (lost > 0 and allowed <= 0):
        return _GUESS_DB
    if lost <= 0:
        return -inf
    return min((10 if gate.metric == "cosine" else 20) * log10(lost / allowed), _GUESS_DB)


def _float_outputs(model: ir.Model) -> tuple[str, ...]:
    return tuple(name_of(value) for value in model.graph.outputs if value.dtype is not None and value.dtype.is_floating_point())


def _is_task(gate: Gate) -> bool:
    return gate.metric not in HIGHER_IS_BETTER


def _loss(gate: Gate, ideal: float, value: float) -> float:
    if gate.operator == "==":
        return abs(ideal - value)
    return ideal - value if gate.operator in (">", ">=") else value - ideal


def _wants_less(gate: Gate) -> bool:
    """Whether the gate holds where the artifact is far from the original, which no choice of precisions is for."""
    better = HIGHER_IS_BETTER.get(gate.metric)
    return better is not None and gate.operator != "==" and (gate.operator in (">", ">=")) is not better
