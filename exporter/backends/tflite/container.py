"""The TFLite flatbuffer under construction: tensors, operators and buffers by handle, then bytes.

It knows the schema and nothing of graphs or plans. Field order and deduplication follow from the order of calls alone,
so the same calls give the same bytes. Constant data is aligned to 16 bytes, as the kernels and memory-mapped loading want it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

import numpy as np

from exporter.backends.tflite.program import Operator, Program, Stored
from exporter.content import Content
from exporter.quantization.plan import Encoding
from targets.releases.tflite import first_release

__all__ = ["FLATBUFFER_LIMIT", "Container", "Tensor", "packed_file"]

_ALIGNMENT: Final = 16
# Bytes of constants that still go into the flatbuffer: offsets in it are of 31 bits, and its tables need room.
FLATBUFFER_LIMIT: Final = 2**31 - 2**26
_OPTIONS: Final[Mapping[str, str]] = {  # operators whose options table is not named after them
    "AVERAGE_POOL_2D": "Pool2D",
    "BATCH_MATMUL": "BatchMatMul",
    "CONV_3D": "Conv3D",
    "CONV_3D_TRANSPOSE": "Conv3D",
    "MAX_POOL_2D": "Pool2D",
    "L2_POOL_2D": "Pool2D",
    "MAXIMUM": "MaximumMinimum",
    "MINIMUM": "MaximumMinimum",
    "MEAN": "Reducer",
    "PADV2": "PadV2",
    "REDUCE_ALL": "Reducer",
    "REDUCE_ANY": "Reducer",
    "REDUCE_MAX": "Reducer",
    "REDUCE_MIN": "Reducer",
    "REDUCE_PROD": "Reducer",
    "SUM": "Reducer",
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of the artifact: `shape` as stored, `dtype` a numpy name ("int4" aside), `encoding.axis` in stored order."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: Encoding | None = None
    constant: bool = False


class Container:
    """Collects the tensors and operators of a subgraph; `finish`, of the main one, gives the file's bytes.

    `description` is the model's description field. The subgraphs of a file (see `subgraph`) share operator codes and buffers; handles are
    of one subgraph.
    """

    def __init__(self, description: str, parent: Container | None = None, limit: int = FLATBUFFER_LIMIT) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema: Any = schema
        self._description, self._limit = description, limit
        self.tensors: list[Tensor] = []
        self._name, self._ends = "main", ((), ())  # type: tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]
        self._packed_operators: list[Any] = []
        self._operators: list[Operator] = []
        self._graphs: list[Container] = [self] if parent is None else parent._graphs
        self._codes: dict[tuple[str, int], int] = {} if parent is None else parent._codes
        # buffer 0 is empty by convention
        self._buffers: list[np.ndarray[Any, Any] | None] = [None] if parent is None else parent._buffers
        self._buffer_of: dict[int, int] = {}
        self._by_digest: dict[bytes, int] = {} if parent is None else parent._by_digest
        self._constants: dict[tuple[str, tuple[int, ...], str, Encoding | None, int], int] = {}
        self._scales: dict[int, int] = {}  # tensors in blocks -> the tensors of their scales
        self._names: dict[str, int] = {}  # every name given so far, with the last suffix tried

    def subgraph(self, name: str) -> Container:
        """A further subgraph of the file, to be ended by `close`."""
        child = Container(self._description, self)
        child._name = name
        self._graphs.append(child)
        return child

    def close(self, inputs: Sequence[int], outputs: Sequence[int]) -> int:
        """What a subgraph takes and gives; its index in the file, by which WHILE and IF name it."""
        self._ends = tuple(inputs), tuple(outputs)
        return next(index for index, graph in enumerate(self._graphs) if graph is self)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        encoding: Encoding | None = None,
        data: np.ndarray[Any, Any] | None = None,
    ) -> int:
        """Add a tensor, constant where `data` is given. A name already taken gets a numbered suffix.

        Of an int4 tensor, `data` has one element a byte. The scales of blocks become a float16 tensor of their own beside it.
        Constants equal in name, type and bytes are one tensor; equal bytes share a buffer under any name.
        """
        dims = tuple(int(dim) for dim in shape)
        if data is not None and dtype == "int4":
            data = _packed(data)
        buffer = self._buffer(data) if data is not None else 0
        key = (name, dims, dtype, encoding, buffer)
        if data is not None and key in self._constants:
            return self._constants[key]
        handle = len(self.tensors)
        self.tensors.append(Tensor(self._unique(name), dims, dtype, encoding, data is not None))
        if data is not None:
            self._buffer_of[handle] = buffer
            self._constants[key] = handle
        if encoding is not None and encoding.block:
            scales = np.asarray(encoding.scale, np.float16).reshape(dims[encoding.axis or 0], -1)
            self._scales[handle] = self.tensor(f"{name}_scales", scales.shape, "float16", None, scales)
        return handle

    def rename(self, handle: int, name: str) -> None:
        """Give a tensor another name (an output that is another value's tensor)."""
        if self.tensors[handle].name != name:
            self.tensors[handle] = replace(self.tensors[handle], name=self._unique(name))

    def operator(self, op: str, inputs: Sequence[int], outputs: Sequence[int], version: int, options: Mapping[str, Any]) -> None:
        """Append an operator; an absent optional input is -1. `options` as in `Lowering.emit`."""
        schema = self._schema
        code = self._codes.setdefault((op, version), len(self._codes))
        packed = schema.OperatorT(opcodeIndex=code, inputs=list(inputs), outputs=list(outputs))
        table = _OPTIONS.get(op) or "".join(part.capitalize() for part in op.split("_")).replace("2d", "2D")
        table += "Options"
        if hasattr(schema.BuiltinOptions, table):
            packed.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            packed.builtinOptions = self._options(table, options)
        elif options:
            raise ValueError(f"{op} has no options, got {dict(options)}")
        self._packed_operators.append(packed)
        self._operators.append(Operator(op, tuple(inputs), tuple(outputs)))

    @property
    def alone(self) -> bool:
        """Whether the file has this one subgraph."""
        return len(self._graphs) == 1

    def program(self, inputs: Sequence[int], outputs: Sequence[int]) -> Program:
        """What was appended so far, as memory sees it."""
        tensors = (
            Stored(
                entry.name, entry.shape, entry.dtype, entry.constant, 0 if entry.encoding is None else len(entry.encoding.scale)
            )
            for entry in self.tensors
        )
        return Program(tuple(tensors), tuple(self._operators), tuple(inputs), tuple(outputs))

    def reorder(self, order: Sequence[int]) -> None:
        """Put the operators into another order, given by their positions: one in which each tensor is written before it is read."""
        self._packed_operators = [self._packed_operators[position] for position in order]
        self._operators = [self._operators[position] for position in order]

    def finish(
        self,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        metadata: Mapping[str, bytes],
    ) -> bytes:
        """The file in one piece; see `content`."""
        return bytes(self.content(inputs, outputs, metadata))

    def content(
        self,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        metadata: Mapping[str, bytes],
    ) -> Content:
        """The file. `inputs` and `outputs` are the signature: public names to handles; `metadata` entries become named buffers.

        Constants that are `outside` lie behind the flatbuffer, each at a multiple of 16 bytes.
        """
        schema = self._schema
        model = schema.ModelT(version=3, description=self._description)
        model.operatorCodes = [self._code(op, version) for op, version in self._codes]
        self.close(list(inputs.values()), list(outputs.values()))
        model.subgraphs = [graph._packed() for graph in self._graphs]
        constants = len(
            self._buffers
        )  # what is added from here on is metadata, which the runtime reads from the flatbuffer itself
        entries = {"min_runtime_version": _padded(first_release(self._codes)), **metadata}
        model.metadata = [
            schema.MetadataT(name=name, buffer=self._buffer(np.frombuffer(content, np.uint8)))
            for name, content in entries.items()
        ]
        model.signatureDefs = [
            schema.SignatureDefT(
                inputs=[schema.TensorMapT(name=name, tensorIndex=handle) for name, handle in inputs.items()],
                outputs=[schema.TensorMapT(name=name, tensorIndex=handle) for name, handle in outputs.items()],
                signatureKey="serving_default",
            )
        ]
        buffers: list[_AlignedBuffer | _OutsideBuffer] = [_AlignedBuffer(schema, data) for data in self._buffers]
        if not self.outside:
            return Content((_flatbuffer(model, buffers),))
        tail = {index: data for index, data in enumerate(self._buffers[:constants]) if data is not None and data.nbytes}
        # Places do not change the length of the flatbuffer: known from a draft, they go into the fair copy.
        for index in tail:
            buffers[index] = _OutsideBuffer(schema, 2, 1)
        at = len(_flatbuffer(model, buffers))
        parts: list[bytes | memoryview] = []
        for index, data in tail.items():
            gap = -at % _ALIGNMENT
            parts += [bytes(gap), data.data]
            buffers[index] = _OutsideBuffer(schema, at + gap, data.nbytes)
            at += gap + data.nbytes
        return Content((_flatbuffer(model, buffers), *parts))

    @property
    def outside(self) -> bool:
        """Whether the constants take more bytes than a flatbuffer may."""
        return sum(data.nbytes for data in self._buffers if data is not None) > self._limit

    def _packed(self) -> Any:
        return self._schema.SubGraphT(
            inputs=list(self._ends[0]),
            outputs=list(self._ends[1]),
            name=self._name,
            operators=self._packed_operators,
            tensors=[self._tensor(handle) for handle in range(len(self.tensors))],
        )

    def _unique(self, name: str) -> str:
        unique = name
        while unique in self._names:
            self._names[name] += 1
            unique = f"{name}_{self._names[name]}"
        self._names[unique] = 0
        return unique

    def _options(self, table: str, options: Mapping[str, Any]) -> Any:
        built = getattr(self._schema, f"{table}T")()
        for name, value in options.items():
            head, *rest = name.split("_")
            field = head + "".join(part.capitalize() for part in rest)
            if not hasattr(built, field):
                raise ValueError(f"{table} has no field {name}")
            setattr(built, field, self._member(field, value) if isinstance(value, str) else value)
        return built

    def _member(self, field: str, member: str) -> int:
        enums = {"padding": "Padding", "fusedActivationFunction": "ActivationFunctionType", "mode": "MirrorPadMode"}
        return int(getattr(getattr(self._schema, enums.get(field, "TensorType")), member))

    def _code(self, op: str, version: int) -> Any:
        code = int(getattr(self._schema.BuiltinOperator, op))
        return self._schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=version)

    def _tensor(self, handle: int) -> Any:
        tensor = self.tensors[handle]
        packed = self._schema.TensorT(
            shape=np.asarray(tensor.shape, np.int32),
            type=getattr(self._schema.TensorType, tensor.dtype.upper()),
            buffer=self._buffer_of.get(handle, 0),
            name=tensor.name,
            hasRank=True,
        )
        if handle in self._scales and tensor.encoding is not None:
            packed.quantization = self._schema.QuantizationParametersT(
                detailsType=self._schema.QuantizationDetails.BlockwiseQuantization,
                details=self._schema.BlockwiseQuantizationT(
                    scales=self._scales[handle], zeroPoints=-1, blockSize=tensor.encoding.block
                ),
            )
        elif tensor.encoding is not None:
            packed.quantization = self._schema.QuantizationParametersT(
                scale=np.asarray(tensor.encoding.scale, np.float32),
                zeroPoint=np.asarray(tensor.encoding.zero_point, np.int64),
                quantizedDimension=tensor.encoding.axis or 0,
            )
        return packed

    def _buffer(self, data: np.ndarray[Any, Any]) -> int:
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        digest = sha256(flat.data).digest()
        if digest not in self._by_digest:
            self._by_digest[digest] = len(self._buffers)
            self._buffers.append(flat)
        return self._by_digest[digest]


