"""Samples of an image at computed places: what GridSample and DeformConv are made of.

Places are floats, in elements; the indices of the elements around them are computed in float32, exact up to 2**24 elements an axis, and gathered
from the image as a table of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from math import prod

import numpy as np
import onnx_ir as ir

from exporter.graph.values import static_shape
from exporter.ops.tape import Tape

__all__ = ["CUBIC_A", "reflected", "sampled"]

CUBIC_A = -0.75  # of the cubic convolution kernel, as the GridSample specification fixes it


def reflected(x: ir.Value, size: int, align_corners: bool, to: Tape) -> ir.Value:
    """Places folded back into an axis at its ends: at the centres of the outermost elements where corners are aligned, else at their edges."""
    low, span = (0.0, float(size - 1)) if align_corners else (-0.5, float(size))
    if span == 0:
        return to.op("Mul", x, 0.0)
    shifted = to.op("Sub", x, low)
    rounds = to.op("Floor", to.op("Mul", shifted, 1 / (2 * span)))
    inside = to.op("Sub", shifted, to.op("Mul", rounds, 2 * span))  # in [0, 2 * span)
    return to.op("Sub", span + low, to.op("Abs", to.op("Sub", inside, span)))


def sampled(
    x: ir.Value,
    places: Sequence[ir.Value],
    to: Tape,
    *,
    mode: str,
    padding: str,
    align_corners: bool = False,
) -> ir.Value:
    """Pixels [P, C] of an image [N, C, spatial...] at `places`, one [P, 1] a spatial axis, P = N * places a sample.

    Modes nearest (places are whole already), linear and cubic. Taps outside of the image: "zeros", "border" (the nearest element) or
    "reflection".
    """
    batch, channels, *sizes = static_shape(x)
    count = static_shape(places[0])[0]
    taps, weights = [], []
    for place, size in zip(places, sizes, strict=True):
        tap, weight = _TAPS[mode](place, to)
        if padding == "zeros":
            inside = to.op("Mul", _unit(to.op("Add", tap, 1.0), to), _unit(to.op("Sub", float(size), tap), to))
            weight = inside if weight is None else to.op("Mul", weight, inside)
        elif padding == "reflection":
            tap = to.op("Floor", to.op("Add", reflected(tap, size, align_corners, to), 0.5))  # whole, but for rounding
        taps.append(to.op("Clip", tap, 0.0, float(size - 1)))
        weights.append(weight)
    image = np.repeat(np.arange(batch, dtype=np.int32) * prod(sizes), count // batch).reshape(-1, 1)
    steps = [
        to.op("Mul", to.op("Cast", tap, to=int(ir.DataType.INT32)), np.asarray([prod(sizes[axis + 1 :])], np.int32))
        for axis, tap in enumerate(taps)
    ]
    index = reduce(lambda left, right: _outer("Add", left, right, to), steps)
    index = index if batch == 1 else to.op("Add", index, image)
    table = to.reshape(to.transpose(x, (0, *range(2, len(sizes) + 2), 1)), (batch * prod(sizes), channels))
    pixels = to.op("Gather", table, index, axis=0)  # [P, taps, C]
    known = [weight for weight in weights if weight is not None]
    if not known:
        return to.reshape(pixels, (count, channels))
    shares = reduce(lambda left, right: _outer("Mul", left, right, to), known)
    shares = to.reshape(shares, (count, static_shape(shares)[1], 1))
    return to.reduce("ReduceSum", to.op("Mul", pixels, shares), [1], keep=False)


def _unit(x: ir.Value, to: Tape) -> ir.Value:
    return to.op("Clip", x, 0.0, 1.0)


def _outer(op_type: str, left: ir.Value, right: ir.Value, to: Tape) -> ir.Value:
    """Every entry of `left` [P, a] with every one of `right` [P, b]: [P, a * b]."""
    rows, before = static_shape(left)
    behind = static_shape(right)[1]
    if before == 1 or behind == 1:
        return to.op(op_type, left, right)
    apart = to.reshape(left, (rows, before, 1))
    return to.reshape(to.op(op_type, apart, to.reshape(right, (rows, 1, behind))), (rows, before * behind))


def _nearest(place: ir.Value, to: Tape) -> tuple[ir.Value, ir.Value | None]:
    return place, None


def _linear(place: ir.Value, to: Tape) -> tuple[ir.Value, ir.Value | None]:
    low = to.op("Floor", place)
    taps = to.op("Add", low, np.asarray([[0.0, 1.0]]))
    return taps, to.op("Sub", 1.0, to.op("Abs", to.op("Sub", place, taps)))


def _cubic(place: ir.Value, to: Tape) -> tuple[ir.Value, ir.Value | None]:
    """Cubic convolution (Keys 1981): two taps within one element of the place, two within two."""
    low, a = to.op("Floor", place), CUBIC_A
    near, far = (to.op("Add", low, np.asarray([steps])) for steps in ([0.0, 1.0], [-1.0, 2.0]))
    x, z = (to.op("Abs", to.op("Sub", place, taps)) for taps in (near, far))
    close = _horner(x, (1.0, 0.0, -(a + 3), a + 2), to)
    apart = _horner(z, (-4 * a, 8 * a, -5 * a, a), to)
    return to.op("Concat", near, far, axis=1), to.op("Concat", close, apart, axis=1)


def _horner(x: ir.Value, coefficients: tuple[float, ...], to: Tape) -> ir.Value:
    """``coefficients[0] + coefficients[1] * x + ...``"""
    value = to.op("Mul", x, coefficients[-1])
    for coefficient in reversed(coefficients[1:-1]):
        value = to.op("Mul", to.op("Add", value, coefficient) if coefficient else value, x)
    return to.op("Add", value, coefficients[0])


_TAPS: dict[str, Callable[[ir.Value, Tape], tuple[ir.Value, ir.Value | None]]] = {
    "nearest": _nearest,
    "linear": _linear,
    "cubic": _cubic,
}
