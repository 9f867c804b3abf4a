"""Fixed-point arithmetic of TFLite's integer kernels, bit for bit, on numpy arrays of int64 that hold int32 values.

Raw numbers stand for reals as in gemmlowp: ``Qm.n`` has m integer bits, so that a raw int32 is ``raw * 2**(m - 31)``.

Sources: gemmlowp `fixedpoint/fixedpoint.h`; LiteRT `kernels/internal/common.cc`, `common.h` and `quantization_util.cc`
(built with double rounding, as LiteRT ships it).
"""

from __future__ import annotations

from math import frexp
from typing import Any, Final

import numpy as np

__all__ = [
    "divide_rounding",
    "exp_on_negative",
    "high_multiply",
    "high_multiply_int16",
    "hyperbolic_tangent",
    "log_of_at_least_one",
    "logistic",
    "multiply",
    "multiply_long",
    "quantize_multiplier",
    "quotient",
    "reciprocal",
    "rescale",
    "round_away",
    "shift_right_rounding",
]

Array = np.ndarray[Any, Any]

_INT32_MIN: Final = -(2**31)
_INT32_MAX: Final = 2**31 - 1


def round_away(x: Any) -> Any:
    """Nearest integers in the floating dtype of `x`, ties away from zero (C's `round`)."""
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.copysign(1, x), whole).astype(np.asarray(x).dtype)


