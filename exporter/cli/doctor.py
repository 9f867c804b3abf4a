"""`edgewright doctor`: which runtimes and compilers are here, which version, what each is for and how to get the rest."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from exporter.cli.options import json_option

if TYPE_CHECKING:
    from exporter.runtimes import Availability

__all__ = ["command"]


@dataclass(frozen=True)
class _Package:
    distribution: str
    purpose: str
    how_to_get: str


@dataclass(frozen=True)
class _Program:
    name: str
    purpose: str
    how_to_get: str
    version_option: str = "--version"


_PACKAGES: Final = (
    _Package("torch", "reads PyTorch models", "pip install 'edgewright[torch]'"),
    _Package("tensorflow", "reads Keras and SavedModel sources", "pip install tensorflow-cpu"),
)
_PROGRAMS: Final = (
    _Program("gcc", "compiles the firmware kit on this host", "apt-get install gcc"),
    _Program(
        "arm-none-eabi-gcc",
        "compiles the firmware kit for Cortex-M",
        "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
    ),
    _Program("qemu-system-arm", "runs Cortex-M firmware on this host", "apt-get install qemu-system-arm"),
    _Program(
        "qemu-aarch64-static",
        "runs Arm's own runtimes on this host (runtimes add --platform aarch64, verify --on cortex-a76)",
        "apt-get install qemu-user-static",
    ),
    _Program("ssh", "runs artifacts on other machines (verify --on ssh://HOST)", "apt-get install openssh-client", "-V"),
)


@click.command()
@json_option
@click.option("--run", "start", is_flag=True, help="Start every installed runtime on a tiny model, not only look for it.")
def command(as_json: bool, start: bool) -> None:
    """Show which runtimes and compilers are installed, their versions, and how to get the rest."""
    from exporter.compilers import all_compilers
    from exporter.runtimes import all_runtimes

    runtimes = all_runtimes()
    entries = [_entry("runtime", found) for found in runtimes] + [_entry("compiler", found) for found in all_compilers()]
    entries += [_entry("package", found) for found in _packages()]
    entries += [_entry("program", found) for found in _programs()]
    if start:
        for entry, found in zip(entries, runtimes, strict=False):
            if found.present:
                entry["run"] = _start(found.name)
    click.echo(json.dumps(entries, indent=1) if as_json else "\n".join(_lines(entries)))


def _entry(kind: str, found: Availability) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": found.name,
        "present": found.present,
        "version": found.version,
        "purpose": found.purpose,
        "how_to_get": found.how_to_get,
    }


def _packages() -> list[Availability]:
    import importlib.metadata

    from exporter.runtimes import Availability

    def version(distribution: str) -> str | None:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    return [Availability(p.distribution, version(p.distribution), p.how_to_get, p.purpose) for p in _PACKAGES]


def _programs() -> list[Availability]:
    from exporter.runtimes import Availability

    return [Availability(p.name, _program_version(p.name, p.version_option), p.how_to_get, p.purpose) for p in _PROGRAMS]


def _program_version(name: str, option: str) -> str | None:
    """First line that the program prints of its version; "unknown" where it is there and does not say."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        done = subprocess.run([path, option], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (done.stdout.strip() or done.stderr.strip()).partition("\n")[0] or "unknown"


def _start(runtime: str) -> str:
    """ "ok", or the error that running a tiny model on the runtime gives."""
    import tempfile
    from pathlib import Path

    import numpy as np

    from diagnostics import EdgewrightError
    from exporter.runtimes import open_session
    from exporter.runtimes.probe import probe_model

    suffix, content = probe_model(runtime)
    x = np.array([-1.5, 2.5], np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"probe{suffix}"
        path.write_bytes(content)
        try:
            with open_session(runtime, path, timeout_s=60) as session:
                y = session.run({"x": x})["y"]
        except EdgewrightError as error:
            return str(error)
    return "ok" if np.array_equal(y, np.maximum(x, 0)) else f"wrong result: relu({x}) gave {y}"


def _lines(entries: Iterable[dict[str, Any]]) -> list[str]:
    """One line for what is there, two for what is not."""
    lines = []
    for entry in entries:
        run = f"  [{entry['run']}]" if "run" in entry else ""
        lines.append(f"{'yes' if entry['present'] else 'no ':<4}{entry['name']:<24}{entry['version'] or '-'}{run}")
        lines.append(f"    {entry['purpose']}" + ("" if entry["present"] else f"; get it: {entry['how_to_get']}"))
    return lines
