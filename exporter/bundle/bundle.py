"""A bundle: one directory with an artifact, its plan, its evidence and its hand-over kit, under a manifest that pins every byte."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diagnostics import DataError
from exporter.bundle.manifest import FileRecord, Manifest, check_name, sha256
from exporter.bundle.staging import MANIFEST, refusals_as_errors, staged_directory
from exporter.content import Content

__all__ = ["Bundle", "read_bundle", "write_bundle"]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files were checked against its manifest."""

    path: Path
    manifest: Manifest

    @property
    def artifact(self) -> Path:
        return self.path / self.manifest.artifact

    @property
    def digest(self) -> str:
        """sha256 of manifest.json: it pins the artifact and every other hashed file, so it is the one number to sign."""
        return sha256(self.path / MANIFEST)


def write_bundle(
    destination: Path,
    files: Mapping[str, bytes | Path | Content],
    manifest: Manifest,
    *,
    measured: Mapping[str, bytes | Path | Content] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write `files` and `measured` (path inside the bundle -> content, or a file to copy) with a manifest, all or nothing.

    `files` are determined by the inputs and hashed in the manifest; `measured` hold times of this run and are only named there.

    Raises UsageError EW-U004 where the destination exists (an existing bundle is replaced with `overwrite`) or cannot be
    written, and ValueError where a name leads out of the bundle or the manifest's artifact is not among `files`.
    """
    measured = measured or {}
    contents = {**files, **measured}
    if len(contents) != len(files) + len(measured) or MANIFEST in contents:
        raise ValueError(f"a name is given twice, or is {MANIFEST}: {sorted([*files, *measured])}")
    if manifest.artifact not in files:
        raise ValueError(f"the artifact {manifest.artifact} is not among the files {sorted(files)}")
    with staged_directory(destination, overwrite=overwrite) as staging, refusals_as_errors(destination):
        for name, content in contents.items():
            path = staging / check_name(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Content):
                content.write(path)
            elif isinstance(content, Path):
                shutil.copyfile(content, path)
            else:
                path.write_bytes(content)
        records = [FileRecord(name, (staging / name).stat().st_size, sha256(staging / name)) for name in files]
        manifest = manifest.with_outputs(records, measured)
        (staging / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle(destination, manifest)


def read_bundle(path: str | Path) -> Bundle:
    """Open a bundle and compare every hashed file with its manifest.

    Raises DataError EW-G003 that names the file where one is missing or differs, or the manifest where that is unreadable.
    """
    path = Path(path)
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "give the directory that edgewright export wrote"
        raise DataError("EW-G003", f"{path} is not a bundle", why=f"{MANIFEST} cannot be read: {error}", fix=fix) from error
    manifest = Manifest.from_json(text, where=str(path / MANIFEST))
    for record in manifest.outputs:
        _check(path, record)
    if manifest.artifact not in {record.name for record in manifest.outputs}:
        raise DataError("EW-G003", f"the manifest does not pin the artifact {manifest.artifact}", where=str(path / MANIFEST))
    return Bundle(path, manifest)


def _check(path: Path, record: FileRecord) -> None:
    try:
        found = sha256(path / record.name)
    except OSError as error:
        raise DataError(
            "EW-G003", f"{record.name} is missing from the bundle or unreadable", where=str(path), why=str(error)
        ) from error
    if found != record.sha256:
        raise DataError(
            "EW-G003",
            f"{record.name} is not the file that the manifest names",
            where=str(path),
            why=f"its sha256 is {found}, the manifest says {record.sha256}",
            fix="export again, or take the bundle from where it came",
        )
