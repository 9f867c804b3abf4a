"""From a range of real numbers to an encoding: the arithmetic of affine quantization. `clipping` chooses the range.

``real = scale * (integer - zero_point)`` as in Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 2.1, and the TFLite quantization specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from exporter.quantization.plan import Encoding, integer_range

__all__ = [
    "MAX_BIAS",
    "MIN_SCALE",
    "activation_encoding",
    "bias_encoding",
    "block_encoding",
    "fixed_encoding",
    "greatest_weight",
    "weight_encoding",
]

# The least scale: the product of two is still a normal float32, so no runtime's flush of denormals can make it zero.
MIN_SCALE: Final = 2.0**-60
# The greatest magnitude of a quantized bias, by its dtype: half of what accumulators hold, so that the products beside it do not wrap.
# TFLite's int16 kernels add up in int64 and requantize 48 bits of it.
MAX_BIAS: Final[Mapping[str, float]] = {"int32": 2.0**30, "int64": 2.0**46}


def activation_encoding(
    low: float, high: float, *, dtype: str = "int8", symmetric: bool = False, power_of_two: bool = False
) -> Encoding:
    """The encoding per tensor of the real range [low, high], widened to include 0, which it represents exactly.

    Every value of the range is at most scale / 2 (and a rounding of float32) from its encoded form. The scale is rounded downwards to
    float32, so that the encoding of [0, 6] never reaches above 6 and a clamp at 6 in front of it is redundant (runtimes then fuse it).
    The range [0, 0] gets scale 1 and the zero point of `dtype`'s symmetric form: any scale is exact there.

    Args:
        symmetric: zero point 0 (the middle of an unsigned type); the range becomes [-max, max] of the greater magnitude.
        power_of_two: the scale is the least power of two whose steps span the range; up to a step and a half of its ends saturates, so
            that [0, 1] has scale 1/256 and [-1, 1] scale 1/128.
    Raises:
        ValueError: the range holds NaN or infinity, or is empty.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"[{low}, {high}] is not a range")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    least, greatest = integer_range(dtype)
    middle = (least + greatest + 1) // 2
    if low == high:
        return Encoding(dtype, (1.0,), (middle,))
    span, steps = (max(-low, high), greatest - middle) if symmetric else (high - low, greatest - least)
    scale = max(float(_power_of_two(span / (steps + 1))), MIN_SCALE) if power_of_two else _scale(span, steps)
    if symmetric:
        return Encoding(dtype, (scale,), (middle,))
    zero_point = int(np.clip(np.rint(least - low / scale), least, greatest))
    return Encoding(dtype, (scale,), (zero_point,))


def weight_encoding(
    weight: np.ndarray[Any, Any],
    axis: int | None,
    *,
    dtype: str = "int8",
    reduced: bool = False,
    least_scale: float | np.ndarray[Any, Any] = 0.0,
    power_of_two: bool = False,
) -> Encoding:
    """The symmetric encoding of a constant: zero point 0, integers in [-127, 127] ([-63, 63] where `reduced`).

    A channel of zeros takes the median scale of the others: its integers are zeros in any case, and its bias, which is encoded at
    scale_in * scale, keeps a resolution like that of its neighbours.

    Args:
        axis: one scale for each index of this axis; None for one scale a tensor.
        least_scale: lower bound of the scales, one number or one a channel (see `bias_encoding`).
        power_of_two: scales are the least powers of two at which no weight saturates by more than half a step.
    """
    steps = greatest_weight(dtype, reduced=reduced)
    magnitude = np.abs(weight.astype(np.float64))
    others = tuple(a for a in range(weight.ndim) if axis is None or a != axis % weight.ndim)
    peak = np.atleast_1d(magnitude.max(axis=others, initial=0.0))
    scale = peak / (steps + 0.5 if power_of_two else steps)
    scale[peak == 0.0] = np.median(scale[peak > 0.0]) if (peak > 0.0).any() else 1.0 / steps
    scale = np.maximum(scale, np.maximum(least_scale, MIN_SCALE))
    scale = (_power_of_two(scale) if power_of_two else scale).astype(np.float32)
    # A scale rounded downwards would put the peak at 127.00001 steps, which still rounds to 127: nearest is right here.
    return Encoding(dtype, tuple(scale.tolist()), (0,) * scale.size, None if axis is None else axis % weight.ndim)


def greatest_weight(dtype: str, *, reduced: bool = False) -> int:
    """The greatest integer of a weight: 127 for int8, 63 where the range is reduced; products of 4 bits cannot saturate."""
    return integer_range(dtype)[1] // (2 if reduced and dtype == "int8" else 1)


def block_encoding(weight: np.ndarray[Any, Any], axis: int, block: int) -> Encoding | None:
    """The symmetric int4 encoding of a matrix with a scale for each `block` elements of a channel, integers in [-7, 7].

    Scales are float16 values, as TFLite's FULLY_CONNECTED reads them. None where the matrix has no such blocks, or values whose
    scales float16 does not hold.

    Args:
        axis: the channels' axis; the other one is cut into blocks.
    """
    if weight.ndim != 2 or weight.shape[1 - axis] % block:
        return None
    rows = np.abs(weight if axis == 0 else weight.T).reshape(-1, block)
    least = float(np.finfo(np.float16).smallest_normal)
    scale = np.maximum(rows.max(axis=1) / integer_range("int4")[1], least)
    if scale.max(initial=0.0) > float(np.finfo(np.float16).max):
        return None
    return Encoding("int4", tuple(scale.astype(np.float16).astype(np.float32).tolist()), (0,), axis, block)


def fixed_encoding(scale: float, zero_point: int, dtype: str, *, symmetric: bool = True) -> Encoding:
    """What a kernel fixes for its int8 output, in `dtype` ("int8" or "int16").

    Of int16, the same greatest magnitude at zero point 0 where `symmetric`, else the same range in steps of a 256th.
    """
    if dtype == "int16" and not symmetric:
        return Encoding("int16", (float(np.float32(scale / 256)),), (256 * zero_point,))
    if dtype == "int16":
        magnitude = max(128 + zero_point, 128 - zero_point) * scale
        return Encoding("int16", (float(np.float32(magnitude / 32768)),), (0,))
    return Encoding("int8", (float(np.float32(scale)),), (zero_point,))


def bias_encoding(inputs: Encoding, weights: Encoding, axis: int, dtype: str = "") -> Encoding:
    """Integers at scale_in * scale_w, zero point 0, along `axis` of the bias where the weights are encoded per channel.

    Of `dtype`; where that is not given, int64 beside int16 inputs, else int32.
    """
    scale = np.asarray(weights.scale, np.float32) * np.float32(inputs.scale[0])
    dtype = dtype or ("int64" if inputs.dtype == "int16" else "int32")
    return Encoding(dtype, tuple(scale.tolist()), (0,) * scale.size, None if weights.axis is None else axis)


def _power_of_two(numbers: float | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The least powers of two that are not below positive numbers."""
    fractions, exponents = np.frexp(numbers)
    return np.asarray(np.ldexp(1.0, np.where(fractions == 0.5, exponents - 1, exponents)))


def _scale(span: float, steps: int) -> float:
    """span / steps as a float32 not above it, held in a Python float."""
    scale = np.float32(max(span / steps, MIN_SCALE))
    if np.float32(scale * np.float32(steps)) > np.float32(span) and float(scale) > MIN_SCALE:
        scale = np.nextafter(scale, np.float32(0))
    return float(scale)
