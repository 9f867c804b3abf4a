"""Limits of workers on the command line: they hold while the command runs, and what cannot be parsed is usage."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from diagnostics import UsageError
from exporter.cli import convert, export, verify
from exporter.cli.options import worker_options
from exporter.runtimes.limits import Limits, chosen_limits


@click.command()
@click.option("--other", default=1)
@worker_options
def shown(other: int) -> int:
    click.echo(f"{other} {chosen_limits()}")
    return 0


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ([], Limits()),
        (["--worker-seconds", "1.5"], Limits(1.5)),
        (["--worker-memory", "4GiB", "--worker-seconds", "9"], Limits(9.0, 2**32)),
    ],
)
def test_limits_hold_while_the_command_runs(arguments: list[str], limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEWRIGHT_WORKER_SECONDS", raising=False)
    monkeypatch.delenv("EDGEWRIGHT_WORKER_MEMORY", raising=False)
    found = CliRunner().invoke(shown, ["--other", "7", *arguments], catch_exceptions=False)
    assert found.output == f"7 {limits}\n"
    assert chosen_limits() == Limits()


def test_what_is_no_limit_is_usage() -> None:
    assert CliRunner().invoke(shown, ["--worker-seconds", "0"]).exit_code == 2
    with pytest.raises(UsageError, match="'much' is no amount of memory"):
        CliRunner().invoke(shown, ["--worker-memory", "much"], catch_exceptions=False)


def test_every_command_that_runs_an_artifact_has_them() -> None:
    for module in (export, verify, convert):
        assert {"worker_seconds", "worker_memory"} <= {parameter.name for parameter in module.command.params}
