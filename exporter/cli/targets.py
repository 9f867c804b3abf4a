"""`edgewright targets`: list the device profiles, show one, check one of the user's own, start a new one."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from targets import Target

__all__ = ["command"]

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def command() -> None:
    """List, show, check and start target profiles."""


@command.command("list")
@_JSON
def list_command(as_json: bool) -> None:
    """List the targets that edgewright carries."""
    from targets import list_targets

    found = list_targets()
    if as_json:
        click.echo(json.dumps([entry.model_dump(mode="json") for entry in found], indent=1))
    elif sys.stdout.isatty():
        _table(found)
    else:
        for entry in found:
            click.echo("\t".join(_row(entry)))


@command.command()
@click.argument("target", metavar="NAME")
@_JSON
def show(target: str, as_json: bool) -> None:
    """Print the profile NAME (or of a .toml file) as TOML: every key, inherited and default ones included."""
    from targets import load_target, to_toml

    found = load_target(target)
    click.echo(json.dumps(found.model_dump(mode="json"), indent=1) if as_json else to_toml(found), nl=as_json)


@command.command()
@click.argument("file", metavar="FILE", type=click.Path())
@_JSON
@click.pass_context
def check(context: click.Context, file: str, as_json: bool) -> None:
    """Say what is wrong in the profile FILE: line, key and allowed values. Exit status 4 where anything is."""
    from diagnostics import TargetError
    from targets import check_file

    problems = check_file(file)
    if as_json:
        entries = [{"file": p.file, "line": p.line, "key": p.key, "message": p.message} for p in problems]
        click.echo(json.dumps({"valid": not problems, "problems": entries}, indent=1))
    else:
        for line in [str(problem) for problem in problems] or [f"{file}: valid"]:
            click.echo(line)
    if problems:
        context.exit(TargetError.exit_status)


@command.command()
@click.argument("name", metavar="NAME")
@click.option("--runtime", required=True, metavar="RUNTIME", help="The runtime to ask, as edgewright doctor names it.")
@click.option("--out", type=click.Path(dir_okay=False), metavar="FILE", help="Write the profile here instead of printing it.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@_JSON
def new(name: str, runtime: str, out: str | None, force: bool, as_json: bool) -> None:
    """Start the profile NAME of a device that none describes, from what RUNTIME does on this machine.

    A small network is exported in each precision and run: what comes out right is what the profile takes, how long it takes says the rates.
    """
    from pathlib import Path

    from exporter.bundle.staging import require_free_file, write_file
    from exporter.new_target import new_target
    from exporter.progress import RichProgress
    from targets import to_toml

    if out is not None:
        require_free_file(Path(out), overwrite=force)
    started = new_target(name, runtime, RichProgress())
    lines = [
        "# Started by edgewright targets new. What it cannot know: the device itself. If this machine is not it, replace [cost] by figures of",
        "# its datasheet; limit [memory] (flash, sram in bytes); name sources. Check: edgewright targets check FILE",
        *(f"# {precision} is not taken: {' '.join(why.split())}" for precision, why in started.refused.items()),
    ]
    text = "\n".join(lines) + "\n" + to_toml(started.target)
    if out is not None:
        write_file(Path(out), text.encode(), overwrite=force)
    if as_json:
        facts = {"path": out, "refused": dict(started.refused), "profile": started.target.model_dump(mode="json")}
        click.echo(json.dumps(facts, indent=1))
    else:
        click.echo(text if out is None else f"{out}\n", nl=False)


def _row(target: Target) -> tuple[str, str, str, str, str]:
    artifact = target.artifact
    return target.name, artifact.format, artifact.precision, target.verification.level, target.title


def _table(found: tuple[Target, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("target", "format", "precision", "verified", "title"):
        table.add_column(name)
    for entry in found:
        table.add_row(*_row(entry))
    Console().print(table)
