"""One node with inputs of any dtype: onnxruntime as the judge of its torch facet, its legal form and its TFLite form."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from op_bench import TARGET, op_types

from exporter.backends.tflite.writer import write_tflite
from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.graph.run import FloatRunner
from exporter.ops.base import operator_of
from exporter.quantization.planner import float_plan


class Fixed:
    """An input that is a constant."""

    def __init__(self, array, dtype=None):
        self.array = np.asarray(array, dtype)


def typed(op_type, *inputs, outputs=1, opset=21, **attributes):
    """A graph of one node and its feed: an array is a computed input, `Fixed` a constant, None an absent one."""
    names = ["" if value is None else f"x{index}" for index, value in enumerate(inputs)]
    feed = {name: value for name, value in zip(names, inputs, strict=True) if isinstance(value, np.ndarray)}
    proto = helper.make_graph(
        [helper.make_node(op_type, names, [f"y{index}" for index in range(outputs)], name="node", **attributes)],
        "typed",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feed.items()],
        [onnx.helper.make_empty_tensor_value_info(f"y{index}") for index in range(outputs)],
        [numpy_helper.from_array(v.array, n) for n, v in zip(names, inputs, strict=True) if isinstance(v, Fixed)],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)), feed


def everywhere(op_type, *inputs, torch=True, atol=1e-6, wanted=None, **arguments):
    """Run the node in torch (its facet), legalized in onnxruntime, and in TFLite by both of its resolvers; all give what the node gives.

    `wanted` are the outputs where onnxruntime has no kernel. Returns the operator types of the legal form.
    """
    model, feed = typed(op_type, *inputs, **arguments)
    wanted = list(FloatRunner(model)(feed).values()) if wanted is None else wanted
    if torch:
        _same(_by_torch(model, feed), wanted, atol)
    legal = legalize(model, "tflite")
    assert not unsupported(legal, "lower")
    if not arguments.get("opset"):
        _same(list(FloatRunner(legal)(feed).values()), wanted, atol)
    content = write_tflite(legal, float_plan(legal, TARGET)).content
    for resolver in ("BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"):
        _same(_by_litert(content, feed, resolver, len(wanted)), wanted, atol)
    return op_types(legal)


def refusals(op_type, *inputs, **arguments):
    """Why TFLite cannot run the node."""
    model, _ = typed(op_type, *inputs, **arguments)
    return [refused.reason for refused in unsupported(legalize(model, "tflite"), "lower")]


def values(dtype, *shape, seed=0):
    """Numbers of a dtype, of either sign where it has one."""
    generator, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind == "f":
        return generator.uniform(-4, 4, shape).astype(dtype)
    return generator.integers(0 if dtype.kind in "ub" else -5, 2 if dtype.kind == "b" else 6, shape).astype(dtype)


def _by_torch(model, feed):
    import torch

    (node,) = model.graph
    inputs = [
        None
        if value is None
        else torch.from_numpy(np.array(feed.get(value.name, value.const_value and value.const_value.numpy())))
        for value in node.inputs
    ]
    return [np.asarray(output) for output in operator_of(node).torch(node, inputs)]


def _by_litert(content, feed, resolver, count):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=getattr(OpResolverType, resolver))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    found = runner(**{name: array for name, array in feed.items() if name in runner.get_input_details()})
    return [found[f"y{index}"] for index in range(count)]


def _same(found, wanted, atol):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=atol)
