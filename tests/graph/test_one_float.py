"""Half and double precision stay at the boundary."""

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import graph, kinds, run

from exporter.graph.one_float import one_float


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_casts_at_the_boundary_and_float32_between(name, dtype):
    model = graph("h = Mul(x, c) y = Tanh(h)", inputs=f"{name}[2,3] x", outputs=f"{name}[2,3] y", c=np.full(3, 1.5, dtype))
    x = np.random.default_rng(1).normal(size=(2, 3)).astype(dtype)
    expected = run(model, {"x": x})["y"]
    assert one_float(model) > 0
    assert kinds(model) == ["Cast", "Mul", "Tanh", "Cast"]
    assert {value.dtype for node in list(model.graph)[:-1] for value in node.outputs} == {ir.DataType.FLOAT}
    found = run(model, {"x": x})["y"]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_names_of_inputs_and_outputs_stay():
    model = graph("y = Relu(x)", inputs="float16[2] x", outputs="float16[2] y")
    one_float(model)
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["x", "y"]


def test_a_float32_graph_is_left_alone():
    model = graph("y = Relu(x)", inputs="float[2] x", outputs="float[2] y")
    assert one_float(model) == 0
    assert kinds(model) == ["Relu"]
