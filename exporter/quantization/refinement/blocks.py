"""Cut a graph into blocks of a few layers, where it narrows to one activation if it does.

What a block's output loses by rounding is what its roundings are judged by: layers within a block make up for each other, and nothing
outside of it has to be known (Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction").
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import onnx_ir as ir

from exporter.graph.values import fused_into, is_constant, name_of, static_shape

__all__ = ["Block", "blocks_of"]

_MOST: Final = 4  # layers of a block that is made of narrow pieces
_POOLED: Final = (
    8  # a node that leaves less than one of so many elements begins a block: much can be wrong with what has a right mean
)
_WIDEST: Final = 8  # layers between two narrow places; where there are more, each layer is a block


@dataclass(frozen=True)
class Block:
    """Nodes that follow each other in the graph.

    Attributes:
        nodes: in graph order; a fused activation is in the block of the node that applies it.
        reads: names of the computed values and graph inputs that come from in front of it.
        writes: names of the values that nodes behind it read, or that are outputs of the graph.
    """

    nodes: tuple[ir.Node, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def blocks_of(graph: ir.Graph, layers: Collection[ir.Node]) -> list[Block]:
    """All nodes of the graph in blocks, in graph order. `layers` are the nodes that have something to learn: their number bounds a block.

    A block ends where one activation alone goes on, behind at most four layers at the smallest such one, and in front of what leaves little
    of it, such as a mean over all positions. Graph inputs, and what is computed from them without a layer, may go on beside it.
    Where the graph stays wide for more than eight layers, each is a block.
    """
    nodes = list(graph)
    order = {node: place for place, node in enumerate(nodes)}
    last = _last_readers(graph, order)
    cuts = [place for place in range(len(nodes)) if _severs_nothing_fused(place, nodes, order)]
    narrow = dict(_narrow(nodes, cuts, last, set(layers)))
    ends: list[int] = []
    start = 0
    while start < len(nodes):
        end = _end(start, nodes, narrow, layers)
        if sum(node in layers for node in nodes[start : end + 1]) > _WIDEST:
            inside = [place for place in cuts if start <= place < end]
            ends += [place for place in inside if _ends_layer(place, nodes, layers)]
        ends.append(end)
        start = end + 1
    return [_block(nodes[a + 1 : b + 1], b, last) for a, b in zip([-1, *ends], ends, strict=False)]


def _end(start: int, nodes: Sequence[ir.Node], narrow: dict[int, int], layers: Collection[ir.Node]) -> int:
    """Where the block that begins at `start` ends."""
    places: dict[int, int] = {}  # number of layers -> the place behind so many where most elements go on
    count = 0
    for place in range(start, len(nodes)):
        count += nodes[place] in layers
        if count > _MOST and places:
            break
        if place not in narrow or not count:
            continue
        widest = narrow.get(places.get(count, -1), 0)
        if narrow[place] * _POOLED < widest:
            break
        if narrow[place] >= widest:
            places[count] = place
    return min(places.values(), key=lambda place: (narrow[place], -place), default=len(nodes) - 1)


def _narrow(
    nodes: Sequence[ir.Node], cuts: Sequence[int], last: dict[ir.Value, int], layers: set[ir.Node]
) -> Iterator[tuple[int, int]]:
    """Places behind which at most one activation goes on that a layer has touched, with its number of elements."""
    touched: set[ir.Value] = set()
    allowed = set(cuts)
    for place, node in enumerate(nodes):
        if node in layers or any(value in touched for value in node.inputs if value is not None):
            touched.update(node.outputs)
        going = [value for value in touched if last.get(value, -1) > place]
        if place in allowed and len(going) <= 1:
            yield place, sum(prod(static_shape(value)) for value in going)


def _last_readers(graph: ir.Graph, order: dict[ir.Node, int]) -> dict[ir.Value, int]:
    """The place of the last node that reads each computed value or graph input; behind the graph for its outputs."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    found = {value: max((order[node] for node, _ in value.uses() if node in order), default=-1) for value in values}
    return found | {value: len(order) for value in graph.outputs if value in found}


def _severs_nothing_fused(place: int, nodes: Sequence[ir.Node], order: dict[ir.Node, int]) -> bool:
    fused = ((order[node], order[owner]) for node in nodes if (owner := fused_into(node)) is not None and owner in order)
    return not any(owner <= place < activation for activation, owner in fused)


def _ends_layer(place: int, nodes: Sequence[ir.Node], layers: Collection[ir.Node]) -> bool:
    return nodes[place] in layers or fused_into(nodes[place]) in layers


def _block(nodes: Sequence[ir.Node], place: int, last: dict[ir.Value, int]) -> Block:
    written = [value for node in nodes for value in node.outputs if value.name]
    read = [value for node in nodes for value in node.inputs if value is not None and not is_constant(value)]
    return Block(
        tuple(nodes),
        tuple(dict.fromkeys(name_of(value) for value in read if value not in set(written))),
        tuple(name_of(value) for value in written if last[value] > place),
    )
