"""Ranges from statistics: what each method keeps, and that the error it goes by is the error there is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.observers import Sketches
from calibration.reduction import PICKS, picks, reduce_array
from exporter.quantization.clipping import choose_range, expected_error
from exporter.quantization.ranges import activation_encoding

METHODS = ("minmax", "headroom", "percentile", "entropy", "mse")


def observed(array):
    """The statistics of an array, every element counted."""
    flat = np.asarray(array, np.float32).ravel()
    pieces = [{"x": reduce_array(flat[at : at + PICKS])} for at in range(0, flat.size, PICKS)]
    sketches = Sketches.of(pieces[0])
    for piece in pieces:
        sketches.add(piece)
    return sketches.statistics()["x"]


@pytest.fixture(scope="module")
def outlier():
    """A normal distribution with one value 100 standard deviations away."""
    return observed(np.append(np.random.default_rng(3).normal(size=100_000), 100.0).reshape(1, -1))


def test_minmax_keeps_what_was_seen_and_percentile_cuts_the_outlier(outlier):
    assert choose_range(outlier, "minmax") == (outlier.low, outlier.high)
    low, high = choose_range(outlier, "percentile")
    assert -5 < low < -3
    assert 3 < high < 5


def found_error(stats_array, encoding):
    return float(np.square(encoding.dequantize(encoding.quantize(stats_array)) - stats_array).mean())


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_has_less_error_than_all_of_the_range_or_a_blind_cut(symmetric):
    array = np.random.default_rng(5).laplace(size=200_000).astype(np.float32)
    stats = observed(array.reshape(1, -1))
    errors = {
        method: found_error(array, activation_encoding(*choose_range(stats, method, symmetric=symmetric), symmetric=symmetric))
        for method in METHODS
    }
    assert errors["mse"] < errors["minmax"]
    assert errors["mse"] <= 1.02 * min(errors.values())


def test_mse_leaves_a_clamped_activation_whole():
    array = np.clip(np.random.default_rng(6).normal(3, 4, size=50_000), 0, 6).astype(np.float32)
    assert choose_range(observed(array.reshape(1, -1)), "mse") == (0.0, 6.0)


@given(
    st.integers(0, 2**32 - 1), st.sampled_from(["normal", "laplace", "relu", "uniform"]), st.floats(0.2, 1.0), st.floats(0.2, 1.0)
)
def test_the_expected_error_is_that_of_the_elements(seed, kind, left, right):
    random = np.random.default_rng(seed)
    array = {"relu": lambda: np.maximum(random.normal(size=8000), 0)}.get(kind, lambda: getattr(random, kind)(size=8000))()
    array = array.astype(np.float32)
    stats = observed(array)
    low, high = min(stats.low, 0.0) * left, stats.high * right
    (expected,) = expected_error(stats, np.array([low]), np.array([high]))
    assert expected == pytest.approx(found_error(array, activation_encoding(low, high)), rel=0.12)


@pytest.mark.parametrize("method", METHODS)
@given(data=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), symmetric=st.booleans())
def test_a_range_never_reaches_beyond_what_was_seen_or_zero_and_always_encodes(method, data, symmetric):
    stats = observed(np.array(data))
    low, high = choose_range(stats, method, symmetric=symmetric)
    widest = max(abs(stats.low), abs(stats.high))
    assert (-widest if symmetric else min(stats.low, 0.0)) <= low <= high <= (widest if symmetric else max(stats.high, 0.0))
    assert activation_encoding(low, high, symmetric=symmetric).scale[0] > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [0.0, 3.25, -1e-30, 1e30])
def test_a_constant_keeps_its_range(method, constant):
    assert choose_range(observed(np.full(10, constant)), method) == (np.float32(constant), np.float32(constant))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_one_sided_range_stays_one_sided(method, sign):
    low, high = choose_range(observed(sign * np.random.default_rng(2).gamma(2.0, size=30_000)), method)
    assert min(sign * low, sign * high) >= 0.0 or method == "percentile"
    assert abs(high - low) > 2.0


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_a_lone_outlier_is_cut_and_an_even_distribution_is_not(method, outlier):
    low, high = choose_range(outlier, method)
    assert high < (
        100.0 if method == "mse" else 25.0
    )  # one in 100,000, a hundred deviations away, still weighs in a squared error
    even = observed(np.random.default_rng(1).uniform(-1, 1, size=100_000))
    low, high = choose_range(even, method)
    assert low < -0.97
    assert high > 0.97


def test_extremes_that_the_histogram_missed_are_counted():
    """50,000 elements in one piece, of which the histogram counts 4,096: none of the ten far ones."""
    array = np.random.default_rng(4).normal(size=(1, 10, 5000)).astype(np.float32)
    missed = np.setdiff1d(np.arange(50_000), picks(50_000)).reshape(-1)
    array.reshape(-1)[[missed[missed // 5000 == channel][0] for channel in range(10)]] = 1000.0
    sketches = Sketches.of(reduced := {"x": reduce_array(array)})
    sketches.add(reduced)
    stats = sketches.statistics()["x"]
    (clipped,) = expected_error(stats, np.array([-5.0]), np.array([5.0]))
    assert clipped == pytest.approx(10 * 995.0**2 / 50_000, rel=0.01)


def draws(seed, count, size):
    """So many samples of a long-tailed value: each of a scale of its own."""
    random = np.random.default_rng(seed)
    return [(random.exponential() * random.normal(size=(1, size))).astype(np.float32) for _ in range(count)]


def test_headroom_lowers_the_error_on_samples_that_did_not_set_the_range():
    errors = {"minmax": 0.0, "headroom": 0.0}
    for seed in range(20):
        stats, unseen = together(draws(seed, 64, 10)), np.concatenate(draws(100 + seed, 200, 10))
        for method in errors:
            errors[method] += found_error(unseen, activation_encoding(*choose_range(stats, method)))
    assert errors["headroom"] < errors["minmax"] / 2


def test_headroom_is_none_where_the_wider_step_would_cost_more_or_nothing_is_ever_exceeded():
    many = together(draws(0, 16, 1 << 17))
    assert choose_range(many, "headroom") == (many.low, many.high)
    bounded = together([np.clip(array, -1, 1) for array in [4 * item for item in draws(1, 16, 100)]])
    assert choose_range(bounded, "headroom") == (bounded.low, bounded.high)
    one = together(draws(2, 1, 10))
    assert choose_range(one, "headroom") == (one.low, one.high)


def together(arrays):
    """The statistics of samples."""
    sketches = Sketches.of({"x": reduce_array(arrays[0])})
    for array in arrays:
        sketches.add({"x": reduce_array(array)})
    return sketches.statistics()["x"]
