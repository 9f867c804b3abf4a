"""The sha256 of every file of an environment, written when it is made and compared before it is used: what runs is what was checked."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Final

from diagnostics import RuntimeFailure
from exporter.runtimes.environments import RECORD

__all__ = ["SEAL", "check_seal", "write_seal"]

SEAL: Final = "files.json"
_PASSING: Final = ("__pycache__",)  # what interpreters write beside sources
_SHOWN: Final = 3


def write_seal(folder: Path) -> str:
    """Write the digests of all files below `folder` into its `SEAL`; gives the sha256 of that."""
    text = json.dumps(_digests(folder), indent=0, sort_keys=True)
    (folder / SEAL).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def check_seal(folder: Path, digest: str) -> None:
    """Compare all files with the seal, and the seal with its sha256; once a process.

    Raises RuntimeFailure EW-R001 where one is changed, added or missing.
    """
    text = (folder / SEAL).read_text(encoding="utf-8") if (folder / SEAL).is_file() else ""
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise _damaged(folder, "the list of its files is not the one that was written when it was made")
    wanted, found = json.loads(text), _digests(folder)
    if wanted != found:
        changed = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        shown = ", ".join(changed[:_SHOWN]) + (f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else "")
        raise _damaged(folder, f"{shown}: not what was installed")


def _digests(folder: Path) -> dict[str, str]:
    """Relative path -> sha256 of each file's content; of a link, where it points to. The record and the seal aside."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name in (SEAL, RECORD) or any(part in _PASSING for part in path.parts):
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink().as_posix()}"
        elif path.is_file():
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _damaged(folder: Path, why: str) -> RuntimeFailure:
    return RuntimeFailure(
        "EW-R001",
        f"the environment {folder.name} is damaged",
        where=str(folder),
        why=why,
        fix="edgewright runtimes remove it and add it again",
    )
