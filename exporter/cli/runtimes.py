"""``edgewright runtimes``: environments of their own for releases of runtimes that cannot share ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.options import emit_json, json_option

if TYPE_CHECKING:
    from exporter.runtimes import Environment

__all__ = ["command"]


@click.group(name="runtimes")
def command() -> None:
    """Keep other releases of runtimes, each in an environment of its own.

    ``verify --runtime NAME==VERSION`` and a target's verification.runtimes find them by themselves.
    """


@command.command(name="list")
@json_option
def _list(as_json: bool) -> None:
    """List the environments that are there."""
    from exporter.runtimes import list_environments

    found = list_environments()
    if as_json:
        emit_json({"environments": [_facts(entry) for entry in found]})
    elif found:
        for entry in found:
            click.echo(f"{entry.pin!s:<28}Python {entry.python_version:<9}{len(entry.wheels)} wheels  {entry.pin.folder}")
    else:
        click.echo("there are none; make one: edgewright runtimes add tflite-runtime==2.14.0", err=True)


@command.command(name="add")
@click.argument("pin", metavar="PACKAGE==VERSION")
@click.option("--python", metavar="PATH", help="Make it with this interpreter, where there are no wheels for the one that runs.")
@click.option(
    "--find-links",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Take the wheels from this folder, without a network.",
)
@json_option
def _add(pin: str, python: str | None, find_links: Path | None, as_json: bool) -> None:
    """Make the environment of one release, for example tflite-runtime==2.14.0 or onnxruntime==1.17.3.

    It needs the package index once and works without a network from then on. Every wheel's sha256 is recorded.
    """
    from exporter.progress import RichProgress
    from exporter.runtimes.install import add_environment

    made = add_environment(pin, python=python, find_links=find_links, progress=RichProgress())
    if as_json:
        emit_json(_facts(made))
    else:
        click.echo(f"{made.pin}  {made.pin.folder}")


@command.command(name="remove")
@click.argument("pin", metavar="PACKAGE==VERSION")
@json_option
def _remove(pin: str, as_json: bool) -> None:
    """Delete the environment of one release."""
    from exporter.runtimes.environments import parse_pin, remove_environment

    wanted = parse_pin(pin)
    remove_environment(wanted)
    if as_json:
        emit_json({"removed": str(wanted)})
    else:
        click.echo(f"{wanted} removed")


def _facts(environment: Environment) -> dict[str, object]:
    return {**environment.to_dict(), "path": str(environment.pin.folder)}
