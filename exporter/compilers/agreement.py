"""What our rules say of where each node runs, held against what the compiler did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from exporter.compilers.base import Compiled, Kind, OperatorPlacement

if TYPE_CHECKING:
    from exporter.built import Built

__all__ = ["Disagreement", "disagreements", "owners"]


@dataclass(frozen=True)
class Disagreement:
    """A node that a compiler put on another kind of unit than the profile's rules say; as text, a sentence.

    Attributes:
        node: of the legalized graph; op_type: the operator of the artifact that decided.
        ours, theirs: kinds of units; reasons: the compiler's, where it refused the accelerator.
        compiler, architecture: who says so.
    """

    node: str
    op_type: str
    ours: Kind
    theirs: Kind
    reasons: tuple[str, ...]
    compiler: str
    architecture: str

    def __str__(self) -> str:
        theirs = " because ".join([self.theirs, *filter(None, ["; ".join(self.reasons)])])
        return f"{self.node} ({self.op_type}): our rules say {self.ours}, {self.compiler} for {self.architecture} says {theirs}"


def disagreements(built: Built) -> tuple[Disagreement, ...]:
    """One for each node that runs on another kind of unit than the profile's rules say; the nodes in their order, architecture by architecture.

    A node is on the accelerator where all operators that were written for it are.
    """
    from exporter.graph.summary import placements

    kinds = {unit.name: unit.kind for unit in built.target.units}
    ours = {entry.node: kinds[entry.unit] for entry in placements(built.graph, built.target) if entry.unit}
    found = []
    for compiled in built.compiled:
        theirs: dict[str, OperatorPlacement] = {}
        for node, placement in owners(built, compiled):
            if node not in theirs or placement.unit == "cpu":
                theirs[node] = placement
        found += [
            Disagreement(
                node,
                theirs[node].op_type,
                kind,
                theirs[node].unit,
                theirs[node].reasons,
                compiled.compiler,
                compiled.architecture,
            )
            for node, kind in ours.items()
            if node in theirs and theirs[node].unit != kind
        ]
    return tuple(found)


def owners(built: Built, compiled: Compiled) -> Iterator[tuple[str, OperatorPlacement]]:
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
