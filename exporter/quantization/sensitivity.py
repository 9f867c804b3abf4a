"""How much each rounding of a plan disturbs the outputs: measured one by one, with all others switched off."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from math import isfinite, log10
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.columns import by_columns, column_groups
from exporter.graph.values import activation_nodes, is_constant, name_of
from exporter.ops.base import operator_of
from exporter.quantization.apply import runs_in_integers
from exporter.quantization.plan import Plan
from exporter.quantization.switches import Sample, Switch, Switchboard

__all__ = ["Judge", "Rounding", "decibels_of", "measure", "planned_db"]

_PROBES: Final = 2  # samples on which each rounding is measured alone
_SAMPLES: Final = 16  # samples on which a choice of nodes is judged
_RUIN: Final = 1e6  # a ratio beyond which nothing is left to tell apart (a logarithm of what was rounded to 0 is infinite)


@dataclass(frozen=True)
class Rounding:
    """What is rounded together: the values of a group with one encoding, or the constants of one node.

    Attributes:
        name: what a user is told: "value NAME" or "constants of NODE".
        nodes: names of the nodes that touch it.
        noise: noise-to-signal ratio of the worst output when it alone is rounded.
        constants: whether it is constants.
    """

    name: str
    nodes: frozenset[str]
    noise: float
    constants: bool = False


class Judge:
    """Measures the noise of the worst float output, as a ratio of powers to its signal, for any of a plan's roundings in force.

    Of an output that joins several things, boxes and scores, each counts by itself (`graph.columns`).
    """

    def __init__(self, model: ir.Model, plan: Plan, samples: Iterable[Sample], dynamic: Collection[str] = ()) -> None:
        self.board = Switchboard(model, plan, dynamic)
        self._samples = [dict(sample) for sample in islice(samples, _SAMPLES)]
        self._columns = column_groups(model)
        self._wanted = [by_columns(self.board(sample, lambda switch: False), self._columns) for sample in self._samples]

    def noise_of(self, nodes: Collection[str], dynamic: Collection[str] = ()) -> float:
        """With `nodes` in integers, and `dynamic` quantizing their input as they run."""

        def on(switch: Switch) -> bool:
            if switch.node in dynamic:
                return switch.kind != "activation"
            return switch.kind != "rows" and switch.node in nodes

        return self.noise(on)

    def noise(self, on: Callable[[Switch], bool], samples: int = _SAMPLES) -> float:
        """With the switches for which `on` holds."""
        signal: dict[str, float] = {}
        noise: dict[str, float] = {}
        for sample, wanted in zip(self._samples[:samples], self._wanted, strict=False):
            for name, array in by_columns(self.board(sample, on), self._columns).items():
                if array.dtype.kind == "f":
                    difference = np.subtract(array, wanted[name], dtype=np.float64)
                    noise[name] = noise.get(name, 0.0) + float(np.square(difference).sum())
                    signal[name] = signal.get(name, 0.0) + float(np.square(wanted[name], dtype=np.float64).sum())
        ratios = [noise[name] / max(signal[name], 1e-30) if isfinite(noise[name]) else _RUIN for name in noise]
        return min(max(ratios, default=0.0), _RUIN)


def decibels_of(noise: float) -> float:
    """The SQNR that a noise-to-signal ratio means; 300 dB for none at all."""
    return -10 * log10(max(noise, 1e-30))


def planned_db(model: ir.Model, plan: Plan, samples: Iterable[Sample]) -> float:
    """SQNR of the worst output on the first 16 samples, in decibels, with all of a plan's roundings in force."""
    dynamic = {name for name, precision in plan.precision.items() if precision == "dynamic_int8"}
    return decibels_of(Judge(model, plan, samples, dynamic).noise(lambda switch: True))


def measure(model: ir.Model, plan: Plan, judge: Judge) -> list[Rounding]:
    """Every rounding of the plan, with its noise: values first, then constants, each sorted by name."""
    groups = _groups(model, plan)
    members: dict[str, set[str]] = {}
    touching: dict[str, set[str]] = {}
    owners: set[str] = set()
    for switch in judge.board.switches:
        if switch.kind == "constant":
            owners.add(switch.node)
        elif switch.kind == "activation":
            root = groups.get(switch.value, switch.value)
            members.setdefault(root, set()).add(switch.value)
            touching.setdefault(root, set()).add(switch.node)
    found = []
    for root in sorted(members):
        noise = judge.noise(lambda switch, root=root: switch.kind == "activation" and switch.value in members[root], _PROBES)  # type: ignore[misc]
        found.append(Rounding(f"value {root}", frozenset(touching[root]), noise))
    for name in sorted(owners):
        noise = judge.noise(lambda switch, name=name: switch.kind == "constant" and switch.node == name, _PROBES)  # type: ignore[misc]
        found.append(Rounding(f"constants of {name}", frozenset((name,)), noise, constants=True))
    return found


def _groups(model: ir.Model, plan: Plan) -> Mapping[str, str]:
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
