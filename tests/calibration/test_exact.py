"""Exact sums against rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calibration.exact import ExactSums

TERMS = st.lists(st.floats(-1e70, 1e70).filter(lambda x: x == 0 or abs(x) > 1e-75), min_size=1, max_size=30)


def sums(terms: list[float]) -> ExactSums:
    total = ExactSums(1)
    for term in terms:
        total.add(np.array([term]))
    return total


@given(TERMS)
def test_a_sum_is_the_exact_one_rounded_once(terms: list[float]) -> None:
    exact = sum(map(Fraction, terms), Fraction())
    found = Fraction(float(sums(terms).values()[0]))
    assert abs(found - exact) <= abs(exact) / 2**51 + Fraction(len(terms), 2**320)


@given(TERMS, st.integers(0, 30), st.randoms(use_true_random=False))
def test_neither_order_nor_grouping_shows(terms: list[float], cut: int, random) -> None:
    shuffled = list(terms)
    random.shuffle(shuffled)
    one, other = sums(shuffled[:cut]), sums(shuffled[cut:])
    one.merge(other)
    np.testing.assert_array_equal(one.digits(), sums(terms).digits())


@given(TERMS)
def test_digits_read_back_and_what_is_taken_away_leaves_nothing(terms: list[float]) -> None:
    total = ExactSums(1, sums(terms).digits())
    np.testing.assert_array_equal(total.digits(), sums(terms).digits())
    total.merge(sums([-term for term in terms]))
    assert not total.digits().any()
