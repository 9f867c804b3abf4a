"""``edgewright inspect``: what a model needs, what an artifact holds, and where a target would run each node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from diagnostics import UsageError
from exporter.cli.options import (
    allow_pickle_option,
    emit_json,
    human_bytes,
    human_count,
    json_option,
    parse_shapes,
    precision_option,
    print_table,
    shape_option,
    target_option,
)
from exporter.cli.placement import print_placement

if TYPE_CHECKING:
    from exporter.backends.tflite.arena import Forecast
    from exporter.graph.artifacts import ArtifactFacts
    from exporter.graph.summary import Summary

__all__ = ["command", "facts_of_artifact"]

_SHOWN: Final = 6  # tensors of a peak


@click.command(name="inspect")
@click.argument("model", metavar="MODEL-OR-ARTIFACT")
@target_option()
@precision_option
@shape_option
@allow_pickle_option
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the placement on --target as one self-contained page."
)
@click.option(
    "--compile",
    "ask",
    is_flag=True,
    help="Ask the target's compiler as well, and list where it disagrees. Without calibration data the encodings come from random inputs: "
    "where nodes run is asked, nothing is kept.",
)
@json_option
def command(
    model: str,
    target: str | None,
    precision: str | None,
    shapes: tuple[str, ...],
    allow_pickle: bool,
    html: Path | None,
    ask: bool,
    as_json: bool,
) -> None:
    """Show operators, shapes, parameters, MACs and peak activation memory of a model, or the contents of an artifact.

    An artifact is a .tflite, an ONNX file with QuantizeLinear, or a bundle. With --target, every node of a model is placed on a
    compute unit, or all reasons why it cannot run there are given, with the partitions that this makes, an estimate of the time, and what
    would mend it.
    """
    if target is None and (html is not None or ask or precision is not None):
        raise UsageError("EW-U002", "--html, --compile and --precision are about a target", fix="add --target TARGET")
    if html is not None:
        from exporter.bundle.staging import require_free_file

        require_free_file(html, overwrite=True)
    artifact = facts_of_artifact(Path(model))
    if artifact is not None:
        if target is not None:
            why = "an artifact is made for its target already, its operators are no longer the model's"
            raise UsageError("EW-U002", f"--target places the nodes of a model, and {model} is an artifact", why=why)
        emit_json({"kind": "artifact", **_artifact_data(artifact)}) if as_json else _print_artifact(model, artifact)
        return
    from exporter.frontends import load
    from exporter.graph.fuse_activations import fuse_activations
    from exporter.graph.summary import summarize

    source = load(model, shapes=parse_shapes(shapes) or None, allow_pickle=allow_pickle)
    summary = summarize(fuse_activations(source.model.clone()))
    report = None
    if target is not None:
        from exporter.inspecting import inspect

        report = inspect(source, target, precision=precision, ask_compiler=ask)
    if report is not None and html is not None:
        from exporter.bundle.placement import placement_html
        from exporter.bundle.staging import write_file

        write_file(html, placement_html(source.name, report), overwrite=True)
    if as_json:
        data = {"kind": "model", "name": source.name, "sha256": source.sha256, **_summary_data(summary)}
        emit_json({**data, **report.to_dict()} if report is not None else data)
        return
    _print_summary(source.name, summary)
    if report is not None:
        print_placement(report)


def facts_of_artifact(path: Path) -> ArtifactFacts | None:
    """Facts of a .tflite file, an ONNX file that holds quantization, or the artifact of a bundle; None for any other model.

    Raises ModelError EW-M002 or DataError EW-G003 where it is one and cannot be read.
    """
    from exporter.graph.artifacts import is_tflite, read_onnx, read_tflite

    if path.is_dir() and (path / "manifest.json").is_file():
        from exporter.bundle.bundle import read_bundle

        path = read_bundle(path).artifact
        return read_onnx(path) if path.suffix == ".onnx" else read_tflite(path.read_bytes(), where=str(path))
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        head = stream.read(8)
    if is_tflite(head) or path.suffix == ".tflite":
        return read_tflite(path.read_bytes(), where=str(path))
    if path.suffix == ".onnx":
        facts = read_onnx(path)
        if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in facts.nodes):
            return facts
    return None


def _summary_data(summary: Summary) -> dict[str, Any]:
    peak = summary.peak
    return {
        **asdict(summary),
        "macs": summary.macs,
        "peak_float32": summary.peak_float32,
        "peak_int8": summary.peak_int8,
        "peak_node": peak.name if peak else "",
    }


def _artifact_data(facts: ArtifactFacts) -> dict[str, Any]:
    operators = [{"operator": name, "version": version, "count": count} for (name, version), count in facts.operators.items()]
    told = _forecast(facts)
    data = {**asdict(facts), "operators": operators, "buffer_bytes": facts.buffer_bytes}
    return data if told is None else {**data, "arena": told.to_dict()}


def _forecast(facts: ArtifactFacts) -> Forecast | None:
    """What a .tflite would take of tflite-micro's arena with the reference kernels."""
    from exporter.backends.tflite.arena import forecast

    return forecast(facts) if facts.format == "tflite" and facts.nodes else None


