"""How much each rounding of a plan disturbs the outputs, measured with all others switched off.

Most roundings of a large graph do next to nothing. Neighbours are measured together, and one by one only where together they do something:
noises of roundings that are nearly independent add up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log10
from typing import Any, Final, Literal

import numpy as np
import onnx_ir as ir

from calibration.reservoir import spread
from exporter.graph.columns import by_columns, column_groups
from exporter.graph.run import FloatRunner
from exporter.graph.values import activation_nodes, is_constant, name_of
from exporter.ops.base import operator_of
from exporter.quantization.apply import runs_in_integers
from exporter.quantization.costs import affordable
from exporter.quantization.mixing.switches import IN_FORCE, Sample, Switch, Switchboard
from exporter.quantization.plan import Plan
from targets.schema import Form

__all__ = ["Judge", "Rounding", "decibels_of", "dynamic_nodes", "judges_of", "measure", "planned_db", "planned_error_db"]

_PROBES: Final = 2  # samples on which each rounding is measured alone, at least
_SAMPLES: Final = 16  # samples on which a choice of nodes is judged, at least
_CHOICES: Final = 32  # that a search judges: a bisection, or a row of prices
_BLOCK: Final = 16  # roundings measured together at first
_PARTS: Final = 4  # of a block that does something, measured next
_RUIN: Final = 1e2  # a ratio beyond which nothing is left to tell apart (a logarithm of what was rounded to 0 is infinite)


_Run = Callable[[Sample], Mapping[str, np.ndarray[Any, Any]]]


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

    Args:
        samples: all of them are looked at, see `judges_of`.
        handicaps: the only outputs, or parts of them, that count, and by how many decibels more than they have; None: all as they are.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        samples: Iterable[Sample],
        dynamic: Collection[str] = (),
        wide: Plan | None = None,
        handicaps: Mapping[str, float] | None = None,
    ) -> None:
        self.board = Switchboard(model, plan, dynamic, wide)
        self._reference = _Reference(model, samples, handicaps)
        self._known: dict[tuple[frozenset[int], int], float] = {}

    def noise_of(self, forms: Mapping[str, Form], *, constants: bool = True, samples: int | None = None) -> float:
        """With the nodes in these forms, and in float32 where none is given; without the rounding of `constants` if told so."""

        def on(switch: Switch) -> bool:
            if switch.kind == "constant" and not constants:
                return False
            return switch.kind in IN_FORCE[forms.get(switch.node, "float32")]

        return self.noise(on, samples)

    def noise(self, on: Callable[[Switch], bool], samples: int | None = None) -> float:
        """With the switches for which `on` holds, on so many of the samples; None: on all."""
        closed = frozenset(place for place, switch in enumerate(self.board.switches) if on(switch))
        count = self._reference.count if samples is None else min(samples, self._reference.count)
        if (closed, count) not in self._known:
            self._known[closed, count] = self._reference.noise(lambda sample: self.board(sample, on), count)
        return self._known[closed, count]

    def error_db(self) -> float:
        """Standard error in decibels of the noise with all switches on, see `planned_error_db`."""
        count = self._reference.count
        if count < 2:
            return 0.0
        ratios = self._reference.noises_but_one(lambda sample: self.board(sample, lambda switch: True))
        return float(np.std([decibels_of(ratio) for ratio in ratios]) * (count - 1) ** 0.5)


class _Reference:
    """The outputs of a graph in float, with which those of other forms of it are compared."""

    def __init__(self, model: ir.Model, samples: Iterable[Sample], handicaps: Mapping[str, float] | None) -> None:
        self._samples = [dict(sample) for sample in samples]
        self.count = len(self._samples)
        self._columns = column_groups(model)
        self._handicaps = handicaps
        self._run = FloatRunner(model)
        self._wanted: dict[int, dict[str, np.ndarray[Any, Any]]] = {}

    def noise(self, run: _Run, samples: int) -> float:
        """Noise-to-signal ratio of the worst float output of `run` on so many of the samples."""
        return float(self._worst(self._powers(run, samples).sum(0)))

    def noises_but_one(self, run: _Run) -> np.ndarray[Any, Any]:
        """What `noise` is without the first of the samples, without the second, and so on."""
        powers = self._powers(run, self.count)
        with np.errstate(invalid="ignore"):  # where a noise is infinite, the rest is not a number, and as bad
            return self._worst(powers.sum(0) - powers)

    def _powers(self, run: _Run, samples: int) -> np.ndarray[Any, Any]:
        """Powers of noise, weighed by the handicaps, and of signal: (samples, float outputs, 2)."""
        factors = {name: 10 ** (-decibels / 10) for name, decibels in (self._handicaps or {}).items()}
        found = []
        for index in spread(range(len(self._samples)), samples):
            if index not in self._wanted:
                self._wanted[index] = self._judged(self._run(self._samples[index]))
            wanted, powers = self._wanted[index], []
            for name, array in self._judged(run(self._samples[index])).items():
                if array.dtype.kind == "f":
                    difference = np.subtract(array, wanted[name], dtype=np.float64)
                    noise = factors.get(name, 1.0) * float(np.square(difference).sum())
                    powers.append((noise, float(np.square(wanted[name], dtype=np.float64).sum())))
            found.append(powers)
        return np.array(found, np.float64).reshape(len(found), len(found[0]) if found else 0, 2)

    @staticmethod
    def _worst(powers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Of powers (..., float outputs, 2) the ratio of the worst output."""
        noise, signal = powers[..., 0], np.maximum(powers[..., 1], 1e-30)
        ratios: np.ndarray[Any, Any] = np.where(np.isfinite(noise), noise / signal, _RUIN)
        return np.asarray(np.minimum(ratios.max(axis=-1, initial=0.0), _RUIN))

    def _judged(self, outputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        parts = by_columns(outputs, self._columns)
        if self._handicaps is None:
            return parts
        return {name: array for name, array in {**outputs, **parts}.items() if name in self._handicaps}


def decibels_of(noise: float) -> float:
    """The SQNR that a noise-to-signal ratio means; 300 dB for none at all."""
    return -10 * log10(max(noise, 1e-30))


def judges_of(model: ir.Model, samples: Iterable[Sample]) -> list[Sample]:
    """The samples on which choices of nodes are judged: at least 16, of small models all that calibration kept."""
    return spread(samples, max(_SAMPLES, affordable(model, _CHOICES)))


def planned_db(model: ir.Model, plan: Plan, samples: Iterable[Sample], handicaps: Mapping[str, float] | None = None) -> float:
    """SQNR of the worst output on the samples, in decibels, with all of a plan's roundings in force; `handicaps`: see `Judge`."""
    return decibels_of(Judge(model, plan, samples, dynamic_nodes(plan), handicaps=handicaps).noise(lambda switch: True))


def planned_error_db(
    model: ir.Model, plan: Plan, samples: Iterable[Sample], handicaps: Mapping[str, float] | None = None
) -> float:
    """Standard error of `planned_db` in decibels, by how much it moves with each of the samples left out (the jackknife; Efron 1982, "The
    Jackknife, the Bootstrap and Other Resampling Plans", chapter 3); 0 of a single sample.
    """
    return Judge(model, plan, samples, dynamic_nodes(plan), handicaps=handicaps).error_db()


def dynamic_nodes(plan: Plan) -> frozenset[str]:
    """Names of the nodes whose kernels quantize their input as they run."""
    return frozenset(name for name, precision in plan.precision.items() if precision == "dynamic_int8")


def measure(model: ir.Model, plan: Plan, judge: Judge, least: float, pinned: Collection[str] = ()) -> list[Rounding]:
    """Every rounding of the plan, with its noise: values, then what single nodes read, then constants, each in graph order.

    Args:
        least: the noise below which neighbours that were measured together are not told apart: each is charged an equal share.
        pinned: nodes that stay in integers whatever is found: what they write and their constants are not measured.
    """
    switches = judge.board.switches
    groups = _groups(model, plan)
    writes: dict[str, list[int]] = {}  # group -> places of its switches
    reads: dict[str, list[int]] = {}
    constants: dict[str, list[int]] = {}
    for place, switch in enumerate(switches):
        if switch.kind == "constant":
            constants.setdefault(switch.node, []).append(place)
        elif switch.kind == "activation":
            root = groups.get(switch.value, switch.value)
            (writes if switch.writes else reads).setdefault(root, []).append(place)
    found: list[tuple[Rounding, frozenset[int]]] = []  # with the switches that put it in force alone
    singles: list[tuple[Rounding, frozenset[int]]] = []
    for root in dict.fromkeys([*writes, *reads]):
        writing = frozenset(switches[place].node for place in writes.get(root, ()))
        if writing & set(pinned):
            continue
        whole = frozenset((*writes.get(root, ()), *reads.get(root, ())))
        if writing:
            found.append((Rounding(f"value {root}", writing, 0.0), whole))
        members = {switches[place].value for place in whole}
        reading = sorted({switches[place].node for place in reads.get(root, ())} - writing)
        same = bool(writing) and len(reading) == len(members) == 1  # once or twice, a value is rounded to the same numbers
        for reader in reading:
            places = frozenset(place for place in reads[root] if switches[place].node == reader)
            entry = Rounding(f"value {root}", frozenset((reader,)), 0.0, "read", f"value {root}" if writing else "")
            singles.append((entry, whole if same else places))
    own = [
        (Rounding(f"constants of {owner}", frozenset((owner,)), 0.0, "constants"), frozenset(places))
        for owner, places in constants.items()
        if owner not in pinned
    ]
    noises = _Noises(model, judge, least)
    return [entry for kind in (found, singles, own) for entry in noises.of(kind)]


class _Noises:
    """Fills in the noise of roundings."""

    def __init__(self, model: ir.Model, judge: Judge, least: float) -> None:
        self._judge, self._least = judge, least
        self._probes = max(_PROBES, affordable(model, len(judge.board.switches)))

    def of(self, roundings: Sequence[tuple[Rounding, frozenset[int]]]) -> list[Rounding]:
        blocks = [roundings[start : start + _BLOCK] for start in range(0, len(roundings), _BLOCK)]
        return [entry for block in blocks for entry in self._block(block)]

    def _block(self, block: Sequence[tuple[Rounding, frozenset[int]]]) -> list[Rounding]:
        noise = self._noise(frozenset().union(*(places for _, places in block)))
        if len(block) == 1 or noise <= self._least:
            return [replace(entry, noise=noise / len(block)) for entry, _ in block]
        size = -(-len(block) // _PARTS)
        return [entry for start in range(0, len(block), size) for entry in self._block(block[start : start + size])]

    def _noise(self, places: frozenset[int]) -> float:
        closed = {self._judge.board.switches[place] for place in places}
        return self._judge.noise(lambda switch: switch in closed, self._probes)


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
