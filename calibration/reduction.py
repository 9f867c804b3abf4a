"""What one sample's array of one value comes to before it is accumulated: extremes and sums a channel, and a fixed choice of elements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

__all__ = ["PICKS", "Reduced", "picked_runs", "picks", "reduce_array"]

Array = np.ndarray[Any, Any]

PICKS: Final = 4096  # elements of an array that the histogram counts, at most
_RUN: Final = 4  # neighbours that are picked together, where they divide the array: fetching them costs what fetching one does
_GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class Reduced:
    """One array, reduced.

    Attributes:
        low, high: float32 [channels], exact extremes; one entry where there is no channel axis.
        total: float64 [channels], the sums; zeros where the array holds infinities.
        picked: float32, the elements at `picks` of the array in row-major order; none where it holds infinities.
        count: number of elements.
        per_channel: whether the array has a channel axis.
        nan: index of the first NaN, or None.
    """

    low: Array
    high: Array
    total: Array
    picked: Array
    count: int
    per_channel: bool
    nan: tuple[int, ...] | None = None


@lru_cache(maxsize=4096)
def picked_runs(size: int) -> tuple[Array, int]:
    """Which elements of `size` the histogram counts: int64 [runs], ascending, and how many neighbours a run holds; run r is the elements
    from ``r * length``. All elements, in runs of one, up to `PICKS`.

    One run of each of equal strata, at a place in it that follows the golden ratio's multiples: no period that a width or a number of
    channels could fall in with.
    """
    if size <= PICKS:
        return np.arange(size), 1
    length = math.gcd(size, _RUN)
    strata, runs = np.arange(PICKS // length, dtype=np.float64), size // length
    return np.minimum(((strata + (strata * _GOLDEN) % 1.0) * (runs / strata.size)).astype(np.int64), runs - 1), length


@lru_cache(maxsize=4096)
def picks(size: int) -> Array:
    """int64: the elements of `picked_runs`, ascending."""
    runs, length = picked_runs(size)
    return np.asarray((runs[:, None] * length + np.arange(length)).ravel())


def reduce_array(array: Array, channel_axis: int = 1) -> Reduced:
    """Reduce one array of at least one element. Channels are those of `channel_axis`, where the array has that axis and rank 2 or more."""
    per_channel = array.ndim > max(1, channel_axis)
    outer = math.prod(array.shape[:channel_axis]) if per_channel else 1
    channels = array.shape[channel_axis] if per_channel else 1
    rows = np.ascontiguousarray(array, np.float32).reshape(outer, channels, -1)
    low, high = rows.min(axis=2).min(axis=0), rows.max(axis=2).max(axis=0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        unknown = np.argwhere(np.isnan(np.atleast_1d(array)))
        nan = tuple(unknown[0].tolist()) if len(unknown) else None
        return Reduced(low, high, np.zeros(channels), np.empty(0, np.float32), array.size, per_channel, nan)
    total = rows.sum(axis=2, dtype=np.float64).sum(axis=0)
    return Reduced(low, high, total, rows.reshape(-1)[picks(array.size)], array.size, per_channel)
