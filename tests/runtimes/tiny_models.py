"""Artifacts of a few hundred bytes, built by hand, for tests of runtimes and verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
}
# The versions from which these operators have int8 kernels (per channel for the last).
_VERSIONS = {
    schema.BuiltinOperator.ADD: 2,
    schema.BuiltinOperator.RELU: 2,
    schema.BuiltinOperator.FULLY_CONNECTED: 4,
    schema.BuiltinOperator.CONV_2D: 3,
}


@dataclass
class TfliteBuilder:
    """Tensors and operators one after another; `save` writes the flatbuffer."""

    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=lambda: [schema.BufferT()])
    operators: list[Any] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        scale: Sequence[float] = (),
        zero_point: Sequence[int] = (),
        axis: int = 0,
        data: np.ndarray[Any, Any] | None = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name.encode(), list(shape), _TYPES[dtype]
        if scale:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = list(scale)
            tensor.quantization.zeroPoint = list(zero_point or [0] * len(scale))
            tensor.quantization.quantizedDimension = axis
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], outputs: Sequence[int], kind: str = "", **options: Any) -> None:
        code = getattr(schema.BuiltinOperator, name)
        if code not in self.codes:
            self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self.codes.index(code), list(inputs), list(outputs)
        if kind:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, kind + "T")()
            for key, value in options.items():
                setattr(operator.builtinOptions, key, value)
        self.operators.append(operator)

    def save(self, path: Path, inputs: Sequence[int], outputs: Sequence[int]) -> Path:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs, graph.name = list(inputs), list(outputs), b"main"
        model = schema.ModelT()
        model.version, model.description = 3, b"tiny"
        model.subgraphs, model.buffers, model.operatorCodes = [graph], self.buffers, []
        for code in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), _VERSIONS.get(code, 1)
            model.operatorCodes.append(entry)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def add_int8(path: Path) -> Path:
    """y = (x + offset) then ReLU, all int8, channels-last [1,2,2,3]; an intermediate tensor "sum" lies between."""
    b = TfliteBuilder()
    x = b.tensor("x", (1, 2, 2, 3), "int8", [0.05], [3])
    offset = b.tensor("offset", (1, 1, 1, 3), "int8", [0.02], [0], data=np.array([[[[50, -50, 0]]]], np.int8))
    total = b.tensor("sum", (1, 2, 2, 3), "int8", [0.06], [-5])
    y = b.tensor("y", (1, 2, 2, 3), "int8", [0.03], [-128])
    b.operator("ADD", [x, offset], [total], "AddOptions")
    b.operator("RELU", [total], [y])
    return b.save(path, [x], [y])


def fully_connected_int8(path: Path, bias: Sequence[int] = (10, -20)) -> Path:
    """y = W x + bias: int8 [1,3] to [1,2], weights per channel."""
    b = TfliteBuilder()
    x = b.tensor("x", (1, 3), "int8", [0.1], [0])
    w = b.tensor("w", (2, 3), "int8", [0.01, 0.02], [0, 0], data=np.array([[100, -100, 50], [-7, 20, 127]], np.int8))
    c = b.tensor("c", (2,), "int32", [0.001, 0.002], [0, 0], data=np.array(bias, np.int32))
    y = b.tensor("y", (1, 2), "int8", [0.2], [1])
    b.operator("FULLY_CONNECTED", [x, w, c], [y], "FullyConnectedOptions")
    return b.save(path, [x], [y])


def same_names_float(path: Path) -> Path:
    """Two ABS after another; both computed tensors are called "again", so that no name tells them apart."""
    b = TfliteBuilder()
    x = b.tensor("x", (2,), "float32")
    first = b.tensor("again", (2,), "float32")
    second = b.tensor("again", (2,), "float32")
    b.operator("ABS", [x], [first])
    b.operator("NEG", [first], [second])
    return b.save(path, [x], [second])


def onnx_relu(path: Path) -> Path:
    """y = relu(x), float32, x of shape ["batch", 4]."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def onnx_add(path: Path, *, constant: Sequence[int] = (50, -50, 0), sum_zero_point: int = -5, dtype: str = "uint8") -> Path:
    """The integer model of `add_int8` in QDQ form: float channels-first input and output, activations in `dtype`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shift = 128 if dtype == "uint8" else 0
    constants = {"offset_quantized": np.array(constant, np.int8).reshape(1, 3, 1, 1)}
    nodes = []

    def parameters(name: str, scale: float, zero_point: int, dtype: str) -> list[str]:
        constants[f"{name}_scale"] = np.float32(scale)
        constants[f"{name}_zero_point"] = np.dtype(dtype).type(zero_point)
        return [f"{name}_scale", f"{name}_zero_point"]

    def round_trip(value: str, name: str, scale: float, zero_point: int) -> None:
        p = parameters(name, scale, zero_point + shift, dtype)
        nodes.append(helper.make_node("QuantizeLinear", [value, *p], [f"{name}_quantized"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_quantized", *p], [f"{name}_dequantized"]))

    round_trip("x", "x", 0.05, 3)
    nodes.append(
        helper.make_node("DequantizeLinear", ["offset_quantized", *parameters("offset", 0.02, 0, "int8")], ["offset_dequantized"])
    )
    nodes.append(helper.make_node("Add", ["x_dequantized", "offset_dequantized"], ["sum"]))
    round_trip("sum", "sum", 0.06, sum_zero_point)
    nodes.append(helper.make_node("Relu", ["sum_dequantized"], ["y_float"]))
    round_trip("y_float", "y", 0.03, -128)
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 2, 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path
