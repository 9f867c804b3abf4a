"""Each metric against its formula on numbers that can be checked by hand, and its limits: equality, zeros, NaN, infinity."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diagnostics import RuntimeFailure
from exporter.verification.metrics import Accumulator, Metrics, class_rows, cosine, decibels, json_number, top_k_hits


def measured(*pairs: tuple[list, list]) -> Metrics:
    accumulator = Accumulator("y")
    for reference, candidate in pairs:
        accumulator.update(np.array(reference, np.float32), np.array(candidate, np.float32))
    return accumulator.result()


def test_the_four_numeric_metrics_by_hand() -> None:
    metrics = measured(([3, 4], [3, 5]), ([0, 5], [0, 5]))
    # sum r^2 = 9 + 16 + 25 = 50, sum e^2 = 1
    assert metrics.sqnr_db == pytest.approx(10 * math.log10(50), abs=1e-12)
    assert metrics.cosine == pytest.approx(((9 + 20) / (5 * math.sqrt(34)) + 1) / 2, abs=1e-12)
    assert (metrics.max_abs, metrics.mean_abs, metrics.elements) == (1.0, 0.25, 4)
    assert metrics.top1_agreement is None


def test_sqnr_accumulates_over_samples_instead_of_averaging_decibels() -> None:
    loud, quiet = ([100.0], [101.0]), ([0.01], [0.02])
    assert measured(loud, quiet).sqnr_db == pytest.approx(10 * math.log10(10000.0001 / 1.0001), abs=1e-4)


def test_equal_outputs_are_infinitely_good_and_still_json() -> None:
    metrics = measured(([1, -2], [1, -2]))
    assert metrics.sqnr_db == math.inf
    assert metrics.cosine == pytest.approx(1, abs=1e-15)
    text = json.dumps(metrics.to_dict(), allow_nan=False)
    assert json.loads(text)["sqnr_db"] == "inf"
    assert float(json.loads(text)["sqnr_db"]) == math.inf


@pytest.mark.parametrize(
    ("signal", "error", "expected"),
    [(1, 0, math.inf), (0, 0, math.inf), (0, 1, -math.inf), (1, math.inf, -math.inf), (100, 1, 20), (1e-300, 1e-302, 20)],
)
def test_decibels_at_the_limits(signal: float, error: float, expected: float) -> None:
    assert decibels(signal, error) == pytest.approx(expected)


def test_decibels_of_nan_are_nan() -> None:
    assert math.isnan(decibels(math.nan, 1))
    assert math.isnan(decibels(1, math.nan))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_spoils_every_numeric_metric(bad: float) -> None:
    metrics = measured(([1, 2], [1, 2]), ([1, 2], [1, bad]), ([1, 2], [1, 2]))
    assert not metrics.sqnr_db > 0
    assert not metrics.max_abs < 1e30
    assert not metrics.mean_abs < 1e30
    assert not metrics.cosine > 0.9


def test_infinities_that_both_sides_share_are_equal() -> None:
    metrics = measured(([-np.inf, 3], [-np.inf, 3]))
    assert (metrics.sqnr_db, metrics.max_abs) == (math.inf, 0)
    metrics = measured(([-np.inf, 10], [-np.inf, 11]))
    assert metrics.sqnr_db == pytest.approx(20)
    assert metrics.cosine == pytest.approx(1)


def test_cosine_of_zeros() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert (cosine(zero, zero), cosine(zero, one), cosine(one, -one)) == (1.0, 0.0, pytest.approx(-1.0))


@given(
    hnp.arrays(np.float32, (2, 3), elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.float32, (2, 3), elements=st.floats(-1e6, 1e6, width=32)),
)
def test_streaming_equals_one_pass_over_all(reference: np.ndarray, candidate: np.ndarray) -> None:
    parts = measured(*zip(reference, candidate, strict=True))
    r, e = reference.astype(np.float64), candidate.astype(np.float64) - reference
    assert parts.max_abs == np.abs(e).max()
    assert parts.mean_abs == pytest.approx(np.abs(e).mean(), rel=1e-12)
    assert parts.sqnr_db == pytest.approx(decibels((r**2).sum(), (e**2).sum()), rel=1e-9, abs=1e-9)
    assert -1 <= parts.cosine <= 1


@given(hnp.arrays(np.float32, 8, elements=st.floats(-100, 100, width=32)), st.floats(0.1, 10))
def test_cosine_does_not_see_a_positive_scale_and_sqnr_does(array: np.ndarray, factor: float) -> None:
    scaled = array.astype(np.float64) * factor
    if np.abs(array).max() > 1e-3:
        assert cosine(array.astype(np.float64), scaled) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((1, 10), 1), ((4, 2), 4), ((1, 7, 1, 1), 1), ((1, 1), None), ((10,), None), ((1, 10, 2), None), ((1, 3, 8, 8), None)],
)
def test_what_is_a_class_vector(shape: tuple[int, ...], rows: int | None) -> None:
    found = class_rows(np.zeros(shape))
    assert (None if found is None else len(found)) == rows


def test_top1_and_top5_agreement() -> None:
    reference = np.eye(10)[None, 3]
    fourth = np.where(np.arange(10) < 3, 2.0, 0.0)[None] + reference  # classes 0 to 2 are ahead of class 3
    last = -reference
    metrics = measured((reference, reference), (reference, fourth), (reference, last))
    assert metrics.top1_agreement == pytest.approx(1 / 3)
    assert metrics.top5_agreement == pytest.approx(2 / 3)


def test_top5_needs_ten_classes() -> None:
    metrics = measured(([[0, 1, 2]], [[0, 1, 2]]))
    assert metrics.top1_agreement == 1.0
    assert metrics.top5_agreement is None


def test_ties_go_to_the_lower_class_as_argmax_does() -> None:
    assert top_k_hits(np.array([[0.0, 1.0]]), np.array([[5.0, 5.0]]), 1) == 0
    assert top_k_hits(np.array([[1.0, 0.0]]), np.array([[5.0, 5.0]]), 1) == 1
    assert top_k_hits(np.array([[1.0, 0.0]]), np.array([[np.nan, np.nan]]), 1) == 0


@given(hnp.arrays(np.int8, (3, 12)), hnp.arrays(np.int8, (3, 12)))
def test_top1_hits_are_equal_argmaxes_and_top_k_grows_with_k(reference: np.ndarray, candidate: np.ndarray) -> None:
    r, c = reference.astype(float), candidate.astype(float)
    hits = [top_k_hits(r, c, k) for k in range(1, 13)]
    assert hits[0] == (r.argmax(1) == c.argmax(1)).sum()
    assert hits == sorted(hits)
    assert hits[-1] == 3


def test_shapes_that_differ_are_an_error_that_names_the_output() -> None:
    with pytest.raises(RuntimeFailure, match=r"EW-R005.*output y has shape \(3,\)"):
        measured(([1, 2], [1, 2, 3]))


@given(st.floats())
def test_json_numbers_read_back(value: float) -> None:
    text = json.dumps(json_number(value), allow_nan=False)
    back = float(json.loads(text))
    assert back == value or (math.isnan(back) and math.isnan(value))
