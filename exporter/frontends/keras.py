"""Keras files and SavedModels, through TensorFlow's own converter to float TFLite and from there as any .tflite.

TensorFlow never lives in this process: a worker (`keras_worker`) converts the model and stays, to run the original. Its interpreter is this
one, or the one that ``$EDGEWRIGHT_TENSORFLOW`` names, of an environment that has tensorflow.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import weakref
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from diagnostics import DataError, ModelError, UsageError
from exporter.frontends.source import Array, Source, refuse_bad_weights, signatures
from exporter.frontends.tflite.file import TFLiteFile, parse
from exporter.frontends.tflite.load import build
from exporter.runtimes import Session
from exporter.runtimes.process import Worker, worker_command
from exporter.runtimes.registry import Runtime

__all__ = ["KerasReference", "load_keras"]

_TIME_LIMIT_S: Final = 900.0  # TensorFlow's import, the model's loading and its conversion
_HDF5: Final = b"\x89HDF\r\n\x1a\n"  # signature of the format, https://docs.hdfgroup.org/hdf5/v1_14/_f_m_t3.html
_PIP: Final = "pip install 'edgewright[tensorflow]'"
_TENSORFLOW: Final = Runtime("tensorflow", "tensorflow", "tensorflow", "", "reads Keras and SavedModel sources", _PIP)


class KerasReference:
    """Runs the original by TensorFlow, in the worker that converted it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        weakref.finalize(self, session.close)

    def __call__(self, inputs: Mapping[str, Array], /) -> dict[str, Array]:
        """Outputs by name. Raises ModelError EW-M011 where the inputs do not fit, RuntimeFailure where TensorFlow fails."""
        try:
            return self._session.run(inputs)
        except DataError as error:
            raise ModelError("EW-M011", "the original model does not run on these inputs", why=error.why or error.what) from error


def load_keras(path: Path, shapes: Mapping[str, Sequence[int]] | None = None, *, unsafe: bool = False) -> Source:
    """Read a .keras or .h5 file, or the folder of a SavedModel (its signature serving_default).

    `shapes` fixes open dimensions; an open batch is 1. `unsafe` lets layers run code that the file holds.
    Raises UsageError EW-U005 (no tensorflow), ModelError EW-M004 (TensorFlow cannot load or convert it, or a dimension is open) and what
    `load_tflite` raises, RuntimeFailure where the worker crashes or takes too long.
    """
    _require_form(path)
    python = _interpreter(path)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        written = Path(folder) / "model.tflite"
        options = {
            "tflite": str(written),
            "shapes": {name: list(shape) for name, shape in (shapes or {}).items()},
            "unsafe": unsafe,
        }
        session = _start(path, python, options)
        reference = KerasReference(session)
        content = written.read_bytes()
    file = parse(content, str(path))
    model = build(file, path.stem)
    _rename(model, file, content)
    refuse_bad_weights(model)
    return Source(
        name=path.stem,
        kind="keras",
        model=model,
        reference=reference,
        sha256=_fingerprint(path),
        inputs=signatures(model.graph.inputs),
        outputs=signatures(model.graph.outputs),
    )


def _require_form(path: Path) -> None:
    """Raise ModelError EW-M002 for a file that is neither form of Keras: it says less itself, and only once tensorflow is there and started."""
    if path.is_dir() or zipfile.is_zipfile(path):
        return
    with path.open("rb") as stream:
        found = stream.read(len(_HDF5))
    if found != _HDF5:
        raise ModelError(
            "EW-M002",
            f"{path} is not a readable Keras model",
            why="it is neither an HDF5 file nor a zip archive",
            fix="is the file complete?",
        )


def _interpreter(path: Path) -> str:
    configured = os.environ.get("EDGEWRIGHT_TENSORFLOW")
    if configured:
        if shutil.which(configured) is None:
            raise UsageError(
                "EW-U005",
                f"reading {path} needs tensorflow",
                why=f"$EDGEWRIGHT_TENSORFLOW names {configured}, which is no program",
                fix="let it name the Python interpreter of an environment that has tensorflow",
            )
        return configured
    if find_spec("tensorflow") is None:
        raise UsageError(
            "EW-U005",
            f"reading {path} needs tensorflow",
            fix=f"{_PIP}, or let $EDGEWRIGHT_TENSORFLOW name the interpreter of an environment that has it",
        )
    return sys.executable


def _start(path: Path, python: str, options: Mapping[str, Any]) -> Session:
    """A session of the original; its TFLite form is written by then."""
    script = Path(__file__).with_name("keras_worker.py")
    worker = Worker(
        worker_command(python, script, "tensorflow", path.resolve(), json.dumps(options)), label="tensorflow", threads=1
    )
    try:
        hello, _ = worker.wait(_TIME_LIMIT_S)
        if "error" in hello:
            if hello["kind"] == "missing":
                raise UsageError("EW-U005", f"reading {path} needs tensorflow", why=hello["error"], fix=_PIP)
            raise ModelError(
                "EW-M004",
                f"TensorFlow cannot convert {path}",
                why=_reason(hello["error"]),
                fix="give its ONNX form, or replace what TensorFlow Lite's builtins lack",
            )
        return Session(_TENSORFLOW, worker, hello, _TIME_LIMIT_S)
    except BaseException:
        worker.close()
        raise


def _reason(said: str) -> str:
    """The lines that a user can use: of the converter's long reports, those that name operators."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line for line in lines[1:] if "Ops:" in line or "error:" in line]
    return " ".join([*lines[:1], *named[:3]])[:600]


def _rename(model: ir.Model, file: TFLiteFile, content: bytes) -> None:
    """Give inputs and outputs of the graph the names of the original: the converter keeps them in the signature."""
    from ai_edge_litert import schema_py_generated as schema

    signature = schema.ModelT.InitFromPackedBuf(content, 0).signatureDefs[0]
    for values, indices, entries in (
        (model.graph.inputs, file.inputs, signature.inputs),
        (model.graph.outputs, tuple(dict.fromkeys(file.outputs)), signature.outputs),
    ):
        public = {int(entry.tensorIndex): entry.name.decode() for entry in entries}
        if len(public) != len(entries):
            raise ModelError("EW-M004", "two outputs of the model are one and the same tensor", fix="keep one of them")
        for value, index in zip(values, indices, strict=True):
            value.name = public.get(index, value.name)


def _fingerprint(path: Path) -> str:
    """sha256 of the file, or of every file of a folder with its name."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
