"""The least model that shows that a runtime works: ``y = relu(x)`` of two floats."""

from __future__ import annotations

from exporter.runtimes.registry import runtime_of

__all__ = ["probe_model"]


def probe_model(runtime: str) -> tuple[str, bytes]:
    """File name ending and content of an artifact for a runtime. Raises UsageError EW-U001 where there is no such runtime."""
    suffix = runtime_of(runtime).suffix
    return suffix, _onnx() if suffix == ".onnx" else _tflite()


def _onnx() -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
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
