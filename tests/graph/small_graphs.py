"""Graphs written as text, weights drawn by name, and what onnxruntime makes of them before and after a pass."""

import zlib

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from exporter.graph.infer_shapes import infer_shapes


def graph(body: str, *, inputs: str, outputs: str, opset: int = 21, infer: bool = True, **weights) -> ir.Model:
    """The model of ``graph("y = Conv(x, w)", inputs="float[1,2,4,4] x", outputs="float[1,3,4,4] y", w=(3, 2, 1, 1))``.

    A weight is an array, or a shape that is filled with normal numbers seeded by the weight's name.
    """
    header = f'<ir_version: 10, opset_import: ["" : {opset}]>'
    proto = onnx.parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }}")
    for name, weight in weights.items():
        if isinstance(weight, tuple):
            weight = np.random.default_rng(zlib.crc32(name.encode())).normal(size=weight).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(weight), name))
    model = ir.from_proto(proto)
    if infer:
        infer_shapes(model)
    return model


def run(model: ir.Model, inputs: dict | None = None) -> dict[str, np.ndarray]:
    """The outputs of a graph on onnxruntime without its own optimizations; inputs that are not given are normal numbers."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    if inputs is None:
        random = np.random.default_rng(7)
        inputs = {entry.name: random.normal(size=entry.shape).astype(np.float32) for entry in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def assert_same(before: ir.Model, after: ir.Model, inputs: dict | None = None, relative: float = 1e-5) -> None:
    """Both graphs give the same outputs, within `relative` of each output's largest magnitude."""
    expected, found = run(before, inputs), run(after, inputs)
    assert list(expected) == list(found)
    for name, array in expected.items():
        np.testing.assert_allclose(
            found[name], array, rtol=0, atol=relative * max(float(np.abs(array).max()), 1e-30), err_msg=name
        )


def kinds(model: ir.Model) -> list[str]:
    """The operators of a graph in order."""
    return [node.op_type for node in model.graph]
