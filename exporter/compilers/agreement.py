"""What our rules say of where each node runs, held against what the compiler did."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING

from exporter.compilers.base import Compiled, OperatorPlacement
from exporter.graph.summary import placements

if TYPE_CHECKING:
    from exporter.built import Built

__all__ = ["disagreements"]


def disagreements(built: Built) -> tuple[str, ...]:
    """A sentence for each node that runs on another kind of unit than the profile's rules say; the nodes in their order.

    A node is on the accelerator where all operators that were written for it are.
    """
    kinds = {unit.name: unit.kind for unit in built.target.units}
    ours = {entry.node: kinds[entry.unit] for entry in placements(built.graph, built.target) if entry.unit}
    found = []
    for compiled in built.compiled:
        theirs: dict[str, OperatorPlacement] = {}
        for node, placement in _owners(built, compiled):
            if node not in theirs or placement.unit == "cpu":
                theirs[node] = placement
        found += [
            f"{node} ({theirs[node].op_type}): our rules say {kind}, {compiled.compiler} for {compiled.architecture} says "
            + " because ".join([theirs[node].unit, *filter(None, ["; ".join(theirs[node].reasons)])])
            for node, kind in ours.items()
            if node in theirs and theirs[node].unit != kind
        ]
    return tuple(found)


def _owners(built: Built, compiled: Compiled) -> Iterator[tuple[str, OperatorPlacement]]:
    """The node that each operator was written for. A TFLite artifact tells it by position, an ONNX one by the name of the output."""
    if built.artifact.emitted:
        emitted = built.artifact.emitted
        for entry, placement in zip_longest(emitted, compiled.placements):
            if entry is None or placement is None:
                raise ValueError(f"{len(compiled.placements)} operators were placed, {len(emitted)} were written")
            yield entry.node, placement
        return
    writers = {value.name: node.name or "" for node in built.graph.graph for value in node.outputs}
    for placement in compiled.placements:
        if placement.output in writers:
            yield writers[placement.output], placement
