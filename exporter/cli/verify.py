"""``edgewright verify``: a bundle or artifact beside the original, on real runtimes."""

from __future__ import annotations

import click

from exporter.cli.options import (
    allow_pickle_option,
    emit_json,
    json_option,
    on_option,
    parse_shapes,
    shape_option,
    worker_options,
)

__all__ = ["command"]


@click.command(name="verify")
@click.argument("artifact", metavar="BUNDLE-OR-ARTIFACT")
@click.option("--against", required=True, metavar="MODEL", help="The original, in any form that export takes.")
@click.option("--data", required=True, metavar="DATA", help="Samples: folder, .npy, .npz, .wav or module:callable.")
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Where to run; default: those of the bundle's target.")
@on_option
@click.option("--preprocess", metavar="FILE", help="How a raw sample becomes an input; default: as the bundle says.")
@click.option(
    "--samples", type=click.IntRange(1), default=32, show_default=True, metavar="N", help="Compare the first N samples."
)
@click.option("--gate", "gates", multiple=True, metavar="EXPR", help='Condition, e.g. "sqnr_db>=20"; repeatable.')
@click.option("--metric", metavar="MODULE:CALLABLE", help="Task metric, measured of the original and of the artifact.")
@shape_option
@allow_pickle_option
@json_option
@worker_options
def command(
    artifact: str,
    against: str,
    data: str,
    runtimes: tuple[str, ...],
    on: str | None,
    preprocess: str | None,
    samples: int,
    gates: tuple[str, ...],
    metric: str | None,
    shapes: tuple[str, ...],
    allow_pickle: bool,
    as_json: bool,
) -> int:
    """Run a bundle (or a bare .tflite or .onnx) beside the original and check gates: exit status 1 where one fails."""
    from exporter.progress import RichProgress
    from exporter.verifying import verify

    done = verify(
        artifact,
        against,
        data,
        runtimes=runtimes,
        on=on,
        preprocess=preprocess,
        samples=samples,
        gates=gates,
        metric=metric,
        shapes=parse_shapes(shapes) or None,
        allow_pickle=allow_pickle,
        progress=RichProgress(),
    )
    if as_json:
        emit_json(done.to_dict())
    else:
        click.echo(done.to_text())
    return 0 if done.passed else 1
