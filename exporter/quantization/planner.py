"""Decide the integer form of a graph: which nodes run in integers, and the encoding of every value that one of them reads or writes.

Everything that is particular to an operator comes from its `quantize` facet; everything that is particular to a device from the
target's `[quantization]` table. Plans of 8 bits are in int8 terms; a writer for a runtime that wants uint8 adds 128 to integers and zero points.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError, TargetError
from exporter.graph.alike import alike
from exporter.graph.values import FLOAT, activation_nodes, constant, consumers, fused_activation, fused_into, name_of
from exporter.ops.base import QuantRule, Refused, Role, operator_of
from exporter.ops.forms import lacking
from exporter.quantization.apply import node_name
from exporter.quantization.clipping import Method
from exporter.quantization.costs import slow_builtins
from exporter.quantization.encoder import Encoder, ValueStatistics, is_float
from exporter.quantization.joins import float_joins
from exporter.quantization.plan import Plan
from exporter.quantization.tails import floors_of
from exporter.quantization.weights import holds_much
from targets.schema import Artifact, Target

__all__ = ["DEFAULT_METHOD", "check_form", "float_plan", "make_plan", "refusals", "require_integers"]

DEFAULT_METHOD: Final[Method] = "minmax"
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


def make_plan(
    model: ir.Model,
    stats: ValueStatistics,
    target: Target,
    *,
    method: Method | Mapping[str, Method] = DEFAULT_METHOD,
    floats: Mapping[str, str] = _NONE,
    wide: Mapping[str, str] = _NONE,
) -> Plan:
    """The integer plan of a legalized graph: int8, or int16 activations where the target's precision is int16x8.

    Nodes whose operator refuses `quantize` run in float where the target allows it. Values between two float nodes have no encoding,
    nor has the value between a node and its fused activation.

    Args:
        stats: statistics of every float value of the graph.
        method: how ranges of activations are chosen, see `clipping.choose_range`: one for all, or by value name
            (``minmax`` for those without one).
        floats: why nodes that could run in integers shall not, by node name (`mixing.mixed.Mixer`).
        wide: why nodes of an 8-bit plan shall run in int16x8, by node name.
    Raises:
        TargetError: EW-Q003, nodes that cannot run in integers on a target without float; all of them, each with its reason.
        ModelError: EW-Q002, a value has no statistics, or two nodes have one name.
        DataError: EW-D002, the statistics of a value are not finite.
    """
    graph = model.graph
    _check_names(graph)
    floors = floors_of(model, stats.values, target.artifact.activations, wide)
    if target.quantization.float_fallback and target.artifact.io_dtype == "float32":
        floats = {**_computed_in_float(graph, target), **float_joins(graph, stats.values), **floats}
    rules, reasons = _rules(
        graph, target.artifact, stats, leave_idle=target.quantization.float_fallback, floats=floats, floors=floors, wide=wide
    )
    require_integers(target, len(rules), reasons, "replace these operators in the model")
    encoder = Encoder(stats, target.quantization, method, rules, target.artifact.activations, floors, wide)
    if target.artifact.io_dtype != "float32":
        encoder.boundary(graph)
    encoder.activations()
    for node in rules:
        encoder.constants(node)
    unrounded = _unrounded(graph, rules, target)
    integers = "int16x8" if target.artifact.activations == "int16" else "int8"
    form = {name: "int16x8" if name in wide else integers for name in map(node_name, rules)}
    return Plan(
        target=target.name,
        artifact_precision=target.artifact.precision,
        precision={(name := node_name(node)): form.get(name, "float32") for node, _ in activation_nodes(graph)},
        reasons={**floats, **wide},
        encodings={name: found for name, found in encoder.encodings.items() if name not in unrounded},
        requantize=encoder.requantize,
        io_layout=target.artifact.io_layout,
        io_dtype=target.artifact.io_dtype,
    )


def _unrounded(graph: ir.Graph, rules: Mapping[ir.Node, QuantRule], target: Target) -> set[str]:
    """Values that integer kernels hand out as floats: sums that no integer node reads. They need no encoding, and lose nothing by one."""
    if target.artifact.activations != "int8":
        return set()
    return {
        name_of(value)
        for node, value in activation_nodes(graph)
        if node in rules and node.op_type in target.quantization.float_sums
        if not (value.is_graph_output() and target.artifact.io_dtype != "float32")
        if not any(user in rules for user in consumers(value))
    }


def _computed_in_float(graph: ir.Graph, target: Target) -> dict[str, str]:
    """Why nodes run in float that could run in integers: their runtime computes them in float either way, and rounds their constants for it."""
    slow = slow_builtins(target) if target.artifact.format == "onnx" else frozenset()
    return {
        node_name(node): f"{target.artifact.runtime} computes {node.op_type} in float"
        for node, _ in activation_nodes(graph)
        if node.op_type in slow
    }


def require_integers(target: Target, integer: int, reasons: Mapping[str, str], fix: str) -> None:
    """Raise TargetError EW-Q003 where nodes run in float, for `reasons` by node name, on a target that has none; `integer` nodes do not."""
    if not reasons or target.quantization.float_fallback:
        return
    raise TargetError(
        "EW-Q003",
        f"{len(reasons)} of {integer + len(reasons)} nodes cannot run in integers and target {target.name} has no float",
        why="\n".join(alike((name, "", (reason,)) for name, reason in reasons.items())),
        fix=f"{fix}, or choose a target whose profile says float_fallback = true",
    )


def float_plan(model: ir.Model, target: Target) -> Plan:
    """The plan of a float artifact: float16 where the target's artifact is float16, else float32, for every node."""
    precision = "float16" if target.artifact.precision == "float16" else "float32"
    _check_names(model.graph)
    names = [node_name(node) for node, _ in activation_nodes(model.graph)]
    return Plan(
        target=target.name,
        artifact_precision=precision,
        precision=dict.fromkeys(names, precision),
        io_layout=target.artifact.io_layout,
    )


