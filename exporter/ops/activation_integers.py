"""Integer arithmetic of activation functions whose kernels are neither a plain rescaling nor a plain table."""

from __future__ import annotations

from math import erfc, pi, sqrt
from typing import Any, Final

import numpy as np

from exporter.ops.fixed_point import (
    exp_on_negative,
    high_multiply,
    high_multiply_int16,
    log_of_at_least_one,
    multiply,
    quantize_multiplier,
    quotient,
    reciprocal,
    rescale,
    shift_right_rounding,
)
from exporter.ops.reference import Affine, Stored, clamped_bounds

__all__ = [
    "clamp_integers",
    "elu",
    "gelu",
    "gelu_by_tanh",
    "hard_swish_integers",
    "log_softmax_integers",
    "logistic",
    "requantizes",
    "softmax_integers",
]

Array = np.ndarray[Any, Any]

_DIFFERENCE_BITS: Final = 5  # integer bits of x minus its maximum in the softmax kernels
_SUM_BITS: Final = 12  # of a sum of exponentials


def clamp_integers(x: Stored, to: Affine, low: float, high: float) -> Array:
    """x between two real bounds. Source: QuantizedReluX in LiteRT `kernels/activations.cc`, whose factor is of single precision.

    Where the encoding itself clamps, or there are two bounds, the writer requantizes. Source: `kernels/quantize.cc`, in double precision.
    """
    bounds, scale = clamped_bounds(low, high, to), np.float32(to.scale[0])
    factor = float(x.scale) / float(scale) if requantizes(low, high, to) else float(x.scale / scale)
    return np.asarray(np.clip(multiply(x.centred, *quantize_multiplier(factor)) + to.zero_point[0], *bounds))


def requantizes(low: float, high: float, to: Affine) -> bool:
    """Whether a clamp to these bounds is written as a requantization, with a clamp behind it where the encoding does not clamp by itself."""
    return bool(np.isfinite(high)) or clamped_bounds(low, high, to) == clamped_bounds(-np.inf, np.inf, to)


def logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)) in float32."""
    with np.errstate(over="ignore"):
        return np.asarray(np.float32(1) / (np.float32(1) + np.exp(-x)), np.float32)


def elu(x: Array) -> Array:
    """x where x >= 0, else exp(x) - 1, in float32."""
    return np.where(x < 0, np.expm1(np.minimum(x, np.float32(0))), x)


def gelu(x: Array) -> Array:
    """x times the normal distribution function, in float32. Source: LiteRT `kernels/internal/reference/gelu.h`."""
    tails = np.asarray([erfc(float(number)) for number in x * np.float32(-sqrt(1 / 2))], np.float32)
    return np.float32(0.5) * x * tails


def gelu_by_tanh(x: Array) -> Array:
    """GELU by tanh, in float32 but for a factor in double precision. Source: LiteRT `kernels/internal/reference/gelu.h`."""
    inner = sqrt(2 / pi) * (x + np.float32(0.044715) * x * x * x).astype(np.float64)
    return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)), np.float32)


def hard_swish_integers(x: Stored, to: Affine) -> Array:
    """x * clip(x / 6 + 1 / 2, 0, 1) in 16 bits.

    Source: LiteRT `kernels/internal/reference/hard_swish.h`, and HardSwishPrepare in `kernels/activations.cc`.
    """
    fine = np.float32(1 / 128) * x.scale
    factor, exponent = _short_multiplier(fine / np.float32(to.scale[0]))
    slope_factor, slope_exponent = _short_multiplier(fine / np.float32(3 / 32768))
    raised = x.centred << 7
    slope = high_multiply_int16(_int16(raised << max(slope_exponent - 1, 0)), slope_factor)
    slope = _int16(slope << 1) if slope_exponent > 0 else shift_right_rounding(slope, -slope_exponent)
    product = quotient(((slope + (1 << 15)) >> 1) * high_multiply_int16(raised, factor), 1 << 15)
    return np.asarray(np.clip(shift_right_rounding(product, -exponent) + to.zero_point[0], -128, 127))


def softmax_integers(x: Stored, axis: int) -> Array:
    """Softmax along `axis` at scale 1/256 and zero point -128.

    Source: LiteRT `kernels/internal/reference/softmax.h`, and SoftmaxPrepare in `kernels/activations.cc`.
    """
    exponentials, _, _ = _exponentials(x, axis)
    inverse, bits = reciprocal(_sum(exponentials, axis), _SUM_BITS)
    found = shift_right_rounding(high_multiply(inverse, exponentials), bits + 31 - 8)
    return np.asarray(np.clip(found - 128, -128, 127))


def log_softmax_integers(x: Stored, axis: int) -> Array:
    """The logarithm of Softmax along `axis` at scale 1/16 and zero point 127.

    Source: LiteRT `kernels/internal/reference/integer_ops/log_softmax.h`, and PreprocessLogSoftmaxScalingExp in
    `kernels/internal/quantization_util.cc`.
    """
    exponentials, differences, (multiplier, shift, least) = _exponentials(x, axis)
    logarithm = log_of_at_least_one(_sum(exponentials, axis), _SUM_BITS, _DIFFERENCE_BITS)
    inverse, inverse_shift = quantize_multiplier((1 << (31 - shift)) / multiplier)
    reach = multiply(logarithm - (1 << 31), inverse, inverse_shift)
    found = shift_right_rounding(multiply(differences, multiplier, shift) - logarithm, 31 - _DIFFERENCE_BITS - 4) + 127
    return np.where(differences > np.maximum(least - 1, reach), np.clip(found, -128, 127), -128)


def _exponentials(x: Stored, axis: int) -> tuple[Array, Array, tuple[int, int, int]]:
    """exp(x - max) as Q0.31, zero far below the maximum; x - max in integers; (multiplier, shift, least difference that counts)."""
    differences = x.array.astype(np.int64)
    differences = differences - differences.max(axis=axis, keepdims=True)
    factor = min(float(x.scale) * 2.0 ** (31 - _DIFFERENCE_BITS), 2.0**31 - 1)
    multiplier, shift = quantize_multiplier(factor)
    least = -int((2**_DIFFERENCE_BITS - 1) * 2.0 ** (31 - _DIFFERENCE_BITS) / 2.0**shift)
    counted = differences >= least
    scaled = multiply(np.where(counted, differences, 0), multiplier, shift)
    return np.where(counted, exp_on_negative(scaled, _DIFFERENCE_BITS), 0), differences, (multiplier, shift, least)


def _sum(exponentials: Array, axis: int) -> Array:
    return np.asarray(rescale(exponentials, 0, _SUM_BITS).sum(axis=axis, keepdims=True))


def _short_multiplier(real: np.float32) -> tuple[int, int]:
    """A multiplier of 16 bits and its exponent (DownScaleInt32ToInt16Multiplier)."""
    multiplier, exponent = quantize_multiplier(float(real))
    return min((multiplier + (1 << 15)) >> 16, 2**15 - 1), exponent


def _int16(x: Array) -> Array:
    return np.clip(x, -(2**15), 2**15 - 1)
