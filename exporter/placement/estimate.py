"""How long a placed graph would take on its target: an estimate, node by node, that says what it was made of. It is never a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Final

import onnx_ir as ir

from exporter.compilers.base import Compiled
from exporter.graph.summary import Placement
from exporter.graph.values import activation_nodes, attribute, fused_activation, static_shape
from exporter.placement.partitions import read_by, stored_bytes
from exporter.quantization.costs import bytes_moved, constant_bytes, kernel_of, macs_of
from targets.cost import CostModel, kernel_table, rates_of
from targets.schema import ACTIVATIONS, Form, Target

__all__ = ["Estimate", "NodeEstimate", "compiler_estimate", "estimate", "filled", "form_of"]

_PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "GroupedConv", "MatMul"})
_FORMS: Final[Mapping[str, Form]] = {"int8": "int8", "int8x4": "int8", "auto": "int8", "int16x8": "int16x8"}


@dataclass(frozen=True)
class NodeEstimate:
    """One node: multiply-accumulates, bytes that it reads and writes, and estimated microseconds (None: a rate is not known)."""

    macs: int
    bytes_moved: int
    us: float | None


@dataclass(frozen=True)
class Estimate:
    """Estimated microseconds of one inference.

    Attributes:
        source: what it was made of, for people to read.
        nodes: by name.
        units: sums by unit; of those alone all of whose nodes have an estimate.
        borders_us: conversions between floats and integers, and copies from one unit to another.
        lacking: why nodes have none, each reason with how many nodes it is about.
    """

    source: str
    nodes: Mapping[str, NodeEstimate]
    units: Mapping[str, float]
    borders_us: float
    lacking: Mapping[str, int] = field(default_factory=dict)

    @property
    def total_us(self) -> float | None:
        """Of the whole; None where the time of any node is not known."""
        known = [entry.us for entry in self.nodes.values() if entry.us is not None]
        return sum(known) + self.borders_us if len(known) == len(self.nodes) else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "estimate",
            "source": self.source,
            "total_us": self.total_us,
            "units_us": dict(self.units),
            "borders_us": self.borders_us,
            "lacking": dict(self.lacking),
        }


def estimate(graph: ir.Graph, placed: Sequence[Placement], target: Target) -> Estimate:
    """By the rates of the profile and what its runtime's kernels make of them (`targets.cost`): one node after the other, nothing overlaps.

    Args:
        placed: of that graph, see `summary.placements`; a node that no unit runs has no estimate.
    """
    models = {unit.name: CostModel(target, unit) for unit in target.units}
    nodes: dict[str, NodeEstimate] = {}
    lacking: dict[str, int] = {}
    for (node, _), place in zip(activation_nodes(graph), placed, strict=True):
        form = form_of(place.precision)
        macs, moved = macs_of(node), bytes_moved(node, form)
        why, us = f"no unit of {target.name} runs them", None
        if place.unit:
            model = models[place.unit]
            missing = model.lacks(macs, form)
            why = f"the profile has no {missing} of unit {place.unit}" if missing else ""
            slowed = moved + constant_bytes(node, form) * (model.constants_slower - 1)
            us = None if missing else model.node_us(kernel_of(node), filled(node, macs, target.pruning.tile), slowed, form)
        if why:
            lacking[why] = lacking.get(why, 0) + 1
        nodes[place.node] = NodeEstimate(macs, moved, us)
    return Estimate(_source(target, placed), nodes, _by_unit(placed, nodes), _borders(graph, placed, target, models), lacking)


def compiler_estimate(
    rules: Estimate, placed: Sequence[Placement], compiled: Compiled, cycles: Mapping[str, float | None]
) -> Estimate | None:
    """The estimate by the cycles that a compiler counted instead; None where it counted none, or tells no clock.

    Args:
        cycles: of each node by name, None of one that it left to the CPU, whose cycles it does not count. What a compiler adds, or joins with
            others and renames, is in its sum alone: that goes to the borders.
    """
    clock, total = compiled.figures.get("clock_hz"), compiled.figures.get("cycles")
    if not clock or total is None:
        return None
    nodes = {}
    for place in placed:
        counted, by_rules = cycles.get(place.node, 0.0), rules.nodes[place.node]
        nodes[place.node] = replace(by_rules, us=counted / clock * 1e6 if counted is not None else None)
    uncounted = sum(entry.us is None for entry in nodes.values())
    lacking = {f"{compiled.compiler} counts no cycles of what it leaves to the CPU": uncounted} if uncounted else {}
    known = sum(entry.us or 0.0 for entry in nodes.values())
    source = (
        f"cycles that {compiled.compiler} {compiled.version} counted for {compiled.architecture} at {clock / 1e6:.4g} MHz: its own model of the "
        "device, not a measurement"
    )
    return Estimate(source, nodes, _by_unit(placed, nodes), max(total / clock * 1e6 - known, 0.0), lacking)


def filled(node: ir.Node, macs: int, tile: int) -> int:
    """Multiply-accumulates of a convolution or product whose last vector of output channels is computed as if it were full.

    Kernels hold one vector of output channels in registers: a convolution with one takes as long as with `tile`. Depthwise kernels have
    whole vectors of channels.
    """
    if kernel_of(node) not in _PRODUCTS:
        return macs
    shape = static_shape(node.outputs[0])
    channels = shape[1] // attribute(node, "group", 1) if node.op_type.startswith("Conv") else shape[-1]
    return macs * (-(-channels // tile) * tile) // channels if channels else macs


def form_of(precision: str) -> Form:
    """The form whose kernels run a node of that precision."""
    return "dynamic_int8" if precision.startswith("dynamic_") else _FORMS.get(precision, "float32")


def _source(target: Target, placed: Sequence[Placement]) -> str:
    used = {place.unit for place in placed}
    units = [unit for unit in target.units if unit.name in used]
    measured = dict.fromkeys(text for unit in units if (text := rates_of(target, unit).measured))
    table = kernel_table(target.artifact.runtime)
    rates = (
        f"calibrated: rates measured on {'; '.join(measured)}" if measured else f"rules: peak rates of the profile {target.name}"
    )
    cpu = any(unit.kind == "cpu" for unit in units)
    factors = f", factors of kernels measured with {table.measured_on}" if cpu and table.factors else ""
    return f"{rates}{factors}; one node after the other"


def _by_unit(placed: Sequence[Placement], nodes: Mapping[str, NodeEstimate]) -> dict[str, float]:
    found: dict[str, list[float | None]] = {}
    for place in placed:
        if place.unit:
            found.setdefault(place.unit, []).append(nodes[place.node].us)
    return {unit: sum(us for us in times if us is not None) for unit, times in found.items() if None not in times}


def _borders(graph: ir.Graph, placed: Sequence[Placement], target: Target, models: Mapping[str, CostModel]) -> float:
    """A conversion wherever a value is read in another form than it is written in, and a copy wherever it changes the unit."""
    outside = Placement("", "", "", target.artifact.precision if target.artifact.io_dtype != "float32" else "float32")
    order = [node for node, _ in activation_nodes(graph)]
    place = dict(zip(order, placed, strict=True))
    wrote: dict[ir.Value, Placement] = dict.fromkeys(graph.inputs, outside)
    for node in order:
        wrote |= dict.fromkeys((fused_activation(node) or node).outputs, place[node])
    readers: dict[ir.Value, list[Placement]] = {}
    for node in order:
        for value in dict.fromkeys(read_by(node)):
            if value in wrote:
                readers.setdefault(value, []).append(place[node])
    for value in graph.outputs:
        readers.setdefault(value, []).append(outside)
    first = next(iter(models.values()))
    total = 0.0
    for value, users in readers.items():
        if value not in wrote or value.dtype is None or not value.dtype.is_floating_point():
            continue
        there, elements = wrote[value], prod(static_shape(value))
        other = [user for user in users if ACTIVATIONS[user.precision or "float32"] != ACTIVATIONS[there.precision or "float32"]]
        if other and not first.lacks(0, "int8"):
            times = len(other) if first.dequantizes_for_each and form_of(there.precision) != "float32" else 1
            total += times * first.convert_us(elements)
        units = {user.unit for user in users if user.unit and there.unit} - {there.unit}
        if units and target.cost.bandwidth is not None:
            total += len(units) * stored_bytes(value, there.precision) / target.cost.bandwidth / 1e3
    return total
