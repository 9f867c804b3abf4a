"""``edgewright runtimes``: environments of their own for releases of runtimes that cannot share ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.options import emit_json, json_option

if TYPE_CHECKING:
    from exporter.runtimes import Environment

__all__ = ["command"]

_platform_option = click.option(
    "--platform",
    type=click.Choice(["aarch64"]),
    help="Of another processor, which qemu emulates.",
)


@click.group(name="runtimes")
def command() -> None:
    """Keep other releases of runtimes, each in an environment of its own.

    ``verify --runtime NAME==VERSION`` and a target's verification.runtimes find them by themselves.
    """


@command.command(name="list")
@json_option
def _list(as_json: bool) -> None:
    """List the environments that are there, and the names of the runtimes in them."""
    from exporter.runtimes import list_environments
    from exporter.runtimes.registry import runtimes_in

    found = list_environments()
    if as_json:
        emit_json({"environments": [_facts(entry) for entry in found]})
    elif found:
        for entry in found:
            click.echo(f"{entry.pin!s:<44}Python {entry.python_version:<9}{len(entry.wheels)} packages  {entry.pin.folder}")
            if names := runtimes_in(entry):
                click.echo(f"    --runtime {' | '.join(names)}")
    else:
        click.echo("there are none; make one: edgewright runtimes add tflite-runtime==2.14.0", err=True)


@command.command(name="add")
@click.argument("pin", metavar="PACKAGE==VERSION")
@click.option("--python", metavar="PATH", help="Make it with this interpreter, where there are no wheels for the one that runs.")
@click.option(
    "--find-links",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Take the wheels (and .deb files, with --platform) from this folder, without a network.",
)
@_platform_option
@json_option
def _add(pin: str, python: str | None, find_links: Path | None, platform: str | None, as_json: bool) -> None:
    """Make the environment of one release, for example tflite-runtime==2.14.0 or onnxruntime==1.17.3.

    It needs the package index once and works without a network from then on. The sha256 of every wheel and of every installed file are
    recorded, the latter compared before the environment is used.

    With --platform aarch64 it runs Arm's wheels in qemu (apt-get install qemu-user-static), on a Python out of Debian's packages: then
    ``verify --on cortex-a76`` and ``--runtime litert-xnnpack@cortex-a76`` find it.
    """
    from exporter.progress import RichProgress
    from exporter.runtimes.install import add_environment

    made = add_environment(pin, platform=platform or "", python=python, find_links=find_links, progress=RichProgress())
    if as_json:
        emit_json(_facts(made))
    else:
        click.echo(f"{made.pin}  {made.pin.folder}")


@command.command(name="remove")
@click.argument("pin", metavar="PACKAGE==VERSION")
@_platform_option
@json_option
def _remove(pin: str, platform: str | None, as_json: bool) -> None:
    """Delete the environment of one release."""
    from exporter.runtimes.environments import parse_pin, remove_environment

    wanted = parse_pin(pin, platform or "")
    remove_environment(wanted)
    if as_json:
        emit_json({"removed": str(wanted)})
    else:
        click.echo(f"{wanted} removed")


def _facts(environment: Environment) -> dict[str, object]:
    from exporter.runtimes.registry import runtimes_in

    return {**environment.to_dict(), "path": str(environment.pin.folder), "runtimes": list(runtimes_in(environment))}
