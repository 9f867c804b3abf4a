"""Factors end in weights and constants, whatever commutes in between; where one path does not end so, nothing moves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import assert_same, graph, kinds

from exporter.graph.passes import canonicalize
from exporter.graph.sink_scales import sink_scales
from exporter.graph.values import constant

IMAGE = "float[1,4,6,6] x"


def sunk(body: str, outputs: str = "float[1,3,6,6] y", inputs: str = IMAGE, relative: float = 1e-5, **weights):
    """The graph after the pass, checked to compute the same."""
    model = graph(body, inputs=inputs, outputs=outputs, **weights)
    after = model.clone()
    sink_scales(after)
    assert_same(model, after, relative=relative)
    return after


def test_a_factor_goes_through_a_sum_into_a_padded_convolution():
    after = sunk(
        "a = Relu(x) b = Mul(a, s) c = Add(b, t) y = Conv<pads=[1,1,1,1]>(c, w)",
        s=np.float32(0.3),
        t=np.float32(-0.7),
        w=(3, 4, 3, 3),
    )
    assert kinds(after) == ["Relu", "Add", "Conv"]


@pytest.mark.parametrize(
    "middle",
    [
        "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(b)",
        "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(b)",
        "LeakyRelu<alpha=0.2>(b)",
        "PRelu(b, t)",
        "Sub(t, b)",
        "Transpose<perm=[0,1,3,2]>(b)",
        "Mul(b, t)",
        "Div(b, t)",
    ],
)
@pytest.mark.parametrize("operator", ["Mul", "Div"])
def test_what_lets_a_factor_through(operator: str, middle: str):
    after = sunk(
        f"a = Sigmoid(x) b = {operator}(a, s) c = {middle} y = Conv<pads=[1,1,1,1]>(c, w)",
        s=np.float32([1.7]),
        t=np.float32([[[0.4]], [[2.0]], [[1.5]], [[0.7]]]),
        w=(3, 4, 3, 3),
    )
    assert len(kinds(after)) == 3


def test_every_reader_takes_its_part():
    """Squeeze and excite: the factor ends in the weights behind the average, and behind the product."""
    after = sunk(
        """a = Sigmoid(x) b = Mul(s, a) c = Add(b, t) d = GlobalAveragePool(c) e = Conv(d, v) f = Sigmoid(e) g = Mul(c, f)
        y = Conv(g, w)""",
        s=np.float32(3.3),
        t=np.float32(0.2),
        v=(4, 4, 1, 1),
        w=(3, 4, 1, 1),
    )
    assert kinds(after) == ["Sigmoid", "Add", "GlobalAveragePool", "Conv", "Sigmoid", "Mul", "Conv"]


@pytest.mark.parametrize(
    "readers",
    [
        "c = Sigmoid(b) y = Conv(c, w)",  # not homogeneous
        "c = Mul(b, b) y = Conv(c, w)",  # the factor twice
        "c = Add(b, x) y = Conv(c, w)",  # a sum with what does not have it
        "y = Conv(b, w) z = Relu(b)",  # one reader that leads out
        "y = Conv(v, b)",  # weights that are computed
        "c = Transpose<perm=[1,0,2,3]>(x) d = Conv(c, u) y = Add(b, d)",
    ],
)
def test_one_path_that_ends_elsewhere_holds_the_factor(readers: str):
    model = graph(
        f"a = Relu(x) b = Mul(a, s) {readers}",
        inputs="float[4,4,1,1] x",
        outputs="float[?,?,?,?] y" + (", float[?,?,?,?] z" if "z =" in readers else ""),
        infer=True,
        s=np.float32(2),
        **{
            name: shape
            for name, shape in {"w": (3, 4, 1, 1), "v": (1, 4, 5, 5), "u": (4, 4, 1, 1)}.items()
            if f"{name})" in readers or f"({name}," in readers
        },
    )
    assert sink_scales(model) == 0


def test_a_negative_factor_stops_at_a_relu():
    weights = {"s": np.float32(-2), "w": (3, 4, 1, 1)}
    assert kinds(sunk("b = Mul(x, s) c = Relu(b) y = Conv(c, w)", **weights)) == ["Mul", "Relu", "Conv"]
    assert (
        kinds(sunk("b = Mul(x, s) c = Transpose<perm=[0,1,3,2]>(b) d = Relu(x) e = Mul(c, d) y = Conv(e, w)", **weights)).count(
            "Mul"
        )
        == 2
    )


def test_what_would_leave_the_range_of_floats_stays():
    after = sunk(
        "a = Relu(x) b = Mul(a, s) c = Add(b, t) y = Conv(c, w)", s=np.float32(1e-30), t=np.float32(1e20), w=(3, 4, 1, 1)
    )
    assert "Mul" in kinds(after)


def test_a_constant_of_others_is_copied():
    after = sunk("a = Relu(x) b = Mul(a, s) c = Conv(b, w) d = Conv(x, w) y = Add(c, d)", s=np.float32(5), w=(3, 4, 1, 1))
    assert "Mul" not in kinds(after)
    first, second = (constant(node.inputs[1]) for node in after.graph if node.op_type == "Conv")
    np.testing.assert_allclose(first, 5 * second, rtol=1e-6)


def test_factor_one_disappears():
    assert kinds(sunk("a = Relu(x) y = Mul(a, s)", "float[1,4,6,6] y", s=np.float32(1))) == ["Relu"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["Mul", "Div", "Add", "Sub"]), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_any_chain_of_numbers_before_a_padded_convolution_keeps_one_at_most(operators: list[str], seed: int):
    random = np.random.default_rng(seed)
    body, numbers, last = "v0 = Sigmoid(x)", {}, "v0"
    for place, operator in enumerate(operators, 1):
        numbers[f"n{place}"] = np.float32(random.uniform(0.3, 3) * random.choice([-1, 1]))
        body += f" v{place} = {operator}({last}, n{place})"
        last = f"v{place}"
    after = sunk(f"{body} y = Conv<pads=[1,1,1,1]>({last}, w)", relative=1e-4, w=(3, 4, 3, 3), **numbers)
    assert not {"Mul", "Div"} & set(kinds(after))


def test_canonical_graphs_come_out_as_they_went_in():
    model = graph(
        "a = Relu(x) b = Mul(a, s) c = Add(b, t) d = Mul(c, u) y = Conv<pads=[1,1,1,1]>(d, w)",
        inputs=IMAGE,
        outputs="float[1,3,6,6] y",
        s=np.float32(0.3),
        t=np.float32(-0.7),
        u=(4, 1, 1),
        w=(3, 4, 3, 3),
    )
    once = canonicalize(model)
    assert kinds(once) == ["Relu", "Add", "Conv"]
    assert kinds(canonicalize(once)) == kinds(once)
