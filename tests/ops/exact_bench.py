"""One node against numpy: its torch facet, and what LiteRT makes of its TFLite form, for any dtype and to the last digits."""

import numpy as np
from op_bench import TARGET, op_types
from typed_bench import typed

from exporter.backends.tflite.writer import write_tflite
from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.ops.base import operator_of
from exporter.quantization.planner import float_plan

# What LiteRT's reference resolver lacks.
OPTIMIZED = {"ELU", "CEIL", "ROUND", "STABLEHLO_AND"}
TORCH = {"bool", "uint8", "int8", "int16", "int32", "int64", "float32"}


def computes(op_type, *inputs, wanted, rtol=0.0, atol=0.0, torch=True, **attributes):
    """The node gives the array `wanted` in torch, and in LiteRT with reference and optimized kernels. Returns its operators in TFLite."""
    model, feed = typed(op_type, *inputs, **attributes)
    if torch and {array.dtype.name for array in feed.values()} <= TORCH:
        same(in_torch(model, feed), wanted, rtol, atol)
    legal = legalize(model, "tflite")
    assert [refused.reason for refused in unsupported(legal, "lower")] == []
    artifact = write_tflite(legal, float_plan(legal, TARGET))
    names = [name for name, _ in artifact.operators]
    resolvers = ["BUILTIN_WITHOUT_DEFAULT_DELEGATES", *(() if OPTIMIZED & set(names) else ["BUILTIN_REF"])]
    for resolver in resolvers:
        same(in_litert(artifact.content, feed, resolver), wanted, rtol, atol)
    return names


def left(op_type, *inputs, **attributes):
    """The ONNX operators that the node becomes for TFLite."""
    return op_types(legalize(typed(op_type, *inputs, **attributes)[0], "tflite"))


def same(found, wanted, rtol, atol):
    wanted = np.asarray(wanted)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)


def in_torch(model, feed):
    import torch

    (node,) = model.graph
    tensors = [
        torch.from_numpy(np.array(feed.get(value.name, value.const_value and value.const_value.numpy()))) for value in node.inputs
    ]
    return np.asarray(operator_of(node).torch(node, tensors)[0])


def in_litert(content, feed, resolver):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=getattr(OpResolverType, resolver))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    return runner(**{name: array for name, array in feed.items() if name in runner.get_input_details()})["y0"]
