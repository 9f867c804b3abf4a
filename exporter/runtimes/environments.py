"""Virtual environments of their own for runtimes that cannot share this one: older releases, and what wants an older numpy.

Each is a folder ``NAME-VERSION`` under ``$EDGEWRIGHT_CACHE/runtimes`` (default ``~/.cache/edgewright/runtimes``), made by `install` and
described by the file `RECORD` in it. A folder appears whole or not at all, and works without a network from then on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diagnostics import UsageError

__all__ = [
    "PLATFORMS",
    "RECIPES",
    "RECORD",
    "Environment",
    "Pin",
    "Recipe",
    "environments_root",
    "find_environment",
    "list_environments",
    "parse_pin",
    "python_in",
    "release_key",
    "remove_environment",
]

RECORD: Final = "environment.json"
PLATFORMS: Final = ("", "aarch64")
_VERSION: Final = re.compile(r"[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)?")


@dataclass(frozen=True)
class Recipe:
    """What a package needs beside itself.

    Attributes:
        numpy: the requirement on numpy from each release on, the newest first.
        beside: further requirements.
        alone: whether the package's own requirements are left aside, because they cannot be met together; `beside` then holds them all.
    """

    numpy: tuple[tuple[tuple[int, ...], str], ...]
    beside: tuple[str, ...] = ()
    alone: bool = False

    def numpy_for(self, version: str) -> str:
        """The requirement on numpy of a version."""
        return next(requirement for since, requirement in self.numpy if release_key(version) >= since)


# Wheels built against numpy 1 fail under numpy 2 while they load; 1.26.4 is the last release of numpy 1.
RECIPES: Final[Mapping[str, Recipe]] = {
    "ai-edge-litert": Recipe((((1, 2), "numpy>=2"), ((0,), "numpy==1.26.4"))),
    "esp-ppq": Recipe((((0,), "numpy>=2"),), ("torch==2.13.0", "onnx==1.19.1")),
    "onnxruntime": Recipe((((1, 19), "numpy>=2"), ((0,), "numpy==1.26.4"))),
    # It asks for a torch of 2024, which brings CUDA and is not needed; for a protobuf and an onnx that the wheel was built against, which are.
    "rknn-toolkit2": Recipe(
        (((0,), "numpy==1.26.4"),),
        (
            "torch==2.13.0",
            "onnx==1.18.0",
            "onnxruntime==1.26.0",
            "protobuf==4.25.4",
            "opencv-python<4.12",
            "setuptools<80",
            "fast-histogram",
            "psutil",
            "ruamel.yaml",
            "scipy",
            "tqdm",
        ),
        alone=True,
    ),
    "tflite-runtime": Recipe((((0,), "numpy==1.26.4"),)),
}


@dataclass(frozen=True)
class Pin:
    """A package at one version: ``tflite-runtime==2.14.0``; `platform` is "" for this machine's own, or "aarch64"."""

    package: str
    version: str
    platform: str = ""

    def __str__(self) -> str:
        """As ``edgewright runtimes add`` takes it."""
        return f"{self.requirement} --platform {self.platform}" if self.platform else self.requirement

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.package}=={self.version}"

    @property
    def folder(self) -> Path:
        """Where its environment lies, or would."""
        return environments_root() / "-".join(part for part in (self.package, self.version, self.platform) if part)


