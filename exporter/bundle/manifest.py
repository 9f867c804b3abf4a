"""manifest.json: what a bundle holds and what it was made from, so that it can be checked, signed and made again.

It holds no time and no measurement of one run: the same command twice gives the same manifest byte for byte. Times and latencies are
in report.json, whose files the manifest names under `measured` without a hash.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Final

from diagnostics import DataError

__all__ = [
    "SCHEMA_VERSION",
    "FileRecord",
    "GateRecord",
    "Manifest",
    "TensorRecord",
    "check_name",
    "digest_path",
    "installed_versions",
    "sha256",
]

SCHEMA_VERSION: Final = 1

# Distributions whose version can change an artifact or what it computes here.
_PACKAGES: Final = (
    "ai-edge-litert",
    "edgewright",
    "flatbuffers",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxscript",
    "pillow",
    "scipy",
    "tflite-micro",
    "torch",
)


@dataclass(frozen=True)
class FileRecord:
    """One file (or, for inputs, one directory): name, size and content. `name` is a path inside the bundle for outputs."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorRecord:
    """One input or output of the artifact, as an integrator must feed or read it.

    Attributes:
        name: name in the artifact.
        shape: as stored in the artifact.
        dtype: numpy name of the stored type.
        scale, zero_point: ``real = scale * (stored - zero_point)``; None where the tensor is not quantized.
        layout: "channels_last" where the axes of the original were permuted, else "as_original".
        original_name, original_shape: in the model that was given.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    layout: str = "as_original"
    original_name: str = ""
    original_shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class GateRecord:
    """One gate and what was found: `value` is None where it could not be measured."""

    expression: str
    holds: bool
    value: float | None = None
    runtime: str = ""


@dataclass(frozen=True)
class Manifest:
    """All facts of one bundle. `outputs` and `measured` are filled in when the bundle is written.

    Attributes:
        model: name of the source model.
        artifact: path of the artifact inside the bundle.
        target: the whole target profile as data.
        preprocess: what was done to raw samples before they reached the model's inputs, or None.
        inputs: model and data that the bundle was made from; `outputs`: every file whose content the inputs determine.
        compiled: what the target's compiler made of the artifact: compiler, version, architecture, options and files of each.
        measured: files that also hold times or latencies of one run, so they have no hash here.
        command: the arguments as given; `packages`: versions by distribution name; `seed`: of all that is random.
    """

    model: str
    artifact: str
    target: Mapping[str, Any]
    signature_inputs: tuple[TensorRecord, ...] = ()
    signature_outputs: tuple[TensorRecord, ...] = ()
    preprocess: Mapping[str, Any] | None = None
    gates: tuple[GateRecord, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[FileRecord, ...] = ()
    outputs: tuple[FileRecord, ...] = ()
    compiled: tuple[Mapping[str, Any], ...] = ()
    measured: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    seed: int = 0
    edgewright: str = field(default_factory=lambda: metadata.version("edgewright"))
    python: str = field(default_factory=platform.python_version)
    packages: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    schema: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, a newline at the end. Raises ValueError for NaN or infinity."""
        return json.dumps(asdict(self), sort_keys=True, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "") -> Manifest:
        """Read `to_json`'s text back. Raises DataError EW-G003 where it is not a manifest of this schema."""
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA_VERSION:
                raise ValueError(f"schema version {data['schema']}, this release reads {SCHEMA_VERSION}")
            unknown = set(data) - {entry.name for entry in fields(cls)}
            if unknown:
                raise ValueError(f"unknown keys {sorted(unknown)}")
            for key in ("signature_inputs", "signature_outputs"):
                data[key] = tuple(_tensor(entry) for entry in data[key])
            data["gates"] = tuple(GateRecord(**entry) for entry in data["gates"])
            for key in ("inputs", "outputs"):
                data[key] = tuple(FileRecord(**entry) for entry in data[key])
            for key in ("compiled", "measured", "command"):
                data[key] = tuple(data.get(key, ()))
            for name in (data["artifact"], *data["measured"], *(entry.name for entry in data["outputs"])):
                check_name(name)
            return cls(**data)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError("EW-G003", "the manifest cannot be read", where=where, why=str(error)) from error

    def with_outputs(self, outputs: Iterable[FileRecord], measured: Iterable[str]) -> Manifest:
        return replace(self, outputs=tuple(sorted(outputs, key=lambda entry: entry.name)), measured=tuple(sorted(measured)))


def _tensor(entry: dict[str, Any]) -> TensorRecord:
    return TensorRecord(**{**entry, "shape": tuple(entry["shape"]), "original_shape": tuple(entry["original_shape"])})


def check_name(name: str) -> str:
    """A path inside a bundle: relative, forward slashes, no way out. Raises ValueError otherwise."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or path.as_posix() != name or "\\" in name:
        raise ValueError(f"{name!r} is not a path inside of a bundle")
    return name


def installed_versions() -> dict[str, str]:
    """Versions of the installed distributions that can matter to an artifact; absent ones are left out."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def sha256(path: Path) -> str:
    """Hex sha256 of a file's content, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_path(path: Path, *, name: str | None = None) -> FileRecord:
    """Record of an input. A directory's hash is that of its sorted lines "<sha256>  <relative path>", hidden files left out.

    Raises DataError EW-D001 where nothing stands at `path`, EW-D004 where it cannot be read.
    """
    label = str(path) if name is None else name
    try:
        if path.is_dir():
            members = sorted(
                (entry.relative_to(path).as_posix(), entry)
                for entry in path.rglob("*")
                if entry.is_file() and not any(part.startswith(".") for part in entry.relative_to(path).parts)
            )
            lines = "".join(f"{sha256(entry)}  {relative}\n" for relative, entry in members)
            size = sum(entry.stat().st_size for _, entry in members)
            return FileRecord(label, size, hashlib.sha256(lines.encode()).hexdigest())
        return FileRecord(label, path.stat().st_size, sha256(path))
    except FileNotFoundError as error:
        raise DataError("EW-D001", f"{path} does not exist") from error
    except OSError as error:
        raise DataError("EW-D004", f"{path} cannot be read", why=str(error)) from error
