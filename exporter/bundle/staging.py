"""Written aside, then renamed: a reader of the destination sees the old content or the new, never half of either."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from diagnostics import UsageError
from exporter.content import Content

__all__ = ["MANIFEST", "refusals_as_errors", "require_free", "require_free_file", "staged_directory", "write_file"]

_ROOM: Final = "make room or give permission there, or give another destination"
MANIFEST: Final = "manifest.json"  # its presence makes a directory a bundle


def require_free(destination: Path, *, overwrite: bool = False) -> None:
    """Raise UsageError EW-U004 where a bundle could not be put at `destination`: to be asked before hours of work.

    An existing bundle or empty directory may be replaced with `overwrite`; anything else that exists is never removed.
    """
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise UsageError("EW-U004", f"{destination} is not a directory", fix="give another destination")
    if destination.is_dir() and any(destination.iterdir()):
        if not (destination / MANIFEST).is_file():
            raise UsageError(
                "EW-U004",
                f"{destination} exists and is not a bundle",
                why=f"it holds no {MANIFEST}, so replacing it could remove something else",
                fix="give another destination",
            )
        if not overwrite:
            raise UsageError("EW-U004", f"{destination} exists", fix="give --force to replace it, or another destination")
    _require_writable(destination)


def require_free_file(destination: Path, *, overwrite: bool = False) -> None:
    """Raise UsageError EW-U004 where a file could not be put at `destination`: to be asked before hours of work."""
    if destination.is_dir():
        raise UsageError("EW-U004", f"{destination} is a directory", fix="name a file in it, or another destination")
    if destination.exists() and not overwrite:
        raise UsageError("EW-U004", f"{destination} exists", fix="give --force to replace it, or another destination")
    _require_writable(destination)


@contextmanager
def staged_directory(destination: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A fresh directory to fill, which becomes `destination` when the block ends and vanishes when it raises.

    It stands beside the destination (renaming works within one file system only). Where the destination exists and `overwrite`
    allows it, the old directory is moved aside first and moved back if the new one cannot take its place.

    Raises UsageError EW-U004 where the destination exists (see `require_free`) or cannot be written.
    """
    require_free(destination, overwrite=overwrite)
    with refusals_as_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        staging = aside / "new"
        staging.mkdir()
        yield staging
        with refusals_as_errors(destination):
            _swap(staging, destination, aside / "old")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_file(destination: Path, content: bytes | Content | Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Write one file aside and rename it into place. `content` may be a function that writes the path it is given.

    Raises UsageError EW-U004 where the destination exists (without `overwrite`) or cannot be written.
    """
    require_free_file(destination, overwrite=overwrite)
    with refusals_as_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        staging = aside / destination.name
        if callable(content):
            content(staging)
        else:
            with refusals_as_errors(destination):
                (content if isinstance(content, Content) else Content((content,))).write(staging)
        with refusals_as_errors(destination):
            os.replace(staging, destination)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _swap(new: Path, destination: Path, old: Path) -> None:
    if not destination.exists():
        os.rename(new, destination)
        return
    os.rename(destination, old)
    try:
        os.rename(new, destination)
    except BaseException:
        os.rename(old, destination)
        raise


@contextmanager
def refusals_as_errors(destination: Path) -> Iterator[None]:
    """Turn the operating system's refusals into the error of this module."""
    try:
        yield
    except OSError as error:
        raise UsageError("EW-U004", f"{destination} cannot be written", why=error.strerror or str(error), fix=_ROOM) from error


def _require_writable(destination: Path) -> None:
    parent = _nearest_existing(destination.parent)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(
            "EW-U004",
            f"{destination} cannot be written",
            why=f"{parent} is not a writable directory",
            fix="give another destination, or make that directory writable",
        )


def _nearest_existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
