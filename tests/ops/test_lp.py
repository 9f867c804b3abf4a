import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_bench import assert_legalized, assert_torch_computes_it, builtins, lowered, node_of, sample, single, torch_outputs

from exporter.ops.base import operator_of

FORMS = {
    "1-norm": single("LpNormalization", (2, 3, 4), axis=1, p=1),
    "2-norm": single("LpNormalization", (2, 3, 4)),
    "pool": single("LpPool", (1, 2, 8, 9), kernel_shape=(3, 2), pads=(1, 0, 1, 1), strides=(2, 1)),
    "pool of absolute values": single("LpPool", (1, 2, 8, 9), kernel_shape=(3, 2), p=1),
    "pool of cubes": single("LpPool", (1, 2, 8, 9), kernel_shape=(3, 2), p=3, auto_pad="SAME_LOWER"),
    "pool of a signal": single("LpPool", (1, 2, 9), kernel_shape=(3,), strides=(2,)),
    "pool of a volume": single("LpPool", (1, 2, 5, 6, 7), kernel_shape=(2, 3, 2), pads=(1, 0, 1, 0, 1, 0)),
    "dilated pool": single("LpPool", (1, 2, 8, 9), kernel_shape=(3, 2), dilations=(2, 3)),
    "global pool": single("GlobalLpPool", (2, 3, 4, 5)),
    "global pool of cubes": single("GlobalLpPool", (2, 3, 4), p=3),
    "neighbours": single("LRN", (2, 7, 4, 5), size=3, alpha=0.5),
    "more neighbours than channels": single("LRN", (2, 3, 4, 5), size=7, alpha=0.5, beta=0.5, bias=2.0),
}


@pytest.mark.parametrize("name", FORMS)
def test_it_is_made_of_powers_sums_and_roots(name):
    model = FORMS[name]
    assert_torch_computes_it(model, atol=1e-5)
    assert node_of(model).op_type not in assert_legalized(model, atol=1e-5)
    assert assert_legalized(model, "onnx") == [node_of(model).op_type]
    assert max(lowered(model).errors.values()) < 1e-5


def test_zeros_stay_zeros():
    model = single("LpNormalization", (2, 3))
    assert lowered(model, feed={"x0": np.zeros((2, 3), np.float32)}).errors == {"y0": 0}


def test_powers_stay_in_float_beside_integers():
    found = lowered(FORMS["pool"], "int8")
    assert ("QUANTIZE", 1) not in found.operators
    assert found.errors["y0"] < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_any_neighbourhood(channels, size):
    """Against the definition: onnxruntime has odd sizes of images alone."""
    model = single("LRN", (1, channels, 2), size=size, alpha=0.7, beta=0.5, bias=2.0)
    x = sample(model)["x0"].astype(np.float64)
    wanted = np.empty_like(x)
    for c in range(channels):
        near = x[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1]
        wanted[:, c] = x[:, c] / np.sqrt(2 + 0.7 / size * (near**2).sum(axis=1))
    np.testing.assert_allclose(torch_outputs(model, sample(model))[0], wanted, rtol=1e-6, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2), st.booleans())
def test_any_window(size, kernel, stride, before, after, ceil):
    assume(max(before, after) < kernel)
    model = single("LpPool", (1, 1, size), kernel_shape=[kernel], strides=[stride], pads=[before, after], ceil_mode=int(ceil))
    (count,) = list(model.graph.outputs[0].shape)[2:]
    assume(kernel <= size + before + after and (count - 1) * stride - before < size)
    assert_legalized(model, atol=1e-5)


def test_channels_of_pools_are_cut_together_and_neighbours_stay():
    pool, neighbours = node_of(FORMS["pool"]), node_of(FORMS["neighbours"])
    assert [run.axis for run in operator_of(pool).couple(pool).ties[0]] == [1, 1]
    assert {run.axis for run in operator_of(neighbours).couple(neighbours).blocked} == {1}
    assert builtins(lowered(FORMS["neighbours"]))[0][0] == "MUL"
