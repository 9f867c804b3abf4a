"""Mixed precision by budget: the cheapest nodes to keep in float so that every output keeps a wanted SQNR.

What hurts is rounding, of a value or of a constant; what can be chosen is the precision of a node. A value is rounded as long as any node that
touches it runs in integers, so sparing it takes all of them. With the noise of each rounding measured alone (they add up, being nearly
independent) and the cost of each node in float, the best choice for a price of noise is a minimum cut; the price is found by bisection on the
accuracy of the whole graph, run with that choice.

Where the runtime has a kernel that multiplies integer weights with float activations, which it quantizes row by row as it runs, a node that
leaves the integers takes that: its multiply-accumulates stay in 8 bits, only its constants stay rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Final

import onnx_ir as ir

from exporter.graph.minimum_cut import SINK, SOURCE, MinimumCut
from exporter.graph.values import activation_nodes, fused_activation, fused_into, name_of, static_shape
from exporter.ops.base import Refused, operator_of
from exporter.quantization.apply import node_name, runs_in_integers
from exporter.quantization.plan import Plan
from exporter.quantization.sensitivity import Judge, Rounding, decibels_of, measure
from exporter.quantization.switches import Sample
from targets.schema import Cost

__all__ = ["Mixer", "Mixture"]

_PRICES: Final = (0.0, 9.0)  # powers of ten, in microseconds for the noise that the goal allows
_STEPS: Final = 12  # of the bisection
# Rates of a device whose profile gives none: only their proportions matter.
_RATES: Final = Cost(gmacs_int8=40.0, gmacs_float=10.0, bandwidth=20.0)


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
        samples: inputs by name, one sample each; the first 16 are read.
        dynamic: names of the nodes that have a kernel for float activations and integer weights.
    """

    def __init__(self, model: ir.Model, plan: Plan, cost: Cost, samples: Iterable[Sample], dynamic: Collection[str] = ()) -> None:
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
            problem = _Problem(self._model, self._plan, self._cost, self._roundings, dynamic)
            chosen, noise = self._cheapest(problem, allowed)
            if noise <= allowed or not dynamic:
                break
        chosen = _with_idle(self._model, self._plan, chosen)
        noise = self._judge.noise_of(self._nodes - chosen, chosen & dynamic)
        share = sum(problem.macs[name] for name in chosen - dynamic) / max(sum(problem.macs.values()), 1)
        reasons = {name: self._reason(name) for name in self._judge.board.nodes if name in chosen}
        return Mixture(reasons, frozenset(chosen & dynamic), decibels_of(noise), share)

    @cached_property
    def _roundings(self) -> list[Rounding]:
        return measure(self._model, self._plan, self._judge)

    def _cheapest(self, problem: _Problem, allowed: float) -> tuple[set[str], float]:
        """The nodes that leave the integers at the lowest price that holds the goal (at the highest, where none does), and the noise left."""
        low, high = _PRICES
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

    def _reason(self, name: str) -> str:
        worst = max((found for found in self._roundings if name in found.nodes), key=lambda found: found.noise, default=None)
        if worst is None or decibels_of(worst.noise) > 60:
            return "in float because its neighbours are: converting to integers and back would cost more than it saves"
        return f"in float because 8 bits for {worst.name} alone hold the worst output at {decibels_of(worst.noise):.1f} dB"


# --- choosing ---------------------------------------------------------------------------------------------------------


class _Problem:
    """The choice of nodes as a minimum cut: source side in integers, sink side in float. Costs are microseconds."""

    def __init__(self, model: ir.Model, plan: Plan, cost: Cost, damage: Sequence[Rounding], dynamic: Collection[str]) -> None:
        self.macs: dict[str, int] = {}
        self.dynamic = frozenset(dynamic)
        self._damage = [rounding for rounding in damage if not (rounding.constants and rounding.nodes <= self.dynamic)]
        self._nodes: dict[str, float] = {}
        self._borders: list[tuple[str, str, tuple[str, ...], float]] = []
        integer = cost.gmacs_int8 or _RATES.gmacs_int8 or 1.0
        real = cost.gmacs_float or _RATES.gmacs_float or 1.0
        bandwidth = cost.bandwidth or _RATES.bandwidth or 1.0
        for node, written in activation_nodes(model.graph):
            name = node_name(node)
            if runs_in_integers(node, plan):
                self.macs[name] = _macs(node)
                slower = 0.0 if name in self.dynamic else max(self.macs[name] * (1 / real - 1 / integer), 0.0)
                self._nodes[name] = (slower + 3 * prod(static_shape(written)) / bandwidth) / 1e3 + 0.1
            readers = [node_name(user) for user, _ in written.uses() if fused_into(user) is None]
            if written.name in plan.encodings:
                self._borders.append((name_of(written), name, tuple(readers), 5 * prod(static_shape(written)) / bandwidth / 1e3))

    def floats(self, price: float) -> set[str]:
        """Names of the nodes that go to float where one unit of noise is worth `price` microseconds."""
        cut = MinimumCut()
        for name, cost in self._nodes.items():
            cut.edge(SOURCE, name, cost)
        for rounding in self._damage:
            cut.edge(rounding.name, SINK, rounding.noise * price)
            for name in rounding.nodes:
                cut.edge(name, rounding.name)
        for value, producer, readers, cost in self._borders:
            ends = [end if end in self._nodes else SINK for end in (producer, *readers)]
            for end in ends:
                cut.edge(end, f"{value} integer")  # the value is at hand in integers where any end is an integer node
                cut.edge(f"{value} float", end)
            cut.edge(f"{value} integer", f"{value} float", cost)
        return set(cut.sink_side()) & set(self._nodes)


def _macs(node: ir.Node) -> int:
    try:
        return operator_of(node).cost(node).macs
    except Refused:
        return 0


def _with_idle(model: ir.Model, plan: Plan, floats: set[str]) -> set[str]:
    """`floats` and every run of integer nodes without a multiply-accumulate: converting to and fro costs more than it saves."""
    integer = {node_name(node): node for node in model.graph if runs_in_integers(node, plan) and node_name(node) not in floats}
    left, found = dict(integer), set(floats)
    while left:
        run, todo = {}, [next(iter(left))]
        while todo:
            name = todo.pop()
            if name in left:
                run[name] = node = left.pop(name)
                written = (fused_activation(node) or node).outputs
                todo += [node_name(user) for value in written for user, _ in value.uses()]
                sources = [value.producer() for value in node.inputs if value is not None]
                todo += [node_name(fused_into(source) or source) for source in sources if source is not None]
        if not any(_macs(node) for node in run.values()):
            found |= set(run)
    return found
