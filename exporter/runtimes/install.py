"""Make an environment of its own for a runtime: built aside, proved by running a model in it, then renamed to its place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from diagnostics import RuntimeFailure
from exporter.progress import SILENT, Progress
from exporter.runtimes.environments import (
    RECIPES,
    RECORD,
    Environment,
    Pin,
    environments_root,
    find_environment,
    parse_pin,
    python_in,
)
from exporter.runtimes.probe import probe_model
from exporter.runtimes.registry import RUNTIMES
from exporter.runtimes.session import open_session

__all__ = ["add_environment"]

_LIMIT_S: Final = 1800.0  # of one call of pip
_LAST_LINES: Final = 6


def add_environment(
    pin: str, *, python: str | Path | None = None, find_links: Path | None = None, progress: Progress = SILENT
) -> Environment:
    """The environment of ``"PACKAGE==VERSION"``, made where it is not there yet.

    pip downloads the wheels, their sha256 are recorded, and exactly these files are installed (``--require-hashes``, no index).

    Args:
        python: interpreter to make it with, for packages without wheels for this one; None: this one.
        find_links: a folder of wheels to take instead of asking the package index.
    Raises:
        UsageError: EW-U001, no such runtime.
        RuntimeFailure: EW-R001, it cannot be made (with pip's last lines); EW-R002, EW-R003, EW-R004, it does not run.
    """
    wanted = parse_pin(pin)
    found = find_environment(wanted.package, wanted.version)
    if found is not None:
        return found
    environments_root().mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{wanted.folder.name}-", dir=environments_root()))
    try:
        made = _build(wanted, aside, python or sys.executable, find_links, progress)
        aside.chmod(0o755)
        try:
            aside.rename(wanted.folder)
        except OSError:
            if find_environment(wanted.package, wanted.version) is None:  # else another process was faster
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return find_environment(wanted.package, wanted.version) or made


def _build(pin: Pin, folder: Path, python: str | Path, find_links: Path | None, progress: Progress) -> Environment:
    """Fill `folder` with an environment and its record."""
    wheels, lock = folder / "wheels", folder / "requirements.txt"
    source = ["--no-index", "--find-links", str(find_links)] if find_links is not None else []
    with progress.stage(f"make an environment for {pin}"):
        _run([python, "-m", "venv", folder], pin, "its virtual environment cannot be made")
    pip: list[str | Path] = [python_in(folder), "-m", "pip"]
    with progress.stage(f"download {pin}"):
        recipe = RECIPES[pin.package]
        download = [*pip, "download", "--only-binary=:all:", "--dest", wheels, *source]
        wanted = [recipe.numpy_for(pin.version), *recipe.beside]
        if recipe.beside:
            _run([*download, "--no-deps", str(pin)], pin, "its wheel cannot be had")
        else:
            wanted.append(str(pin))
        _run([*download, *wanted], pin, "its wheels cannot be had")
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(wheels.iterdir())}
    lock.write_text("".join(f"{_requirement(name)} --hash=sha256:{digest}\n" for name, digest in digests.items()))
    with progress.stage(f"install {len(digests)} wheels"):
        # All that is needed was resolved while it was downloaded: pip need not, and for a recipe of our own could not, do so again.
        exactly = ["--no-deps", "--require-hashes", "--requirement", str(lock)]
        _run([*pip, "install", "--no-index", "--find-links", wheels, *exactly], pin, "its wheels cannot be installed")
    shutil.rmtree(wheels)
    version = _run([python_in(folder), "-c", "import platform; print(platform.python_version())"], pin, "its interpreter fails")
    _prove(pin, folder)
    environment = Environment(pin, version.strip(), digests)
    (folder / RECORD).write_text(json.dumps(environment.to_dict(), indent=1) + "\n", encoding="utf-8")
    return environment


def _requirement(wheel: str) -> str:
    """``"numpy-1.26.4-cp311-...whl"`` -> ``"numpy==1.26.4"`` (binary distribution format: name and version hold no further hyphen)."""
    name, version = wheel.split("-")[:2]
    return f"{name}=={version}"


def _prove(pin: Pin, folder: Path) -> None:
    """Run the least model there is. Raises what `open_session` raises, and RuntimeFailure EW-R002 where the result is wrong."""
    runtime = next(entry for entry in RUNTIMES if entry.package == pin.package)
    suffix, content = probe_model(runtime.name)
    artifact, x = folder / f"probe{suffix}", np.array([-1.5, 2.5], np.float32)
    artifact.write_bytes(content)
    with open_session(runtime.name, artifact, python=python_in(folder), timeout_s=60) as session:
        y = session.run({"x": x})["y"]
    artifact.unlink()
    if not np.array_equal(y, np.maximum(x, 0)):
        raise RuntimeFailure("EW-R002", f"{pin} computes relu({x}) = {y}")


def _run(command: Sequence[str | Path], pin: Pin, what: str) -> str:
    """Standard output of a command. Raises RuntimeFailure EW-R001 with its last lines where it fails or exceeds its time limit."""
    arguments = [str(part) for part in command]
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=False, env=_environment()
        )
    except subprocess.TimeoutExpired:
        raise _failed(pin, what, f"{arguments[2:4]} did not end within {_LIMIT_S:g} s") from None
    except OSError as error:
        raise _failed(pin, what, str(error)) from error
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip() and not line.startswith("WARNING")]
        raise _failed(pin, what, "\n".join(lines[-_LAST_LINES:]))
    return done.stdout


def _environment() -> Mapping[str, str]:
    """The variables of this process without those that would point the new interpreter at this one's packages."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def _failed(pin: Pin, what: str, why: str) -> RuntimeFailure:
    fix = "check the version and the network; --python names another interpreter where there is no wheel for this one"
    return RuntimeFailure("EW-R001", f"{pin} cannot be installed: {what}", why=why, fix=fix)
