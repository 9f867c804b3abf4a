"""Scales at which the kernels of all runtimes of a microcontroller compute the same integers.

A few of tflite-micro's kernels give what LiteRT's reference kernels give at most scales, not at all (`exporter.ops.agreement`). A scale that
is smaller by a few units in its last place has none of their ties: what rounds differently is one integer in thousands, and the range is
the same to the sixth digit. This is the last decision about encodings: whatever changed a scale before, fitting or learning, is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, Literal

import numpy as np
import onnx_ir as ir

from exporter.graph.values import activation_nodes, name_of
from exporter.ops.base import operator_of
from exporter.quantization.apply import node_name, runs_in_integers
from exporter.quantization.plan import Encoding, Plan
from exporter.quantization.rescaling import free_groups, rescaled

__all__ = ["agreed"]

# Where a plan has an encoding: the field, and the key in it.
_Place = tuple[Literal["encodings", "requantize"], str]

_FARTHEST: Final = 2**13  # units in the last place of a scale: an eighth of a step at the end of a range of 8 bits
_SATURATED: Final = 15.0  # beyond it tflite-micro's tables are at their ends, as sigmoid and tanh are in 8 bits


def agreed(graph: ir.Graph, plan: Plan) -> Plan:
    """`plan` with scales of activations moved down until all kernels agree; `moved` of it says what they were.

    Down, so that an encoding that ends at a clamp's bound still clamps. A table whose input's scale is fixed, or that agrees at none nearby,
    as where steps are so wide that tflite-micro's fixed point saturates too early, reads its input requantized. Any other such node stays
    as it is: what is compared of the artifact then says so.
    """
    nodes = [_Node.of(node, written, plan) for node, written in activation_nodes(graph) if runs_in_integers(node, plan)]
    groups = free_groups(graph, plan, list(graph), graph.inputs)
    roots = {name: root for root, names in groups.items() for name in names}
    for number, node in enumerate(nodes):
        if node.agrees(plan):
            continue
        found = None
        for field, key in node.movable:
            free = (key,) if field == "requantize" else groups[roots[key]] if key in roots else ()
            found = found or _nearest(node, nodes, [(field, name) for name in free], plan)
        found = found or _requantized(node, plan)
        if found is not None:
            plan = _with(graph, plan, found)
            nodes[number] = _Node.of(node.node, node.first, plan)
    return plan


@dataclass(frozen=True)
class _Node:
    """A node that runs in integers; `first` is what its kernel writes first. `read` and `written`: where its encodings are, None without."""

    node: ir.Node
    first: ir.Value
    read: tuple[_Place | None, ...]
    written: tuple[_Place | None, ...]

    @classmethod
    def of(cls, node: ir.Node, first: ir.Value, plan: Plan) -> _Node:
        read: list[_Place | None] = []
        for index, value in enumerate(node.inputs):
            own = f"{node_name(node)}:{index}"
            stored: _Place | None = ("encodings", name_of(value)) if value is not None and value.name in plan.encodings else None
            read.append(("requantize", own) if own in plan.requantize else stored)
        outputs = (first, *node.outputs[1:])
        written = tuple[_Place | None, ...](
            ("encodings", name_of(value)) if value.name in plan.encodings else None for value in outputs
        )
        return cls(node, first, tuple(read), written)

    @property
    def movable(self) -> list[_Place]:
        """What may be moved for its sake: first what it writes, on which no node in front of it depends."""
        return [place for place in dict.fromkeys((*self.written, *self.read)) if place is not None]

    def agrees(self, plan: Plan, moved: Mapping[_Place, Encoding] | None = None) -> bool:
        """Whether the kernels do, with some encodings instead of the plan's."""

        def encodings(places: Sequence[_Place | None]) -> list[Encoding | None]:
            return [None if place is None else (moved or {}).get(place) or _held(plan, place) for place in places]

        return operator_of(self.node).agrees(self.node, encodings(self.read), encodings(self.written))


def _held(plan: Plan, place: _Place) -> Encoding:
    field, key = place
    return plan.requantize[key] if field == "requantize" else plan.encodings[key]


def _nearest(node: _Node, nodes: Sequence[_Node], places: Sequence[_Place], plan: Plan) -> dict[_Place, Encoding] | None:
    """The next smaller scale of `places` at which `node` agrees, and all others that do so now; None where there is none nearby."""
    if not places:
        return None
    touched = [other for other in nodes if other is not node and not set(places).isdisjoint(other.movable)]
    watched = [node, *(other for other in touched if other.agrees(plan))]
    for encoding in _below(_held(plan, places[0])):
        moved = dict.fromkeys(places, encoding)
        if all(other.agrees(plan, moved) for other in watched):
            return moved
    return None


def _requantized(node: _Node, plan: Plan) -> dict[_Place, Encoding] | None:
    """An encoding of its own for what a node of one input and a fixed output reads, which the stored one is brought to exactly.

    Its steps are a half, a quarter, ... of the stored ones, and what they do not reach is saturated; or it is the stored one but for units
    in the last place.
    """
    if len(node.read) != 1 or node.read[0] is None or operator_of(node.node).quantize(node.node).outputs[0].kind != "fixed":
        return None
    own: _Place = ("requantize", f"{node_name(node.node)}:0")
    apart, stored = replace(node, read=(own,)), _held(plan, node.read[0])
    for encoding in chain(_halved(stored), _below(stored)):
        if apart.agrees(plan, {own: encoding}):
            return {own: encoding}
    return None


def _below(encoding: Encoding) -> Iterator[Encoding]:
    """The encoding with scales that are smaller by 1, 2, 3, ... units in the last place, later by more at a time."""
    number = np.float32(encoding.scale[0]).view(np.uint32)  # of positive floats, their order
    units = 1
    while units <= _FARTHEST:
        yield replace(encoding, scale=(float(np.uint32(number - units).view(np.float32)),))
        units += 1 + units // 256


def _halved(encoding: Encoding) -> Iterator[Encoding]:
    scale = encoding.scale[0] / 2
    while encoding.dtype == "int8" and 127 * scale >= _SATURATED:
        yield replace(encoding, scale=(scale,), zero_point=(0,))
        scale /= 2


def _with(graph: ir.Graph, plan: Plan, found: Mapping[_Place, Encoding]) -> Plan:
    own = {key: encoding for (field, key), encoding in found.items() if field == "requantize"}
    stored = {key: encoding for (field, key), encoding in found.items() if field == "encodings"}
    before = {key: plan.encodings[key].scale[0] for key in stored}
    plan = replace(plan, requantize={**plan.requantize, **own}, moved={**before, **plan.moved})
    return rescaled(graph, plan, stored) if stored else plan
