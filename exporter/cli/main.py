"""The command `edgewright`: finds the subcommand, runs it, and turns what it raises into one message and one exit status.

Nothing heavy is imported before a subcommand is chosen: `edgewright --help` reads the table below and no other module.

Exit status: 0 fine, 1 a gate failed, 2 usage, 3 the model or data is bad, 4 the target cannot take the model,
5 a runtime or compiler failed, 70 a bug in edgewright (`EX_SOFTWARE` of sysexits.h), 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from diagnostics import EdgewrightError, UsageError

__all__ = ["COMMANDS", "cli", "main"]

DEBUG: Final = "EDGEWRIGHT_DEBUG"
USAGE, BUG, INTERRUPTED = 2, 70, 130
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)

# Subcommand -> (the `module:attribute` that holds its click command, the line that `edgewright --help` shows).
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "export": ("exporter.cli.export:command", "Quantize, write and prove a model for one or more targets."),
    "calibrate": ("exporter.cli.calibrate:command", "Run a model over calibration data once; merge what shards learned."),
    "verify": ("exporter.cli.verify:command", "Run a bundle or artifact beside the original and check gates."),
    "convert": ("exporter.cli.convert:command", "Write a model as float TFLite or ONNX, without calibration."),
    "inspect": ("exporter.cli.inspect:command", "Show operators, shapes, parameters, MACs and memory of a model or artifact."),
    "targets": ("exporter.cli.targets:command", "List, show and check target profiles."),
    "runtimes": ("exporter.cli.runtimes:command", "List, add and remove releases of runtimes in environments of their own."),
    "doctor": ("exporter.cli.doctor:command", "Show which runtimes are installed and how to get the rest."),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when that subcommand is called, and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own version would load every command for its short help.
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"edgewright {version('edgewright')}")
        ctx.exit()


@click.group(
    cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version and exit."
)
@click.pass_context
def cli(context: click.Context) -> int:
    """A trained model and the name of a device in; an artifact ready to ship there out, with proof that it is still the same model.

    Data goes to stdout, progress and warnings to stderr. Every subcommand takes --json.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return USAGE
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `edgewright` with `arguments` (default: the process's own) and return its exit status; raises nothing but SystemExit.

    A command may return an int: it becomes the exit status.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    _end_as_interrupted()
    try:
        result = cli.main(args=arguments, prog_name="edgewright", standalone_mode=False)
    except EdgewrightError as error:
        if os.environ.get(DEBUG):
            _print_traceback()
        return _report(error.to_dict(), str(error), as_json)
    except click.ClickException as error:
        return _report_usage(error, as_json)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except OSError as error:
        refused = _refused_writing(error)
        return _report_bug(error, as_json) if refused is None else _report(refused.to_dict(), str(refused), as_json)
    except Exception as error:
        return _report_bug(error, as_json)
    return result if isinstance(result, int) else 0


def _end_as_interrupted() -> None:
    """SIGTERM ends the command as Ctrl-C does: what is half-written is removed, its processes are ended. Without it Python would just die."""
    import signal
    import threading

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _report(facts: dict[str, str | int], message: str, as_json: bool) -> int:
    """Show one error where the user asked for it; returns the exit status among its facts."""
    if as_json:
        import json

        click.echo(json.dumps({"error": facts}, indent=1))
    else:
        click.echo(message, err=True)
    return int(facts["exit_status"])


def _report_usage(error: click.ClickException, as_json: bool) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    usage = context.get_usage() if context else ""
    fix = f"see {context.command_path} --help" if context else "see edgewright --help"
    facts: dict[str, str | int] = {
        "code": "EW-U001",
        "what": error.format_message(),
        "where": usage,
        "why": "",
        "fix": fix,
        "exit_status": USAGE,
    }
    lines = [usage, f"EW-U001: {error.format_message()}", f"  fix: {fix}"]
    return _report(facts, "\n".join(line for line in lines if line), as_json)


def _refused_writing(error: OSError) -> EdgewrightError | None:
    """A disk without space and the like, met where no destination is at hand: temporary files, standard output."""
    if error.errno not in _NO_ROOM:
        return None
    import tempfile

    where = (
        os.fsdecode(error.filename)
        if isinstance(error.filename, str | bytes)
        else f"temporary files are in {tempfile.gettempdir()}"
    )
    fix = "make room or give permission; $TMPDIR may name another folder for temporary files"
    return UsageError("EW-U004", "something could not be written", where=where, why=os.strerror(error.errno), fix=fix)


def _report_bug(error: Exception, as_json: bool) -> int:
    what = f"{type(error).__name__}: {error}"
    fix = f"please report it with the output of the same command under {DEBUG}=1"
    if os.environ.get(DEBUG):
        _print_traceback()
    facts: dict[str, str | int] = {"code": "bug", "what": what, "where": "", "why": "", "fix": fix, "exit_status": BUG}
    return _report(facts, f"this is a bug in edgewright: {what}\n  fix: {fix}", as_json)


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
