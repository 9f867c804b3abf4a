"""From statistics to the integer plan: encodings, then weights and biases refined, then, for the precision "auto", what must not be int8."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import onnx_ir as ir

from calibration import Store
from exporter.graph.values import activation_nodes, is_constant, name_of
from exporter.ops.base import Refused, operator_of
from exporter.ops.forms import ROWWISE
from exporter.progress import Progress
from exporter.quantization.apply import node_name, read_encoding
from exporter.quantization.choosing import best_methods
from exporter.quantization.clipping import Method
from exporter.quantization.mixed import Mixer
from exporter.quantization.plan import Effort, Plan
from exporter.quantization.planner import make_plan
from exporter.quantization.refine import refine
from exporter.quantization.sensitivity import planned_db
from exporter.quantization.weights import weight_plan
from targets.precision import choose_precision, precisions_of
from targets.schema import Target

__all__ = ["integer_plan"]

_MARGIN_DB: Final = 1.0  # above the goal on calibration samples: others come out a little lower
_ENOUGH_DB: Final = 1.5  # above that no further round is worth its time
_ROUNDS: Final = 3


def integer_plan(
    graph: ir.Model,
    statistics: Store,
    target: Target,
    method: Method | None,
    effort: Effort | None,
    goal_db: float,
    progress: Progress,
) -> Plan:
    """The plan of a legalized graph with integer activations.

    Args:
        statistics: what calibration learned, with the samples it kept for refining and mixing to look at.
        method: how ranges are chosen; None: as `best_methods` says.
        effort: of refining; None leaves weights rounded to nearest.
        goal_db: the SQNR that every output shall have, for the precision "auto".
    """

    samples = statistics.reservoir

    def refined(plan: Plan) -> Plan:
        if effort is None:
            return plan
        with progress.stage("refine weights and biases") as advance:
            return refine(graph, plan, target, samples, effort=effort, progress=lambda done, total: advance(done)).plan

    with progress.stage("choose ranges"):
        methods = best_methods(graph, statistics, target, samples) if method is None else method
    nearest = make_plan(graph, statistics, target, method=methods)
    plan = refined(nearest)
    if target.artifact.precision != "auto":
        return plan
    aim = wanted = goal_db + _MARGIN_DB
    if planned_db(graph, plan, samples) >= wanted:
        return plan
    hybrid = _hybrid(graph, target)
    with progress.stage("measure what rounding costs"):
        mixer = Mixer(graph, nearest, target.cost, samples, hybrid.precision)
    best, tried = None, set[frozenset[str]]()
    for _ in range(_ROUNDS):
        with progress.stage("mix precisions"):
            mixture = mixer.mixture(aim)
        if frozenset(mixture.floats) in tried:
            break
        tried.add(frozenset(mixture.floats))
        mixed = make_plan(graph, statistics, target, method=methods, floats=mixture.floats)
        mixed = refined(_with_dynamic(graph, mixed, hybrid, mixture.dynamic))
        reached = planned_db(graph, mixed, samples)
        if best is None or reached >= wanted:
            best = mixed
        if not wanted <= reached <= wanted + _ENOUGH_DB and effort is not None:
            aim += wanted - reached  # refined weights gain: more nodes may stay in integers, or, rarely, fewer
        else:
            break
    return best or plan


def _hybrid(graph: ir.Model, target: Target) -> Plan:
    """Of the nodes whose kernel takes integer weights and quantizes its input row by row: precision and encodings of the weights."""
    if "dynamic_int8" not in precisions_of(target):
        return Plan(target.name)
    plan = weight_plan(graph, choose_precision(target, "dynamic_int8"))
    rowwise = {node_name(node) for node, _ in activation_nodes(graph.graph) if _builtin(node) in ROWWISE}
    taken = {name: form for name, form in plan.precision.items() if form == "dynamic_int8" and name in rowwise}
    return replace(plan, precision=taken)


def _builtin(node: ir.Node) -> str:
    try:
        return operator_of(node).hybrid(node)
    except Refused:
        return ""


def _with_dynamic(graph: ir.Model, plan: Plan, hybrid: Plan, names: frozenset[str]) -> Plan:
    """`plan` with the nodes `names` as `hybrid` has them; a weight that other nodes hold otherwise is encoded for this node alone."""
    encodings, requantize = dict(plan.encodings), dict(plan.requantize)
    for node in graph.graph:
        for index, value in enumerate(node.inputs if node_name(node) in names else ()):
            encoding = read_encoding(node, index, hybrid) if is_constant(value) else None
            if value is not None and encoding is not None and encodings.setdefault(name_of(value), encoding) != encoding:
                requantize[f"{node_name(node)}:{index}"] = encoding
    precision = {**plan.precision, **dict.fromkeys(sorted(names), "dynamic_int8")}
    return replace(plan, precision=precision, encodings=encodings, requantize=requantize)
