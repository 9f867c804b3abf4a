"""Which sums stay in float because all around them is."""

from small_graphs import graph

from exporter.graph.float_sums import mark_float_sums
from exporter.graph.values import FLOAT

SHAPES = {"inputs": "float[1,4,8] x", "outputs": "float[1,4,8] y"}
NORM = "LayerNormalization<axis=-1>"
WEIGHTS = {"g": (8,), "w": (8, 8)}


def marked(body, **weights):
    model = graph(body, **SHAPES, **weights)
    mark_float_sums(model)
    return [node.outputs[0].name for node in model.graph if FLOAT in node.metadata_props]


def test_a_residual_between_normalizations():
    assert marked(f"l = {NORM}(x, g) m = MatMul(l, w) s = Add(l, m) y = {NORM}(s, g)", **WEIGHTS) == ["s"]


def test_a_constant_added_in_front_of_a_normalization():
    assert marked(f"m = MatMul(x, w) s = Add(m, g) t = Add(s, g) y = {NORM}(t, g)", **WEIGHTS) == ["s", "t"]


def test_a_sum_of_what_integers_write_runs_in_integers():
    assert marked(f"l = Relu(x) m = MatMul(l, w) s = Add(l, m) y = {NORM}(s, g)", **WEIGHTS) == []


def test_a_sum_that_integers_read_runs_in_integers():
    assert (
        marked(f"l = {NORM}(x, g) m = MatMul(l, w) s = Add(l, m) t = MatMul(s, w) u = {NORM}(s, g) y = Add(t, u)", **WEIGHTS)
        == []
    )


def test_an_output_of_the_model_is_as_the_target_says():
    assert marked(f"l = {NORM}(x, g) m = MatMul(l, w) y = Add(l, m)", **WEIGHTS) == []
