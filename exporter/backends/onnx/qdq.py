"""Apply an integer plan to an ONNX graph: QuantizeLinear and DequantizeLinear around every value that has an encoding.

::

    x -> Conv -> Clip -> y          x -> Q -> DQ -> Conv -> Clip -> Q -> DQ -> y
          ^ w, b                                     ^ DQ(w int8), DQ(b int32)

Of a value ``v``, QuantizeLinear writes ``v_quantized`` and DequantizeLinear ``v_dequantized``; constants likewise. Nothing stands between a
node, its fused activation and their QuantizeLinear, which is the form that runtimes turn into integer kernels. Graph inputs and outputs keep
their names: what an integer node computes for output ``v`` before rounding is ``v_float``, and ``v`` is the artifact's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, fused_into, is_constant, name_of, static_shape
from exporter.ops.base import Refused, Role, operator_of
from exporter.quantization.apply import encode_constant, node_name, read_encoding, runs_in_integers, stores_integers
from exporter.quantization.plan import Encoding, Plan

__all__ = ["insert_qdq", "shifted", "stored_constant"]

_TYPES = {
    "int4": ir.DataType.INT4,
    "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8,
    "int16": ir.DataType.INT16,
    "uint16": ir.DataType.UINT16,
    "int32": ir.DataType.INT32,
}


_LEAST_RUN: Final = 16  # elements
# Signed -> unsigned dtype of the same width, and how much greater its integers of the same numbers are.
_UNSIGNED: Final = {"int8": ("uint8", 128), "int16": ("uint16", 32768)}


def shifted(encoding: Encoding, dtype: str) -> Encoding:
    """An activation encoding in `dtype` where that is as wide: integers and zero points of "uint8" are 128 greater than those of "int8"
    and mean the same numbers, those of "uint16" 32768.
    """
    if encoding.dtype == dtype:
        return encoding
    offset = next(
        (
            offset if dtype == name else -offset
            for plain, (name, offset) in _UNSIGNED.items()
            if {encoding.dtype, dtype} == {plain, name}
        ),
        0,
    )
    if not offset:
        return encoding
    return Encoding(dtype, encoding.scale, tuple(zero + offset for zero in encoding.zero_point), encoding.axis)


def insert_qdq(model: ir.Model, plan: Plan, activations: str, biases: str = "int32", wide: str = "int16") -> None:
    """Rewrite `model` in place to the QDQ form of `plan`.

    Args:
        activations: "int8" or "uint8", the dtype in which activations are stored.
        wide: "int16" or "uint16", the same of activations of 16 bits.
        biases: "int32", or "float32" for readers that have no DequantizeLinear of int32: the same rounded numbers, held as floats.
    """
    writer = _Inserter(model.graph, plan, (activations, wide), biases)
    nodes = list(model.graph)
    for value in list(model.graph.inputs):
        writer.value(value, None)
    for node in nodes:
        writer.constants(node)
        for value in node.outputs:
            writer.value(value, fused_into(node) or node)
    writer.drop_unused_initializers()
    for node in nodes:
        # onnxruntime (seen in 1.31) hands every attribute on to its QLinearAveragePool, which does not know this one.
        if node.op_type == "AveragePool" and set(attribute(node, "dilations", (1,))) == {1}:
            node.attributes.pop("dilations", None)


def stored_constant(node: ir.Node, index: int, plan: Plan, biases: str = "int32") -> tuple[str, np.ndarray[Any, Any]]:
    """Name and content of the initializer in which the QDQ form (see `insert_qdq`) holds an encoded constant that `node` alone reads."""
    integers, encoding = encode_constant(node, index, plan)
    value = node.inputs[index]
    name = name_of(value) if value is not None else ""
    if f"{node_name(node)}:{index}" in plan.requantize:
        name = f"{name}_for_{node_name(node)}_{index}"
    if _held_as_floats(encoding, biases):
        return f"{name}_rounded", encoding.dequantize(integers)
    return f"{name}_quantized", integers


def _held_as_floats(encoding: Encoding, biases: str) -> bool:
    """QuantizeLinear has no int64; float32 has the values of such biases to 24 bits."""
    return encoding.dtype == "int64" or (encoding.dtype == "int32" and biases == "float32")


class _Inserter:
    def __init__(self, graph: ir.Graph, plan: Plan, activations: tuple[str, str], biases: str) -> None:
        self._graph, self._plan, self._activations, self._biases = graph, plan, activations, biases
        self._first = graph[0] if len(graph) else None
        # What the model calls its own: a constant "x_scale" is not the scale of "x".
        self._taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
        self._made: dict[str, ir.Value] = {}

    def _outside(self, encoding: Encoding) -> Encoding:
        """An activation encoding of the plan as the artifact has it."""
        narrow, wide = self._activations
        return shifted(shifted(encoding, narrow), wide)

    def value(self, value: ir.Value, owner: ir.Node | None) -> None:
        """Round the value to its encoding and hand the rounded form to its readers (float readers of a float value keep it as it is)."""
        encoding = self._plan.encodings.get(name_of(value)) if value.name else None
        if encoding is None:
            return
        name = name_of(value)
        encoding = self._outside(encoding)
        readers = list(value.uses())
        integer_owner = owner is not None and runs_in_integers(owner, self._plan)
        io_dtype = self._plan.io_dtype_of(name)
        integer_io = io_dtype != "float32"
        is_output = value.is_graph_output()
        if value.is_graph_input() and integer_io:
            rounded = self._integer_input(value, encoding)
            integer_owner = True
        else:
            if is_output and (integer_owner or integer_io):
                value.name = f"{name}_float"
            same = integer_io and is_output and encoding.dtype == io_dtype
            quantized = self._quantize(value, encoding, name, name if same else f"{name}_quantized", after=value)
            direct = is_output and integer_owner and not integer_io
            rounded = self._dequantize(quantized, encoding, name, name if direct else f"{name}_dequantized", after=quantized)
            if is_output and (integer_owner or integer_io):
                given = quantized if same else rounded
                if integer_io and not same:
                    outside = shifted(encoding, io_dtype)
                    given = self._quantize(rounded, outside, f"{name}_{outside.dtype}", name, after=rounded)
                self._replace_output(value, given)
        for node, index in readers:
            if runs_in_integers(node, self._plan):
                wanted = read_encoding(node, index, self._plan)
                if wanted is not None:
                    # Another encoding of floats is made from the floats: rounding them twice would lose what the finer one has.
                    other = rounded if integer_owner else value
                    wanted = self._outside(wanted)
                    given = rounded if wanted == encoding else self._requantized(other, wanted, node, index, name)
                    node.replace_input_with(index, given)
            elif integer_owner:
                node.replace_input_with(index, rounded)

    def constants(self, node: ir.Node) -> None:
        """Hold the encoded constants of one node as integers behind a DequantizeLinear, where the plan has it hold any."""
        if not stores_integers(node, self._plan):
            return
        for index, value in enumerate(node.inputs):
            if value is None or not is_constant(value) or read_encoding(node, index, self._plan) is None:
                continue
            title, array = stored_constant(node, index, self._plan, self._biases)
            encoding = read_encoding(node, index, self._plan)
            assert encoding is not None
            stored = self._made.get(title)
            if _held_as_floats(encoding, self._biases):
                node.replace_input_with(index, stored or self._initializer(title, array))
                continue
            if stored is None:
                # Kernels take all of their activations in one dtype.
                if encoding.dtype == "int16" or (_is_activation(node, index) and not _is_strewn(node, array)):
                    outside = self._outside(encoding)
                    array = (array.astype(np.int32) + (outside.zero_point[0] - encoding.zero_point[0])).astype(outside.dtype)
                    encoding = outside
                stored = self._initializer(title, array, _TYPES[encoding.dtype])
                name = title.removesuffix("_quantized")
                self._dequantize(stored, encoding, name, f"{name}_dequantized", before=node)
            node.replace_input_with(index, next(user for user, _ in stored.uses()).outputs[0])

    def drop_unused_initializers(self) -> None:
        for name in [
            name for name, value in self._graph.initializers.items() if not value.uses() and not value.is_graph_output()
        ]:
            del self._graph.initializers[name]

    def _integer_input(self, value: ir.Value, encoding: Encoding) -> ir.Value:
        name = name_of(value)
        outside = shifted(encoding, self._plan.io_dtype_of(name))
        value.type = ir.TensorType(_TYPES[outside.dtype])  # a new type: a clone shares its values' types with its original
        if outside == encoding:
            return self._dequantize(value, outside, name, f"{name}_dequantized", after=value)
        real = self._dequantize(value, outside, f"{name}_{outside.dtype}", f"{name}_{outside.dtype}_dequantized", after=value)
        quantized = self._quantize(real, encoding, name, f"{name}_quantized", after=real)
        return self._dequantize(quantized, encoding, name, f"{name}_dequantized", after=quantized)

    def _requantized(self, real: ir.Value, wants: Encoding, node: ir.Node, index: int, name: str) -> ir.Value:
        name = f"{name}_for_{node_name(node)}_{index}"
        quantized = self._quantize(real, wants, name, f"{name}_quantized", after=real)
        return self._dequantize(quantized, wants, name, f"{name}_dequantized", after=quantized)

    def _replace_output(self, old: ir.Value, new: ir.Value) -> None:
        for index, value in enumerate(self._graph.outputs):
            if value is old:
                self._graph.outputs[index] = new

    # The two operators. Parameters are initializers named after the value.

    def _quantize(self, value: ir.Value, encoding: Encoding, name: str, output: str, *, after: ir.Value) -> ir.Value:
        parameters = self._parameters(name, encoding, ())
        return self._insert("QuantizeLinear", [value, *parameters], encoding, output, value, _TYPES[encoding.dtype], after=after)

    def _dequantize(
        self,
        value: ir.Value,
        encoding: Encoding,
        name: str,
        output: str,
        *,
        after: ir.Value | None = None,
        before: ir.Node | None = None,
    ) -> ir.Value:
        parameters = self._parameters(name, encoding, _shape(value))
        float32 = ir.DataType.FLOAT
        return self._insert(
            "DequantizeLinear", [value, *parameters], encoding, output, value, float32, after=after, before=before
        )

    def _parameters(self, name: str, encoding: Encoding, like: Sequence[int]) -> list[ir.Value]:
        """Scale and zero point of an encoding; `like` is the shape of what it encodes."""
        shape: tuple[int, ...] = () if encoding.axis is None else (len(encoding.scale),)
        scale = np.asarray(encoding.scale, np.float32).reshape(shape)
        if encoding.block:
            scale = scale.reshape(like[encoding.axis or 0], -1)
            scale = scale if encoding.axis == 0 else np.ascontiguousarray(scale.T)
        found = [self._initializer(f"{name}_scale", scale)]
        # Biases and weights of four bits are symmetric; runtimes differ in whether they take a zero point there.
        if encoding.dtype not in ("int32", "int4"):
            zero_point = np.asarray(encoding.zero_point, encoding.dtype).reshape(shape)
            found.append(self._initializer(f"{name}_zero_point", zero_point))
        return found

    def _initializer(self, name: str, array: np.ndarray[Any, Any], dtype: ir.DataType | None = None) -> ir.Value:
        """The constant that the QDQ form calls `name`: under another name where the model has one of its own that is called so."""
        if name not in self._made:
            narrow = dtype == ir.DataType.INT4  # packed by the serialiser; numpy has no such dtype
            stored = array.astype(ir.DataType.INT4.numpy()) if narrow else np.asarray(array)
            title = name
            while title in self._taken:
                title += "_"
            self._made[name] = ir.val(title, const_value=ir.Tensor(stored, dtype if narrow else None, name=title))
            self._graph.register_initializer(self._made[name])
        return self._made[name]

    def _insert(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        encoding: Encoding,
        output: str,
        like: ir.Value,
        dtype: ir.DataType,
        *,
        after: ir.Value | None = None,
        before: ir.Node | None = None,
    ) -> ir.Value:
        shape = _shape(like)
        result = ir.Value(name=output, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        attributes = {} if encoding.axis is None else {"axis": encoding.axis}
        if encoding.block:  # ONNX names the axis that is cut into blocks
            attributes = {"axis": 1 - (encoding.axis or 0), "block_size": encoding.block}
        node = ir.node(op_type, list(inputs), attributes, outputs=[result], name=output + "_" + op_type)
        producer = after.producer() if after is not None else None
        if producer is not None:
            self._graph.insert_after(producer, node)
        elif before is not None or self._first is not None:
            self._graph.insert_before(before or self._first, node)  # type: ignore[arg-type]
        else:
            self._graph.append(node)
        return result


def _is_activation(node: ir.Node, index: int) -> bool:
    """Whether the constant that `node` reads there stands for an activation, not for a weight or bias."""
    try:
        rules = operator_of(node).quantize(node).inputs
    except Refused:
        return False
    return index < len(rules) and rules[index].role is Role.ACTIVATION


def _is_strewn(node: ir.Node, array: np.ndarray[Any, Any]) -> bool:
    """Whether a constant is repeated and varied so often along the elements of an output that integer kernels, which set up each run of them
    anew, are slower than float ones with the conversions: left in int8, it is in no kernel's dtype.
    """
    if node.op_type not in ("Add", "Sub", "Mul") or array.size <= 1:
        return False
    wide = static_shape(node.outputs[0])
    run, kind = 1, None
    for size, own in zip(reversed(wide), [*reversed(array.shape), *[1] * (len(wide) - array.ndim)], strict=True):
        if size > 1:
            if kind is not None and kind != (own == size):
                break
            run, kind = run * size, own == size
    return run < _LEAST_RUN


def _shape(value: ir.Value) -> tuple[int, ...]:
    return tuple(value.const_value.numpy().shape) if value.const_value is not None else static_shape(value)
