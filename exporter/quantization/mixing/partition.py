"""Which nodes leave the 8 bits, as a minimum cut: source side in int8, sink side in what each is otherwise. Costs are microseconds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod

import onnx_ir as ir

from exporter.graph.minimum_cut import SINK, SOURCE, MinimumCut
from exporter.graph.values import activation_nodes, fused_activation, fused_into, name_of, static_shape
from exporter.quantization.apply import node_name, runs_in_integers
from exporter.quantization.costs import macs_of, node_us
from exporter.quantization.mixing.sensitivity import Rounding
from exporter.quantization.plan import Plan
from exporter.quantization.weights import holds_much
from targets.cost import CostModel
from targets.schema import Form

__all__ = ["Partition", "with_idle"]


class Partition:
    """The choice of nodes for given prices of noise.

    Args:
        damage: what each rounding does to the outputs.
        otherwise: the form of each node where it leaves the 8 bits, by name; float32 where none is given. In all others its constants
            are what they were.
        pinned: nodes that do not leave them.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        cost: CostModel,
        damage: Sequence[Rounding],
        otherwise: Mapping[str, Form],
        pinned: Collection[str] = (),
    ) -> None:
        self.otherwise = dict(otherwise)
        self.pinned = frozenset(pinned)
        self.macs: dict[str, int] = {}
        whole = {name for name, form in otherwise.items() if form != "float32"}
        self._damage = [rounding for rounding in damage if not (rounding.kind == "constants" and rounding.nodes <= whole)]
        self._integer: dict[str, float] = {}
        self._other: dict[str, float] = {}
        self._borders: dict[str, tuple[tuple[str, ...], float]] = {}
        self._apart: set[str] = set()  # values whose ends do not agree where all of them leave the 8 bits
        for node, written in activation_nodes(model.graph):
            name = node_name(node)
            if runs_in_integers(node, plan):
                self.macs[name] = macs_of(node)
                self._integer[name] = node_us(cost, node, "int8")
                self._other[name] = node_us(cost, node, self.form(name))
            readers = [node_name(user) for user, _ in written.uses() if fused_into(user) is None]
            if written.name in plan.encodings:
                ends = (name, *readers)
                wide = {self.form(end) == "int16x8" for end in ends if end not in self.pinned}
                self._borders[name_of(written)] = ends, cost.convert_us(prod(static_shape(written)), wide=wide == {True})
                if len(wide) > 1:
                    self._apart.add(name_of(written))

    def form(self, name: str) -> Form:
        """What a node is where it leaves the 8 bits, or never had any."""
        return self.otherwise.get(name, "float32")

    def leaving(self, price: float) -> set[str]:
        """Names of the nodes that leave the 8 bits where one unit of noise is worth `price` microseconds."""
        cut = MinimumCut()
        for name, integer in self._integer.items():
            slower = self._other[name] - integer
            cut.edge(SOURCE, name, None if name in self.pinned else max(slower, 0.0))
            cut.edge(name, SINK, max(-slower, 0.0))
        for rounding in self._damage:
            charged = rounding.noise * price
            for name in rounding.nodes:
                if rounding.kind == "read":
                    cut.edge(name, rounding.group or SINK, charged)
                else:
                    cut.edge(name, rounding.name)
            if rounding.kind != "read":
                cut.edge(rounding.name, SINK, charged)
        for value, (ends, cost) in self._borders.items():
            if value in self._apart:  # converted as soon as any end leaves
                cut.edge(SOURCE, f"{value} converted", cost)
            for end in ends:
                side = end if end in self._integer else SINK
                if value in self._apart:
                    cut.edge(f"{value} converted", side)
                else:
                    cut.edge(side, f"{value} integer")  # the value is at hand in 8 bits where any end is in them
                    cut.edge(f"{value} other", side)
            if value not in self._apart:
                cut.edge(f"{value} integer", f"{value} other", cost)
        return set(cut.sink_side()) & set(self._integer)

    def latency(self, left: Collection[str]) -> float:
        """Microseconds that the integer nodes of the plan take where those of `left` have left the 8 bits, conversions included."""
        found = sum(self._other[name] if name in left else integer for name, integer in self._integer.items())
        for ends, cost in self._borders.values():
            forms = {"int8" if end in self._integer and end not in left else self.form(end) == "int16x8" for end in ends}
            found += cost if len(forms) > 1 else 0.0
        return found


def with_idle(model: ir.Model, plan: Plan, left: Collection[str], pinned: Collection[str] = ()) -> set[str]:
    """`left` and every run of other nodes without a multiply-accumulate or a table: converting to and fro costs more than it saves.

    A run with a `pinned` node stays.
    """
    integer = {node_name(node): node for node in model.graph if runs_in_integers(node, plan) and node_name(node) not in left}
    rest, found = dict(integer), set(left)
    while rest:
        run, todo = {}, [next(iter(rest))]
        while todo:
            name = todo.pop()
            if name in rest:
                run[name] = node = rest.pop(name)
                written = (fused_activation(node) or node).outputs
                todo += [node_name(user) for value in written for user, _ in value.uses()]
                sources = [value.producer() for value in node.inputs if value is not None]
                todo += [node_name(fused_into(source) or source) for source in sources if source is not None]
        if not any(name in pinned or macs_of(node) or holds_much(node) for name, node in run.items()):
            found |= set(run)
    return found
