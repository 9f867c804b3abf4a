"""Which nodes of a normalization stay in float, however it is written."""

import numpy as np
import pytest
from small_graphs import graph

from exporter.graph.normalizations import mark_normalizations
from exporter.graph.passes import canonicalize
from exporter.graph.values import FLOAT
from exporter.pipeline import legal
from exporter.quantization.planner import refusals
from targets.loader import load_target
from targets.precision import choose_precision

CENTRED = "m = ReduceMean(x, axis) d = Sub(x, m)"
FORMS = {
    "layer": f"{CENTRED} q = Mul(d, d) v = ReduceMean(q, axis) e = Add(v, eps) r = Sqrt(e) n = Div(d, r) s = Mul(n, gamma) y = Add(s, beta)",
    "a power": f"{CENTRED} q = Pow(d, two) v = ReduceMean(q, axis) e = Add(eps, v) r = Pow(e, root) n = Mul(d, r) y = Mul(n, gamma)",
    "inverse times gamma": (
        f"{CENTRED} q = Mul(d, d) v = ReduceMean(q, axis) e = Add(v, eps) r = Sqrt(e) i = Reciprocal(r) g = Mul(i, gamma) "
        "n = Mul(d, g) y = Add(n, beta)"
    ),
    "mean of squares": (
        "a = ReduceSum<keepdims=0>(x, axis) m = Mul(a, third) q = Mul(x, x) b = ReduceSum<keepdims=0>(q, axis) c = Mul(b, third) "
        "w = Mul(m, m) v = Sub(c, w) p = Max(v, zero) u = Unsqueeze(p, axis) e = Add(u, eps) r = Sqrt(e) i = Reciprocal(r) "
        "g = Mul(i, gamma) k = Unsqueeze(m, axis) d = Sub(x, k) n = Mul(d, g) y = Add(n, beta)"
    ),
    "scaled apart": (
        f"{CENTRED} q = Mul(d, d) v = ReduceMean(q, axis) e = Add(v, eps) r = Sqrt(e) i = Reciprocal(r) g = Mul(i, gamma) "
        "n = Mul(x, g) k = Mul(m, g) t = Sub(beta, k) y = Add(n, t)"
    ),
    "root mean square": "q = Mul(x, x) v = ReduceMean(q, axis) e = Add(v, eps) r = Sqrt(e) i = Reciprocal(r) n = Mul(x, i) y = Mul(gamma, n)",
    "length": "l = ReduceL2(x, axis) c = Max(l, eps) y = Div(x, c)",
}
CONSTANTS = {
    "axis": np.array([2]),
    "eps": np.float32(1e-5),
    "two": np.float32(2),
    "root": np.float32(-0.5),
    "third": np.float32(1 / 6),
    "zero": np.float32(0),
    "gamma": np.linspace(0.5, 2, 6, dtype=np.float32),
    "beta": np.linspace(-1, 1, 6, dtype=np.float32),
}


def written(body):
    names = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    constants = {name: array for name, array in CONSTANTS.items() if name in names}
    return graph(body, inputs="float[2,4,6] x", outputs="float[2,4,6] y", **constants)


def marked(model):
    return [node.outputs[0].name for node in model.graph if FLOAT in node.metadata_props]


@pytest.mark.parametrize("form", FORMS)
def test_every_node_of_it_stays_in_float(form):
    model = written(FORMS[form])
    assert mark_normalizations(model) == 1
    assert len(marked(model)) == len(model.graph)


@pytest.mark.parametrize("form", FORMS)
def test_a_target_with_float_is_told_why(form):
    target = choose_precision(load_target("android-arm64-cpu"), "int8")
    graph_ = legal(canonicalize(written(FORMS[form])), target)
    reasons = refusals(graph_, target.artifact)
    assert set(reasons) == {node.name for node in graph_.graph}
    assert all("normalization" in reason for reason in reasons.values())


def test_what_stands_around_it_does_not():
    model = written(FORMS["layer"].replace("(x,", "(h,").replace("m = ", "h = Relu(x) m = ") + " z = Relu(y)")
    mark_normalizations(model)
    assert {"h", "z"}.isdisjoint(marked(model))
    assert len(marked(model)) == 9


@pytest.mark.parametrize(
    "body",
    [
        "q = Mul(x, x) v = ReduceMean(q, axis) e = Add(v, eps) r = Sqrt(e) y = Mul(r, beta)",  # a magnitude that scales nothing
        "q = Mul(x, x) v = ReduceMean(q, axis) r = Sqrt(v) h = Relu(x) y = Div(h, r)",  # of x, dividing something else
        "v = ReduceMean(x, axis) r = Sqrt(v) y = Div(x, r)",  # no squares
        "a = Relu(x) q = Mul(x, a) v = ReduceMean(q, axis) r = Sqrt(v) y = Div(x, r)",
    ],
)
def test_other_roots_are_none(body):
    model = written(body)
    assert mark_normalizations(model) == 0
    assert marked(model) == []
