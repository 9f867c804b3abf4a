"""The least model that shows that a runtime works: ``y = relu(x)`` of two floats, in steps of 1/2 where a runtime has integers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.runtimes.registry import runtime_of

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["probe_model"]


def probe_model(runtime: str) -> tuple[str, bytes]:
    """File name ending and content of an artifact for a runtime. Raises UsageError EW-U001 where there is no such runtime."""
    found = runtime_of(runtime)
    return found.suffix, _onnx(found.floats) if found.suffix == ".onnx" else _tflite()


def _onnx(floats: bool) -> bytes:
    from onnx import TensorProto, helper

    def rounded(source: str, target: str) -> list[NodeProto]:
        stored = f"{source}_stored"
        return [
            helper.make_node("QuantizeLinear", [source, "step", "zero"], [stored]),
            helper.make_node("DequantizeLinear", [stored, "step", "zero"], [target]),
        ]

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    if floats:
        nodes, constants = [helper.make_node("Relu", ["x"], ["y"])], []
    else:
        nodes = [*rounded("x", "a"), helper.make_node("Relu", ["a"], ["b"]), *rounded("b", "y")]
        constants = [
            helper.make_tensor("step", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("zero", TensorProto.INT8, [], [0]),
        ]
    graph = helper.make_graph(nodes, "probe", [x], [y], constants)
    # Relu's newest definition but for integers, so that old releases load it too.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString())


def _tflite() -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.SubGraphT()
    graph.tensors = []
    for name in (b"x", b"y"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, [2], schema.TensorType.FLOAT32
        graph.tensors.append(tensor)
    relu = schema.OperatorT()
    relu.inputs, relu.outputs = [0], [1]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [relu]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [code], [schema.BufferT()]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
