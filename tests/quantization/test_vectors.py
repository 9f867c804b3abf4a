"""Input vectors are what a convolution multiplies its weight with, wherever it looks: strides, dilations, paddings, groups, batches."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.graph.run import FloatRunner
from exporter.quantization.refinement.vectors import layer_of
from tests.quantization.planned import network


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))

    def each(least, most):
        return [draw(st.integers(least, most)) for _ in range(rank)]

    kernel, strides, dilations, before, behind = each(1, 3), each(1, 3), each(1, 2), each(0, 4), each(0, 4)
    size = [draw(st.integers(max(1, 5 - b - e), 7)) for b, e in zip(before, behind, strict=True)]
    groups, batch = draw(st.sampled_from((1, 2, 4))), draw(st.integers(1, 2))
    attributes = f"strides = {strides}, dilations = {dilations}, pads = {before + behind}, group = {groups}"
    return f"y = Conv <{attributes}> (x, w)", (batch, 4, *size), (8, 4 // groups, *kernel)


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(0, 2**32 - 1))
def test_rows_times_windows_are_the_convolution(convolution, seed):
    body, shape, weight = convolution
    model = network(
        body, inputs=f"float[{','.join(map(str, shape))}] x", outputs=f"float[{','.join('NCDHW'[: len(shape)])}] y", w=weight
    )
    layer = layer_of(next(iter(model.graph)))
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    y = FloatRunner(model)({"x": x})["y"]
    samples, sample = 1 + seed % 7, seed % (1 + seed % 7)
    positions = layer.positions(samples, 1 + seed % 40)
    vectors, positions = layer.looking(positions)(sample, x), positions[sample]
    assert vectors.shape == (layer.rows.shape[0], layer.rows.shape[2], positions.size)
    np.testing.assert_allclose(layer.rows @ vectors, layer.outputs(y, positions), rtol=0, atol=1e-4 * max(1.0, np.abs(y).max()))


def test_padding_is_zero_beside_what_is_infinite():
    """The entry next to the border stands in for what lies outside until it is made zero: by assignment, not by a product."""
    body, finite = "y = Conv <pads = [1, 1]> (x, w)", np.ones((1, 1, 3), np.float32)
    model = network(body, inputs="float[1,1,3] x", outputs="float[1,1,3] y", w=(1, 1, 3))
    finite[0, 0, 0] = np.inf
    vectors = layer_of(next(iter(model.graph))).looking(np.array([[0]]))(0, finite)
    np.testing.assert_array_equal(vectors[0, :, 0], [0.0, np.inf, 1.0])
