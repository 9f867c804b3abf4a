"""Mixed precision by budget: the cheapest nodes to keep in float so that every output keeps a wanted SQNR.

What hurts is rounding, of a value or of a constant; what can be chosen is the precision of a node. A value is rounded as long as any node that
touches it runs in integers, so sparing it takes all of them. With the damage of each rounding measured alone (they add up, being nearly
independent noise) and the cost of each node in float, the best choice for a price of damage is a minimum cut; the price is found by bisection
on the accuracy of the whole graph, run with that choice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log10, prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.minimum_cut import SINK, SOURCE, MinimumCut
from exporter.graph.values import activation_nodes, fused_activation, fused_into, is_constant, name_of, static_shape
from exporter.ops.base import Refused, operator_of
from exporter.quantization.apply import node_name, runs_in_integers
from exporter.quantization.plan import Plan
from exporter.quantization.switches import Sample, Switchboard
from targets.schema import Cost, Target

__all__ = ["Mixture", "mix"]

_PROBES: Final = 2  # samples on which each rounding is measured alone
_SAMPLES: Final = 16  # samples on which a choice of nodes is judged
_MARGIN_DB: Final = 1.0  # above the goal on these samples: others come out a little lower
_STEPS: Final = 12  # of the bisection, over a price range of 10^9
# Rates of a device whose profile gives none: only their proportions matter.
_RATES: Final = Cost(gmacs_int8=40.0, gmacs_float=10.0, bandwidth=20.0)


@dataclass(frozen=True)
class Mixture:
    """What was decided.

    Attributes:
        floats: why each node that stays in float does, by node name; empty where none has to.
        planned_db, mixed_db: SQNR of the worst output on the samples, in decibels, with all nodes in integers and with the choice.
        macs: share of the integer nodes' multiply-accumulates that went to float.
    """

    floats: Mapping[str, str]
    planned_db: float
    mixed_db: float
    macs: float


def mix(model: ir.Model, plan: Plan, target: Target, samples: Iterable[Sample], goal_db: float) -> Mixture:
    """Choose the nodes to keep in float so that the SQNR of every float output is at least `goal_db` on `samples`, and a little more.

    Args:
        model: the graph that the integer plan was made for.
        samples: inputs by name, one sample each; the first 16 are read.
    """
    judge = _Judge(model, plan, [dict(sample) for sample in islice(samples, _SAMPLES)], goal_db + _MARGIN_DB)
    everything = set(judge.board.nodes)
    planned = judge.strain_of(everything)
    if planned <= 1.0 or not everything:
        return Mixture({}, judge.decibels(planned), judge.decibels(planned), 0.0)
    damage = _measure(model, plan, judge)
    problem = _Problem(model, plan, target.cost, damage)
    low, high = 0.0, 9.0
    chosen = problem.floats(10.0**high)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        candidate = problem.floats(10.0**middle)
        if judge.strain_of(everything - candidate) <= 1.0:
            high, chosen = middle, candidate
        else:
            low = middle
    chosen = _with_idle(model, plan, chosen)
    found = judge.strain_of(everything - chosen)
    work = {name: problem.macs[name] for name in everything}
    share = sum(work[name] for name in chosen) / max(sum(work.values()), 1)
    reasons = {name: _reason(name, damage, judge) for name in judge.board.nodes if name in chosen}
    return Mixture(reasons, judge.decibels(planned), judge.decibels(found), share)


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rounding:
    """A group of values with one encoding, or the constants of one node; which nodes touch it, and its strain when it alone is rounded."""

    name: str
    nodes: frozenset[str]
    strain: float


class _Judge:
    """Measures strain: the noise of the worst output, as a multiple of what the goal allows it."""

    def __init__(self, model: ir.Model, plan: Plan, samples: Sequence[Sample], goal_db: float) -> None:
        self.board, self._samples, self._goal_db = Switchboard(model, plan), samples, goal_db
        self._wanted = [self.board.with_nodes(sample, ()) for sample in samples]

    def strain_of(self, nodes: Collection[str]) -> float:
        """With `nodes` in integers."""
        return self._strain(len(self._samples), lambda sample: self.board.with_nodes(sample, nodes))

    def strain_alone(self, values: Collection[str], node: str = "") -> float:
        """With only these activations rounded, or only the constants of `node`."""
        if node:
            return self._strain(
                _PROBES, lambda sample: self.board(sample, lambda switch: switch.constant and switch.node == node)
            )
        return self._strain(
            _PROBES, lambda sample: self.board(sample, lambda switch: not switch.constant and switch.value in values)
        )

    def decibels(self, strain: float) -> float:
        """The SQNR that a strain means."""
        return self._goal_db - 10 * log10(max(strain, 1e-30))

    def _strain(self, count: int, run: Any) -> float:
        signal: dict[str, float] = {}
        noise: dict[str, float] = {}
        for sample, wanted in zip(self._samples[:count], self._wanted, strict=False):
            for name, array in run(sample).items():
                if array.dtype.kind == "f":
                    difference = np.subtract(array, wanted[name], dtype=np.float64)
                    noise[name] = noise.get(name, 0.0) + float(np.square(difference).sum())
                    signal[name] = signal.get(name, 0.0) + float(np.square(wanted[name], dtype=np.float64).sum())
        ratios = [noise[name] / max(signal[name], 1e-30) for name in noise]
        return max(ratios, default=0.0) * 10 ** (self._goal_db / 10)


def _measure(model: ir.Model, plan: Plan, judge: _Judge) -> list[_Rounding]:
    groups = _groups(model, plan)
    touching: dict[str, set[str]] = {}
    for switch in judge.board.switches:
        if not switch.constant:
            touching.setdefault(groups.get(switch.value, switch.value), set()).add(switch.node)
    members: dict[str, set[str]] = {}
    for value in {switch.value for switch in judge.board.switches if not switch.constant}:
        members.setdefault(groups.get(value, value), set()).add(value)
    found = [_Rounding(f"value {root}", frozenset(touching[root]), judge.strain_alone(members[root])) for root in sorted(members)]
    owners = sorted({switch.node for switch in judge.board.switches if switch.constant})
    return found + [_Rounding(f"constants of {name}", frozenset((name,)), judge.strain_alone((), name)) for name in owners]


def _groups(model: ir.Model, plan: Plan) -> dict[str, str]:
    """The representative of every value whose encoding a node shares between its input and output."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for node, written in activation_nodes(model.graph):
        if runs_in_integers(node, plan) and operator_of(node).quantize(node).shared:
            for value in node.inputs:
                if value is not None and not is_constant(value) and name_of(value) in plan.encodings:
                    parent[root(name_of(value))] = root(name_of(written))
    return {name: root(name) for name in parent}


