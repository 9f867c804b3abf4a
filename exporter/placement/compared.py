"""What a vendor's compiler says of an artifact's operators beside what our rules say of the nodes they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exporter.compilers.base import Compiled, Kind
from exporter.graph.summary import Placement
from targets.schema import Target

__all__ = ["Disagreement", "disagreements"]


@dataclass(frozen=True)
class Disagreement:
    """One node on which rules and compiler differ.

    Attributes:
        node, op_type: of the legalized graph; output: the value by which the compiler's operator was found.
        ours, theirs: kinds of units ("" where our rules have none); reasons: why, ours where the rules refused, else the compiler's.
    """

    node: str
    op_type: str
    output: str
    ours: str
    theirs: Kind
    reasons: tuple[str, ...] = ()


def disagreements(placed: Sequence[Placement], target: Target, compiled: Compiled) -> tuple[Disagreement, ...]:
    """Every node that the rules put on another kind of unit than the compiler put an operator that writes its output.

    Operators that write no node's output (conversions at borders, the inner parts of a node that became several) are left out: the rules
    say nothing of them.
    """
    kinds: dict[str, str] = {unit.name: unit.kind for unit in target.units}
    told = {entry.output: entry for entry in compiled.placements}
    found = []
    for place in placed:
        entry = told.get(place.output)
        ours = kinds.get(place.unit, "")
        if entry is not None and entry.unit != ours:
            reasons = place.reasons if entry.unit != "cpu" else entry.reasons
            found.append(Disagreement(place.node, place.op_type, place.output, ours, entry.unit, reasons))
    return tuple(found)
