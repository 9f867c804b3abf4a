"""What a finished artifact says of itself: operators with versions, tensors with encodings, bytes, signature, metadata.

Reads the containers only; nothing is executed and no runtime is needed.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from diagnostics import ModelError

__all__ = ["ArtifactFacts", "ArtifactNode", "ArtifactTensor", "is_tflite", "read_onnx", "read_tflite"]

_COMPLETE: Final = "is the file complete?"

TFLITE_IDENTIFIER: Final = b"TFL3"  # bytes 4 to 7 of the file: the identifier of the TFLite schema


@dataclass(frozen=True)
class ArtifactTensor:
    """One tensor as stored. `shape` has -1 for an open dimension; `bytes` is the size of its constant content, 0 for activations.

    ``real = scale * (stored - zero_point)`` with one entry a tensor (`axis` None) or one a channel along `axis`; no entry: not quantized.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int | None = None
    bytes: int = 0


@dataclass(frozen=True)
class ArtifactNode:
    """One operator of the artifact. `version` is the TFLite operator version, or the opset of an ONNX operator's domain."""

    op_type: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ArtifactFacts:
    """One artifact. `metadata`: text entries; `signatures`: TFLite signature keys; `buffer_bytes`: all constants together.

    `subgraphs`: how many a TFLite file has; its nodes and tensors are those of the main one.
    """

    format: str  # "tflite" | "onnx"
    file_bytes: int
    schema: str
    nodes: tuple[ArtifactNode, ...]
    tensors: tuple[ArtifactTensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    signatures: tuple[str, ...]
    metadata: Mapping[str, str]
    subgraphs: int = 1

    @property
    def operators(self) -> dict[tuple[str, int], int]:
        """(operator, version) -> how often, most frequent first."""
        return dict(sorted(Counter((n.op_type, n.version) for n in self.nodes).items(), key=lambda item: (-item[1], item[0])))

    @property
    def buffer_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors)

    def tensor(self, name: str) -> ArtifactTensor:
        return next(tensor for tensor in self.tensors if tensor.name == name)


def is_tflite(head: bytes) -> bool:
    """Whether a file that begins with `head` (8 bytes suffice) is a TFLite model."""
    return head[4:8] == TFLITE_IDENTIFIER


def read_tflite(data: bytes, *, where: str = "") -> ArtifactFacts:
    """Facts of the main subgraph of a TFLite model. Raises ModelError EW-M002 where it cannot be parsed."""
    from ai_edge_litert import schema_py_generated as schema

    if not is_tflite(data[:8]):
        raise ModelError(
            "EW-M002", "the file is not a TFLite model", where=where, why="its identifier is not TFL3", fix=_COMPLETE
        )
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        graph = model.subgraphs[0]
        codes = [_operator_code(code) for code in model.operatorCodes]
        names = _unique_names([_text(tensor.name) for tensor in graph.tensors])
        sizes = [_buffer_bytes(model.buffers[tensor.buffer]) for tensor in graph.tensors]
        tensors = tuple(_tensor(*entry) for entry in zip(names, graph.tensors, sizes, strict=True))
        label = [*names, ""]  # index -1: an absent optional input
        nodes = tuple(
            ArtifactNode(
                codes[op.opcodeIndex][0],
                codes[op.opcodeIndex][1],
                tuple(label[i] for i in op.inputs),
                tuple(label[i] for i in op.outputs),
            )
            for op in ([] if graph.operators is None else graph.operators)
        )
        metadata = {_text(entry.name): _content(model.buffers[entry.buffer]) for entry in model.metadata or []}
        return ArtifactFacts(
            format="tflite",
            file_bytes=len(data),
            schema=f"TFLite schema {model.version}",
            nodes=nodes,
            tensors=tensors,
            inputs=tuple(names[i] for i in graph.inputs),
            outputs=tuple(names[i] for i in graph.outputs),
            signatures=tuple(_text(entry.signatureKey) for entry in model.signatureDefs or []),
            metadata=metadata,
            subgraphs=len(model.subgraphs),
        )
    # The generated reader trusts its input: damage shows as any of these.
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError, struct.error) as error:
        raise ModelError(
            "EW-M002", "the TFLite model cannot be parsed", where=where, why=f"{type(error).__name__}: {error}", fix=_COMPLETE
        ) from error


