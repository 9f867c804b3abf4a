"""From statistics to the integer plan: encodings, then weights and biases refined, then, for the precision "auto", what must not be int8."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from math import inf, isfinite, isinf
from typing import Final

import onnx_ir as ir

from calibration import Statistics
from exporter.graph.values import activation_nodes, is_constant, name_of
from exporter.ops.base import Refused, operator_of
from exporter.ops.forms import ROWWISE
from exporter.progress import Progress
from exporter.quantization.apply import node_name, read_encoding
from exporter.quantization.choosing import best_methods
from exporter.quantization.clipping import Method
from exporter.quantization.costs import affordable
from exporter.quantization.mixing.aiming import Aim, Goal
from exporter.quantization.mixing.mixed import Mixer, Mixture, Others
from exporter.quantization.mixing.paying import faster_in_float, int16_candidates, slower_than_float
from exporter.quantization.mixing.sensitivity import judges_of, planned_db
from exporter.quantization.mixing.switches import Sample
from exporter.quantization.narrowing import narrowed
from exporter.quantization.plan import Effort, Plan
from exporter.quantization.planner import make_plan
from exporter.quantization.refinement.refine import optimism, refine
from exporter.quantization.weights import weight_plan
from targets.cost import CostModel
from targets.precision import choose_precision, precisions_of
from targets.schema import Form, Target

__all__ = ["integer_plan"]

_ENOUGH_DB: Final = 0.5  # above what is wanted: no further round is worth its time
_NEAR_DB: Final = 0.1  # nor between an aim that holds and one that fails
_BLIND_DB: Final = 1.5  # between these where gates say no more than whether they hold
_STRIDE_DB: Final = 8.0  # the aim falls by at most so much at a time
_ROUNDS: Final = 5
_SPEED_DB: Final = (
    0.5  # that nodes may cost which leave the integers for the sake of speed, where these are faster than float even so
)


def integer_plan(
    graph: ir.Model,
    statistics: Statistics,
    target: Target,
    method: Method | None,
    effort: Effort | None,
    goal: Goal,
    progress: Progress,
) -> Plan:
    """The plan of a legalized graph with integer activations.

    Args:
        statistics: what calibration learned, with the samples it kept for refining and mixing to look at.
        method: how ranges are chosen; None: as `best_methods` says.
        effort: of refining; None leaves weights rounded to nearest.
        goal: what the precision "auto" shall keep.

    Raises:
        UsageError: EW-G002 and EW-U003, see `Aim`.
    """

    samples = statistics.reservoir
    auto = target.artifact.precision == "auto"
    aim = Aim(goal, graph, samples, progress) if auto else None

    def refined(plan: Plan, effort: Effort | None = effort) -> Plan:
        if effort is None:
            return plan
        with progress.stage("refine weights and biases") as advance:
            return refine(graph, plan, target, samples, effort=effort, progress=lambda done, total: advance(done)).plan

    with progress.stage("choose ranges"):
        methods = best_methods(graph, statistics, target, samples, effort=effort) if method is None else method
    whole = make_plan(graph, statistics, target, method=methods)
    slow, judges = faster_in_float(graph, whole, target), judges_of(graph, samples)
    nearest = make_plan(graph, statistics, target, method=methods, floats=slow) if slow else whole
    # Integers that take longer than floats are out of the question, whatever samples say.
    judged = slow and not slower_than_float(graph, whole, target)
    if judged and planned_db(graph, nearest, judges) < planned_db(graph, whole, judges) - _SPEED_DB:
        slow, nearest = {}, whole
    if target.artifact.activations != "int8" or not (auto or target.quantization.float_fallback):
        return refined(_narrowed(graph, nearest, target, samples, effort, progress))
    if effort == "fast" and not auto and not affordable(graph, _probes(nearest), effort):
        return refined(_narrowed(graph, nearest, target, samples, effort, progress))
    hybrid = _hybrid(graph, target)
    candidates = int16_candidates(graph, nearest, target) if auto else {}
    finer = make_plan(graph, statistics, target, method=methods, floats=slow, wide=candidates) if candidates else None
    forms: dict[str, Form] = {**dict.fromkeys(hybrid.precision, "dynamic_int8"), **dict.fromkeys(candidates, "int16x8")}

    def applied(mixture: Mixture) -> Plan:
        plan = nearest
        if mixture.forms:
            wide = {name: why for name, why in mixture.reasons.items() if mixture.forms[name] == "int16x8"}
            floats = {name: why for name, why in mixture.reasons.items() if name not in wide}
            plan = make_plan(graph, statistics, target, method=methods, floats={**slow, **floats}, wide=wide)
            dynamic = [name for name, form in mixture.forms.items() if form == "dynamic_int8"]
            plan = _with_dynamic(graph, plan, hybrid, dynamic)
        return _narrowed(graph, plan, target, samples, effort, progress)

    with progress.stage("measure what rounding costs"):
        others = Others(forms, target.quantization.float_fallback, finer)
        mixer = Mixer(graph, nearest, CostModel(target), judges, others, aim.handicaps if aim is not None else None)
        bargain = mixer.bargain() if target.quantization.float_fallback else None
    start = applied(bargain) if bargain is not None else nearest
    if aim is None:
        return refined(start)
    quick: Effort | None = "balanced" if effort == "best" else effort  # learning takes minutes: it waits for the choice of nodes

    def mixed(decibels: float) -> Plan:
        with progress.stage("mix precisions"):
            mixture = mixer.mixture(decibels)
        return refined(applied(mixture), quick)

    def learned(plan: Plan) -> Plan:
        return refined(replace(plan, roundings={}, corrections={}))

    plain = refined(start, quick)
    if quick is not None and plain != start:
        _allow(aim, start, plain, lambda: optimism(graph, start, target, samples, aim.decibels, effort=quick), progress)
    return _aimed(aim, plain, mixed, learned if effort == "best" else None, effort is not None, progress)


def _allow(aim: Aim, start: Plan, plain: Plan, promised: Callable[[], float], progress: Progress) -> None:
    """Leaves room for what other samples may be worse by: what refining promises too much, at most all that it gained, and a standard error.

    Args:
        promised: decibels that it promises too much. That takes two fits to measure, which is left out where all that refining gained may
            be lost without a gate failing.
    """
    with progress.stage("measure what refining promises"):
        gained, error = aim.decibels(plain) - aim.decibels(start), aim.error_db(plain)
        aim.allow(gained + error)
        if aim.spare(plain) < 0:
            aim.allow(min(promised(), gained) + error)


def _aimed(
    aim: Aim,
    plain: Plan,
    mixed: Callable[[float], Plan],
    learned: Callable[[Plan], Plan] | None,
    refining: bool,
    progress: Progress,
) -> Plan:
    """The plan that holds the gates with the fewest nodes out of the 8 bits, and what it reaches; a warning where one does not hold.

    Args:
        plain: the plan with none of them out for accuracy.
        mixed: see `_search`.
        learned: from a plan to one with learned roundings, taken where it is better.
        refining: whether a plan reaches more than what its choice of nodes aimed at.
    """

    def spare(plan: Plan) -> float:
        with progress.stage(f"judge by {', '.join(map(str, aim.gates))}"):
            return aim.spare(plan)

    plan, left = plain, spare(plain)
    if left < 0:
        rounds = _ROUNDS if refining or not aim.in_decibels else 1  # else the first aim is what comes out
        plan = _search(mixed, spare, aim.decibels(plan) - left, rounds)
    if learned is not None:
        plan = max(plan, learned(plan), key=lambda plan: (min(spare(plan), 0.0), aim.decibels(plan)))
    reached = aim.reached(plan)
    for found in reached:
        if not found.passed:
            progress.warn(f"precision auto: on calibration samples the gate {found}")
    return replace(plan, aims={str(found.gate): found.value if isfinite(found.value) else str(found.value) for found in reached})


def _probes(plan: Plan) -> int:
    """Runs of the graph that measuring what each rounding costs takes at least: one for each node in integers."""
    return sum(precision == "int8" for precision in plan.precision.values())


def _narrowed(
    graph: ir.Model, plan: Plan, target: Target, samples: Iterable[Sample], effort: Effort | None, progress: Progress
) -> Plan:
    """`plan` with the weights in 4 bits that the precision "int8x4" has so."""
    if target.artifact.precision != "int8x4":
        return plan
    with progress.stage("choose what takes 4 bits"):
        return narrowed(graph, plan, target, samples, together=effort in ("balanced", "best"))


def _search(mixed: Callable[[float], Plan], spare: Callable[[Plan], float], aim: float, rounds: int) -> Plan:
    """The plan for the lowest aim with which all gates hold: refining gains some decibels, for which more nodes stay in integers.

    Args:
        mixed: from what the choice of nodes aims at in decibels, with weights rounded to nearest, to the refined plan.
        spare: decibels by which a plan holds the gates; below 0 where it does not.
        aim: the first.
    Returns:
        Where no aim holds, the plan that is least short of it.
    """
    holds, fails = (inf, inf), (-inf, -inf)  # the nearest aims on either side, and what they left
    best: Plan | None = None
    for _ in range(rounds):
        plan = mixed(aim)
        left = spare(plan)
        if left >= 0:
            best, holds = plan, (aim, left)
        else:
            best = plan if isinf(holds[0]) and left >= fails[1] else best
            fails = aim, left
        if 0 <= left <= _ENOUGH_DB or holds[0] - fails[0] <= (_NEAR_DB if isfinite(holds[1]) else _BLIND_DB):
            break
        if isfinite(holds[0]) and isfinite(fails[0]):  # what is left grows with the aim, nearly as a straight line
            share = (_ENOUGH_DB / 2 - fails[1]) / (holds[1] - fails[1]) if isfinite(holds[1] - fails[1]) else 0.5
            aim = fails[0] + min(max(share, 0.1), 0.9) * (holds[0] - fails[0])
        else:
            aim -= min(left, _STRIDE_DB)
    assert best is not None
    return best


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


def _with_dynamic(graph: ir.Model, plan: Plan, hybrid: Plan, names: Collection[str]) -> Plan:
    """`plan` with the nodes `names` as `hybrid` has them; a weight that other nodes hold otherwise is encoded for this node alone."""
    encodings, requantize = dict(plan.encodings), dict(plan.requantize)
    for node in graph.graph:
        for index, value in enumerate(node.inputs if node_name(node) in names else ()):
            encoding = read_encoding(node, index, hybrid) if is_constant(value) else None
            if value is not None and encoding is not None and encodings.setdefault(name_of(value), encoding) != encoding:
                requantize[f"{node_name(node)}:{index}"] = encoding
    precision = {**plan.precision, **dict.fromkeys(names, "dynamic_int8")}
    return replace(plan, precision=precision, encodings=encodings, requantize=requantize)
