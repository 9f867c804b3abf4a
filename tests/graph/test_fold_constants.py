"""Folding keeps the numbers: a constant that is nearly neutral is not neutral."""

import numpy as np
import pytest
from small_graphs import assert_same, graph, kinds, run

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


@pytest.mark.parametrize("body", ["n = Mul(rate, zero)", "n = Mul(zero, rate)", "n = Mul(rate, zeros)"])
def test_integers_times_zero_are_zero(body):
    """A sampling rate that only some branches ask for is often kept alive in this way, and then added to what it has no part in."""
    weights = {"zero": np.array(0), "zeros": np.zeros((1, 4), np.int64)}
    used = {name: array for name, array in weights.items() if f"{name})" in body or f"({name}," in body}
    model = graph(
        f"{body} f = Cast<to=1>(n) a = Relu(x) y = Add(a, f)",
        inputs="float[1,4] x, int64 rate",
        outputs="float[1,4] y",
        **used,
    )
    after = canonicalize(model)
    assert kinds(after) == ["Relu"]
    assert [value.name for value in after.graph.inputs] == ["x", "rate"]
    assert_same(model, after, {"x": np.array([[-1.0, 0.0, 2.0, 3.0]], np.float32), "rate": np.array(16000)})


def test_a_product_of_integers_with_zeros_and_others_stays():
    model = graph("y = Mul(n, c)", inputs="int64[2] n", outputs="int64[2] y", c=np.array([0, 1]))
    assert kinds(canonicalize(model)) == ["Mul"]


def test_an_output_of_integers_times_zero_is_an_initializer():
    model = graph("y = Mul(n, c)", inputs="int64[2,1] n", outputs="int64[2,3] y", c=np.zeros((1, 3), np.int64))
    after = model.clone()
    fold_constants(after)
    assert_same(model, after, {"n": np.array([[5], [6]])})
    assert not kinds(after)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_floats_times_zero_are_computed(value):
    """They may be infinite."""
    model = graph("y = Mul(x, c)", inputs="float[1] x", outputs="float[1] y", c=np.float32(0))
    after = canonicalize(model)
    assert kinds(after) == ["Mul"]
    assert np.isnan(run(after, {"x": np.array([value], np.float32)})["y"]).all()