def read_onnx(path: Path) -> ArtifactFacts:
    """Facts of an ONNX file as it stands, without conversion. Raises ModelError EW-M002 where it cannot be parsed."""
    import onnx_ir as ir

    try:
        model = ir.load(path)
        graph = model.graph
        constants = {name: value.const_value for name, value in graph.initializers.items() if value.const_value is not None}
        encodings = _onnx_encodings(graph)
        tensors = tuple(
            ArtifactTensor(
                name,
                tuple(dim if isinstance(dim, int) else -1 for dim in value.shape or ()),
                value.dtype.name.lower() if value.dtype is not None else "",
                *encodings.get(name, ((), (), None)),
                bytes=constants[name].nbytes if name in constants else 0,
            )
            for name, value in _onnx_values(graph).items()
        )
        return ArtifactFacts(
            format="onnx",
            file_bytes=path.stat().st_size,
            schema=f"ONNX IR {model.ir_version}, opset {model.opset_imports.get('', 0)}",
            nodes=tuple(
                ArtifactNode(
                    node.op_type,
                    model.opset_imports.get(node.domain, 0),
                    tuple(value.name or "" if value is not None else "" for value in node.inputs),
                    tuple(value.name or "" for value in node.outputs),
                )
                for node in graph
            ),
            tensors=tensors,
            inputs=tuple(value.name or "" for value in graph.inputs if value.name not in constants),
            outputs=tuple(value.name or "" for value in graph.outputs),
            signatures=(),
            metadata=dict(model.metadata_props),
        )
    except FileNotFoundError as error:
        raise ModelError("EW-M001", f"{path} does not exist") from error
    except Exception as error:  # protobuf's and onnx-ir's own classes have no common base
        raise ModelError("EW-M002", "the ONNX model cannot be parsed", where=str(path), why=str(error), fix=_COMPLETE) from error


def _onnx_values(graph: Any) -> dict[str, Any]:
    values = {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
    values.update({value.name: value for node in graph for value in node.outputs if value.name})
    return values


def _onnx_encodings(graph: Any) -> dict[str, tuple[tuple[float, ...], tuple[int, ...], int | None]]:
    """Encodings of the integer values that QuantizeLinear writes or DequantizeLinear reads, from their constant parameters."""
    found = {}
    for node in graph:
        if (
            node.op_type not in ("QuantizeLinear", "DequantizeLinear")
            or node.inputs[1] is None
            or node.inputs[1].const_value is None
        ):
            continue
        value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
        scale = node.inputs[1].const_value.numpy()
        zero = node.inputs[2].const_value if len(node.inputs) > 2 and node.inputs[2] is not None else None
        zero_point = (0,) * scale.size if zero is None else tuple(int(entry) for entry in zero.numpy().ravel())
        axis = node.attributes["axis"].value if scale.ndim and "axis" in node.attributes else None
        found[value.name] = (tuple(float(entry) for entry in scale.ravel()), zero_point, axis)
    return found


def _tensor(name: str, tensor: Any, constant_bytes: int) -> ArtifactTensor:
    quantization = tensor.quantization
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    if quantization is not None and quantization.scale is not None:
        scale = tuple(float(entry) for entry in quantization.scale)
        zero_point = tuple(
            int(entry) for entry in ([0] * len(scale) if quantization.zeroPoint is None else quantization.zeroPoint)
        )
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    return ArtifactTensor(
        name=name,
        shape=() if shape is None else tuple(int(dim) for dim in shape),
        dtype=_enum_names("TensorType")[tensor.type].lower(),
        scale=scale,
        zero_point=zero_point,
        axis=int(quantization.quantizedDimension) if len(scale) > 1 else None,
        bytes=constant_bytes,
    )


def _operator_code(code: Any) -> tuple[str, int]:
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files fill the deprecated field only
    name = _enum_names("BuiltinOperator")[number]
    return (f"CUSTOM:{_text(code.customCode)}" if name == "CUSTOM" else name), int(code.version)


@lru_cache
def _enum_names(enum: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {number: name for name, number in vars(getattr(schema, enum)).items() if isinstance(number, int)}


def _buffer_bytes(buffer: Any) -> int:
    return int(buffer.size) if buffer.size else (0 if buffer.data is None else len(buffer.data))


def _content(buffer: Any) -> str:
    """A metadata buffer as text: trailing zeros cut; what is not printable text is told by its size."""
    raw = b"" if buffer.data is None else bytes(bytearray(buffer.data))
    try:
        text = raw.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(raw)} bytes"
    return text if all(char.isprintable() or char in "\n\t\r" for char in text) else f"{len(raw)} bytes"


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _unique_names(names: list[str]) -> list[str]:
    """Names for tensors: the format allows empty and repeated ones, which get their index in front."""
    counts = Counter(names)
    return [name if name and counts[name] == 1 else f"{index}:{name}" for index, name in enumerate(names)]