def quotient(x: Any, divisor: Any) -> Any:
    """Integer quotient truncated towards zero, as C divides; the divisor is positive."""
    return np.where(x >= 0, x // divisor, -(-x // divisor))


def divide_rounding(x: Any, divisor: Any) -> Any:
    """Integer quotient to nearest, ties away from zero; the divisor is positive."""
    return quotient(np.where(x > 0, x + divisor // 2, x - divisor // 2), divisor)


def quantize_multiplier(real: float) -> tuple[int, int]:
    """(multiplier, shift) with ``real = multiplier * 2**(shift - 31)``, the multiplier in [2**30, 2**31); (0, 0) below 2**-32."""
    if real == 0.0:
        return 0, 0
    mantissa, shift = frexp(real)
    multiplier = int(round_away(np.float64(mantissa * 2**31)))
    if abs(multiplier) == 2**31:
        multiplier, shift = multiplier // 2, shift + 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def high_multiply(a: Any, b: Any) -> Any:
    """Rounded high half of twice the product of int32 numbers, saturated (gemmlowp SaturatingRoundingDoublingHighMul)."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    return np.minimum(quotient(nudged, 1 << 31), _INT32_MAX)


def high_multiply_int16(a: Any, b: Any) -> Any:
    """`high_multiply` of int16 numbers."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    nudged = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return np.minimum(quotient(nudged, 1 << 15), 2**15 - 1)


def shift_right_rounding(x: Any, exponent: Any) -> Any:
    """``x / 2**exponent`` to nearest, ties away from zero (gemmlowp RoundingDivideByPOT)."""
    mask = (np.int64(1) << np.asarray(exponent, np.int64)) - 1
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + ((x & mask) > threshold)


def multiply(x: Any, multiplier: Any, shift: Any) -> Any:
    """``x * multiplier * 2**(shift - 31)`` of int32 numbers, rounded twice (MultiplyByQuantizedMultiplier)."""
    left, right = np.maximum(shift, 0), np.maximum(np.negative(shift), 0)
    return shift_right_rounding(high_multiply(_wrapped(np.asarray(x, np.int64) << left), multiplier), right)


def multiply_long(x: Any, multiplier: Any, shift: Any) -> Any:
    """`multiply` for accumulators of 48 bits: a multiplier of 16 bits, rounded once, ties up."""
    reduced = np.where(np.less(multiplier, 0x7FFF0000), (np.asarray(multiplier, np.int64) + (1 << 15)) >> 16, 0x7FFF)
    total = 15 - np.asarray(shift, np.int64)
    return (np.asarray(x, np.int64) * reduced + (np.int64(1) << (total - 1))) >> total


def rescale(x: Any, source_bits: int, target_bits: int) -> Any:
    """A number of `source_bits` integer bits with `target_bits`, saturated."""
    return _times_power_of_two(x, source_bits - target_bits)


def exp_on_negative(x: Any, integer_bits: int) -> Any:
    """exp of numbers <= 0 with `integer_bits` integer bits, as Q0.31."""
    fractional = 31 - integer_bits
    quarter = 1 << (fractional - 2)
    x = np.asarray(x, np.int64)
    within = (x & (quarter - 1)) - quarter
    result = _exp_in_last_quarter(rescale(within, integer_bits, 0))
    remainder = within - x
    for exponent, factor in enumerate((1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242), start=-2):
        if integer_bits > exponent:
            result = np.where(remainder & (1 << (fractional + exponent)), high_multiply(result, factor), result)
    return np.where(x == 0, _INT32_MAX, result)


def logistic(x: Any, integer_bits: int) -> Any:
    """1 / (1 + exp(-x)) of numbers with `integer_bits` integer bits, as Q0.31."""
    above = _one_over_one_plus(exp_on_negative(-np.abs(x), integer_bits))
    return np.where(np.equal(x, 0), 1 << 30, np.where(np.greater(x, 0), above, _INT32_MAX - above))


def hyperbolic_tangent(x: Any, integer_bits: int) -> Any:
    """tanh of numbers with `integer_bits` integer bits, as Q0.31: (1 - e) / (1 + e) with e = exp(-2 |x|)."""
    exponential = exp_on_negative(-np.abs(x), integer_bits + 1)  # the same raw number is twice the real one with a bit more
    found = rescale(_over_half_of_one_plus(exponential) - (1 << 29), 2, 0)
    return np.where(np.equal(x, 0), 0, np.where(np.greater(x, 0), found, -found))


def reciprocal(x: Any, integer_bits: int) -> tuple[Any, Any]:
    """(Q0.31 number r, bits b) with ``1 / x = r * 2**-b`` for positive numbers of `integer_bits` integer bits (GetReciprocal)."""
    headroom = _leading_zeros(x)
    return _one_over_one_plus((np.asarray(x, np.int64) << headroom) - (1 << 31)), integer_bits - headroom


def log_of_at_least_one(x: Any, integer_bits: int, result_bits: int) -> Any:
    """Natural logarithm of numbers >= 1 with `integer_bits` integer bits, as numbers with `result_bits`."""
    log_2, sqrt_half, fourth_root_half = 1488522236, 1518500250, 1805811301
    alpha_n, alpha_d, alpha_i, alpha_f = 117049297, 127690142, 1057819769, 638450708
    wide = result_bits + 1  # a bit of headroom for the sum at the end
    quarter = rescale(np.int64(536870912), 0, wide)

    above = _leading_zeros(x)
    scaled_a = _times_power_of_two(high_multiply(_times_power_of_two(x, above - 1), sqrt_half), 1)
    power_a = _saturated(_times_power_of_two(integer_bits - above, 31 - wide) + quarter)
    headroom_b = _leading_zeros(high_multiply(x, sqrt_half)) - 1
    scaled_b = _times_power_of_two(x, headroom_b)
    power_b = _saturated(_times_power_of_two(integer_bits - headroom_b, 31 - wide) - quarter)

    r, power = np.minimum(scaled_a, scaled_b), np.maximum(power_a, power_b)
    p = _half_sum(r, fourth_root_half)
    q = _wrapped(2 * (r - fourth_root_half))
    square = high_multiply(q, q)
    numerator = _wrapped(high_multiply(q, r) + high_multiply(high_multiply(q, square), alpha_n))
    inner = _wrapped(alpha_i + q + high_multiply(alpha_d, square))
    inverse = _one_over_one_plus(_wrapped(high_multiply(p, inner) + high_multiply(alpha_f, q)))
    total = _wrapped(high_multiply(power, log_2) + high_multiply(rescale(numerator, 0, wide), inverse))
    return rescale(total, wide, result_bits)


def _exp_in_last_quarter(x: Any) -> Any:
    """exp of Q0.31 numbers in [-1/4, 0): a Taylor series around -1/8."""
    at_centre, third = 1895147668, 715827883
    d = x + (1 << 28)
    d2 = high_multiply(d, d)
    d3, d4 = high_multiply(d2, d), high_multiply(d2, d2)
    series = shift_right_rounding(high_multiply(shift_right_rounding(d4, 2) + d3, third) + d2, 1)
    return at_centre + high_multiply(at_centre, d + series)


def _one_over_one_plus(x: Any) -> Any:
    """1 / (1 + x) of Q0.31 numbers in [0, 1)."""
    return rescale(_over_half_of_one_plus(x), 1, 0)  # half of a Q2.29 number is the same raw number in Q1.30


def _over_half_of_one_plus(x: Any) -> Any:
    """2 / (1 + x) of Q0.31 numbers in [0, 1), in Q2.29: Newton and Raphson's division."""
    half = _half_sum(x, _INT32_MAX)
    found = _wrapped(1515870810 + high_multiply(half, -1010580540))
    for _ in range(3):
        error = (1 << 29) - high_multiply(half, found)
        found = _wrapped(found + rescale(high_multiply(found, error), 4, 2))
    return found


def _half_sum(a: Any, b: Any) -> Any:
    total = np.asarray(a, np.int64) + b
    return quotient(total + np.where(total >= 0, 1, -1), 2)


def _times_power_of_two(x: Any, exponent: Any) -> Any:
    """``x * 2**exponent``, saturated to int32; rounded where the exponent is negative (SaturatingRoundingMultiplyByPOT)."""
    exponent = np.asarray(exponent, np.int64)
    up, down = np.maximum(exponent, 0), np.maximum(-exponent, 0)
    x = np.asarray(x, np.int64)
    return np.where(exponent >= 0, _saturated(x << up), shift_right_rounding(x, down))


def _leading_zeros(x: Any) -> Any:
    """Zeros in front of the first bit of uint32 numbers."""
    _, exponent = np.frexp(np.asarray(x, np.float64))  # exact below 2**53
    return 32 - exponent.astype(np.int64)


def _saturated(x: Any) -> Any:
    return np.clip(x, _INT32_MIN, _INT32_MAX)


def _wrapped(x: Any) -> Any:
    return np.asarray(x, np.int64).astype(np.int32).astype(np.int64)