def _print_summary(name: str, summary: Summary) -> None:
    click.echo(f"{name}: opset {summary.opset}, {len(summary.nodes)} nodes")
    for label, tensors in (("input", summary.inputs), ("output", summary.outputs)):
        for tensor in tensors:
            click.echo(f"  {label:<7} {tensor.name}  {tensor.dtype} {list(tensor.shape)}")
    peak = summary.peak
    lines = [
        ("parameters", f"{human_count(summary.parameters)} ({human_bytes(summary.parameter_bytes)})"),
        ("MACs", human_count(summary.macs)),
        (
            "peak activations",
            f"{human_bytes(summary.peak_float32)} float32, {human_bytes(summary.peak_int8)} int8"
            + (f", at {peak.name}" if peak else ""),
        ),
        *((("at the peak", _shown(f"{entry.name} {list(entry.shape)}" for entry in summary.peak_tensors)),) if peak else ()),
        ("operators", ", ".join(f"{op} {count}" for op, count in summary.operators.items())),
    ]
    for label, text in lines:
        click.echo(f"  {label:<17} {text}")
    for op_type, reason in summary.unknown_cost.items():
        click.echo(f"  no MACs for {op_type}: {reason}", err=True)
    rows = [
        (
            node.name,
            node.op_type + (f"+{node.fused}" if node.fused else ""),
            "x".join(str(dim) for dim in node.outputs[0].shape),
            human_count(node.parameters),
            "?" if node.macs is None else human_count(node.macs),
            human_bytes(node.live_float32),
        )
        for node in summary.nodes
    ]
    print_table(("node", "operator", "output", "parameters", "MACs", "live float32"), rows, right=(3, 4, 5))


def _shown(entries: Iterable[str]) -> str:
    """The first few of them."""
    every = list(entries)
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")


def _print_artifact(path: str, facts: ArtifactFacts) -> None:
    click.echo(f"{path}: {facts.schema}, {human_bytes(facts.file_bytes)}, {human_bytes(facts.buffer_bytes)} of constants")
    for label, names in (("input", facts.inputs), ("output", facts.outputs)):
        for name in names:
            tensor = facts.tensor(name)
            encoding = f", scale {tensor.scale[0]:.9g}, zero point {tensor.zero_point[0]}" if tensor.scale else ""
            click.echo(f"  {label:<7} {name}  {tensor.dtype} {list(tensor.shape)}{encoding}")
    for key in facts.signatures:
        click.echo(f"  signature {key}")
    told = _forecast(facts)
    if told is not None:
        click.echo(f"  arena on tflite-micro {told.total:,} bytes: activations {told.head:,}, structures {told.tail:,}")
        click.echo(f"  full at {told.operator}: {_shown(f'{name} {size:,}' for name, size in told.peak)}")
    for key, text in facts.metadata.items():
        click.echo(f"  metadata  {key}: {text if len(text) <= 100 else text[:97] + '...'}")
    rows = [(name, str(version), str(count)) for (name, version), count in facts.operators.items()]
    print_table(("operator", "version", "count"), rows, right=(1, 2))