def packed_file(model: Any) -> bytes:
    """The bytes of a schema ModelT, whose buffers hold arrays of uint8 or nothing."""
    from ai_edge_litert import schema_py_generated as schema

    arrays = [None if buffer.data is None else np.asarray(buffer.data, np.uint8) for buffer in model.buffers]
    return _flatbuffer(model, [_AlignedBuffer(schema, data) for data in arrays])


def _flatbuffer(model: Any, buffers: Sequence[_AlignedBuffer | _OutsideBuffer]) -> bytes:
    import flatbuffers

    model.buffers = buffers
    size = sum(buffer.nbytes for buffer in buffers)
    builder = flatbuffers.Builder(size + 256 * sum(len(graph.tensors) for graph in model.subgraphs) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _AlignedBuffer:
    """A schema Buffer whose data starts on a 16-byte boundary (the generated one aligns to one byte)."""

    def __init__(self, schema: Any, data: np.ndarray[Any, Any] | None) -> None:
        self._schema, self._data = schema, data
        self.nbytes = 0 if data is None else data.nbytes

    def Pack(self, builder: Any) -> Any:
        vector = None
        if self._data is not None:
            builder.StartVector(1, self._data.nbytes, _ALIGNMENT)
            builder.head -= self._data.nbytes
            builder.Bytes[builder.head : builder.head + self._data.nbytes] = self._data.tobytes()
            vector = builder.EndVector()
        self._schema.BufferStart(builder)
        if vector is not None:
            self._schema.BufferAddData(builder, vector)
        return self._schema.BufferEnd(builder)


class _OutsideBuffer:
    """A schema Buffer whose `nbytes` of data lie at `offset` of the file, behind the flatbuffer."""

    nbytes = 0  # in the flatbuffer

    def __init__(self, schema: Any, offset: int, size: int) -> None:
        self._schema, self._offset, self._size = schema, offset, size

    def Pack(self, builder: Any) -> Any:
        self._schema.BufferStart(builder)
        self._schema.BufferAddOffset(builder, self._offset)
        self._schema.BufferAddSize(builder, self._size)
        return self._schema.BufferEnd(builder)


def _packed(integers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Four-bit integers two in a byte, the first in the lower half."""
    flat = np.ascontiguousarray(integers, np.int8).reshape(-1).view(np.uint8) & 15
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return np.asarray(flat[::2] | (flat[1::2] << 4), np.uint8)


def _padded(release: str) -> bytes:
    """The runtime reads the least version from a buffer of 16 bytes."""
    return release.encode().ljust(16, b"\0")
