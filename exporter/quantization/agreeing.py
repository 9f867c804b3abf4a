"""Scales at which the kernels of all runtimes of a microcontroller compute the same integers.

A few of tflite-micro's kernels give what LiteRT's reference kernels give at most scales, not at all (`exporter.ops.agreement`). A scale that
is smaller by a few units in its last place has none of their ties: what rounds differently is one integer in thousands, and the range is
the same to the sixth digit. This is the last decision about encodings: whatever changed a scale before, fitting or learning, is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import activation_nodes, name_of
from exporter.ops.base import operator_of
from exporter.quantization.apply import node_name, runs_in_integers
from exporter.quantization.plan import Encoding, Plan
from exporter.quantization.rescaling import free_groups, rescaled

__all__ = ["agreed"]

# In units in the last place of a scale: an eighth of a step at the end of a range of 8 bits.
_FARTHEST: Final = 2**13


def agreed(graph: ir.Graph, plan: Plan) -> Plan:
    """`plan` with scales of activations moved down until all kernels agree, and what they were in `moved`.

    Down, so that an encoding that ends at a clamp's bound still clamps. A node whose scales are all fixed, or that agrees at none nearby,
    stays as it is: what is compared of the artifact then says so.
    """
    nodes = [_Node.of(node, written, plan) for node, written in activation_nodes(graph) if runs_in_integers(node, plan)]
    groups = free_groups(graph, plan, list(graph), graph.inputs)
    roots = {name: root for root, names in groups.items() for name in names}
    for node in nodes:
        if node.agrees(plan):
            continue
        for key in node.movable:
            names = groups[roots[key]] if key in roots else (key,) if key in plan.requantize else ()
            among = [other for other in nodes if not other.uses.isdisjoint(names)]
            found = _nearest(node, among, names, plan)
            if found is not None:
                plan = _with(graph, plan, found)
                break
    return plan


@dataclass(frozen=True)
class _Node:
    """A node that runs in integers.

    Attributes:
        read: for each input, where the plan has its encoding: the name of a value, or "node:input_index"; "" without one.
        written: the same of each output.
    """

    node: ir.Node
    read: tuple[str, ...]
    written: tuple[str, ...]

    @classmethod
    def of(cls, node: ir.Node, written: ir.Value, plan: Plan) -> _Node:
        read = []
        for index, value in enumerate(node.inputs):
            own = f"{node_name(node)}:{index}"
            read.append(own if own in plan.requantize else name_of(value) if value is not None and value.name else "")
        return cls(node, tuple(read), tuple(name_of(value) for value in (written, *node.outputs[1:])))

    @property
    def uses(self) -> frozenset[str]:
        return frozenset((*self.read, *self.written))

    @property
    def movable(self) -> tuple[str, ...]:
        """What may be moved for its sake: first what it writes, on which no node in front of it depends."""
        return tuple(dict.fromkeys((*self.written, *self.read)))

    def agrees(self, plan: Plan, moved: Mapping[str, Encoding] | None = None) -> bool:
        def encodings(keys: Sequence[str]) -> list[Encoding | None]:
            held = [plan.requantize.get(key) or plan.encodings.get(key) for key in keys]
            return [(moved or {}).get(key, found) for key, found in zip(keys, held, strict=True)]

        return operator_of(self.node).agrees(self.node, encodings(self.read), encodings(self.written))


def _nearest(node: _Node, among: Sequence[_Node], names: Sequence[str], plan: Plan) -> dict[str, Encoding] | None:
    """The next smaller scale of `names` at which `node` agrees, and all of `among` that do so now; None where there is none nearby."""
    if not names:
        return None
    encoding = plan.requantize.get(names[0]) or plan.encodings[names[0]]
    watched = [node, *(other for other in among if other is not node and other.agrees(plan))]
    scale = np.float32(encoding.scale[0])
    for _ in range(_FARTHEST):
        scale = np.nextafter(scale, np.float32(0))
        moved = dict.fromkeys(names, replace(encoding, scale=(float(scale),)))
        if all(other.agrees(plan, moved) for other in watched):
            return moved
    return None


def _with(graph: ir.Graph, plan: Plan, found: Mapping[str, Encoding]) -> Plan:
    before = {key: (plan.requantize.get(key) or plan.encodings[key]).scale[0] for key in found}
    moved = {**before, **plan.moved}
    single = {key: encoding for key, encoding in found.items() if key in plan.requantize}
    if single:
        return replace(plan, requantize={**plan.requantize, **single}, moved=moved)
    return replace(rescaled(graph, plan, found), moved=moved)
