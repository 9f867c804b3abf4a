"""A placement report as text: one table of nodes, one of partitions, and what would mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from exporter.cli.options import human_bytes, human_count, print_table
from exporter.graph.alike import named

if TYPE_CHECKING:
    from exporter.placement.estimate import Estimate
    from exporter.placement.report import CompilerAnswer, PlacementReport

__all__ = ["human_us", "print_placement"]


def print_placement(report: PlacementReport) -> None:
    """Print to stdout. Times are labelled as estimates wherever they stand."""
    units = ", ".join(f"{unit} {report.on(unit)}" for unit in report.units)
    click.echo(f"\non {report.target}, {report.precision}: {report.placed} of {len(report.nodes)} nodes run ({units})")
    click.echo(f"  {'partitions':<17} {len(report.partitions)}, {human_bytes(report.crossing_bytes)} cross between them")
    _print_estimate(report.estimate)
    times = report.estimate.nodes
    rows = [
        (
            entry.node,
            entry.op_type,
            f"{entry.unit} {entry.precision}" if entry.unit else "-",
            human_count(times[entry.node].macs),
            human_us(times[entry.node].us),
        )
        for entry in report.nodes
    ]
    print_table(("node", "operator", "runs on", "MACs", "estimate"), rows, right=(3, 4))
    if away := report.away(floats=True):
        whys = [
            (
                entry.op_type,
                str(len(names)),
                f"{entry.unit} {entry.precision}" if entry.unit else "-",
                named(names),
                "; ".join(entry.reasons),
            )
            for entry, names in away
        ]
        first = f"not on {next(iter(report.units))} in {report.precision}"
        print_table((first, "nodes", "runs on", "which", "why"), whys, right=(1,))
    if len(report.partitions) > 1:
        parts = [
            (
                str(index),
                part.unit or "-",
                str(len(part.nodes)),
                human_bytes(part.bytes_in),
                human_bytes(part.bytes_out),
                _span(part.nodes),
            )
            for index, part in enumerate(report.partitions)
        ]
        print_table(("partition", "unit", "nodes", "bytes in", "bytes out", "from .. to"), parts, right=(0, 2, 3, 4))
    if report.remedies:
        mends = [
            (
                remedy.change,
                named(remedy.nodes) or "all",
                "computes the same" if remedy.exact else "changes the numbers",
                remedy.gain,
            )
            for remedy in report.remedies
        ]
        print_table(("what would mend it", "nodes", "the model", "then"), mends)
    for answer in report.answers:
        _print_answer(answer)


def human_us(us: float | None) -> str:
    """1234.5 -> "1.23 ms"; "-" where there is no estimate."""
    if us is None:
        return "-"
    return f"{us:.3g} us" if us < 1e3 else f"{us / 1e3:.3g} ms" if us < 1e6 else f"{us / 1e6:.3g} s"


def _print_estimate(estimate: Estimate) -> None:
    total = human_us(estimate.total_us) if estimate.total_us is not None else "none"
    click.echo(f"  {'latency':<17} {total} estimated, not measured ({estimate.source})")
    for unit, us in estimate.units.items():
        click.echo(f"    {unit:<15} {human_us(us)}")
    if estimate.borders_us:
        click.echo(f"    {'borders':<15} {human_us(estimate.borders_us)}")
    for why, count in estimate.lacking.items():
        click.echo(f"  no estimate of {count} node{'s' if count != 1 else ''}: {why}", err=True)


def _print_answer(answer: CompilerAnswer) -> None:
    if not answer.operators:
        click.echo(f"\n{answer.compiler} for {answer.architecture}: compiled; it says of no operator where it runs")
        return
    mapped = answer.operators - answer.left_out
    click.echo(f"\n{answer.compiler} for {answer.architecture}: {mapped} of {answer.operators} operators run on the accelerator")
    if answer.estimate is not None:
        click.echo(f"  {'latency':<17} {human_us(answer.estimate.total_us)} estimated, not measured ({answer.estimate.source})")
    if not answer.disagreements:
        click.echo("  it agrees with the rules on every node")
        return
    rows = [
        (entry.node, entry.op_type, entry.ours or "-", entry.theirs, "; ".join(entry.reasons)) for entry in answer.disagreements
    ]
    print_table(("node", "operator", "rules", "compiler", "why"), rows)


def _span(nodes: tuple[str, ...]) -> str:
    return nodes[0] if len(nodes) == 1 else f"{nodes[0]} .. {nodes[-1]}"
