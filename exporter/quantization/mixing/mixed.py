"""Mixed precision by budget: the cheapest nodes to take out of the 8 bits so that every output keeps a wanted SQNR.

What hurts is rounding, of a value or of a constant; what can be chosen is the precision of a node. A value is rounded as long as a node that
writes it runs in 8 bits, and for each reader that does. With the noise of each rounding measured alone (they add up, being nearly
independent) and the cost of each node in its other form, the best choice for a price of noise is a minimum cut; the price is found by
bisection on the accuracy of the whole graph, run with that choice.

What a node is where it leaves the 8 bits is what costs least of what the target has: float; float activations that a kernel quantizes row by
row as it runs; or int16 activations, the only other form on a device without float. The last two keep their multiply-accumulates in integers,
and their constants as they were rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import onnx_ir as ir

from exporter.quantization.apply import node_name
from exporter.quantization.costs import macs_of
from exporter.quantization.mixing.partition import Partition, with_idle
from exporter.quantization.mixing.sensitivity import Judge, Rounding, decibels_of, measure
from exporter.quantization.mixing.switches import Sample
from exporter.quantization.plan import Plan
from exporter.quantization.weights import holds_much
from targets.cost import CostModel
from targets.schema import Form

__all__ = ["Mixer", "Mixture", "Others"]

_PRICES: Final = (0, 9)  # powers of ten, in microseconds for the noise that the goal allows
_STEPS: Final = 12  # of the bisection
_GLANCE: Final = 4  # samples that say whether a bargain is worth looking for
_LEAST: Final = 0.005  # of the noise that counts: what makes less is not looked into
# Of a bargain: the decibels that one per cent of latency has to gain, the least gain worth another precision, and the greatest share of
# the latency that may be spent.
_GAIN_DB: Final = 0.5
_LEAST_GAIN_DB: Final = 0.5
_MOST: Final = 0.15

_IN_WORDS: Final[Mapping[Form, str]] = {
    "float32": "in float",
    "dynamic_int8": "with float activations that its kernel quantizes as it runs",
    "int16x8": "with int16 activations",
}


@dataclass(frozen=True)
class Others:
    """What nodes may be that leave the 8 bits.

    Attributes:
        forms: of each node that has a better form than float, by name.
        has_float: whether the others may go to float; without it they stay.
        wide: the plan with all nodes of `forms` that are int16x8 in that form; None: there are none.
    """

    forms: Mapping[str, Form]
    has_float: bool = True
    wide: Plan | None = None


@dataclass(frozen=True)
class Mixture:
    """What was decided.

    Attributes:
        forms: of each node that leaves the 8 bits, by name; empty where none has to.
        reasons: why it does, by name.
        sqnr_db: of the worst output on the samples, in decibels.
        macs: share of the 8-bit nodes' multiply-accumulates that have more than 8 bits on either side now.
    """

    forms: Mapping[str, Form]
    reasons: Mapping[str, str]
    sqnr_db: float
    macs: float


class Mixer:
    """Chooses the nodes of one 8-bit plan that shall leave the 8 bits. What has been measured is not measured again.

    Args:
        model: the graph that the plan was made for. Weights should be rounded to nearest: those that were fitted to make up for the
            roundings in front of them are wrong where those are gone.
        samples: inputs by name, one sample each, all of which are looked at, see `sensitivity.judges_of`.
        handicaps: the outputs that count, see `sensitivity.Judge`.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        cost: CostModel,
        samples: Iterable[Sample],
        others: Others = Others({}),
        handicaps: Mapping[str, float] | None = None,
    ) -> None:
        self._model, self._plan, self._cost = model, plan, cost
        dynamic = [name for name, form in others.forms.items() if form == "dynamic_int8"]
        self._judge = Judge(model, plan, samples, dynamic, others.wide, handicaps)
        self._nodes = self._judge.board.nodes
        self._forms = {name: form for name, form in others.forms.items() if name in set(self._nodes)}
        self._has_float = others.has_float
        self._staying = frozenset() if others.has_float else frozenset(self._nodes) - set(self._forms)

    def mixture(self, goal_db: float) -> Mixture:
        """The cheapest choice with an SQNR of at least `goal_db` at every output that counts, or the most accurate where none has that."""
        allowed = 10 ** (-goal_db / 10)
        planned = self._judge.noise_of(self._left({}))
        if planned <= allowed:
            return Mixture({}, {}, decibels_of(planned), 0.0)
        roundings = measure(self._model, self._plan, self._judge, _LEAST * allowed)
        best: tuple[float, Partition, set[str]] | None = None
        # All in float only where the constants of the other forms, which stay rounded, do not reach the goal.
        for forms in [self._forms, {}] if self._forms and self._has_float else [self._forms]:
            problem = Partition(self._model, self._plan, self._cost, roundings, forms, self._staying)
            chosen, noise = self._cheapest(problem, allowed)
            if best is None or noise < best[0]:
                best = noise, problem, chosen
            if noise <= allowed:
                break
        assert best is not None
        return self._mixture(best[1], best[2], roundings)

    def bargain(self) -> Mixture:
        """With every multiply-accumulate and table in 8 bits: the choice among the other nodes that gains most for its latency.

        It is judged without the rounding of constants: refining makes up for most of that, and it hides what the activations lose.
        """
        if not self._nodes:  # all of them are faster in float
            return Mixture({}, {}, inf, 0.0)
        dynamic = {name for name, form in self._forms.items() if form == "dynamic_int8"}
        pinned = (
            self._staying
            | ({node_name(node) for node in self._model.graph if macs_of(node) or holds_much(node)} & set(self._nodes)) - dynamic
        )
        total, theirs = (
            self._judge.noise_of(dict.fromkeys(nodes, "int8"), constants=False, samples=_GLANCE)
            for nodes in (self._nodes, set(self._nodes) - pinned)
        )
        if theirs < total * (1 - 10 ** (-_LEAST_GAIN_DB / 10)):
            return Mixture({}, {}, decibels_of(total), 0.0)  # with all of them in float as much would be left

        def decibels(left: set[str]) -> float:
            forms = self._left({name: problem.form(name) for name in left})
            return decibels_of(self._judge.noise_of(forms, constants=False))

        roundings = measure(self._model, self._plan, self._judge, _LEAST * total, pinned)
        problem = Partition(self._model, self._plan, self._cost, roundings, self._forms, pinned)
        chosen = set[str]()
        least, best = problem.latency(chosen), decibels(chosen) + _LEAST_GAIN_DB
        for step in range(2 * _PRICES[1] + 1):
            candidate = problem.leaving(10.0 ** (step / 2))
            slower = max(problem.latency(candidate) / least - 1, 0.0)
            if slower <= _MOST and (score := decibels(candidate) - 100 * slower * _GAIN_DB) > best:
                best, chosen = score, candidate
        return self._mixture(problem, chosen, roundings)

    def _left(self, forms: Mapping[str, Form]) -> dict[str, Form]:
        """The form of every node where those of `forms` have left the 8 bits."""
        return {name: forms.get(name, "int8") for name in self._nodes}

    def _cheapest(self, problem: Partition, allowed: float) -> tuple[set[str], float]:
        """The nodes that leave the 8 bits at the lowest price that holds the goal (at the highest, where none does), and the noise left."""

        def noise_at(power: float) -> tuple[set[str], float]:
            left = problem.leaving(10.0**power / allowed)
            return left, self._judge.noise_of(self._left({name: problem.form(name) for name in left}))

        low, high = map(float, _PRICES)
        chosen, noise = noise_at(high)
        for _ in range(_STEPS if noise <= allowed else 0):
            middle = (low + high) / 2
            candidate, found = noise_at(middle)
            if found <= allowed:
                high, chosen, noise = middle, candidate, found
            else:
                low = middle
        return chosen, noise

    def _mixture(self, problem: Partition, left: set[str], roundings: Sequence[Rounding]) -> Mixture:
        chosen = with_idle(self._model, self._plan, left, self._staying)
        forms = {name: problem.form(name) for name in self._nodes if name in chosen}
        noise = self._judge.noise_of(self._left(forms))
        above = sum(problem.macs[name] for name, form in forms.items() if form != "dynamic_int8")
        reasons = {name: _reason(name, form, roundings) for name, form in forms.items()}
        return Mixture(forms, reasons, decibels_of(noise), above / max(sum(problem.macs.values()), 1))


def _reason(name: str, form: Form, roundings: Sequence[Rounding]) -> str:
    worst = max((found for found in roundings if name in found.nodes), key=lambda found: found.noise, default=None)
    if worst is not None and decibels_of(worst.noise) < 60:
        return (
            f"{_IN_WORDS[form]} because 8 bits for {worst.name} alone hold the worst output at {decibels_of(worst.noise):.1f} dB"
        )
    return f"{_IN_WORDS[form]} because its neighbours are: converting to and fro would cost more than it saves"
