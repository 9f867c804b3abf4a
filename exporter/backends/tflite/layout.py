"""The layout solver: channels-first or channels-last for every value at once, by minimum cut.

Every value of rank 3 and more has one of two labels where it is produced; a node's ports want a label (`LayoutRule`). Where producer and
consumer disagree, a TRANSPOSE moves the value's bytes, once for all consumers that want the other order. Minimising the bytes over two labels
is a minimum s-t cut (Boykov, Veksler, Zabih 2001), exact and fast; nothing is mended afterwards.

Cut graph: the source side is channels-first, the sink side channels-last. For a value of weight w with producer term p and consumers c1..ck::

    p --w--> a --inf--> ci      cut (cost w, once) when p is first and any ci is last
    ci --inf--> b --w--> p      cut (cost w, once) when p is last and any ci is first
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

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
    problem = MinimumCut()
    producer: dict[str, str] = {}  # value name -> term (a variable or a terminal)
    wanted: dict[str, list[str]] = {}  # value name -> terms of its consumers
    values: dict[str, ir.Value] = {}

    for value in model.graph.inputs:
        values[name_of(value)] = value
        producer[name_of(value)] = SOURCE if io_layout == "keep" else f"value {value.name}"
    for node, _ in activation_nodes(model.graph):
        rule = operator_of(node).layout(node)
        for index, value in _laid_out_inputs(node):
            if rule.inputs[index] is not Port.ANY:
                wanted.setdefault(name_of(value), []).append(_term(node, rule.inputs[index], value))
        behind = fused_activation(node)
        for port, value in zip(rule.outputs, (behind or node).outputs, strict=False):
            values[name_of(value)] = value
            producer[name_of(value)] = _term(node, port, value)
    if io_layout == "keep":
        for value in model.graph.outputs:
            wanted.setdefault(name_of(value), []).append(SOURCE)

    for name, terms in wanted.items():
        if name in values and rank(values[name]) >= 3:
            shape = static_shape(values[name])
            _disagree(problem, name, producer[name], terms, 1 if same_memory_order(shape) else prod(shape))
    last = problem.sink_side()

    nodes = {node.name for node, _ in activation_nodes(model.graph) if f"node {node.name}" in last}
    laid_last = {name for name, term in producer.items() if rank(values[name]) >= 3 and term in last}
    moved = {
        name: prod(static_shape(values[name]))
        for name, terms in wanted.items()
        if name in values and rank(values[name]) >= 3 and any((term in last) != (name in laid_last) for term in terms)
    }
    return Layout(frozenset(laid_last), frozenset(str(name) for name in nodes), moved)


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


def _term(node: ir.Node, port: Port, value: ir.Value) -> str:
    fixed = {Port.FIRST: SOURCE, Port.LAST: SINK, Port.NODE: f"node {node.name}"}
    return fixed.get(port, f"value {value.name}")


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
