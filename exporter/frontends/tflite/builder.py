"""From the operators of a TFLite file to ONNX nodes, channels-first where an operator has channels.

Every tensor is known in the order it is stored in, channels-first, or both; the other order is made by one Transpose when first asked for.
Convolutions and their like read and write channels-first, what follows them elementwise stays there, and a Reshape asks for the stored order:

::

    x [1, 8, 8, 3] -> CONV_2D -> RELU -> CONV_2D -> RESHAPE
    x [1, 8, 8, 3] -> Transpose -> Conv -> Relu -> Conv -> Transpose -> Reshape

A tensor of integers with an encoding becomes QuantizeLinear where it is written and DequantizeLinear where it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError
from exporter.backends.tflite.layout import to_channels_first, to_channels_last
from exporter.frontends.source import Array
from exporter.frontends.tflite.file import Subgraph, Tensor
from exporter.graph.encoded import set_encoding
from exporter.graph.opset import OPSET
from exporter.graph.values import constant
from exporter.quantization.plan import Encoding

__all__ = ["GraphBuilder"]

_FOLDED: Final = 256  # elements of a constant that is computed while reading: arithmetic of shapes, not of weights
_IR_VERSION: Final = 10
_NUMPY: Final = frozenset(
    ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")
)


class GraphBuilder:
    """The nodes so far, and every tensor's values.

    `subgraphs`: those of the file by their index. `given`: what the inputs are, for a subgraph that is read inside of `outer`; its nodes go
    into `nodes`.
    """

    def __init__(
        self,
        graph: Subgraph,
        subgraphs: Mapping[int, Subgraph],
        given: Sequence[ir.Value] | None = None,
        outer: GraphBuilder | None = None,
        nodes: list[ir.Node] | None = None,
    ) -> None:
        self.graph, self.subgraphs = graph, subgraphs
        self.nodes: list[ir.Node] = [] if nodes is None else nodes
        self._constants: list[ir.Value] = [] if outer is None else outer._constants
        self._values: dict[tuple[int, bool], ir.Value] = {}  # (tensor, channels-first) -> value as written or transposed
        self._owned: set[ir.Value] = set()  # values of tensors
        self._reals: dict[ir.Value, ir.Value] = {}
        self._names: set[str] = set() if outer is None else outer._names  # of tensors: no other value gets one of these
        self._names.update(tensor.name for tensor in graph.tensors)
        self._named: set[str] = set() if outer is None else outer._named
        self._interface = {*graph.inputs, *graph.outputs}
        self._inputs = [self._input(index) for index in graph.inputs] if given is None else list(given)
        for index, value in zip(graph.inputs, self._inputs, strict=True):
            self._own(index, False, value)

    def tensor(self, index: int) -> Tensor:
        return self.graph.tensors[index]

    def has(self, index: int, first: bool) -> bool:
        return (index, first) in self._values

    def value(self, index: int, first: bool = False) -> ir.Value:
        """A tensor's value, with its stored dtype, in either order of axes."""
        if (index, first) not in self._values:
            self._own(index, first, self._made(index, first))
        return self._values[index, first]

    def real(self, index: int, first: bool = False) -> ir.Value:
        """The numbers that a tensor stands for: its value, behind a DequantizeLinear where it has an encoding."""
        value, encoding = self.value(index, first), self.tensor(index).encoding
        if encoding is None:
            return value
        if value not in self._reals:
            axis = encoding.axis
            if axis is not None and first:
                axis = to_channels_first(len(self.tensor(index).shape)).index(axis)
            self._reals[value] = self.dequantized(value, encoding, axis)
        return self._reals[value]

    def dequantized(self, value: ir.Value, encoding: Encoding, axis: int | None) -> ir.Value:
        """The real numbers of a value; those of a constant of int64, which no DequantizeLinear takes, at once."""
        known = constant(value)
        if known is not None and encoding.dtype == "int64":
            real = self.constant(replace(encoding, axis=axis).dequantize(known), f"{value.name}_real")
            set_encoding(real, replace(encoding, axis=axis))
            return real
        return self.node(
            "DequantizeLinear", [value, *self._parameters(value.name, encoding)], {"axis": axis}, f"{value.name}_real", 1
        )[0]

    def give(self, index: int, value: ir.Value, first: bool, name: str) -> None:
        """Say what a tensor is: real numbers, quantized here where it has an encoding."""
        tensor = self.tensor(index)
        if tensor.encoding is not None:
            value = self.node("QuantizeLinear", [value, *self._parameters(tensor.name, tensor.encoding)], {}, name, 1)[0]
        self.give_stored(index, value, name, first)

    def give_stored(self, index: int, value: ir.Value, name: str, first: bool = False) -> None:
        """Say what a tensor is, as it is stored."""
        tensor = self.tensor(index)
        if value in self._owned:
            array = constant(value)
            value = self.node("Identity", [value], {}, name, 1)[0] if array is None else self.constant(array, tensor.name)
        value.name = self._fresh(f"{tensor.name}_channels_first") if first and index in self._interface else tensor.name
        self._own(index, first, value)

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], name: str, outputs: int
    ) -> Sequence[ir.Value]:
        """Append a node; small integers computed from constants alone are computed now. Attributes that are None are left out."""
        given = {key: list(item) if isinstance(item, tuple) else item for key, item in attributes.items() if item is not None}
        node = ir.node(op_type, list(inputs), given, num_outputs=outputs, name=name)
        for output in node.outputs:
            output.name = self._fresh(name)
        folded = _folded(node)
        if folded is not None:
            return [self.constant(array, name) for array in folded]
        self.nodes.append(node)
        return node.outputs

    def constant(self, array: Array, name: str) -> ir.Value:
        """A new initializer; it has the very name where that is a tensor's and free."""
        unique = name if name in self._names and name not in self._named else self._fresh(name)
        self._named.add(unique)
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique)
        value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._constants.append(value)
        return value

    def entering(self, name: str, shape: Sequence[int], dtype: str) -> ir.Value:
        """A new input of a graph inside of this one."""
        return ir.Value(
            name=self._fresh(name), shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
        )

    def within(self, index: int, given: Sequence[ir.Value], name: str, nodes: list[ir.Node]) -> GraphBuilder:
        """A builder of subgraph `index` on the values `given`, whose nodes go into `nodes`; names of tensors start with `name`."""
        graph, prefix, number = self.subgraphs[index], name, 2
        while any(f"{prefix}/{tensor.name}" in self._names | self._named for tensor in graph.tensors):
            prefix, number = f"{name}.{number}", number + 1
        tensors = tuple(replace(tensor, name=f"{prefix}/{tensor.name}") for tensor in graph.tensors)
        return GraphBuilder(replace(graph, tensors=tensors), self.subgraphs, given, self, nodes)

    def results(self) -> list[ir.Value]:
        """The outputs of a subgraph as they are stored, in its order."""
        return [self.value(index) for index in self.graph.outputs]

    def finish(self, name: str) -> ir.Model:
        outputs = []
        for index in dict.fromkeys(self.graph.outputs):
            value, tensor = self.value(index), self.tensor(index)
            if value in self._inputs:
                value = self.node("Identity", [value], {}, f"{tensor.name}_output", 1)[0]
            value.shape, value.type = ir.Shape(tensor.shape), ir.TensorType(_dtype(tensor))
            outputs.append(value)
        initializers = [value for value in self._constants if value.uses() or value in outputs]
        graph = ir.Graph(self._inputs, outputs, nodes=self.nodes, initializers=initializers, opset_imports={"": OPSET}, name=name)
        return ir.Model(graph, ir_version=_IR_VERSION, producer_name="edgewright")

    def _own(self, index: int, first: bool, value: ir.Value) -> None:
        self._values[index, first] = value
        self._owned.add(value)

    def _input(self, index: int) -> ir.Value:
        tensor = self.tensor(index)
        return ir.Value(name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(_dtype(tensor)))

    def _made(self, index: int, first: bool) -> ir.Value:
        """A constant's value, or a tensor in the order of axes that it was not written in."""
        tensor = self.tensor(index)
        perm = to_channels_first(len(tensor.shape)) if first else to_channels_last(len(tensor.shape))
        if tensor.data is not None:
            _dtype(tensor)
            return self.constant(tensor.data.transpose(perm) if first else tensor.data, tensor.name)
        known = constant(self._values[index, not first])
        if known is not None:
            return self.constant(known.transpose(perm), tensor.name)
        name = f"{tensor.name}_channels_{'first' if first else 'last'}"
        value = self.node("Transpose", [self._values[index, not first]], {"perm": perm}, name, 1)[0]
        if index in self._interface and not first:
            value.name = tensor.name
        return value

    def _parameters(self, name: str | None, encoding: Encoding) -> tuple[ir.Value, ir.Value]:
        shape = () if encoding.axis is None else (len(encoding.scale),)
        scale = np.asarray(encoding.scale, np.float32).reshape(shape)
        zero_point = np.asarray(encoding.zero_point, encoding.dtype).reshape(shape)
        return self.constant(scale, f"{name}_scale"), self.constant(zero_point, f"{name}_zero_point")

    def _fresh(self, name: str) -> str:
        """`name`, with the least number behind it that makes it neither a tensor's nor another value's."""
        unique, number = name, 2
        while unique in self._names or unique in self._named:
            unique, number = f"{name}.{number}", number + 1
        self._named.add(unique)
        return unique


def _dtype(tensor: Tensor) -> ir.DataType:
    if tensor.dtype not in _NUMPY:
        raise ModelError("EW-M009", f"the tensor {tensor.name!r} holds {tensor.dtype}, which no ONNX operator here takes")
    return ir.DataType.from_numpy(np.dtype(tensor.dtype))


def _folded(node: ir.Node) -> Sequence[Array] | None:
    """The node's outputs where it computes small integers from constants."""
    arrays = [constant(value) for value in node.inputs if value is not None]
    known = [array for array in arrays if array is not None and array.size <= _FOLDED and array.dtype.kind in "iub"]
    if not arrays or len(known) != len(arrays) or node.op_type == "DequantizeLinear":
        return None
    from onnx.reference import ReferenceEvaluator

    feed = {value.name: array for value, array in zip([value for value in node.inputs if value is not None], known, strict=True)}
    try:
        found = [np.asarray(array) for array in ReferenceEvaluator(ir.serde.serialize_node(node)).run(None, feed)]
    except Exception:  # whatever an implementation in Python raises: the graph's own checks say what is wrong with the node
        return None
    return found if all(array.size <= _FOLDED for array in found) else None
