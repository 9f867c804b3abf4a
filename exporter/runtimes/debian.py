"""A Python for another architecture out of Debian's packages, without touching the system: apt with lists and a status of its own.

apt resolves the dependencies and checks every package against the signed lists of the archives that this machine trusts. It needs no root.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from diagnostics import RuntimeFailure

__all__ = ["Run", "fetch_packages", "unpack"]

Run = Callable[[Sequence[str | Path], str], str]  # a command, and what cannot be done where it fails -> what it printed

_WANTED: Final = ("python3", "libstdc++6")
_NOT_NEEDED: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/info", "var")


def fetch_packages(folder: Path, destination: Path, run: Run) -> None:
    """Download Python for arm64 and all that it depends on into `destination`; `folder` takes apt's lists.

    Raises RuntimeFailure EW-R001 where this is no Debian, and what `run` raises.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeFailure(
            "EW-R001",
            "there is no Python for aarch64 here",
            why="it comes out of Debian's packages, and apt-get or dpkg-deb is not there",
            fix="give a folder that holds them, fetched on a Debian or Ubuntu: --find-links DIR",
        )
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Dir::Cache": str(folder / "cache"),
        "Dir::State": str(folder / "state"),
        "Dir::State::status": str(folder / "status"),
    }
    # Lists that settings would be added to; hooks of the system would clean the system's own cache.
    cleared = ("APT::Architectures", "APT::Update::Post-Invoke", "DPkg::Post-Invoke")
    lines = [f"#clear {key};" for key in cleared] + [f'{key} "{value}";' for key, value in settings.items()]
    (folder / "apt.conf").write_text("\n".join(lines) + "\n")
    apt: list[str | Path] = ["apt-get", "-q", "-c", folder / "apt.conf"]
    run([*apt, "update"], "the archives' lists cannot be had")
    run([*apt, "install", "--download-only", "-y", *_WANTED], "a Python for aarch64 cannot be had")
    destination.mkdir(exist_ok=True)
    for package in sorted((folder / "cache" / "archives").glob("*.deb")):
        package.rename(destination / package.name)


def unpack(packages: Sequence[Path], root: Path, run: Run) -> None:
    """The files of Debian packages as one file system, less documentation. Raises what `run` raises."""
    root.mkdir()
    for package in packages:
        run(["dpkg-deb", "--extract", package, root], f"{package.name} cannot be unpacked")
    for name in _NOT_NEEDED:
        shutil.rmtree(root / name, ignore_errors=True)
    if not (root / "lib").exists():  # releases that merged it into /usr link it in a package that only whole systems have
        (root / "lib").symlink_to("usr/lib")