def refusals(model: ir.Model, artifact: Artifact, stats: ValueStatistics | None = None) -> dict[str, str]:
    """Why nodes cannot run in integers, by node name (for reports): their operator's own sentence, or what calibration saw."""
    floors = floors_of(model, stats.values, artifact.activations) if stats is not None else {}
    return _rules(model.graph, artifact, stats, leave_idle=False, floors=floors)[1]


def _check_names(graph: ir.Graph) -> None:
    seen: set[str] = set()
    for node in graph:
        name = node_name(node)
        if name in seen:
            raise ModelError("EW-Q002", f"two nodes of the graph are named {name}", where=name)
        seen.add(name)


# --- which nodes run in integers --------------------------------------------------------------------------------------


def _rules(
    graph: ir.Graph,
    artifact: Artifact,
    stats: ValueStatistics | None,
    *,
    leave_idle: bool,
    floats: Mapping[str, str] = _NONE,
    floors: Mapping[str, float],
    wide: Collection[str] = (),
) -> tuple[dict[ir.Node, QuantRule], dict[str, str]]:
    """The rule of each node that runs in integers, in graph order, and the reason of each float node that cannot.

    With `leave_idle`, nodes that only move data between float neighbours stay in float; a device without float has no such neighbours.
    """
    rules: dict[ir.Node, QuantRule] = {}
    reasons: dict[str, str] = {}
    for node, _ in activation_nodes(graph):
        if not any(is_float(value) for value in (*node.inputs, *node.outputs)):
            continue  # arithmetic on shapes and indices: nothing real to encode
        told = floats.get(node_name(node)) or node.metadata_props.get(FLOAT)
        if told:
            reasons[node_name(node)] = told
            continue
        try:
            operator = operator_of(node)
            rule = operator.quantize(node)
            check_form(node, rule, floors)
            dtype = "int16" if node_name(node) in wide else artifact.activations
            if without := lacking(operator, node, dtype, artifact.format):
                raise Refused(node, without)
            _check_values(node, stats, floors)
        except Refused as refused:
            reasons[node_name(node)] = refused.reason
        else:
            rules[node] = rule
    while leave_idle and (idle := [node for node, rule in rules.items() if rule.shared and not _touches_integers(node, rules)]):
        for node in idle:
            del rules[node]
    return rules, reasons


def check_form(node: ir.Node, rule: QuantRule, floors: Mapping[str, float] = MappingProxyType({})) -> None:
    """Raise Refused where the rule of an operator does not fit this node of it. `floors`: what matters of values, `tails.floors_of`."""
    if len(rule.inputs) < len(node.inputs) or len(rule.outputs) < len(node.outputs):
        raise Refused(node, f"the quantize rule of {node.op_type} does not cover all inputs and outputs of this node")
    channels = 0
    for given, value in zip(rule.inputs, node.inputs, strict=False):
        array = constant(value)
        floor = floors.get(value.name or "", -np.inf) if value is not None else -np.inf
        real = array if given.role is Role.ACTIVATION and array is not None and array.dtype.kind == "f" else None
        if real is not None and not np.isfinite(np.maximum(real, floor)).all():
            raise Refused(node, f"the constant {value.name if value else ''} holds infinities, which no encoding has")
        if value is None or given.role in (Role.ACTIVATION, Role.PARAMETER):
            continue
        if array is None:
            raise Refused(node, f"the {given.role.value} of {node.op_type} is computed, not a constant")
        if given.role is Role.WEIGHT:
            channels = array.shape[given.axis] if given.axis is not None else 0
        elif channels and array.size != channels:
            raise Refused(node, f"the bias of {node.op_type} has {array.size} values for {channels} channels")


def _check_values(node: ir.Node, stats: ValueStatistics | None, floors: Mapping[str, float]) -> None:
    """Refuse a node that reads or writes a value in which calibration saw infinity, if not one below what matters."""
    values = [*node.inputs, *(fused_activation(node) or node).outputs] if stats is not None else []
    for name in [value.name for value in values if value is not None and value.name]:
        seen = stats.values.get(name) if stats is not None else None
        if seen is not None and not np.isfinite([max(seen.low, floors.get(name, -np.inf)), seen.high]).all():
            raise Refused(node, f"the value {name} becomes infinite, which no encoding has")


def _touches_integers(node: ir.Node, rules: Mapping[ir.Node, QuantRule]) -> bool:
    """Whether a neighbour runs in integers, or a table lies in them; else moving the data of `node` in integers would only add rounding."""
    if holds_much(node) or any(_owner(value) in rules for value in node.inputs):
        return True
    return any(user in rules for value in node.outputs for user in consumers(value))


def _owner(value: ir.Value | None) -> ir.Node | None:
    """The node whose kernel writes the value: its producer, or what that is fused into."""
    producer = value.producer() if value is not None else None
    return (fused_into(producer) or producer) if producer is not None else None
