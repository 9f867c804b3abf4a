"""Which nodes leave the integers, as a minimum cut: source side in integers, sink side in float. Costs are microseconds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

import onnx_ir as ir

from exporter.graph.minimum_cut import SINK, SOURCE, MinimumCut
from exporter.graph.values import activation_nodes, fused_activation, fused_into, name_of, static_shape
from exporter.quantization.apply import node_name, runs_in_integers
from exporter.quantization.costs import macs_of, node_us
from exporter.quantization.plan import Plan
from exporter.quantization.sensitivity import Rounding
from exporter.quantization.weights import holds_much
from targets.cost import CostModel

__all__ = ["Partition", "with_idle"]


class Partition:
    """The choice of nodes for given prices of noise.

    Args:
        damage: what each rounding does to the outputs.
        dynamic: nodes that have a kernel for float activations and integer weights, which they take where they leave the integers.
        pinned: nodes that do not leave them.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: Plan,
        cost: CostModel,
        damage: Sequence[Rounding],
        dynamic: Collection[str] = (),
        pinned: Collection[str] = (),
    ) -> None:
        self.dynamic = frozenset(dynamic)
        self.macs: dict[str, int] = {}
        self._pinned = frozenset(pinned)
        self._damage = [rounding for rounding in damage if not (rounding.kind == "constants" and rounding.nodes <= self.dynamic)]
        self._integer: dict[str, float] = {}
        self._float: dict[str, float] = {}
        self._borders: dict[str, tuple[tuple[str, ...], float]] = {}
        for node, written in activation_nodes(model.graph):
            name = node_name(node)
            if runs_in_integers(node, plan):
                self.macs[name] = macs_of(node)
                self._integer[name] = node_us(cost, node, "int8")
                self._float[name] = node_us(cost, node, "dynamic_int8" if name in self.dynamic else "float32")
            readers = [node_name(user) for user, _ in written.uses() if fused_into(user) is None]
            if written.name in plan.encodings:
                self._borders[name_of(written)] = (name, *readers), cost.convert_us(prod(static_shape(written)))

    def floats(self, price: float) -> set[str]:
        """Names of the nodes that leave the integers where one unit of noise is worth `price` microseconds."""
        cut = MinimumCut()
        for name, integer in self._integer.items():
            slower = self._float[name] - integer
            cut.edge(SOURCE, name, None if name in self._pinned else max(slower, 0.0))
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
            for end in ends:
                side = end if end in self._integer else SINK
                cut.edge(side, f"{value} integer")  # the value is at hand in integers where any end is an integer node
                cut.edge(f"{value} float", side)
            cut.edge(f"{value} integer", f"{value} float", cost)
        return set(cut.sink_side()) & set(self._integer)

    def latency(self, floats: Collection[str]) -> float:
        """Microseconds that the integer nodes of the plan take where those of `floats` have left the integers, conversions included."""
        found = sum(self._float[name] if name in floats else integer for name, integer in self._integer.items())
        for ends, cost in self._borders.values():
            inside = {end in self._integer and end not in floats for end in ends}
            found += cost if len(inside) == 2 else 0.0
        return found


def with_idle(model: ir.Model, plan: Plan, floats: Collection[str]) -> set[str]:
    """`floats` and every run of integer nodes without a multiply-accumulate or a table: converting to and fro costs more than it saves."""
    integer = {node_name(node): node for node in model.graph if runs_in_integers(node, plan) and node_name(node) not in floats}
    left, found = dict(integer), set(floats)
    while left:
        run, todo = {}, [next(iter(left))]
        while todo:
            name = todo.pop()
            if name in left:
                run[name] = node = left.pop(name)
                written = (fused_activation(node) or node).outputs
                todo += [node_name(user) for value in written for user, _ in value.uses()]
                sources = [value.producer() for value in node.inputs if value is not None]
                todo += [node_name(fused_into(source) or source) for source in sources if source is not None]
        if not any(macs_of(node) or holds_much(node) for node in run.values()):
            found |= set(run)
    return found
