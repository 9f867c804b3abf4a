"""Constants that a node reads and the graph does not hold."""

import numpy as np
import onnx_ir as ir

from exporter.graph.adopt_constants import adopt_constants
from exporter.graph.passes import canonicalize
from exporter.graph.run import FloatRunner


def stray_clip() -> ir.Model:
    """A Clip whose bounds nobody registered; one has the name of another initializer."""
    x = ir.val("x", ir.DataType.FLOAT, [4])
    taken = ir.val("bound", const_value=ir.tensor(np.float32(7), name="bound"))
    low, high = (ir.val("bound", const_value=ir.tensor(np.float32(number))) for number in (-1, 1))
    shifted = ir.node("Add", [x, taken])
    clip = ir.node("Clip", [shifted.outputs[0], low, high])
    again = ir.node("Max", [clip.outputs[0], low])
    y = again.outputs[0]
    for value, name in ((shifted.outputs[0], "s"), (clip.outputs[0], "c"), (y, "y")):
        value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape([4])
    graph = ir.Graph([x], [y], nodes=[shifted, clip, again], initializers=[taken], opset_imports={"": 21}, name="g")
    return ir.Model(graph, ir_version=10)


def test_each_becomes_one_initializer_and_the_graph_computes_the_same():
    model = stray_clip()
    adopt_constants(model.graph)
    assert len(model.graph.initializers) == 3
    x = np.array([-9, -7.5, -6.5, 0], np.float32)
    np.testing.assert_array_equal(FloatRunner(canonicalize(model))({"x": x})["y"], np.clip(x + 7, -1, 1))
    before = dict(model.graph.initializers)
    adopt_constants(model.graph)
    assert dict(model.graph.initializers) == before
