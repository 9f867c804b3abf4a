"""What compilers made of an artifact, as files, manifest entries and report rows of its bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from exporter.bundle.facts import CompiledRow
from exporter.compilers.base import Compiled

__all__ = ["compiled_files", "compiled_records", "compiled_rows"]


def compiled_files(compiled: Sequence[Compiled], *, reproducible: bool) -> dict[str, bytes]:
    """Path inside of the bundle -> content: the compiler's files, its log and what was read out of both; of those that are `reproducible`."""
    files: dict[str, bytes] = {}
    for entry in (entry for entry in compiled if entry.reproducible == reproducible):
        folder = _folder(entry)
        files |= {f"{folder}/{name}": content for name, content in entry.files.items()}
        files[f"{folder}/log.txt"] = entry.log.encode()
        files[f"{folder}/compiled.json"] = (json.dumps(entry.to_dict(), indent=1, allow_nan=False) + "\n").encode()
    return files


def compiled_records(compiled: Sequence[Compiled]) -> tuple[dict[str, Any], ...]:
    """What the manifest says of each: who made which files of the bundle, and how."""
    return tuple(
        {
            "compiler": entry.compiler,
            "version": entry.version,
            "architecture": entry.architecture,
            "options": dict(entry.options),
            "files": [f"{_folder(entry)}/{name}" for name in entry.files],
        }
        for entry in compiled
    )


def compiled_rows(compiled: Sequence[Compiled]) -> tuple[CompiledRow, ...]:
    """What the report says of each."""
    return tuple(
        CompiledRow(
            f"{entry.compiler} {entry.version}",
            entry.architecture,
            {name: len(content) for name, content in entry.files.items()},
            entry.figures,
            tuple(
                (place.output, place.op_type, place.unit, "; ".join(place.reasons), place.figures) for place in entry.placements
            ),
            entry.log,
        )
        for entry in compiled
    )


def _folder(entry: Compiled) -> str:
    return f"compiled/{entry.architecture}"
