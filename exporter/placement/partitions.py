"""The partitions that a runtime cuts a placed graph into: a delegate gets one at a time, and what crosses between two is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from exporter.graph.summary import Placement
from exporter.graph.values import activation_nodes, fused_activation, static_shape
from targets.schema import ACTIVATIONS

__all__ = ["Partition", "partitions", "read_by", "stored_bytes"]


@dataclass(frozen=True)
class Partition:
    """Connected nodes that one unit runs without waiting for another.

    Attributes:
        unit: its name in the profile; "" where no unit runs the nodes.
        nodes: their names, in graph order.
        bytes_in, bytes_out: of values that other partitions wrote and it reads, and the other way round; each value once. What the
            caller of the model hands over and takes is in neither.
    """

    unit: str
    nodes: tuple[str, ...]
    bytes_in: int
    bytes_out: int


def partitions(graph: ir.Graph, placed: Sequence[Placement]) -> tuple[Partition, ...]:
    """Cut a legalized graph where its nodes change the unit, in the order in which the parts run.

    As TensorFlow Lite does for its delegates (`PartitionGraphIntoIndependentNodeSubsets`, graph_info.cc): as long as nodes of one unit
    have all their inputs they join its part, then another unit's turn comes; so no part waits for itself through another. What of a part
    is not connected is apart here.

    Args:
        placed: `summary.placements` of that graph.
    """
    order = [node for node, _ in activation_nodes(graph)]
    place = dict(zip(order, placed, strict=True))
    wrote = {value: node for node in order for value in (fused_activation(node) or node).outputs}
    reads = {node: {value for value in read_by(node) if value in wrote} for node in order}
    feeds = {node: {wrote[value] for value in values} for node, values in reads.items()}
    groups: list[list[ir.Node]] = []
    done: set[ir.Node] = set()
    while left := [node for node in order if node not in done]:
        unit = next(place[node].unit for node in left if feeds[node] <= done)
        taken: list[ir.Node] = []
        for node in left:
            if place[node].unit == unit and feeds[node] <= done:
                taken.append(node)
                done.add(node)
        groups += _connected(taken, feeds)
    home = {node: index for index, group in enumerate(groups) for node in group}
    goes: dict[ir.Value, set[int]] = {}
    for node, values in reads.items():
        for value in values:
            if home[node] != home[wrote[value]]:
                goes.setdefault(value, set()).add(home[node])
    came, went = [0] * len(groups), [0] * len(groups)
    for value, readers in goes.items():
        size = stored_bytes(value, place[wrote[value]].precision)
        went[home[wrote[value]]] += size
        for index in readers:
            came[index] += size
    return tuple(
        Partition(place[group[0]].unit, tuple(place[node].node for node in group), came[index], went[index])
        for index, group in enumerate(groups)
    )


def stored_bytes(value: ir.Value, precision: str) -> int:
    """Bytes of a value as a node of that precision ("": float32) writes it; integers that are no encoding keep their width.

    Raises ValueError where the shape is not static.
    """
    if value.dtype is not None and not value.dtype.is_floating_point():
        return prod(static_shape(value)) * value.dtype.numpy().itemsize
    return prod(static_shape(value)) * np.dtype(ACTIVATIONS[precision or "float32"]).itemsize


def read_by(node: ir.Node) -> list[ir.Value]:
    """What a node reads, and what the bodies of a loop or a branch read of the graph around them."""
    bodies = [attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH]
    values = [*node.inputs, *(value for body in bodies for inner in body.all_nodes() for value in inner.inputs)]
    return [value for value in values if value is not None]


def _connected(nodes: Sequence[ir.Node], feeds: Mapping[ir.Node, set[ir.Node]]) -> list[list[ir.Node]]:
    """`nodes`, in graph order, by the parts that values between them hold together."""
    parts: list[set[ir.Node]] = []
    for node in nodes:
        touched = [part for part in parts if part & feeds[node]]
        parts = [part for part in parts if part not in touched]
        parts.append({node}.union(*touched))
    position = {node: index for index, node in enumerate(nodes)}
    ordered = [sorted(part, key=position.__getitem__) for part in parts]
    return sorted(ordered, key=lambda part: position[part[0]])
