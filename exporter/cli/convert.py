"""``edgewright convert``: a model as TFLite or ONNX, checked once against the original; float takes about a second."""

from __future__ import annotations

import click

from exporter.cli.options import (
    allow_pickle_option,
    emit_json,
    force_option,
    human_bytes,
    io_dtype_option,
    json_option,
    model_argument,
    parse_shapes,
    precision_option,
    runtime_option,
    shape_option,
    worker_options,
)

__all__ = ["command"]


@click.command(name="convert")
@model_argument
@click.argument("out", metavar="OUT.tflite|OUT.onnx")
@precision_option
@click.option("--calib", "calibration", metavar="DATA", help="Calibration data, for int8 and int16x8: see export.")
@io_dtype_option
@click.option(
    "--io-layout",
    type=click.Choice(["keep", "channels_last"]),
    default="keep",
    show_default=True,
    help="Axis order of the inputs and outputs of a .tflite.",
)
@runtime_option
@shape_option
@click.option(
    "--dynamic",
    metavar="DIMENSION",
    help='Leave a dimension of a .tflite open: "batch", a symbol of the .onnx file, or axes of inputs ("tokens:1,mask:1").',
)
@allow_pickle_option
@force_option
@json_option
@worker_options
def command(
    model: str,
    out: str,
    precision: str | None,
    calibration: str | None,
    io_dtype: str | None,
    io_layout: str,
    runtime: str | None,
    shapes: tuple[str, ...],
    dynamic: str | None,
    allow_pickle: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Write MODEL as TFLite or ONNX, in float32 unless --precision says otherwise or the model comes quantized, which it then stays.

    What was written is run once on its runtime beside the original before it is called a success.
    """
    from exporter.converting import convert

    done = convert(
        model,
        out,
        precision=precision or "float32",
        calibration=calibration,
        io_dtype=io_dtype or "float32",
        io_layout=io_layout,
        runtime=runtime,
        shapes=parse_shapes(shapes) or None,
        dynamic=dynamic,
        allow_pickle=allow_pickle,
        overwrite=force,
    )
    if as_json:
        emit_json(done.to_dict())
    else:
        agreement = "equal" if done.sqnr_db is None else f"{done.sqnr_db:.1f} dB"
        agreement = agreement if not done.steps else f"within {done.steps} step{'s' if done.steps > 1 else ''} of its encoding"
        click.echo(f"{done.path}  {human_bytes(done.path.stat().st_size)}  {agreement} against the original")
        for note in done.notes:
            click.echo(f"note: {note}", err=True)
    return 0
