"""A pooling comes first where that gives the same: to the last bit for the largest, within rounding for means."""

import numpy as np
import pytest
from small_graphs import assert_same, graph, kinds, run

from exporter.graph.pool_first import pool_first

IMAGE = "float[1,4,7,7] x"
SHIFT = np.float32([-3.1, 0, 0.4, 700]).reshape(4, 1, 1)
FACTORS = np.float32([0.3, 0, 1.7, 1e4]).reshape(4, 1, 1)


def arithmetic(operator: str, array: np.ndarray):
    """A graph's body and weights with one constant operand of `operator`; "Rsub" is the constant less the value."""
    text = "Sub(c, x)" if operator == "Rsub" else f"{operator}(x, c)"
    return text, {"c": np.abs(array) + 1 if operator == "Div" else array}


@pytest.mark.parametrize("pads", ["", ", pads=[1,1,1,1]"])
@pytest.mark.parametrize(
    ("operator", "array"), [("Add", SHIFT), ("Sub", SHIFT), ("Mul", FACTORS), ("Div", FACTORS), ("Add", np.float32([2]))]
)
def test_the_largest_is_the_same_to_the_last_bit(operator: str, array: np.ndarray, pads: str):
    text, weights = arithmetic(operator, array)
    model = graph(
        f"a = {text} y = MaxPool<kernel_shape=[3,3], strides=[2,2]{pads}>(a)", inputs=IMAGE, outputs="float[1,4,?,?] y", **weights
    )
    after = model.clone()
    assert pool_first(after) == 1
    assert kinds(after) == ["MaxPool", operator]
    np.testing.assert_array_equal(run(after)["y"], run(model)["y"])
    assert after.graph.outputs[0].name == "y"


@pytest.mark.parametrize(
    "pool",
    [
        "GlobalAveragePool(a)",
        "AveragePool<kernel_shape=[2,2], strides=[2,2]>(a)",
        "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)",
    ],
)
@pytest.mark.parametrize("operator", ["Add", "Sub", "Rsub", "Mul", "Div"])
def test_means_take_any_factor(operator: str, pool: str):
    text, weights = arithmetic(operator, np.float32([-3.1, 0, 0.4, 7]).reshape(4, 1, 1))
    model = graph(f"a = {text} y = {pool}", inputs=IMAGE, outputs="float[1,4,?,?] y", **weights)
    after = model.clone()
    assert pool_first(after) == 1
    assert kinds(after)[0] == pool.partition("(")[0].partition("<")[0]
    assert_same(model, after)


def test_a_chain_follows_the_pooling():
    model = graph(
        "a = Mul(x, s) b = Add(a, t) y = GlobalMaxPool(b)", inputs=IMAGE, outputs="float[1,4,1,1] y", s=FACTORS, t=SHIFT
    )
    after = model.clone()
    while pool_first(after):
        pass
    assert kinds(after) == ["GlobalMaxPool", "Mul", "Add"]
    assert_same(model, after, relative=0)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("a = Mul(x, m) y = MaxPool<kernel_shape=[2,2]>(a)", id="a factor below 0"),
        pytest.param("a = Sub(m, x) y = MaxPool<kernel_shape=[2,2]>(a)", id="the value is subtracted"),
        pytest.param(
            "a = Add(x, m) y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a)", id="padding counts"
        ),
        pytest.param("a = Add(x, m) b = MaxPool<kernel_shape=[1,1]>(a) y = Mul(a, b)", id="a second reader"),
        pytest.param("a = Add(x, x) y = MaxPool<kernel_shape=[2,2]>(a)", id="no constant"),
        pytest.param("a = Add(x, r) y = MaxPool<kernel_shape=[2,2]>(a)", id="a constant along another axis"),
        pytest.param("a = Add(x, m) y = MaxPool<kernel_shape=[2,2], pads=[1,1,1,1]>(a)", id="a pooling that grows"),
        pytest.param("a = Add(x, m) y, i = MaxPool<kernel_shape=[2,2]>(a)", id="a pooling that tells where"),
    ],
)
def test_what_stays(body: str):
    weights = {"m": (4, 1, 1), "r": (7,)}
    used = {name: shape for name, shape in weights.items() if f"{name})" in body or f"({name}," in body}
    model = graph(body, inputs=IMAGE, outputs="float[1,4,?,?] y" + (", int64[1,4,?,?] i" if ", i" in body else ""), **used)
    before = kinds(model)
    assert pool_first(model) == 0
    assert kinds(model) == before