@dataclass(frozen=True)
class Environment:
    """An environment that is there.

    Attributes:
        pin: the runtime's package.
        python_version: of its interpreter, for example "3.11.4".
        wheels: file name of every package that was installed in it -> sha256.
        seal: sha256 of the list of its files, see `seal`; "" where there is none.
    """

    pin: Pin
    python_version: str
    wheels: Mapping[str, str]
    seal: str = ""

    @property
    def python(self) -> Path:
        """Its interpreter; of another platform, a file that this machine cannot start.

        Scripts beside it hold the path of the folder they were made in: run modules with ``-m`` instead.
        """
        return python_in(self.pin.folder, self.pin.platform)

    def installed(self, package: str) -> str:
        """The version of a package in it, "" where it holds none: wheels are named PACKAGE-VERSION-..."""
        return next((name.split("-")[1] for name in self.wheels if name.split("-")[0] == package), "")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json`` and the record; the place is not part of it."""
        return {
            "package": self.pin.package,
            "version": self.pin.version,
            "platform": self.pin.platform,
            "python": self.python_version,
            "wheels": dict(self.wheels),
            "seal": self.seal,
        }


def python_in(folder: Path, platform: str = "") -> Path:
    """The interpreter of the virtual environment in a folder; of another platform, that of the root file system in it."""
    if platform:
        return next((folder / "root/usr/bin").glob("python3.[0-9]*"), folder / "root/usr/bin/python3")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environments_root() -> Path:
    """The folder of all environments."""
    configured = os.environ.get("EDGEWRIGHT_CACHE")
    return (Path(configured) if configured else Path.home() / ".cache" / "edgewright") / "runtimes"


def parse_pin(text: str, platform: str = "") -> Pin:
    """``"tflite-runtime==2.14.0"`` as a pin. Raises UsageError EW-U001 for another package or platform, or without an exact version."""
    if platform not in PLATFORMS:
        raise UsageError("EW-U001", f"there are no environments of platform {platform!r}", fix="leave it out, or give aarch64")
    package, _, version = (part.strip() for part in text.partition("=="))
    package = package.lower().replace("_", "-")
    if package not in RECIPES or not _VERSION.fullmatch(version):
        raise UsageError(
            "EW-U001",
            f"{text!r} is not a runtime and its version",
            why=f"wanted: PACKAGE==VERSION, where PACKAGE is one of {', '.join(RECIPES)}",
            fix="for example edgewright runtimes add tflite-runtime==2.14.0",
        )
    return Pin(package, version, platform)


def find_environment(package: str, version: str | None = None, platform: str = "") -> Environment | None:
    """The environment of a package at a version (None: at its newest one that is there), or None."""
    wanted = (package, platform)
    found = [
        entry
        for entry in list_environments()
        if (entry.pin.package, entry.pin.platform) == wanted and version in (None, entry.pin.version)
    ]
    return max(found, key=lambda entry: release_key(entry.pin.version), default=None)


def list_environments() -> tuple[Environment, ...]:
    """Every environment that is there, by package and release."""
    found = [entry for record in environments_root().glob(f"[!.]*/{RECORD}") if (entry := _read(record)) is not None]
    return tuple(sorted(found, key=lambda entry: (entry.pin.package, release_key(entry.pin.version), entry.pin.platform)))


def remove_environment(pin: Pin) -> None:
    """Delete an environment: out of sight first, so that none is ever seen half deleted. Raises UsageError EW-U001 where there is none."""
    if not pin.folder.is_dir():
        there = ", ".join(str(entry.pin) for entry in list_environments()) or "none"
        raise UsageError(
            "EW-U001", f"there is no environment of {pin}", why=f"there are: {there}", fix="edgewright runtimes list"
        )
    aside = Path(tempfile.mkdtemp(prefix=".removed-", dir=environments_root()))
    pin.folder.rename(aside / "environment")
    shutil.rmtree(aside)


def release_key(version: str) -> tuple[int, ...]:
    """The numbers of a version as a sortable tuple; a pre-release sorts as its release: "1.19.0rc1" -> (1, 19, 0)."""
    numbers = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def _read(record: Path) -> Environment | None:
    """An environment by its record; None where that cannot be read, or the folder was moved or lost its interpreter."""
    try:
        data = json.loads(record.read_text(encoding="utf-8"))
        pin = Pin(data["package"], data["version"], data.get("platform", ""))
        found = Environment(pin, data["python"], dict(data["wheels"]), data.get("seal", ""))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.pin.folder == record.parent and found.python.exists() else None
