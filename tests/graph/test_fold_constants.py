"""Folding keeps the numbers: a constant that is nearly neutral is not neutral."""

import numpy as np
import pytest
from small_graphs import assert_same, graph, kinds

from exporter.frontends import load
from exporter.graph.fold_constants import fold_constants
from exporter.graph.passes import canonicalize


@pytest.mark.parametrize(
    ("body", "constant"),
    [
        ("b = Add(a, c)", 1e-10),
        ("b = Add(c, a)", 1e-30),
        ("b = Sub(a, c)", -1e-9),
        ("b = Mul(a, c)", 1 + 5e-6),
        ("b = Mul(c, a)", 1 - 5e-6),
        ("b = Div(a, c)", 1 + 5e-6),
    ],
)
def test_what_is_nearly_neutral_stays(body, constant):
    """The offset of a logarithm is of this size."""
    model = graph(f"a = Relu(x) {body} y = Sqrt(b)", inputs="float[1,4] x", outputs="float[1,4] y", c=np.float32(constant))
    after = canonicalize(model)
    assert kinds(after) == kinds(model)
    assert_same(model, after)


def test_the_offset_of_a_logarithm_in_a_module_stays():
    torch = pytest.importorskip("torch")

    class Loudness(torch.nn.Module):
        def forward(self, x):
            return torch.log(x * x + 1e-10)

    source = load(Loudness(), inputs=(torch.zeros(1, 4),))
    assert [node.op_type for node in source.model.graph] == ["Mul", "Add", "Log"]


def test_arithmetic_of_constants_and_shapes_is_gone():
    body = "s = Shape(x) n = Gather(s, zero) m = Concat<axis=0>(n, minus) d = Mul(c, c) y0 = Reshape(x, m) y = Mul(y0, d)"
    model = graph(
        body,
        inputs="float[2,3,4] x",
        outputs="float[2,12] y",
        zero=np.array([0]),
        minus=np.array([-1]),
        c=np.float32(3),
    )
    after = model.clone()
    fold_constants(after)
    assert kinds(after) == ["Reshape", "Mul"]
    assert_same(model, after)
