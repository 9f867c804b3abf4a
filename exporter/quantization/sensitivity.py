"""How much each rounding of a plan disturbs the outputs: measured one by one, with all others switched off."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, log10
from typing import Any, Final, Literal

import numpy as np
import onnx_ir as ir

from calibration.reservoir import spread
from exporter.graph.columns import by_columns, column_groups
from exporter.graph.values import activation_nodes, is_constant, name_of
from exporter.ops.base import operator_of
from exporter.quantization.apply import runs_in_integers
from exporter.quantization.costs import macs_of
from exporter.quantization.plan import Plan
from exporter.quantization.switches import Sample, Switch, Switchboard

__all__ = ["Judge", "Rounding", "decibels_of", "measure", "planned_db"]

_PROBES: Final = 2  # samples on which each rounding is measured alone, at least
_PROBED_MACS: Final = 2**35  # as many more as this many multiply-accumulates allow
_SAMPLES: Final = 16  # samples on which a choice of nodes is judged
_RUIN: Final = 1e2  # a ratio beyond which nothing is left to tell apart (a logarithm of what was rounded to 0 is infinite)


@dataclass(frozen=True)
class Rounding:
    """What is rounded together.

    Attributes:
        name: what a user is told: "value NAME" or "constants of NODE".
        nodes: names of the nodes any of which, in integers, puts it in force.
        noise: noise-to-signal ratio of the worst output when it alone is rounded.
        kind: "value": all of a group with one encoding, by those that write one of it; "read": of such a group what one node reads, where
            nothing has rounded it before; "constants": those of one node.
        group: of what is read, the name of the rounding that would have rounded it before; "" where there is none.
    """

    name: str
    nodes: frozenset[str]
    noise: float
    kind: Literal["value", "read", "constants"] = "value"
    group: str = ""


class Judge:
    """Measures the noise of the worst float output, as a ratio of powers to its signal, for any of a plan's roundings in force.

    Of an output that joins several things, boxes and scores, each counts by itself (`graph.columns`).
    """

    def __init__(self, model: ir.Model, plan: Plan, samples: Iterable[Sample], dynamic: Collection[str] = ()) -> None:
        self.board = Switchboard(model, plan, dynamic)
        self._samples = [dict(sample) for sample in spread(samples, _SAMPLES)]
        self._columns = column_groups(model)
        self._wanted: dict[int, dict[str, np.ndarray[Any, Any]]] = {}

    def noise_of(
        self, nodes: Collection[str], dynamic: Collection[str] = (), *, constants: bool = True, samples: int = _SAMPLES
    ) -> float:
        """With `nodes` in integers, and `dynamic` quantizing their input as they run; without the rounding of `constants` if told so."""

        def on(switch: Switch) -> bool:
            if switch.kind == "constant" and not constants:
                return False
            if switch.node in dynamic:
                return switch.kind != "activation"
            return switch.kind != "rows" and switch.node in nodes

        return self.noise(on, samples)

    def noise(self, on: Callable[[Switch], bool], samples: int = _SAMPLES) -> float:
        """With the switches for which `on` holds, on so many of the samples."""
        signal: dict[str, float] = {}
        noise: dict[str, float] = {}
        for index in spread(range(len(self._samples)), samples):
            wanted = self._reference(index)
            for name, array in by_columns(self.board(self._samples[index], on), self._columns).items():
                if array.dtype.kind == "f":
                    difference = np.subtract(array, wanted[name], dtype=np.float64)
                    noise[name] = noise.get(name, 0.0) + float(np.square(difference).sum())
                    signal[name] = signal.get(name, 0.0) + float(np.square(wanted[name], dtype=np.float64).sum())
        ratios = [noise[name] / max(signal[name], 1e-30) if isfinite(noise[name]) else _RUIN for name in noise]
        return min(max(ratios, default=0.0), _RUIN)

    def _reference(self, index: int) -> Mapping[str, np.ndarray[Any, Any]]:
        if index not in self._wanted:
            self._wanted[index] = by_columns(self.board(self._samples[index], lambda switch: False), self._columns)
        return self._wanted[index]


def decibels_of(noise: float) -> float:
    """The SQNR that a noise-to-signal ratio means; 300 dB for none at all."""
    return -10 * log10(max(noise, 1e-30))


def planned_db(model: ir.Model, plan: Plan, samples: Iterable[Sample]) -> float:
    """SQNR of the worst output on 16 of the samples, in decibels, with all of a plan's roundings in force."""
    dynamic = {name for name, precision in plan.precision.items() if precision == "dynamic_int8"}
    return decibels_of(Judge(model, plan, samples, dynamic).noise(lambda switch: True))


def measure(model: ir.Model, plan: Plan, judge: Judge, pinned: Collection[str] = ()) -> list[Rounding]:
    """Every rounding of the plan, with its noise: values, then what single nodes read, then constants, each sorted by name.

    Args:
        pinned: nodes that stay in integers whatever is found: what they write and their constants are not measured.
    """
    macs = sum(macs_of(node) for node in model.graph)
    probes = min(max(_PROBED_MACS // max(macs * len(judge.board.switches), 1), _PROBES), _SAMPLES)
    groups = _groups(model, plan)
    members: dict[str, set[str]] = {}
    writers: dict[str, set[str]] = {}
    readers: dict[str, set[str]] = {}
    owners: set[str] = set()
    for switch in judge.board.switches:
        if switch.kind == "constant":
            owners.add(switch.node)
        elif switch.kind == "activation":
            root = groups.get(switch.value, switch.value)
            members.setdefault(root, set()).add(switch.value)
            (writers if switch.writes else readers).setdefault(root, set()).add(switch.node)
    values, reads, constants = [], [], []
    for root in sorted(members):
        writing = writers.get(root, set())
        if writing & set(pinned):
            continue
        name = f"value {root}"
        if writing:
            noise = judge.noise(_rounds(members[root]), probes)
            values.append(Rounding(name, frozenset(writing), noise))
        reading = sorted(readers.get(root, set()) - writing)
        for reader in reading:
            if not (writing and len(reading) == len(members[root]) == 1):  # else it is the same rounding
                noise = judge.noise(_rounds(members[root], reader), probes)
            reads.append(Rounding(name, frozenset((reader,)), noise, "read", name if writing else ""))
    for owner in sorted(owners - set(pinned)):
        noise = judge.noise(lambda s, owner=owner: s.kind == "constant" and s.node == owner, probes)  # type: ignore[misc]
        constants.append(Rounding(f"constants of {owner}", frozenset((owner,)), noise, "constants"))
    return [*values, *reads, *constants]


def _rounds(values: Collection[str], node: str = "") -> Callable[[Switch], bool]:
    """Whether a switch rounds one of the activations `values`, at the one `node` where that is given."""
    return lambda switch: switch.kind == "activation" and switch.value in values and node in ("", switch.node)


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
