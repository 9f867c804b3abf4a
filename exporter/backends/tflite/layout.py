"""The layout solver: channels-first or channels-last for every value at once, by minimum cut.

Every value of rank 3 and more has one of two labels where it is produced; a node's ports want a label (`LayoutRule`). Where producer and
consumer disagree, a TRANSPOSE moves the value's bytes, once for all consumers that want the other order. Minimising the bytes over two labels
is a minimum s-t cut (Boykov, Veksler, Zabih 2001), exact and fast; nothing is mended afterwards.

Cut graph: the source side is channels-first, the sink side channels-last. For a value of weight w with producer term p and consumers c1..ck::

    p --w--> a --inf--> ci      cut (cost w, once) when p is first and any ci is last
    ci --inf--> b --w--> p      cut (cost w, once) when p is last and any ci is first

A transpose between the two layouts wants opposite labels on its sides (`Port.OTHER`); variables are inverted until none does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import NamedTuple

import onnx_ir as ir

from exporter.graph.close_bodies import body_models
from exporter.graph.minimum_cut import SINK, SOURCE, MinimumCut
from exporter.graph.values import activation_nodes, fused_activation, is_constant, name_of, rank, static_shape
from exporter.ops.base import LayoutRule, Port, operator_of
from exporter.quantization.plan import Plan

__all__ = [
    "CHANNELS_LAST",
    "Layout",
    "assign",
    "same_memory_order",
    "solve",
    "to_channels_first",
    "to_channels_last",
    "wanted_label",
]

CHANNELS_LAST = "channels_last"


@dataclass(frozen=True)
class Layout:
    """What the solver decided.

    Attributes:
        values: names of the values that are channels-last where they are produced (graph inputs: where they enter).
        nodes: names of the nodes whose NODE ports are channels-last.
        moved: elements moved by TRANSPOSE operators, by the name of the value that each moves.
    """

    values: frozenset[str]
    nodes: frozenset[str]
    moved: Mapping[str, int] = field(default_factory=dict)


def to_channels_last(rank: int) -> tuple[int, ...]:
    """The permutation from channels-first to channels-last: (0, 2, ..., rank-1, 1)."""
    return (0, *range(2, rank), 1)


def to_channels_first(rank: int) -> tuple[int, ...]:
    """The permutation from channels-last to channels-first: (0, rank-1, 1, ..., rank-2)."""
    return (0, rank - 1, *range(1, rank - 1))


def same_memory_order(shape: tuple[int, ...]) -> bool:
    """Whether a channels-first value has its elements in the same order channels-last: one channel, or one pixel."""
    return len(shape) < 3 or shape[1] == 1 or prod(shape[2:]) == 1


def solve(model: ir.Model, io_layout: str = "keep") -> Layout:
    """Assign the layout of every value of a legalized graph with static shapes.

    Args:
        model: the graph.
        io_layout: "keep": graph inputs and outputs stay channels-first; "channels_last": they may be either, whichever costs less.
    Raises:
        Refused: a node's operator has no layout rule.
    """
    rules = [(node, operator_of(node).layout(node)) for node, _ in activation_nodes(model.graph)]
    values, demands = _demands(model, rules, io_layout, frozenset())
    inverted, clashing = _signs(demands)
    if clashing:
        fixed = frozenset(
            str(node.name) for node, rule in rules if Port.OTHER in rule.outputs and f"node {node.name}" in clashing
        )
        values, demands = _demands(model, rules, io_layout, fixed)
        inverted, _ = _signs(demands)

    problem = MinimumCut()
    for name, labels in demands.items():
        shape = static_shape(values[name])
        turned = next((inverted[label.term] is not label.negated for label in labels if label.term != SOURCE), False)
        terms = [label.term if label.term != SOURCE else SINK if label.negated is not turned else SOURCE for label in labels]
        _disagree(problem, name, terms[0], terms[1:], 1 if same_memory_order(shape) else prod(shape))
    sink_side = problem.sink_side()

    def last(label: _Label) -> bool:
        return ((label.term in sink_side) is not inverted.get(label.term, False)) is not label.negated

    nodes = {str(node.name) for node, rule in rules if Port.NODE in (*rule.inputs, *rule.outputs) and last(_of_node(node))}
    laid_last = {name for name, labels in demands.items() if last(labels[0])}
    moved = {
        name: prod(static_shape(values[name]))
        for name, labels in demands.items()
        if any(last(label) != (name in laid_last) for label in labels)
    }
    return Layout(frozenset(laid_last), frozenset(nodes), moved)


class _Label(NamedTuple):
    """Whether a port is channels-last: as its variable says (`SOURCE`: never), or the opposite where it is `negated`."""

    term: str
    negated: bool = False


def _demands(
    model: ir.Model, rules: Sequence[tuple[ir.Node, LayoutRule]], io_layout: str, fixed: frozenset[str]
) -> tuple[dict[str, ir.Value], dict[str, list[_Label]]]:
    """Values of rank 3 and more by name, and the labels of each: where it is produced, then of all that read it.

    `fixed`: nodes with an OTHER port that read channels-last and write channels-first.
    """
    values: dict[str, ir.Value] = {}
    labels: dict[str, list[_Label]] = {}

    def demand(value: ir.Value, label: _Label) -> None:
        if rank(value) >= 3:
            values.setdefault(name_of(value), value)
            labels.setdefault(name_of(value), []).append(label)

    for value in model.graph.inputs:
        demand(value, _Label(SOURCE if io_layout == "keep" else f"value {value.name}"))
    for node, rule in rules:
        for index, value in _laid_out_inputs(node):
            if rule.inputs[index] is not Port.ANY and name_of(value) in labels:
                demand(value, _label(node, rule.inputs[index], value, fixed))
        behind = fused_activation(node)
        for port, value in zip(rule.outputs, (behind or node).outputs, strict=False):
            demand(value, _label(node, port, value, fixed))
    for value in model.graph.outputs if io_layout == "keep" else ():
        if name_of(value) in labels:
            demand(value, _Label(SOURCE))
    return values, labels


def _signs(demands: Mapping[str, Sequence[_Label]]) -> tuple[dict[str, bool], set[str]]:
    """Which variables to invert so that every value has its labels equal or all inverted; and those for which there is no such choice.

    Labels that should be opposite are no part of a minimum cut. Inverting the variables on one side of each makes them equal (the graph of
    signs is then balanced: Harary 1953); only a cycle with an odd number of them forbids it.
    """
    beside: dict[str, list[tuple[str, bool]]] = {}
    for labels in demands.values():
        free = [label for label in labels if label.term != SOURCE]
        for label in free:
            beside.setdefault(label.term, [])
        for label in free[1:]:
            odd = label.negated is not free[0].negated
            beside[free[0].term].append((label.term, odd))
            beside[label.term].append((free[0].term, odd))
    inverted: dict[str, bool] = {}
    clashing: set[str] = set()
    for start in beside:
        if start in inverted:
            continue
        inverted[start] = False
        component, clash = [start], False
        for term in component:  # it grows while it is walked
            for other, odd in beside[term]:
                if other not in inverted:
                    inverted[other] = inverted[term] is not odd
                    component.append(other)
                clash |= inverted[other] is not (inverted[term] is not odd)
        clashing.update(component if clash else ())
    return inverted, clashing


def assign(model: ir.Model, plan: Plan, io_layout: str) -> Plan:
    """The plan with the layout of every value and node decided. Raises what `solve` raises."""
    values, nodes = _last(model, io_layout)
    return replace(
        plan,
        layout=dict.fromkeys(sorted(values), CHANNELS_LAST),
        node_layout=dict.fromkeys(sorted(nodes), CHANNELS_LAST),
        io_layout=io_layout,
    )


def _last(model: ir.Model, io_layout: str) -> tuple[frozenset[str], frozenset[str]]:
    """Values and nodes that are channels-last, those of the bodies of loops included: each body is solved by itself."""
    solved = solve(model, io_layout)
    values, nodes = solved.values, solved.nodes
    for inner in (inner for node in model.graph for inner in body_models(model, node)):
        more = _last(inner, "keep")
        values, nodes = values | more[0], nodes | more[1]
    return values, nodes


def wanted_label(rule: LayoutRule, index: int, node_last: bool) -> bool | None:
    """Whether input `index` is wanted channels-last; None where it does not matter."""
    port = rule.inputs[index]
    return None if port is Port.ANY else port is Port.LAST or (port is Port.NODE and node_last)


def _laid_out_inputs(node: ir.Node) -> Iterable[tuple[int, ir.Value]]:
    return (
        (index, value)
        for index, value in enumerate(node.inputs)
        if value is not None and not is_constant(value) and rank(value) >= 3
    )


def _label(node: ir.Node, port: Port, value: ir.Value, fixed: frozenset[str]) -> _Label:
    if port in (Port.FIRST, Port.LAST):
        return _Label(SOURCE, port is Port.LAST)
    if port is Port.ANY:
        return _Label(f"value {value.name}")
    if node.name in fixed:
        return _Label(SOURCE, port is Port.NODE)
    return _of_node(node)._replace(negated=port is Port.OTHER)


def _of_node(node: ir.Node) -> _Label:
    """The label of a node's NODE ports."""
    return _Label(f"node {node.name}")


def _disagree(problem: MinimumCut, name: str, producer: str, consumers: Iterable[str], weight: int) -> None:
    """Charge `weight` once when any consumer's side differs from the producer's."""
    terms = [term for term in dict.fromkeys(consumers) if term != producer]
    if not terms:
        return
    first, last = f"{name} first", f"{name} last"
    problem.edge(producer, first, weight)
    problem.edge(last, producer, weight)
    for term in terms:
        problem.edge(first, term)
        problem.edge(term, last)
