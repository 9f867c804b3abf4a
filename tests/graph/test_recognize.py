"""Functions written out in several ways, and what stands in their place afterwards."""

from math import pi, sqrt

import numpy as np
import pytest
from ops.op_bench import lowered
from small_graphs import assert_same, graph, kinds

from exporter.graph.dead_code import remove_dead_code
from exporter.graph.recognize import recognize
from exporter.graph.values import attribute

NUMBERS = {
    "root": 1 / sqrt(2),
    "two_root": sqrt(2),
    "one": 1.0,
    "half": 0.5,
    "two": 2.0,
    "three": 3.0,
    "cubic": 0.044715,
    "slope": sqrt(2 / pi),
    "slopes": 2 * sqrt(2 / pi),
    "lowest": -np.inf,
}
ERF = "s = Mul(x, root) e = Erf(s) g = Add(e, one)"
CUBE = "q = Mul(x, x) c = Mul(x, q) d = Mul(cubic, c) i = Add(x, d)"
GELUS = {
    "erf, half last": (f"{ERF} p = Mul(x, g) y = Mul(p, half)", "none"),
    "erf, half of x": (f"{ERF} h = Mul(half, x) y = Mul(h, g)", "none"),
    "erf, half of the gate": (f"{ERF} h = Mul(g, half) y = Mul(x, h)", "none"),
    "erf, quotients": ("s = Div(x, two_root) e = Erf(s) g = Add(one, e) p = Mul(g, x) y = Div(p, two)", "none"),
    "tanh": (f"{CUBE} j = Mul(slope, i) t = Tanh(j) g = Add(one, t) h = Mul(half, g) y = Mul(x, h)", "tanh"),
    "tanh, a power": (
        "c = Pow(x, three) d = Mul(c, cubic) i = Add(d, x) j = Mul(i, slope) t = Tanh(j) g = Add(t, one) h = Mul(x, half) y = Mul(h, g)",
        "tanh",
    ),
    "tanh, factored": (
        "q = Pow(x, two) c = Mul(q, cubic) f = Add(c, one) k = Mul(x, slope) j = Mul(k, f) t = Tanh(j) g = Add(t, one) p = Mul(x, g) "
        "y = Mul(p, half)",
        "tanh",
    ),
    "sigmoid": (f"{CUBE} j = Mul(slopes, i) t = Sigmoid(j) y = Mul(x, t)", "tanh"),
}
PEAK = "a = ReduceMax(x, axis) z = Sub(x, a) e = Exp(z)"
SOFTMAXES = {
    "without the greatest": f"{PEAK} t = ReduceSum(e, axis) y = Div(e, t)",
    "plain": "e = Exp(x) t = ReduceSum(e, axis) y = Div(e, t)",
    "by the inverse": f"{PEAK} t = ReduceSum(e, axis) r = Reciprocal(t) y = Mul(e, r)",
    "shapes restored": (
        "m = ReduceMax<keepdims=0>(x, axis) b = Max(lowest, m) a = Unsqueeze(b, axis) z = Sub(x, a) e = Exp(z) "
        "s = ReduceSum<keepdims=0>(e, axis) t = Unsqueeze(s, axis) y = Div(e, t)"
    ),
}


def written(body, axis=(1,), **changed):
    numbers = {name: np.float32(value) for name, value in (NUMBERS | changed).items()}
    used = {
        name: value
        for name, value in numbers.items()
        if name in body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    }
    extra = {"axis": np.array(axis)} if "axis" in body else {}
    return graph(body, inputs="float[2,3,4] x", outputs="float[2,3,4] y", **used, **extra)


def recognized(model):
    after = model.clone()
    recognize(after)
    remove_dead_code(after)
    assert_same(model, after)
    return after


@pytest.mark.parametrize("spelling", GELUS)
def test_a_gelu_however_it_is_spelled(spelling):
    body, approximate = GELUS[spelling]
    after = recognized(written(body))
    assert kinds(after) == ["Gelu"]
    assert attribute(after.graph.node(0), "approximate") == approximate
    assert lowered(after).errors["y"] < 1e-6
    assert ("GELU", 2) in lowered(after, "int8").operators


@pytest.mark.parametrize("changed", ["root", "one", "half"])
def test_other_numbers_make_no_gelu_by_erf(changed):
    model = written(GELUS["erf, half last"][0], **{changed: NUMBERS[changed] * 1.01})
    assert "Gelu" not in kinds(recognized(model))


@pytest.mark.parametrize("changed", ["slope", "cubic", "one", "half"])
def test_other_numbers_make_no_gelu_by_tanh(changed):
    model = written(GELUS["tanh"][0], **{changed: NUMBERS[changed] * 1.0001})
    assert "Gelu" not in kinds(recognized(model))


def test_a_gate_of_something_else_is_no_gelu():
    assert "Gelu" not in kinds(recognized(written(f"{ERF} w = Relu(x) p = Mul(w, g) y = Mul(p, half)")))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("spelling", SOFTMAXES)
def test_a_softmax_however_it_is_spelled(spelling, axis):
    after = recognized(written(SOFTMAXES[spelling], (axis,)))
    assert kinds(after) == ["Softmax"]
    assert attribute(after.graph.node(0), "axis") == axis % 3


@pytest.mark.parametrize(
    ("body", "axes"),
    [
        ("e = Exp(x) t = ReduceSum(e, axis) y = Div(e, t)", (1, 2)),
        ("e = Exp(x) t = ReduceMean(e, axis) y = Div(e, t)", (1,)),
        ("e = Exp(x) w = Abs(x) t = ReduceSum(w, axis) y = Div(e, t)", (1,)),
        ("e = Exp(x) t = ReduceSum(e, axis) u = Add(t, one) y = Div(e, u)", (1,)),
    ],
)
def test_other_quotients_are_no_softmax(body, axes):
    assert "Softmax" not in kinds(recognized(written(body, axes)))


def test_a_peak_of_another_axis_stays_in_front():
    body = "a = ReduceMax(x, other) z = Sub(x, a) e = Exp(z) t = ReduceSum(e, axis) y = Div(e, t)"
    model = graph(body, inputs="float[2,3,4] x", outputs="float[2,3,4] y", axis=np.array([1]), other=np.array([2]))
    assert kinds(recognized(model)) == ["ReduceMax", "Sub", "Softmax"]


def test_what_else_reads_the_parts_keeps_them():
    model = graph(
        f"{ERF} p = Mul(x, g) y = Mul(p, half)",
        inputs="float[2,3,4] x",
        outputs="float[2,3,4] y, float[2,3,4] g",
        **{name: np.float32(NUMBERS[name]) for name in ("root", "one", "half")},
    )
    assert sorted(kinds(recognized(model))) == ["Add", "Erf", "Gelu", "Mul"]
