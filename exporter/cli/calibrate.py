"""``edgewright calibrate``: run a model over data once and keep what was learned; ``edgewright calibrate merge`` joins shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import (
    allow_pickle_option,
    emit_json,
    force_option,
    json_option,
    model_argument,
    parse_shapes,
    runtime_option,
    shape_option,
    target_option,
)

if TYPE_CHECKING:
    from calibration import Store

__all__ = ["command"]


class _ModelOrMerge(click.Group):
    """``merge`` where it is the first word; any other first word is the model's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["model", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ModelOrMerge, name="calibrate")
def command() -> None:
    """Run a model over calibration data once, and keep what planning wants to know in one file.

    "edgewright calibrate MODEL --target TARGET --calib DATA --out STORE" is short for its subcommand "model".
    "edgewright export --store STORE" then plans without running the model over the data again.
    """


@command.command("model")
@model_argument
@target_option(required=True)
@click.option(
    "--calib", "data", required=True, metavar="DATA", help="Folder, .npy, .npz, .wav or module:callable; all of it is used."
)
@click.option("--out", required=True, metavar="FILE", help="Where the store goes.")
@click.option("--preprocess", metavar="FILE", help="How a raw sample becomes an input (TOML or JSON).")
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Use the first N samples only.")
@click.option("--shard", default="1/1", metavar="I/N", help="Use each N-th sample only, from the I-th.")
@click.option("--resume", is_flag=True, help="Go on where a run with the same --out was killed.")
@click.option(
    "--checkpoint",
    "seconds",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How often what --resume needs is written.",
)
@click.option("--prune", "pruning", metavar="macs=SHARE", help="As for export.")
@runtime_option
@shape_option
@allow_pickle_option
@force_option
@json_option
def model_command(model: str, shapes: tuple[str, ...], shard: str, as_json: bool, **chosen: Any) -> None:
    """Run MODEL over the data once and write the store."""
    from exporter.calibrating import calibrate, parse_shard
    from exporter.progress import RichProgress

    store = calibrate(model, shapes=parse_shapes(shapes) or None, shard=parse_shard(shard), progress=RichProgress(), **chosen)
    _print(store, chosen["out"], as_json)


@command.command("merge")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option("--out", "-o", required=True, metavar="FILE", help="Where the merged store goes.")
@force_option
@json_option
def merge_command(stores: tuple[str, ...], out: str, force: bool, as_json: bool) -> None:
    """Join the stores of all shards: the same bytes as one run over all of the data."""
    from exporter.calibrating import merge_stores

    _print(merge_stores(stores, out, force=force), out, as_json)


def _print(store: Store, path: str, as_json: bool) -> None:
    if as_json:
        facts = {"samples": store.samples, "values": len(store.values), "kept": len(store.reservoir)}
        emit_json({"path": path, **facts, "model": store.model, "data": store.data})
    else:
        click.echo(f"{path}  {store.samples} samples, {len(store.reservoir)} of them kept, {len(store.values)} values")
