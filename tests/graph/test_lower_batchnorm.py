import numpy as np
from small_graphs import assert_same, graph, kinds

from exporter.graph.fold_affine import fold_affine
from exporter.graph.lower_batchnorm import lower_batchnorm


def parameters(channels):
    random = np.random.default_rng(1)
    draw = {name: random.normal(size=channels).astype(np.float32) for name in ("scale", "offset", "mean")}
    return {**draw, "var": random.uniform(0.1, 3, channels).astype(np.float32)}


NORM = "BatchNormalization<epsilon=0.001>"


def test_alone_it_is_one_multiplication_and_one_addition():
    model = graph(
        f"r = Relu(x) y = {NORM}(r, scale, offset, mean, var)",
        inputs="float[2,3,4,4] x",
        outputs="float[2,3,4,4] y",
        **parameters(3),
    )
    after = model.clone()
    assert lower_batchnorm(after) == 1
    assert kinds(after) == ["Relu", "Mul", "Add"]
    assert_same(model, after)


def test_behind_and_before_convolutions_it_vanishes():
    model = graph(
        f"a = {NORM}(x, scale, offset, mean, var) b = Conv(a, w) y = {NORM}(b, scale, offset, mean, var)",
        inputs="float[1,3,4,4] x",
        outputs="float[1,3,2,2] y",
        w=(3, 3, 3, 3),
        **parameters(3),
    )
    after = model.clone()
    lower_batchnorm(after)
    fold_affine(after)
    assert kinds(after) == ["Conv"]
    assert_same(model, after)


def test_of_a_vector_it_needs_no_trailing_axes():
    model = graph(f"y = {NORM}(x, scale, offset, mean, var)", inputs="float[2,3] x", outputs="float[2,3] y", **parameters(3))
    after = model.clone()
    assert lower_batchnorm(after) == 1
    assert_same(model, after)


def test_statistics_that_are_computed_stay():
    weights = parameters(3)
    del weights["mean"]
    model = graph(
        f"m = ReduceMean<keepdims=0>(x, axes) y = {NORM}(x, scale, offset, m, var)",
        inputs="float[1,3,4,4] x",
        outputs="float[1,3,4,4] y",
        axes=np.array([0, 2, 3]),
        **weights,
    )
    assert lower_batchnorm(model) == 0
    assert kinds(model) == ["ReduceMean", "BatchNormalization"]


def test_training_mode_stays():
    model = graph(
        "y, m, v = BatchNormalization<training_mode=1>(x, scale, offset, mean, var)",
        inputs="float[2,3,4,4] x",
        outputs="float[2,3,4,4] y",
        **parameters(3),
    )
    assert lower_batchnorm(model) == 0
