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

from diagnostics import RuntimeFailure, UsageError
from exporter.progress import SILENT, Progress
from exporter.runtimes.debian import Run, fetch_packages, unpack
from exporter.runtimes.emulation import (
    CORES,
    DEFAULT_CORE,
    PLATFORM,
    emulator,
    how_to_get_emulator,
    launcher,
    write_cores,
)
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
from exporter.runtimes.seal import write_seal
from exporter.runtimes.session import open_session

__all__ = ["add_environment"]

_LIMIT_S: Final = 1800.0  # of one call of pip
_LAST_LINES: Final = 6
_PROBE_S: Final = 300.0
_GLIBC: Final = (36, 35, 34, 31, 28, 27, 26, 24, 17)  # minor versions that wheels are built for, from Debian 12's on


def add_environment(
    pin: str,
    *,
    platform: str = "",
    python: str | Path | None = None,
    find_links: Path | None = None,
    progress: Progress = SILENT,
) -> Environment:
    """The environment of ``"PACKAGE==VERSION"``, made where it is not there yet.

    pip downloads the wheels, their sha256 are recorded, and exactly these files are installed (``--require-hashes``, no index). The sha256
    of every file that came of it are recorded too, and compared before it is used.

    Args:
        platform: "aarch64" for one that runs in qemu: wheels for Arm, and a Python for them out of Debian's packages.
        python: interpreter to make it with, for packages without wheels for this one; None: this one.
        find_links: a folder of wheels (and of .deb files, for another platform) to take instead of asking the index.
    Raises:
        UsageError: EW-U001, no such runtime.
        RuntimeFailure: EW-R001, it cannot be made (with pip's last lines); EW-R002, EW-R003, EW-R004, it does not run.
    """
    wanted = parse_pin(pin, platform)
    if platform and python is not None:
        raise UsageError("EW-U002", "an environment of another platform has an interpreter of its own", fix="leave --python out")
    found = find_environment(wanted.package, wanted.version, platform)
    if found is not None:
        return found
    if platform and emulator() is None:
        raise RuntimeFailure("EW-R001", "qemu's emulator of aarch64 programs is not installed", fix=how_to_get_emulator())
    environments_root().mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{wanted.folder.name}-", dir=environments_root()))
    try:
        made = _build(wanted, aside, python or sys.executable, find_links, progress)
        aside.chmod(0o755)
        try:
            aside.rename(wanted.folder)
        except OSError:
            if find_environment(wanted.package, wanted.version, platform) is None:  # else another process was faster
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return find_environment(wanted.package, wanted.version, platform) or made


def _build(pin: Pin, folder: Path, python: str | Path, find_links: Path | None, progress: Progress) -> Environment:
    """Fill `folder` with an environment and its record."""

    def run(command: Sequence[str | Path], what: str) -> str:
        return _run(command, pin, what)

    packages = folder / "packages"
    packages.mkdir()
    with progress.stage(f"make an environment for {pin}"):
        command = _root(folder, packages, find_links, run) if pin.platform else _venv(folder, python, run)
    version = run([*command, "-c", "import platform; print(platform.python_version())"], "its interpreter fails").strip()
    pip: list[str | Path] = [sys.executable if pin.platform else command[0], "-m", "pip"]
    tags = _tags(version) if pin.platform else []
    with progress.stage(f"download {pin}"):
        _download(pin, packages, find_links, [*pip, "download", *tags], run)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(packages.iterdir())}
    wheels = {name: digest for name, digest in digests.items() if name.endswith(".whl")}
    lock = folder / "requirements.txt"
    lock.write_text("".join(f"{_requirement(name)} --hash=sha256:{digest}\n" for name, digest in wheels.items()))
    with progress.stage(f"install {len(wheels)} wheels"):
        place: list[str | Path] = ["--target", folder / "site", *tags] if pin.platform else []
        # All that is needed was resolved while it was downloaded: pip need not, and for a recipe of our own could not, do so again.
        exactly: list[str | Path] = [
            "--no-index",
            "--no-deps",
            "--find-links",
            packages,
            "--require-hashes",
            "--requirement",
            lock,
        ]
        run([*pip, "install", *place, *exactly], "its wheels cannot be installed")
    shutil.rmtree(packages)
    with progress.stage(f"try {pin}"):
        _prove(pin, folder, command)
    environment = Environment(pin, version, digests, write_seal(folder))
    (folder / RECORD).write_text(json.dumps(environment.to_dict(), indent=1) + "\n", encoding="utf-8")
    return environment


def _venv(folder: Path, python: str | Path, run: Run) -> list[str | Path]:
    """A virtual environment in `folder`; the command that starts its Python."""
    run([python, "-m", "venv", folder], "its virtual environment cannot be made")
    return [python_in(folder)]


def _root(folder: Path, packages: Path, find_links: Path | None, run: Run) -> list[str | Path]:
    """A root file system with Python for another platform in `folder`; the command that starts it in the emulator."""
    given = sorted(find_links.glob("*.deb")) if find_links is not None else []
    if given:
        for path in given:
            shutil.copyfile(path, packages / path.name)
    else:
        with tempfile.TemporaryDirectory(prefix="edgewright-apt-") as lists:
            fetch_packages(Path(lists), packages, run)
    unpack(sorted(packages.glob("*.deb")), folder / "root", run)
    write_cores(folder)
    return [*launcher(folder, CORES[DEFAULT_CORE])]


def _download(pin: Pin, packages: Path, find_links: Path | None, pip: Sequence[str | Path], run: Run) -> None:
    """All wheels that the recipe asks for, and what they depend on."""
    recipe = RECIPES[pin.package]
    source: list[str | Path] = ["--no-index", "--find-links", find_links] if find_links is not None else []
    command: list[str | Path] = [*pip, "--only-binary=:all:", "--dest", packages, *source]
    if recipe.alone:
        run([*command, "--no-deps", pin.requirement], "its wheel cannot be had")
    wanted = [*recipe.beside, recipe.numpy_for(pin.version)]
    run([*command, *([] if recipe.alone else [pin.requirement]), *wanted], "its wheels cannot be had")


def _tags(python: str) -> list[str]:
    """pip's options for wheels of Python ``"3.11.2"`` on aarch64 (PEP 600: a tag says the oldest glibc that will do)."""
    short = "".join(python.split(".")[:2])
    platforms = [f"manylinux_2_{minor}_{PLATFORM}" for minor in _GLIBC] + [f"manylinux2014_{PLATFORM}", f"linux_{PLATFORM}"]
    options = [option for platform in platforms for option in ("--platform", platform)]
    abis = [option for abi in (f"cp{short}", "abi3", "none") for option in ("--abi", abi)]
    version = ".".join(python.split(".")[:2])
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", version, *abis, *options]


def _requirement(wheel: str) -> str:
    """``"numpy-1.26.4-cp311-...whl"`` -> ``"numpy==1.26.4"`` (binary distribution format: name and version hold no further hyphen)."""
    name, version = wheel.split("-")[:2]
    return f"{name}=={version}"


def _prove(pin: Pin, folder: Path, python: Sequence[str | Path]) -> None:
    """Run the least model there is. Raises what `open_session` raises, and RuntimeFailure EW-R002 where the result is wrong."""
    runtime = next(entry for entry in RUNTIMES if entry.package == pin.package)
    suffix, content = probe_model(runtime.name)
    artifact, x = folder / f"probe{suffix}", np.array([-1.5, 2.5], np.float32)
    artifact.write_bytes(content)
    with open_session(runtime.name, artifact, python=python, timeout_s=_PROBE_S) as session:
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