# --- choosing ---------------------------------------------------------------------------------------------------------


class _Problem:
    """The choice of nodes as a minimum cut: source side in integers, sink side in float. Costs are microseconds."""

    def __init__(self, model: ir.Model, plan: Plan, cost: Cost, damage: Sequence[_Rounding]) -> None:
        self.macs: dict[str, int] = {}
        self._damage = damage
        self._nodes: dict[str, float] = {}
        self._borders: list[tuple[str, str, tuple[str, ...], float]] = []
        integer = cost.gmacs_int8 or _RATES.gmacs_int8 or 1.0
        real = cost.gmacs_float or _RATES.gmacs_float or 1.0
        bandwidth = cost.bandwidth or _RATES.bandwidth or 1.0
        for node, written in activation_nodes(model.graph):
            name = node_name(node)
            if runs_in_integers(node, plan):
                self.macs[name] = _macs(node)
                slower = max(self.macs[name] * (1 / real - 1 / integer), 0.0)
                self._nodes[name] = (slower + 3 * prod(static_shape(written)) / bandwidth) / 1e3 + 0.1
            readers = [node_name(user) for user, _ in written.uses() if fused_into(user) is None]
            if written.name in plan.encodings:
                self._borders.append((name_of(written), name, tuple(readers), 5 * prod(static_shape(written)) / bandwidth / 1e3))

    def floats(self, price: float) -> set[str]:
        """Names of the nodes that go to float where one unit of strain is worth `price` microseconds."""
        cut = MinimumCut()
        for name, cost in self._nodes.items():
            cut.edge(SOURCE, name, cost)
        for rounding in self._damage:
            cut.edge(rounding.name, SINK, rounding.strain * price)
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


def _reason(name: str, damage: Sequence[_Rounding], judge: _Judge) -> str:
    worst = max((rounding for rounding in damage if name in rounding.nodes), key=lambda rounding: rounding.strain, default=None)
    if worst is None or worst.strain < 1e-3:
        return "in float because its neighbours are: converting to integers and back would cost more than it saves"
    return f"in float because 8 bits for {worst.name} alone hold the worst output at {judge.decibels(worst.strain):.1f} dB"
