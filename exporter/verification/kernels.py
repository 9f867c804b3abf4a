"""Do two runtimes' kernels compute the same? Every operator of a .tflite, on the very tensors that it read on the first of them.

The first runtime runs the artifact as it is and keeps its tensors. For the second the artifact is cut at every tensor that an operator
writes and another reads, so that what one operator computes otherwise is not seen at the next; all are one file, run once a sample::

    x -> CONV_2D -> a -> SOFTMAX -> y        becomes

    x -> CONV_2D -> a
    a_fed -> SOFTMAX -> y
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from diagnostics import DataError
from exporter.backends.tflite.container import packed_file
from exporter.graph.artifacts import read_tflite
from exporter.runtimes.session import open_session
from exporter.verification.parity import LayerParity, Parity, Tally
from exporter.verification.runner import ArtifactRunner

__all__ = ["MICRO_AND_REFERENCE", "Difference", "differences", "kernel_parity"]

Array = np.ndarray[Any, Any]

MICRO_AND_REFERENCE: Final = ("tflite-micro", "litert-ref")

# Operators that do more than to compute their outputs from their inputs.
_EFFECTS: Final = frozenset({"ASSIGN_VARIABLE", "CALL_ONCE", "IF", "READ_VARIABLE", "VAR_HANDLE", "WHILE"})
# Builtin operators without a kernel in LiteRT's reference resolver.
_UNREFERENCED: Final = frozenset({"ELU"})

# (operator, dtype of what it writes) -> why tflite-micro's kernel and LiteRT's reference kernel may be one step of the encoding apart.
# FULLY_CONNECTED is there only where a profile keeps it; `targets.releases.tflite.AVOIDED` has its sources. Those with factors or ties are
# there only where scales may not be moved (`exporter.quantization.agreeing`): of a quantized source, or powers of two;
# `exporter.ops.agreement` has their sources. SOFTMAX: LiteRT `kernels/activations.cc` beside tflite-micro `micro/kernels/softmax_common.cc`.
_FACTOR: Final = "LiteRT computes the factor between the scales in single precision, tflite-micro in double"
_TABLES: Final = "LiteRT fills the tables of exponentials and reciprocals in double precision, tflite-micro in single"
_TIES: Final = "LiteRT fills the table in single precision, in which a value close to a tie is one; tflite-micro's is the nearest"
_ONCE: Final = (
    "LiteRT's reference kernel multiplies its sums by the real factor in double precision and rounds once; tflite-micro's"
)
_KNOWN: Final[Mapping[tuple[str, str], str]] = {
    ("FULLY_CONNECTED", "int8"): f"{_ONCE} multiplies by a fixed-point number of 32 bits and rounds twice",
    ("FULLY_CONNECTED", "int16"): f"{_ONCE} multiplies sums of 64 bits by a fixed-point number of 16 bits",
    **{(op, dtype): _FACTOR for op in ("MUL", "LEAKY_RELU", "PRELU", "RELU") for dtype in ("int8", "int16")},
    ("LOGISTIC", "int8"): _TIES,
    ("TANH", "int8"): _TIES,
    ("SOFTMAX", "int16"): _TABLES,
}
_KNOWN_STEPS: Final = 1


@dataclass(frozen=True)
class Difference:
    """All operators of one kind of an artifact in which two runtimes differ.

    Attributes:
        op: the TFLite operator; dtype: of what it writes, a numpy name.
        mismatches: of `elements` that differ, by at most `max_lsb` integer steps.
        reason: why, where that is known and as much as is found follows from it; "" otherwise.
    """

    op: str
    dtype: str
    mismatches: int
    elements: int
    max_lsb: int
    reason: str = ""

    def __str__(self) -> str:
        found = f"{self.op} of {self.dtype} differs in {self.mismatches} of {self.elements} elements by at most {self.max_lsb}"
        return f"{found}: {self.reason or 'no reason is known'}"


def differences(parity: Parity) -> tuple[Difference, ...]:
    """What `kernel_parity` found, by kind of operator; empty where all kernels agree bit for bit."""
    kinds: dict[str, list[LayerParity]] = {}
    for layer in parity:
        kinds.setdefault(layer.op, []).append(layer)
    found = []
    for kind, layers in kinds.items():
        largest = max(layer.max_lsb for layer in layers)
        if not largest:
            continue
        op, _, dtype = kind.partition(" ")
        reason = _KNOWN.get((op, dtype), "") if largest <= _KNOWN_STEPS else ""
        elements = sum(layer.elements for layer in layers)
        found.append(Difference(op, dtype, elements - sum(layer.equal for layer in layers), elements, largest, reason))
    return tuple(found)


def kernel_parity(
    artifact: str | Path,
    samples: Iterable[Mapping[str, Array]],
    *,
    layouts: Mapping[str, str] | None = None,
    runtimes: tuple[str, str] = MICRO_AND_REFERENCE,
    isolate: bool = True,
) -> Parity:
    """Compare every tensor that an operator of a .tflite writes on two runtimes that keep their tensors, the first's tensors as inputs.

    A layer of the result is a tensor; its `op` is the operator and the dtype, "CONV_2D int8". `uncompared` are tensors of operators with
    effects, of those that the second runtime has no kernel of, and of floats.

    Args:
        samples: canonical samples (float, channels-first).
        layouts: "channels_last" for every input and output that the artifact holds so.
        isolate: as of `open_session`.

    Raises:
        DataError: EW-D001, there is no sample; EW-D003, one does not fit.
        RuntimeFailure: as `open_session`.
    """
    path = Path(artifact)
    cut = _cut(path.read_bytes())
    tallies: dict[int, Tally] = {}
    dtypes: dict[int, str] = {}
    count = 0
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        apart = Path(folder) / "operators.tflite"
        apart.write_bytes(cut.content)
        with (
            open_session(runtimes[0], path, keep_tensors=True, isolate=isolate) as first,
            open_session(runtimes[1], apart, isolate=isolate) as second,
        ):
            encode = ArtifactRunner(first, layouts).encode
            for raw in map(encode, samples):
                first.run(raw)
                tensors = {**first.tensors(), **raw}
                found = second.run({label: tensors[cut.names[index]] for label, index in cut.inputs.items()})
                for label, index in cut.outputs.items():
                    wanted = tensors.get(cut.names[index])
                    if wanted is not None and wanted.dtype.kind in "biu":
                        difference = np.abs(wanted.astype(np.int64) - found[label].astype(np.int64))
                        tallies.setdefault(index, Tally()).add(difference)
                        dtypes[index] = wanted.dtype.name
                count += 1
    if not count:
        raise DataError("EW-D001", "there is no sample to compare on", fix="give data that holds at least one sample")
    layers = [
        LayerParity.of(cut.names[index], f"{cut.writers[index]} {dtypes[index]}", tally) for index, tally in tallies.items()
    ]
    alone = tuple(cut.names[index] for index in cut.writers if index not in tallies)
    return Parity(count, tuple(layers), alone, " and ".join(runtimes))


@dataclass(frozen=True)
class _Cut:
    """A .tflite with each operator by itself.

    Attributes:
        names: of the original's tensors, by index, as a session of it names them.
        writers: tensor -> the operator that writes it, in execution order.
        inputs, outputs: of the cut file, by its names, with the tensors of the original that they are.
    """

    content: bytes
    names: tuple[str, ...]
    writers: Mapping[int, str]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


def _cut(content: bytes) -> _Cut:
    from ai_edge_litert import schema_py_generated as schema

    facts = read_tflite(content)
    model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    writers = {
        int(index): node.op_type
        for operator, node in zip(graph.operators, facts.nodes, strict=True)
        for index in operator.outputs
    }
    variable = {index for index, tensor in enumerate(graph.tensors) if tensor.isVariable}
    for index, tensor in enumerate(graph.tensors):
        tensor.name = str(index)
    kept = []
    fed: dict[int, int] = {}  # tensor -> the one that takes its place as an input
    for operator, node in zip(graph.operators, facts.nodes, strict=True):
        reads = [int(index) for index in operator.inputs]
        if node.op_type in _EFFECTS | _UNREFERENCED or variable.intersection(reads):
            continue
        for index in reads:
            if index in writers and index not in fed:
                fed[index] = len(graph.tensors)
                graph.tensors.append(_renamed(graph.tensors[index], f"{index} fed"))
        operator.inputs = [fed.get(index, index) for index in reads]
        kept.append(operator)
    used = {index for operator in kept for index in operator.inputs}
    given = [index for index in map(int, graph.inputs) if index in used]
    written = [int(index) for operator in kept for index in operator.outputs]
    graph.operators, graph.inputs, graph.outputs = kept, [*given, *fed.values()], written
    codes = sorted({operator.opcodeIndex for operator in kept})  # a runtime wants a kernel of all that are listed
    model.operatorCodes = [model.operatorCodes[code] for code in codes]
    for operator in kept:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)
    model.subgraphs, model.signatureDefs, model.metadata = [graph], [], []
    return _Cut(
        packed_file(model),
        tuple(tensor.name for tensor in facts.tensors),
        writers,
        {**{str(index): index for index in given}, **{f"{index} fed": index for index in fed}},
        {str(index): index for index in written},
    )


def _renamed(tensor: Any, name: str) -> Any:
    """A copy of a schema TensorT; what it holds beside its name is shared."""
    copied = copy(tensor)
    copied.name = name
    return copied
