"""What an operator's `lower` facet is given: the writer, seen from one node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from exporter.backends.tflite.layout import to_channels_last
from exporter.backends.tflite.subgraph import WrittenSubgraph
from exporter.graph.values import constant, fused_activation, is_constant, name_of, rank
from exporter.ops.base import Port, Refused, Subgraph, operator_of
from exporter.ops.reference import clamped_bounds
from exporter.quantization.apply import (
    apply_corrections,
    encode_constant,
    node_name,
    precision_of,
    read_encoding,
    runs_in_integers,
    stores_integers,
)
from exporter.quantization.plan import Encoding, integer_range

if TYPE_CHECKING:
    from exporter.backends.tflite.writer import Writer

__all__ = ["NodeLowering"]


class NodeLowering:
    """Implements the `exporter.ops.base.Lowering` protocol for one node."""

    def __init__(self, writer: Writer, node: ir.Node) -> None:
        self._writer, self._node = writer, node
        self._container, self._plan = writer.container, writer.plan
        behind = fused_activation(node)
        self.channels_last = writer.runs_last(node)
        self.activation = operator_of(behind).activation(behind) if behind is not None else "NONE"
        self.quantized = runs_in_integers(node, self._plan)
        self._precision = precision_of(node, self._plan)

    def input(self, index: int) -> int:
        value = self._node.inputs[index]
        if value is None:
            return -1
        if not is_constant(value):
            return self._writer.read(self._node, index)
        array, encoding = self._constant(index)
        port = operator_of(self._node).layout(self._node).inputs[index]
        if port is Port.LAST and array.ndim >= 3:
            perm = to_channels_last(array.ndim)
            return self._stored(name_of(value), array.transpose(perm), _turned(encoding, perm))
        if self.channels_last and (full := rank(self._node.outputs[0])) >= 3 and array.ndim > 0:
            perm, added = to_channels_last(full), full - array.ndim
            array = array.reshape((1,) * added + array.shape).transpose(perm)
            encoding = _turned(encoding, perm, added)
        return self._stored(name_of(value), array, encoding)

    def output(self, index: int = 0) -> int:
        return self._writer.produced(self._node, index)

    def input_last(self, index: int) -> bool:
        return self._writer.reads_last(self._node, index)

    def output_last(self, index: int = 0) -> bool:
        return self._writer.writes_last(self._node, index)

    def alias(self, index: int, handle: int) -> None:
        self._writer.alias(self._node, index, handle)

    def weight(self, index: int, perm: Sequence[int] | None = None, reshape: Sequence[int] | None = None) -> int:
        value = self._node.inputs[index]
        if value is None or not is_constant(value):
            raise Refused(self._node, f"input {index} ({value and value.name}) must be a constant weight")
        array, encoding = self._constant(index)
        if perm is not None:
            array = array.transpose(perm)
            encoding = _turned(encoding, perm)
        if reshape is not None:
            array = array.reshape(reshape)
            if encoding is not None and encoding.axis is not None:
                encoding = replace(encoding, axis=_last_axis_of_length(array.shape, len(encoding.scale)))
        return self._parameter(name_of(value), array, encoding)

    def bias(self, index: int, length: int) -> int:
        value = self._node.inputs[index] if index < len(self._node.inputs) else None
        if value is not None and is_constant(value):
            array, encoding = self._constant(index)
            return self._parameter(name_of(value), array.reshape(-1), encoding)
        if self.quantized or value is not None:
            raise Refused(self._node, f"input {index} must be a constant bias")
        return self._parameter(f"{node_name(self._node)}_bias", np.zeros(length, np.float32), None)

    def ints(self, array: Sequence[int] | np.ndarray[Any, Any]) -> int:
        return self._writer.ints(array)

    def floats(self, array: np.ndarray[Any, Any]) -> int:
        return self._add("const", np.asarray(array, np.float32), None)

    def temp(self, like: int, shape: Sequence[int]) -> int:
        tensor = self._container.tensors[like]
        return self._container.tensor(f"{node_name(self._node)}_part", shape, tensor.dtype, tensor.encoding)

    def constant(self, array: np.ndarray[Any, Any]) -> int:
        return self._add("const", array, None)

    def tensor(self, shape: Sequence[int], dtype: str) -> int:
        return self._container.tensor(f"{node_name(self._node)}_part", shape, dtype)

    def subgraph(self, name: str) -> Subgraph:
        return WrittenSubgraph(self._writer, self._node, self._container.subgraph(f"{node_name(self._node)}/{name}"))

    def shape(self, handle: int) -> tuple[int, ...]:
        return self._container.tensors[handle].shape

    def scale(self, handle: int) -> float:
        encoding = self._container.tensors[handle].encoding
        return encoding.scale[0] if encoding is not None else 0.0

    def clamps(self, handle: int, low: float, high: float) -> bool:
        encoding = self._container.tensors[handle].encoding
        return encoding is not None and clamped_bounds(low, high, encoding) == integer_range(encoding.dtype)

    def axis(self, axis: int, rank: int) -> int:
        positive = axis % rank
        return to_channels_last(rank).index(positive) if self.channels_last and rank >= 3 else positive

    def emit(self, op: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any) -> None:
        self._writer.emit(op, inputs, outputs, version, **options)

    def _constant(self, index: int) -> tuple[np.ndarray[Any, Any], Encoding | None]:
        """Values and encoding of a constant input as the node reads it: integers by the plan, or floats."""
        value = self._node.inputs[index]
        array = constant(value)
        assert value is not None
        assert array is not None
        if stores_integers(self._node, self._plan) and read_encoding(self._node, index, self._plan) is not None:
            return encode_constant(self._node, index, self._plan)
        return apply_corrections(array, self._plan, name_of(value)), None

    def _parameter(self, name: str, array: np.ndarray[Any, Any], encoding: Encoding | None) -> int:
        """A weight or bias; of a half-precision node as float16."""
        if self._precision == "float16" and array.dtype == np.float32:
            return self._widened(name, _to_half(array), None)
        return self._stored(name, array, encoding)

    def _stored(self, name: str, array: np.ndarray[Any, Any], encoding: Encoding | None) -> int:
        """A constant in the form in which the node reads it: integers of a node that runs in floats are widened."""
        widen = encoding is not None and self._precision.startswith("weight")
        return self._widened(name, array, encoding) if widen else self._add(name, array, encoding)

    def _widened(self, name: str, array: np.ndarray[Any, Any], encoding: Encoding | None) -> int:
        """A constant behind a DEQUANTIZE, which runtimes fold when they load; made once for all nodes that read it."""
        key = (name, array.shape, encoding)
        if key not in self._writer.widened:
            stored = self._add(f"{name}_half" if encoding is None else f"{name}_quantized", array, encoding)
            self._writer.widened[key] = self._container.tensor(name, array.shape, "float32")
            self.emit("DEQUANTIZE", [stored], [self._writer.widened[key]])
        return self._writer.widened[key]

    def _add(self, name: str, array: np.ndarray[Any, Any], encoding: Encoding | None) -> int:
        dtype = encoding.dtype if encoding is not None else array.dtype.name
        return self._container.tensor(name, array.shape, dtype, encoding, array)


def _to_half(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Float16 values; what is out of its range saturates at the greatest finite one."""
    limit = float(np.finfo(np.float16).max)
    return np.asarray(np.clip(array, -limit, limit), np.float16)


def _turned(encoding: Encoding | None, perm: Sequence[int], added: int = 0) -> Encoding | None:
    """An encoding of a constant that gets `added` axes in front and is then transposed by `perm`."""
    if encoding is None or encoding.axis is None:
        return encoding
    return replace(encoding, axis=list(perm).index(encoding.axis + added))


def _last_axis_of_length(shape: Sequence[int], length: int) -> int:
    return max(axis for axis, dim in enumerate(shape) if dim == length)
