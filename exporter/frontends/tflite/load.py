"""`load_tflite`: a .tflite file as a `Source`, the file itself on LiteRT as its reference."""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import onnx_ir as ir

from diagnostics import DataError, EdgewrightError, ModelError
from exporter.frontends.quiet import first_line
from exporter.frontends.source import Array, Source, refuse_bad_weights, signatures
from exporter.frontends.tflite.builder import GraphBuilder
from exporter.frontends.tflite.file import TFLiteFile, parse
from exporter.frontends.tflite.reading import read_operators
from exporter.frontends.tflite.registry import readers
from exporter.frontends.tflite.state import Stateless, explicit_state
from exporter.runtimes import Session, open_session

__all__ = ["TFLiteReference", "build", "load_tflite"]

_STATE: Final = frozenset(
    ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT")
)
_SEQUENCES: Final = frozenset(f"{ways}DIRECTIONAL_SEQUENCE_{kind}" for ways in ("UNI", "BI") for kind in ("LSTM", "RNN"))
_FROM_ZERO: Final = (
    "recurrent layers start from zero in each inference, as they do in the original once its variables are reset; without that the"
    " original goes on from the inference before"
)


class TFLiteReference:
    """Runs an untouched TFLite file on LiteRT's own kernels, one thread, in a worker process that lives as long as this object.

    Variable tensors are reset before each run.
    """

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str], content: bytes | None = None) -> None:
        """`inputs` and `outputs` are names in the file's order; an output that the file lists twice has one name.

        `content` is run instead of the file's: the same model with its state made explicit.
        """
        self._path, self._inputs, self._outputs, self._content = path, tuple(inputs), tuple(outputs), content

    def __call__(self, inputs: Mapping[str, Array], /) -> dict[str, Array]:
        """Outputs by name. Raises ModelError EW-M011 where the inputs do not fit, RuntimeFailure where LiteRT fails on the file."""
        session = self._session
        if set(inputs) != set(self._inputs):
            raise ModelError("EW-M011", f"the original model takes {list(self._inputs)}, not {sorted(inputs)}")
        feed = {info.name: inputs[name] for info, name in zip(session.inputs, self._inputs, strict=True)}
        try:
            found = session.run(feed)
        except DataError as error:
            raise ModelError("EW-M011", f"the original model {self._path.name} does not run", why=error.what) from error
        return {name: found[info.name] for info, name in zip(session.outputs, self._outputs, strict=True)}

    @cached_property
    def _session(self) -> Session:
        if self._content is None:
            session = open_session("litert-builtin", self._path)
        else:
            with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
                path = Path(folder) / self._path.name
                path.write_bytes(self._content)
                session = open_session("litert-builtin", path)
        weakref.finalize(self, session.close)
        return session


def load_tflite(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Source:
    """Read a TFLite file. State that it keeps in variables becomes inputs and outputs, where `explicit_state` can say it so.

    Raises ModelError EW-M002 (not a whole TFLite model), EW-M005 (NaN in a weight), EW-M009 (operators that cannot be read, each named),
    EW-M011 (`shapes` differs from the file's own).
    """
    original = path.read_bytes()
    file, stateless = parse(original, str(path)), None
    try:
        if any(operator.kind in _STATE for operator in file.operators) and (stateless := explicit_state(original)) is not None:
            file = parse(stateless.content, str(path))
        model = build(file, path.stem)
    except EdgewrightError:
        raise
    except Exception as error:  # operators whose shapes and options contradict each other fail in as many ways
        raise ModelError("EW-M002", f"the operators of {path} contradict its tensors", why=first_line(error)) from error
    _refuse_other_shapes(file, shapes or {})
    refuse_bad_weights(model)
    inputs, outputs = signatures(model.graph.inputs), signatures(model.graph.outputs)
    names = {index: entry.name for index, entry in zip(dict.fromkeys(file.outputs), outputs, strict=True)}
    return Source(
        name=path.stem,
        kind="tflite",
        model=model,
        reference=TFLiteReference(
            path,
            [entry.name for entry in inputs],
            [names[index] for index in file.outputs],
            stateless.content if stateless is not None else None,
        ),
        sha256=hashlib.sha256(original).hexdigest(),
        inputs=inputs,
        outputs=outputs,
        notes=_notes(file, stateless),
    )


def _notes(file: TFLiteFile, stateless: Stateless | None) -> tuple[str, ...]:
    notes = () if stateless is None else (stateless.note,)
    return (*notes, _FROM_ZERO) if any(operator.kind in _SEQUENCES for operator in file.operators) else notes


def build(file: TFLiteFile, name: str) -> ir.Model:
    """The ONNX graph of a file: its inputs and outputs keep names, shapes and order of axes.

    Raises ModelError EW-M009 that names every operator without a reader, or the first whose form has none.
    """
    _refuse_unread(file)
    graph = GraphBuilder(file, file.subgraphs)
    read_operators(graph)
    return graph.finish(name)


def _refuse_unread(file: TFLiteFile) -> None:
    reasons: dict[str, str] = {}
    for graph in (file, *file.subgraphs.values()):
        for operator in graph.operators:
            if operator.kind.startswith("CUSTOM:"):
                reasons[operator.kind] = f"{operator.kind.removeprefix('CUSTOM:')} is a custom operator"
            elif operator.kind in _STATE:
                reasons[operator.kind] = f"{operator.kind} keeps state from one inference to the next"
            elif operator.kind not in readers():
                reasons[operator.kind] = f"{operator.kind} has no reader"
            elif any(index >= 0 and graph.tensors[index].variable for index in operator.inputs) and not (
                graph is file and operator.kind in _SEQUENCES
            ):
                reasons[operator.kind] = f"{operator.kind} keeps state from one inference to the next (a variable tensor)"
    if reasons:
        listed = sorted(reasons)
        raise ModelError(
            "EW-M009",
            f"the TFLite model has operators that cannot be read: {', '.join(listed)}",
            why="; ".join(reasons[kind] for kind in listed),
            fix="give the model's source (ONNX or PyTorch), or a version without these operators",
        )


def _refuse_other_shapes(file: TFLiteFile, shapes: Mapping[str, Sequence[int]]) -> None:
    known = {file.tensors[index].name: file.tensors[index].shape for index in file.inputs}
    for name, wanted in shapes.items():
        if name not in known:
            raise ModelError("EW-M011", f"the model has no input {name!r}", why=f"its inputs are {', '.join(map(repr, known))}")
        if tuple(wanted) != known[name]:
            raise ModelError(
                "EW-M011",
                f"shape {tuple(wanted)} does not fit the input {name!r}",
                why=f"a TFLite file is read at the shapes it was written with, {known[name]}",
                fix="convert the model to TFLite again at that shape, or give its source",
            )
