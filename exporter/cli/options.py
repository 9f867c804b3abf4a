"""Options and output that subcommands share, so that one spelling means one thing everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, TypeVar

import click

from diagnostics import UsageError

__all__ = [
    "allow_pickle_option",
    "emit_json",
    "force_option",
    "human_bytes",
    "human_count",
    "io_dtype_option",
    "json_option",
    "model_argument",
    "on_option",
    "parse_shapes",
    "precision_option",
    "print_table",
    "runtime_option",
    "shape_option",
    "target_option",
    "worker_options",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")

model_argument: Final = click.argument("model", metavar="MODEL")

force_option: Final = click.option("--force", is_flag=True, help="Replace what already stands at the destination.")

allow_pickle_option: Final = click.option(
    "--allow-pickle", is_flag=True, help="Allow a model file that holds pickled code (it can run anything)."
)

shape_option: Final = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1,3,224,224",
    help="Fixed shape of an input; repeatable. Needed where the model leaves a dimension open.",
)

precision_option: Final = click.option(
    "--precision",
    metavar="PRECISION",
    help="float32, float16, int8, int16x8, int8x4, dynamic_int8, dynamic_int4, weight_int8, weight_int4, or auto: int8 but for the nodes that "
    "would break a gate; default: the target's own, or float32.",
)

io_dtype_option: Final = click.option(
    "--io-dtype",
    type=click.Choice(["float32", "int8", "uint8", "int16"]),
    help="Type of the artifact's inputs and outputs; default: what the target says, or float32.",
)

runtime_option: Final = click.option(
    "--runtime",
    metavar="NAME>=RELEASE",
    help='Oldest runtime that must run it, e.g. "tflite>=2.11" or "onnxruntime>=1.17"; default: what the target says.',
)

on_option: Final = click.option(
    "--on",
    metavar="ssh://[USER@]HOST[:PORT][?python=PATH] | CORE",
    help="Run there too and let that decide the gates: on a machine that has Python, numpy and the runtime, whose latency is then measured; "
    "or on an emulated core (cortex-a53, cortex-a72, cortex-a76, armv9; see runtimes add --platform).",
)


def target_option(*, multiple: bool = False, required: bool = False) -> Callable[[_Function], _Function]:
    """``--target``: a profile's name or the path of a TOML, passed on as `target` (or, with `multiple`, as `targets`)."""
    return click.option(
        "--target",
        "targets" if multiple else "target",
        multiple=multiple,
        required=required,
        metavar="TARGET",
        help="Name of a target or path of a profile (TOML)" + ("; repeatable." if multiple else "."),
    )


def worker_options(command: Callable[..., int]) -> Callable[..., int]:
    """``--worker-seconds`` and ``--worker-memory``: what every process that runs an artifact may take, while the command runs."""

    @click.option(
        "--worker-seconds",
        type=click.FloatRange(0, min_open=True),
        metavar="S",
        help="Time limit of each call of a runtime's process (and $EDGEWRIGHT_WORKER_SECONDS); default: the runtime's own.",
    )
    @click.option(
        "--worker-memory",
        metavar="SIZE",
        help="Memory limit of a runtime's process, e.g. 4GiB (and $EDGEWRIGHT_WORKER_MEMORY); default: nearly all of the machine's.",
    )
    @wraps(command)
    def limiting(*arguments: Any, worker_seconds: float | None, worker_memory: str | None, **options: Any) -> int:
        from exporter.runtimes.limits import Limits, limited, parse_bytes

        with limited(Limits(worker_seconds, None if worker_memory is None else parse_bytes(worker_memory))):
            return command(*arguments, **options)

    return limiting


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """``("x=1,3,8,8",)`` -> ``{"x": (1, 3, 8, 8)}``. Raises UsageError EW-U001 for anything else, and for a name given twice."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1 or name in shapes:
            why = "the name is given twice" if name in shapes else "wanted: NAME=SIZE,SIZE,... with sizes of 1 or more"
            raise UsageError("EW-U001", f"--shape {text} cannot be parsed", why=why, fix="for example --shape input=1,3,224,224")
        shapes[name] = shape
    return shapes


def emit_json(data: Mapping[str, Any]) -> None:
    """Print `data` as JSON on stdout: the whole output of a command under ``--json``."""
    click.echo(json.dumps(data, indent=1, allow_nan=False))


def human_bytes(count: int) -> str:
    """12_345_678 -> "11.8 MiB" (binary multiples, three significant digits)."""
    return _scaled(count, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def human_count(count: int) -> str:
    """12_345_678 -> "12.3 M" (decimal multiples, three significant digits)."""
    return _scaled(count, 1000, ("", "k", "M", "G", "T"))


def _scaled(count: int, base: int, units: tuple[str, ...]) -> str:
    value, unit = float(count), 0
    while value >= base and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    digits = 0 if unit == 0 else max(0, 2 - len(str(int(value))) + 1)
    return f"{value:.{digits}f} {units[unit]}".rstrip()


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Aligned columns, never cut: the output may be searched or piped."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    click.echo()
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
