"""Rounding with error feedback on random moments: never worse than to nearest, exact where it can be, and its text form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics import ModelError
from exporter.quantization.refinement.rounding import pack_offsets, round_rows, rounding_error, unpack_offsets


def problem(seed, groups, outputs, size, vectors):
    """Weights, the moment of correlated inputs of which some are silent, and one scale a row that lets the greatest weight be 127."""
    random = np.random.default_rng(seed)
    inputs = (
        random.normal(size=(groups, size, size))
        @ random.normal(size=(groups, size, vectors))
        * random.exponential(size=(size, 1))
    )
    inputs[:, random.random(size) < 0.1] = 0
    moment = inputs @ inputs.swapaxes(1, 2) / vectors
    moment += 0.01 * np.eye(size) * max(1e-6, np.trace(moment.mean(0)) / size)
    rows = random.normal(size=(groups, outputs, size))
    return rows, moment, np.abs(rows).max(axis=-1, keepdims=True) / 127


def nearest(rows, scale, limit):
    return np.clip(np.rint(rows / scale), -limit, limit)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 9), st.integers(1, 90), st.sampled_from([7, 63, 127]))
def test_no_row_is_worse_than_rounded_to_nearest(seed, groups, outputs, size, limit):
    rows, moment, scale = problem(seed, groups, outputs, size, vectors=2 * size)
    scale = scale * 127 / limit
    integers = round_rows(rows, moment, scale, limit)
    np.testing.assert_array_equal(integers, np.rint(integers))
    assert np.abs(integers).max() <= limit
    assert (
        rounding_error(rows, integers, moment, scale) <= rounding_error(rows, nearest(rows, scale, limit), moment, scale)
    ).all()


def test_correlated_inputs_make_it_far_better_than_nearest():
    rows, moment, scale = problem(3, 2, 32, 128, vectors=256)
    integers = round_rows(rows, moment, scale * 8, 15)
    gain = rounding_error(rows, nearest(rows, scale * 8, 15), moment, scale * 8) / rounding_error(
        rows, integers, moment, scale * 8
    )
    assert np.median(gain) > 2.5


def test_uncorrelated_inputs_are_rounded_to_nearest():
    rows, _, scale = problem(4, 1, 8, 70, vectors=140)
    moment = np.diag(np.arange(1.0, 71.0))[None]
    np.testing.assert_array_equal(round_rows(rows, moment, scale, 127), nearest(rows, scale, 127))


def test_a_pair_is_rounded_as_all_combinations_say():
    """Against an exhaustive search over two weights and their four neighbours."""
    random, exact = np.random.default_rng(5), 0
    for _ in range(50):
        rows, root = random.normal(size=(1, 1, 2)) * 3, random.normal(size=(2, 2))
        moment, scale = (root @ root.T + 0.05 * np.eye(2))[None], np.ones((1, 1, 1))
        grid = np.stack(np.meshgrid(*[np.arange(-16, 17)] * 2), axis=-1).reshape(1, -1, 2)
        best = rounding_error(np.broadcast_to(rows, grid.shape), grid, moment, scale).min()
        found = rounding_error(rows, round_rows(rows, moment, scale, 127), moment, scale).item()
        assert found >= best - 1e-12
        exact += found <= best + 1e-12
    assert exact >= 40


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_the_text_form_gives_the_integers_back(seed, shape):
    random = np.random.default_rng(seed)
    integers, base = (random.integers(-127, 128, size=shape).astype(np.int8) for _ in range(2))
    text = pack_offsets(integers, base)
    np.testing.assert_array_equal(unpack_offsets(text, base), integers)
    assert unpack_offsets(text, base).dtype == np.int8
    assert not set(text) & set("\"\\'")  # stands in JSON as it is


@pytest.mark.parametrize("text", ["", "no base 85 \n", pack_offsets(np.zeros(3), np.zeros(3, np.int8)), "0" * 20])
def test_a_damaged_text_is_refused(text):
    with pytest.raises(ModelError) as error:
        unpack_offsets(text, np.zeros(4, np.int8))
    assert error.value.code == "EW-Q002"


def test_inputs_of_the_same_strength_keep_their_order():
    """Whichever of two equal sums a processor's kernels make the greater by its last bit."""
    rows, moment, scale = problem(3, 1, 8, 24, vectors=48)
    moment /= np.sqrt(np.diagonal(moment[0])[:, None] * np.diagonal(moment[0]))
    found = set()
    for seed in range(4):
        bits = 1 + np.random.default_rng(seed).integers(-2, 3, 24) * np.finfo(np.float64).eps
        found.add(round_rows(rows, moment * np.sqrt(bits[:, None] * bits), scale, 127).tobytes())
    assert len(found) == 1
