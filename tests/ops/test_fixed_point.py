"""The primitives against exact rational arithmetic."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ops.fixed_point import (
    divide_rounding,
    exp_on_negative,
    high_multiply,
    log_of_at_least_one,
    multiply,
    quantize_multiplier,
    quotient,
    reciprocal,
    rescale,
    round_away,
    shift_right_rounding,
)

INT32 = st.integers(-(2**31), 2**31 - 1)
POSITIVE = st.floats(1e-8, 1e6)


def nearest_away(x: Fraction) -> int:
    """The nearest integer, ties away from zero."""
    return floor(abs(x) + Fraction(1, 2)) * (1 if x >= 0 else -1)


@given(POSITIVE)
def test_a_multiplier_holds_31_bits_of_the_number(real):
    multiplier, shift = quantize_multiplier(real)
    assert 2**30 <= multiplier < 2**31
    assert abs(multiplier * 2.0 ** (shift - 31) / real - 1) <= 2.0**-31


def test_multipliers_of_zero_and_of_nearly_a_power_of_two():
    assert quantize_multiplier(0.0) == (0, 0)
    assert quantize_multiplier(2.0**-40) == (0, 0)
    assert quantize_multiplier(1 - 2.0**-40) == (2**30, 1)


@given(INT32, INT32)
def test_the_high_half_of_a_product(a, b):
    if a == b == -(2**31):
        assert high_multiply(a, b) == 2**31 - 1
    else:
        # Ties go up for positive products and towards zero for negative ones: (x + 1 - 2**30) / 2**31 is truncated.
        product = a * b
        nudged = product + (2**30 if product >= 0 else 1 - 2**30)
        assert high_multiply(a, b) == (nudged // 2**31 if nudged >= 0 else -(-nudged // 2**31))


@given(INT32, st.integers(0, 31))
def test_a_rounding_shift_is_a_quotient_to_nearest(x, exponent):
    assert shift_right_rounding(np.int64(x), exponent) == nearest_away(Fraction(x, 2**exponent))


@given(st.integers(-(2**20), 2**20), POSITIVE.filter(lambda real: real < 1000))
def test_multiplying_twice_rounded_is_within_one_of_the_product(x, real):
    assert abs(int(multiply(x, *quantize_multiplier(real))) - x * real) <= 1


@given(st.lists(st.integers(-1000, 1000), min_size=1), st.integers(1, 50))
def test_quotients_are_those_of_c(numbers, divisor):
    array = np.asarray(numbers)
    assert quotient(array, divisor).tolist() == [int(Fraction(x, divisor)) for x in numbers]
    halves_away = [nearest_away(Fraction(x, divisor)) for x in numbers]
    assert divide_rounding(array, divisor).tolist() == halves_away if divisor % 2 == 0 else True


@pytest.mark.parametrize(("x", "wanted"), [(0.5, 1), (-0.5, -1), (2.5, 3), (0.49999997, 0), (-1.2, -1), (8388609.0, 8388609)])
def test_rounding_goes_away_from_zero(x, wanted):
    found = round_away(np.float32(x))
    assert found == wanted
    assert found.dtype == np.float32


@given(st.floats(-31.0, 0.0))
def test_the_exponential_is_within_the_bound_that_gemmlowp_tests(x):
    raw = int(x * 2**26)
    assert abs(exp_on_negative(raw, 5) / 2**31 - np.exp(raw / 2**26)) < 3e-7


@given(st.floats(1.0, 4000.0))
def test_reciprocal_and_logarithm_of_a_sum(x):
    raw = int(x * 2**19)
    inverse, bits = reciprocal(raw, 12)
    assert abs(inverse * 2.0**-31 * 2.0**-bits / (2**19 / raw) - 1) < 1e-7
    assert abs(log_of_at_least_one(raw, 12, 5) / 2**26 - np.log(raw / 2**19)) < 1e-6


def test_rescaling_saturates():
    assert rescale(np.array([2**30, -(2**30) - 1, 5]), 5, 2).tolist() == [2**31 - 1, -(2**31), 40]
    assert rescale(np.array([6, -6, 5]), 0, 2).tolist() == [2, -2, 1]
