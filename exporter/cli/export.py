"""``edgewright export``: from a trained model to one verified bundle a target."""

from __future__ import annotations

from typing import Any

import click

from exporter.cli.options import (
    allow_pickle_option,
    emit_json,
    force_option,
    human_bytes,
    io_dtype_option,
    json_option,
    model_argument,
    on_option,
    parse_shapes,
    precision_option,
    runtime_option,
    shape_option,
    target_option,
    worker_options,
)

__all__ = ["command"]


@click.command(name="export")
@model_argument
@target_option(multiple=True, required=True)
@click.option("--out", "out", metavar="DIR", default="bundles", show_default=True, help="Where the bundles go, one a target.")
@click.option("--calib", "calibration", metavar="DATA", help="Calibration data: folder, .npy, .npz, .wav or module:callable.")
@click.option("--test", "test", metavar="DATA", help="Data to verify with; default: every fifth calibration sample is held out.")
@click.option("--store", "store", metavar="FILE", help="What `edgewright calibrate` wrote, instead of --calib; wants --test.")
@click.option("--preprocess", metavar="FILE", help="How a raw sample becomes an input (TOML or JSON).")
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Calibrate with the first N samples only.")
@click.option(
    "--test-samples", type=click.IntRange(1), default=32, show_default=True, metavar="N", help="Verify with the first N."
)
@click.option("--prune", metavar="macs=SHARE", help="Cut channels until at most this share of the MACs stays, e.g. macs=0.8.")
@click.option(
    "--gate", "gates", multiple=True, metavar="EXPR", help='Condition on the result, e.g. "top1_agreement>=0.98"; repeatable.'
)
@click.option(
    "--metric",
    metavar="MODULE:CALLABLE",
    help="Task metric, measured of the original and of the artifact; --precision auto aims at gates on it if it has a parameter `original`.",
)
@click.option("--plan", "plan", metavar="FILE", help="Replay an earlier plan.json: no calibration, the same bytes.")
@click.option(
    "--method",
    type=click.Choice(["minmax", "headroom", "percentile", "entropy", "mse"]),
    help="How ranges of activations are chosen; default: measured.",
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "balanced", "best"]),
    default="balanced",
    show_default=True,
    help="balanced: weights are rounded by the error that they cause; fast: those of narrow layers, in seconds; best: learned (torch).",
)
@click.option("--no-refine", is_flag=True, help="Round to nearest only: weights and biases as they come.")
@precision_option
@io_dtype_option
@click.option(
    "--io-layout", type=click.Choice(["keep", "channels_last"]), help="Axis order of the artifact's inputs and outputs."
)
@runtime_option
@on_option
@click.option(
    "--require-compiler",
    is_flag=True,
    help="An absent compiler of a target is an error; else the artifact is written uncompiled.",
)
@shape_option
@allow_pickle_option
@force_option
@json_option
@worker_options
def command(model: str, targets: tuple[str, ...], shapes: tuple[str, ...], as_json: bool, **chosen: Any) -> int:
    """Quantize, write and prove MODEL for one or more targets.

    MODEL is an .onnx, .pt2, .tflite, .keras or .h5 file, the folder of a SavedModel, or package.module:callable that returns a module
    and its example inputs, or a mapping of "model", "inputs", "shapes" and "preprocess". Each target gets a bundle of its own: artifact,
    plan, manifest, report and hand-over kit. The exit status is 0 when all is well, 1 when a gate failed, and that of the first target
    that refused the model otherwise.
    """
    from exporter.exporting import export
    from exporter.progress import RichProgress

    skip = chosen.pop("no_refine")
    results = export(
        model,
        targets=targets,
        shapes=parse_shapes(shapes) or None,
        refine=not skip,
        progress=RichProgress(),
        **chosen,
    )
    if as_json:
        emit_json({"bundles": [result.to_dict() for result in results]})
    else:
        _print(results)
    return next((result.exit_status for result in results if result.exit_status), 0)


def _print(results: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("target", "artifact", "size", "SQNR dB", "top-1", "gates", "report"):
        table.add_column(column, overflow="fold")
    for result in results:
        if result.error is not None:
            continue
        gates = "-" if not result.gates else ("all hold" if result.passed else "[red]FAILED[/]")
        table.add_row(
            result.target,
            result.bundle.artifact.name,
            human_bytes(result.bundle.artifact.stat().st_size),
            _number(result.worst("sqnr_db"), ".1f"),
            _number(result.worst("top1_agreement"), ".1%"),
            gates,
            str(result.bundle.path / "report.html"),
        )
    if table.rows:
        Console(width=max(Console().width, 120), highlight=False).print(table)
    for result in results:
        if result.error is not None:
            click.echo(f"{result.target}: refused\n{result.error}", err=True)
        for sentence in result.advice:
            click.echo(f"{result.target}: {sentence}", err=True)
        for gate in result.gates:
            if not gate.passed:
                click.echo(f"{result.target}: gate {gate}", err=True)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
