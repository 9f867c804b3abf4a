"""Mixed precision by budget: the cheapest nodes to keep in float so that every output keeps a wanted SQNR.

What hurts is rounding, of a value or of a constant; what can be chosen is the precision of a node. A value is rounded as long as a node that
writes it runs in integers, and for each reader that does. With the noise of each rounding measured alone (they add up, being nearly
independent) and the cost of each node in float, the best choice for a price of noise is a minimum cut; the price is found by bisection on the
accuracy of the whole graph, run with that choice.

Where the runtime has a kernel that multiplies integer weights with float activations, which it quantizes row by row as it runs, a node that
leaves the integers takes that: its multiply-accumulates stay in 8 bits, only its constants stay rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Final

import onnx_ir as ir

from exporter.quantization.apply import node_name
from exporter.quantization.costs import macs_of
from exporter.quantization.partition import Partition, with_idle
from exporter.quantization.plan import Plan
from exporter.quantization.sensitivity import Judge, Rounding, decibels_of, measure
from exporter.quantization.switches import Sample
from exporter.quantization.weights import holds_much
from targets.cost import CostModel

__all__ = ["Mixer", "Mixture"]

_PRICES: Final = (0, 9)  # powers of ten, in microseconds for the noise that the goal allows
_STEPS: Final = 12  # of the bisection
_GLANCE: Final = 4  # samples that say whether a bargain is worth looking for
# Of a bargain: the decibels that one per cent of latency has to gain, the least gain worth another precision, and the greatest share of
# the latency that may be spent.
_GAIN_DB: Final = 0.5
_LEAST_GAIN_DB: Final = 1.0
_MOST: Final = 0.15


@dataclass(frozen=True)
class Mixture:
    """What was decided.

    Attributes:
        floats: why each node that reads and writes floats does, by node name; empty where none has to.
        dynamic: those of them whose kernel quantizes its input as it runs.
        sqnr_db: of the worst output on the samples, in decibels.
        macs: share of the integer nodes' multiply-accumulates that went to float.
    """

    floats: Mapping[str, str]
    dynamic: frozenset[str]
    sqnr_db: float
    macs: float


class Mixer:
    """Chooses the nodes of one integer plan that shall leave the integers. Roundings are measured once, at the first choice.

    Args:
        model: the graph that the plan was made for. Weights should be rounded to nearest: those that were fitted to make up for the
            roundings in front of them are wrong where those are gone.
        samples: inputs by name, one sample each; 16 of them are looked at.
        dynamic: names of the nodes that have a kernel for float activations and integer weights.
    """

    def __init__(
        self, model: ir.Model, plan: Plan, cost: CostModel, samples: Iterable[Sample], dynamic: Collection[str] = ()
    ) -> None:
        self._model, self._plan, self._cost = model, plan, cost
        self._judge = Judge(model, plan, samples, dynamic)
        self._nodes = set(self._judge.board.nodes)
        self._dynamic = self._nodes & set(dynamic)

    def mixture(self, goal_db: float) -> Mixture:
        """The cheapest choice with an SQNR of at least `goal_db` at every float output, or the most accurate where none has that."""
        allowed = 10 ** (-goal_db / 10)
        planned = self._judge.noise_of(self._nodes)
        if planned <= allowed:
            return Mixture({}, frozenset(), decibels_of(planned), 0.0)
        for dynamic in (self._dynamic, set[str]()):  # without dynamic kernels only where they do not reach the goal
            problem = Partition(self._model, self._plan, self._cost, self._roundings, dynamic)
            chosen, noise = self._cheapest(problem, allowed)
            if noise <= allowed or not dynamic:
                break
        return self._mixture(problem, chosen, self._roundings)

    def bargain(self) -> Mixture:
        """With every multiply-accumulate and table in 8 bits: the choice among the other nodes that gains most for its latency.

        It is judged without the rounding of constants: refining makes up for most of that, and it hides what the activations lose.
        """
        if not self._nodes:  # all of them are faster in float
            return Mixture({}, frozenset(), inf, 0.0)
        pinned = (self._nodes - self._dynamic) & {
            node_name(node) for node in self._model.graph if macs_of(node) or holds_much(node)
        }
        total, theirs = (
            self._judge.noise_of(nodes, constants=False, samples=_GLANCE) for nodes in (self._nodes, self._nodes - pinned)
        )
        if theirs < total * (1 - 10 ** (-_LEAST_GAIN_DB / 10)):
            return Mixture({}, frozenset(), decibels_of(total), 0.0)  # with all of them in float as much would be left
        judged: dict[frozenset[str], float] = {}

        def decibels(floats: frozenset[str]) -> float:
            if floats not in judged:
                judged[floats] = self._judge.noise_of(self._nodes - floats, floats & self._dynamic, constants=False)
            return decibels_of(judged[floats])

        chosen = frozenset[str]()
        roundings = measure(self._model, self._plan, self._judge, pinned)
        problem = Partition(self._model, self._plan, self._cost, roundings, self._dynamic, pinned)
        least, best = problem.latency(chosen), decibels(chosen) + _LEAST_GAIN_DB
        for step in range(2 * _PRICES[1] + 1):
            candidate = frozenset(problem.floats(10.0 ** (step / 2)))
            slower = max(problem.latency(candidate) / least - 1, 0.0)
            if slower <= _MOST and (score := decibels(candidate) - 100 * slower * _GAIN_DB) > best:
                best, chosen = score, candidate
        return self._mixture(problem, chosen, roundings)

    @cached_property
    def _roundings(self) -> list[Rounding]:
        return measure(self._model, self._plan, self._judge)

    def _cheapest(self, problem: Partition, allowed: float) -> tuple[set[str], float]:
        """The nodes that leave the integers at the lowest price that holds the goal (at the highest, where none does), and the noise left."""
        low, high = map(float, _PRICES)
        chosen = problem.floats(10.0**high / allowed)
        left = self._judge.noise_of(self._nodes - chosen, chosen & problem.dynamic)
        for _ in range(_STEPS if left <= allowed else 0):
            middle = (low + high) / 2
            candidate = problem.floats(10.0**middle / allowed)
            noise = self._judge.noise_of(self._nodes - candidate, candidate & problem.dynamic)
            if noise <= allowed:
                high, chosen, left = middle, candidate, noise
            else:
                low = middle
        return chosen, left

    def _mixture(self, problem: Partition, floats: Collection[str], roundings: Sequence[Rounding]) -> Mixture:
        chosen = with_idle(self._model, self._plan, floats)
        dynamic = frozenset(chosen & problem.dynamic)
        noise = self._judge.noise_of(self._nodes - chosen, dynamic)
        share = sum(problem.macs[name] for name in chosen - dynamic) / max(sum(problem.macs.values()), 1)
        reasons = {name: _reason(name, roundings) for name in self._judge.board.nodes if name in chosen}
        return Mixture(reasons, dynamic, decibels_of(noise), share)


def _reason(name: str, roundings: Sequence[Rounding]) -> str:
    worst = max((found for found in roundings if name in found.nodes), key=lambda found: found.noise, default=None)
    if worst is not None and decibels_of(worst.noise) < 60:
        return f"in float because 8 bits for {worst.name} alone hold the worst output at {decibels_of(worst.noise):.1f} dB"
    return "in float because its neighbours are: converting to integers and back would cost more than it saves"
