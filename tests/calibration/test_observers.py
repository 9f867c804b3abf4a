"""Streaming statistics against numpy on the whole data, and what they must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.observers import BINS, PEAKS, Sketches, ValueStats
from calibration.reduction import PICKS, reduce_array

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
BATCHES = st.lists(hnp.arrays(np.float32, st.integers(1, 60), elements=FLOATS), min_size=1, max_size=6)


def observe(*arrays: np.ndarray, axis: int = 1) -> ValueStats:
    reduced = [{"x": reduce_array(array, axis)} for array in arrays]
    sketches = Sketches.of(reduced[0])
    for entry in reduced:
        sketches.add(entry)
    return sketches.statistics()["x"]


@given(BATCHES)
def test_every_element_is_counted_in_its_bin_however_often_the_bins_grew(batches: list[np.ndarray]) -> None:
    stats = observe(*batches)
    everything = np.concatenate(batches).astype(np.float64)
    expected = np.zeros(BINS, np.int64)
    np.add.at(expected, np.floor(everything / 2.0**stats.exponent).astype(int) - stats.origin, 1)
    np.testing.assert_array_equal(stats.histogram, expected)


@given(BATCHES, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_change_the_histogram(batches: list[np.ndarray], random) -> None:
    shuffled = list(batches)
    random.shuffle(shuffled)
    one, other = observe(*batches), observe(*shuffled)
    assert (one.exponent, one.origin) == (other.exponent, other.origin)
    np.testing.assert_array_equal(one.histogram, other.histogram)


@given(BATCHES)
def test_bins_are_as_narrow_as_the_range_allows_and_zero_is_an_edge(batches: list[np.ndarray]) -> None:
    stats = observe(*batches)
    assert 0.0 in stats.edges
    assert stats.edges[0] <= min(stats.low, 0.0)
    assert stats.edges[-1] > max(stats.high, 0.0) or (stats.low == stats.high == 0.0)
    half = stats.bin_width / 2
    fits_half = math.floor(max(stats.high, 0.0) / half) - math.floor(min(stats.low, 0.0) / half) < BINS
    assert not fits_half or stats.exponent == -120


@given(BATCHES, st.sampled_from([50.0, 90.0, 99.0, 99.9, 99.99, 100.0]))
def test_percentile_is_never_narrower_than_numpy_and_wider_by_less_than_a_bin(batches: list[np.ndarray], p: float) -> None:
    stats = observe(*batches)
    ordered = np.sort(np.concatenate(batches).astype(np.float64))
    rank = int((ordered.size - 1) * ((1 - p / 100) / 2))
    low, high = stats.percentile(p)
    assert low <= ordered[rank] < low + stats.bin_width or low == ordered[rank] == stats.low
    assert high - stats.bin_width <= ordered[-1 - rank] <= high


@pytest.mark.parametrize("p", [90.0, 99.0, 99.9, 99.99])
@pytest.mark.parametrize("shape", ["normal", "heavy", "relu"])
def test_percentile_agrees_with_numpy_within_one_bin_on_many_elements(p: float, shape: str) -> None:
    random = np.random.default_rng(7)
    data = {"normal": random.normal(3, 2, 200_000), "heavy": random.standard_t(2, 200_000), "relu": random.normal(0, 1, 200_000)}[
        shape
    ]
    data = (np.maximum(data, 0) if shape == "relu" else data).astype(np.float32)
    stats = observe(*np.split(data, 50))  # pieces small enough to be counted whole
    low, high = stats.percentile(p)
    tail = (100 - p) / 2
    assert 0 <= np.percentile(data, tail, method="lower") - low <= stats.bin_width
    assert 0 <= high - np.percentile(data, 100 - tail, method="higher") <= stats.bin_width


def test_percentile_100_is_the_exact_range_and_others_are_refused() -> None:
    stats = observe(np.array([-0.3, 0.1, 7.7], np.float32))
    assert stats.percentile(100) == (float(np.float32(-0.3)), float(np.float32(7.7)))
    for p in (0.0, -1.0, 100.5):
        with pytest.raises(ValueError, match="above 0"):
            stats.percentile(p)


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 7)), elements=st.floats(-100, 100, width=32)
    ),
    st.integers(1, 4),
)
def test_moments_and_extremes_a_channel_are_those_of_all_the_data(array: np.ndarray, repeats: int) -> None:
    parts = [array * np.float32(factor) for factor in range(1, repeats + 1)]
    stats = observe(*parts)
    whole = np.concatenate(parts).astype(np.float64)
    np.testing.assert_array_equal(stats.channel_low, whole.min(axis=(0, 2)))
    np.testing.assert_array_equal(stats.channel_high, whole.max(axis=(0, 2)))
    np.testing.assert_allclose(stats.channel_mean, whole.mean(axis=(0, 2)), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose([stats.mean, stats.std], [whole.mean(), whole.std()], rtol=1e-4, atol=1e-3)
    assert (stats.low, stats.high, stats.count) == (whole.min(), whole.max(), whole.size)


def test_small_deviations_around_a_large_mean_keep_their_std() -> None:
    data = (1000 + np.random.default_rng(0).normal(0, 0.01, (1, 4, 500))).astype(np.float32)
    assert observe(data).std == pytest.approx(float(data.astype(np.float64).std()), rel=1e-4)


@pytest.mark.parametrize("magnitude", [3e38, 1e30, 1e-30, 1e-44])
def test_magnitudes_at_the_ends_of_float32_give_finite_statistics(magnitude: float) -> None:
    data = np.array([[-magnitude, magnitude, 0.0]], np.float32)
    stats = observe(data, data)
    assert stats.histogram.sum() == stats.count == 6
    assert math.isfinite(stats.std)
    assert stats.std == pytest.approx(float(data.max()) * math.sqrt(2 / 3), rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 7, 112, 112), (1, PICKS, 40), (1, 3, PICKS), (3, 70_001)])
def test_of_a_large_value_the_histogram_counts_a_choice_that_favours_no_row_column_or_channel(shape: tuple[int, ...]) -> None:
    for axis in range(1, len(shape)):
        place = np.broadcast_to(np.arange(shape[axis], dtype=np.float32).reshape([-1] + [1] * (len(shape) - axis - 1)), shape)
        stats = observe(np.ascontiguousarray(place))
        assert stats.histogram.sum() == PICKS
        middle = (stats.histogram * (stats.edges[:-1] + max(stats.bin_width - 1, 0) / 2)).sum() / PICKS
        assert middle == pytest.approx((shape[axis] - 1) / 2, rel=0.03)
        counted = np.count_nonzero(stats.histogram)
        assert counted >= min(shape[axis], BINS // 2) * 0.9


def test_an_outlier_that_the_choice_misses_still_is_an_extreme() -> None:
    data = np.zeros((1, 2, 50_000), np.float32)
    data[0, 1, 49_997] = 1000.0
    stats = observe(data)
    assert stats.high == 1000.0
    assert stats.channel_high.tolist() == [0.0, 1000.0]
    assert stats.edges[-1] > 1000.0
    assert stats.mean == 0.01


def test_a_vector_has_no_channels_and_the_channel_axis_can_be_chosen() -> None:
    assert observe(np.arange(4, dtype=np.float32)).channel_low is None
    assert observe(np.float32(3).reshape(())).low == 3.0
    image = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(observe(image, axis=3).channel_high, [20, 21, 22, 23])
    np.testing.assert_array_equal(observe(image.transpose(0, 3, 1, 2)).channel_high, [20, 21, 22, 23])


def test_another_number_of_channels_and_other_values_are_errors() -> None:
    sketches = Sketches.of({"x": reduce_array(np.ones((1, 2), np.float32))})
    with pytest.raises(ValueError, match="3 channels"):
        sketches.add({"x": reduce_array(np.ones((1, 3), np.float32))})
    with pytest.raises(ValueError, match="not in every sample"):
        sketches.add({"y": reduce_array(np.ones((1, 2), np.float32))})


def test_constants_and_silent_channels_have_ranges_of_no_width() -> None:
    stats = observe(np.zeros((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.float32))
    assert (stats.low, stats.high, stats.mean, stats.std, stats.count) == (0.0, 0.0, 0.0, 0.0, 12)
    stats = observe(np.full((1, 2, 3), -5.5, np.float32))
    assert (stats.low, stats.high, stats.mean, stats.std) == (-5.5, -5.5, -5.5, 0.0)
    assert stats.percentile(99.0) == (-5.5, -5.5)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40), st.integers(0, 40))
def test_the_samples_own_extremes_are_kept_whatever_the_order_and_the_shards(numbers: list[float], cut: int) -> None:
    found = Sketches.of({"x": reduce_array(np.zeros((1, 2), np.float32))})
    other = Sketches.of({"x": reduce_array(np.zeros((1, 2), np.float32))})
    for place, number in enumerate(numbers):
        (found if place < cut else other).add({"x": reduce_array(np.float32([[number, number - 1]]))})
    found.merge(other)
    stats = found.statistics()["x"]
    assert stats.samples == len(numbers)
    highest = np.sort(np.float32(numbers))
    np.testing.assert_array_equal(stats.highs, highest[::-1][:PEAKS])
    np.testing.assert_array_equal(stats.lows, np.sort(np.float32([[n, n - 1] for n in numbers]).min(axis=1))[:PEAKS])
