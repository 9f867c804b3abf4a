"""The placement report of a model on a target: where each node runs or why not, partitions, an estimate of the time, what would mend it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from exporter.compilers.agreement import Disagreement, disagreements, owners
from exporter.graph.summary import Placement, placements
from exporter.placement.estimate import Estimate, compiler_estimate, estimate
from exporter.placement.partitions import Partition, partitions
from exporter.placement.remedies import Remedy, remedies
from targets.schema import Target

if TYPE_CHECKING:
    from exporter.built import Built

__all__ = ["CompilerAnswer", "PlacementReport", "compiler_answers", "placement_report", "report_of"]


@dataclass(frozen=True)
class CompilerAnswer:
    """What a compiler said for one architecture, beside the rules; `estimate`: by the cycles that it counted, where it counts."""

    compiler: str
    architecture: str
    operators: int
    left_out: int
    disagreements: tuple[Disagreement, ...]
    estimate: Estimate | None


@dataclass(frozen=True)
class PlacementReport:
    """All that is known of where a model runs on a target.

    Attributes:
        units: name -> kind, in the order in which they are offered a node.
        nodes: one for each node of the legalized graph that runs by itself, in graph order.
        estimate: by the cycles of the first compiler that counts them, else by the rules; it says which.
    """

    target: str
    title: str
    precision: str
    units: Mapping[str, str]
    nodes: tuple[Placement, ...]
    partitions: tuple[Partition, ...]
    estimate: Estimate
    remedies: tuple[Remedy, ...] = ()
    answers: tuple[CompilerAnswer, ...] = ()

    @property
    def placed(self) -> int:
        """How many nodes any unit runs."""
        return sum(bool(node.unit) for node in self.nodes)

    @property
    def crossing_bytes(self) -> int:
        """Bytes that go from one partition to another in one inference, once for each that reads them."""
        return sum(part.bytes_in for part in self.partitions)

    def on(self, unit: str) -> int:
        """How many nodes a unit runs."""
        return sum(node.unit == unit for node in self.nodes)

    def away(self, *, floats: bool) -> tuple[tuple[Placement, tuple[str, ...]], ...]:
        """Nodes that are not on the first unit, or (with `floats`) not in the wanted precision there, those alike as one.

        Alike are nodes of one operator on one unit for the same reasons: the placement of the first, and the names of all.
        """
        first = next(iter(self.units))
        alike: dict[tuple[str, str, str, tuple[str, ...]], list[Placement]] = {}
        for node in self.nodes:
            if node.unit != first or (floats and node.precision != self.precision and node.reasons):
                alike.setdefault((node.op_type, node.unit, node.precision, node.reasons), []).append(node)
        return tuple((nodes[0], tuple(node.node for node in nodes)) for nodes in alike.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``: what stands under "estimate" is estimated, never measured."""
        times = self.estimate.nodes
        return {
            "target": self.target,
            "precision": self.precision,
            "units": dict(self.units),
            "placement": [{**asdict(node), "estimate": asdict(times[node.node])} for node in self.nodes],
            "partitions": [asdict(part) for part in self.partitions],
            "crossing_bytes": self.crossing_bytes,
            "estimate": self.estimate.to_dict(),
            "remedies": [asdict(remedy) for remedy in self.remedies],
            "compilers": [
                {
                    "compiler": answer.compiler,
                    "architecture": answer.architecture,
                    "operators": answer.operators,
                    "left_out": answer.left_out,
                    "disagreements": [asdict(entry) for entry in answer.disagreements],
                    "estimate": answer.estimate.to_dict() if answer.estimate is not None else None,
                }
                for answer in self.answers
            ],
        }


def placement_report(model: ir.Model, target: Target, legalize: Callable[[ir.Model, Target], ir.Model]) -> PlacementReport:
    """The report of a canonical model, each node in the target's precision where it can be.

    Args:
        legalize: `pipeline.legalized`. Raises what it raises.
    """
    legal = legalize(model, target)
    placed = placements(legal, target)
    return report_of(legal.graph, placed, target, remedies(model, legal, placed, target, legalize))


def report_of(
    graph: ir.Graph,
    placed: Sequence[Placement],
    target: Target,
    mends: tuple[Remedy, ...] = (),
    answers: tuple[CompilerAnswer, ...] = (),
) -> PlacementReport:
    """The report of a legalized graph whose nodes are placed (`summary.placements`, `planned.planned_placements`)."""
    return PlacementReport(
        target.name,
        target.title,
        target.artifact.precision,
        {unit.name: unit.kind for unit in target.units},
        tuple(placed),
        partitions(graph, placed),
        next((answer.estimate for answer in answers if answer.estimate is not None), None) or estimate(graph, placed, target),
        mends,
        answers,
    )


def compiler_answers(built: Built, placed: Sequence[Placement]) -> tuple[CompilerAnswer, ...]:
    """What each compilation of an artifact said, beside the rules; `placed`: of the graph that the artifact was written from."""
    by_rules = estimate(built.graph.graph, placed, built.target)
    differing = disagreements(built)
    found = []
    for entry in built.compiled:
        cycles: dict[str, float | None] = {}
        for node, operator in owners(built, entry):
            before = cycles.get(node, 0.0)
            counted = before is not None and operator.unit != "cpu"
            cycles[node] = (before or 0.0) + operator.figures.get("cycles", 0.0) if counted else None
        found.append(
            CompilerAnswer(
                f"{entry.compiler} {entry.version}",
                entry.architecture,
                len(entry.placements),
                len(entry.left_out),
                tuple(
                    other for other in differing if (other.compiler, other.architecture) == (entry.compiler, entry.architecture)
                ),
                compiler_estimate(by_rules, placed, entry, cycles),
            )
        )
    return tuple(found)
