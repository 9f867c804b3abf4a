"""At which encodings tflite-micro's kernels and LiteRT's reference kernels give the same integers, of operators where that depends on them.

Two things differ. Factors between scales: LiteRT computes them in single precision, tflite-micro in double. Tables of 8 bits: LiteRT fills
them in single precision, in which a value close to a tie may become one; tflite-micro computes in fixed point, exact to 2**-26 or so.
Sources: `kernels/mul.cc`, `kernels/activations.cc` and `kernels/internal/common.h` (LUTPopulate) of LiteRT beside `mul_common.cc`,
`leaky_relu_common.cc`, `prelu_common.cc`, `activations_common.cc`, `logistic_common.cc` and `tanh.cc` of tflite-micro's `micro/kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from exporter.ops.fixed_point import hyperbolic_tangent, logistic, multiply, quantize_multiplier, shift_right_rounding
from exporter.ops.reference import INTEGER_LIMITS, Affine

__all__ = ["fixed_point_table", "same_products", "same_scaling", "same_table"]

Array = np.ndarray[Any, Any]

_INPUT_BITS: Final = 4  # integer bits of what the fixed-point functions read
# Units in the last place of single precision within which any libm and three more roundings compute: of exp within one, of tanh two.
_SLACK: Final = 4 * 2.0**-23
# Name of a fixed-point function -> itself, the real one, and the bits of its output behind the point.
_FUNCTIONS: Final[dict[str, tuple[Callable[[Any, int], Any], Callable[[Array], Array], int]]] = {
    "logistic": (logistic, lambda x: 1 / (1 + np.exp(-x)), 8),
    "tanh": (hyperbolic_tangent, np.tanh, 7),
}


def fixed_point_table(function: str, x: Affine) -> Array:
    """What tflite-micro's int8 LOGISTIC ("logistic") or TANH ("tanh") gives for the integers from -128 to 127.

    Source: `kernels/internal/reference/integer_ops/logistic.h` and `tanh.h`.

    Raises ValueError where the scale is below 2**-28, at which the kernels shift by negative amounts.
    """
    compute, _, bits = _FUNCTIONS[function]
    multiplier, shift = quantize_multiplier(float(np.float32(x.scale[0])) * 2.0 ** (31 - _INPUT_BITS))
    if shift < 0:
        raise ValueError(f"the scale {x.scale[0]} is too small for fixed point")
    centred = _integers(x)
    radius = int((2**_INPUT_BITS - 1) * 2.0 ** (31 - _INPUT_BITS) / 2.0**shift)
    inside = np.abs(centred) < radius
    found = compute(multiply(np.where(inside, centred, 0), multiplier, shift), _INPUT_BITS)
    return np.where(inside, _stored(shift_right_rounding(found, 31 - bits), bits), np.where(centred > 0, 127, -128))


def same_table(function: str, x: Affine) -> bool:
    """Whether both kernels of "logistic" or "tanh" give the nearest integers to the real ones for whatever they read, on any libm.

    Tables of 8 bits alone; the kernels of 16 bits are the same.
    """
    if x.dtype != "int8":
        return True
    _, real, bits = _FUNCTIONS[function]
    try:
        fixed = fixed_point_table(function, x)
    except ValueError:
        return False
    with np.errstate(over="ignore"):
        exact = 2.0**bits * real(float(np.float32(x.scale[0])) * _integers(x))
    near = [_stored(np.floor(exact * (1 + slack) + 0.5), bits) for slack in (-_SLACK, _SLACK)]
    return all(np.array_equal(fixed, each) for each in near)


def same_scaling(x: Affine, to: Affine, *factors: float) -> bool:
    """Whether both kernels bring every integer of `x`, times each of the factors (float32 values), to the same one of `to`."""
    return all(_same(_integers(x), (x.scale[0], factor), to) for factor in factors)


def same_products(left: Affine, right: Affine, to: Affine) -> bool:
    """Whether both kernels bring the product of any two integers to the same one of `to`.

    Of 16 bits, whose products are too many to go through, only where the factors as kernels hold them are equal.
    """
    scales = left.scale[0], right.scale[0]
    if left.dtype != "int8" or right.dtype != "int8":
        return len(set(_multipliers(scales, to))) == 1
    return _same(np.multiply.outer(_integers(left), _integers(right)).ravel(), scales, to)


def _same(integers: Array, scales: tuple[float, float], to: Affine) -> bool:
    first, second = _multipliers(scales, to)
    if first == second:
        return True
    low, high = INTEGER_LIMITS[to.dtype]
    found, wanted = (np.clip(multiply(integers, *each) + to.zero_point[0], low, high) for each in (first, second))
    return bool(np.array_equal(found, wanted))


def _multipliers(scales: tuple[float, float], to: Affine) -> tuple[tuple[int, int], tuple[int, int]]:
    """The product of two scales in parts of the output's as LiteRT's kernels hold it, and as tflite-micro's do."""
    first, second = scales
    single = np.float32(first) * np.float32(second) / np.float32(to.scale[0])
    return quantize_multiplier(float(single)), quantize_multiplier(first * second / to.scale[0])


def _integers(x: Affine) -> Array:
    """All integers of an encoding, centred."""
    low, high = INTEGER_LIMITS[x.dtype]
    return np.arange(low, high + 1, dtype=np.int64) - x.zero_point[0]


def _stored(scaled: Any, bits: int) -> Array:
    """Numbers of `bits` bits behind the point in the encoding that the kernel fixes: [0, 1) at zero point -128, or [-1, 1) at 0."""
    return np.asarray(np.clip(scaled - (128 if bits == 8 else 0), -128, 127)).astype(np.int64)
