"""Streaming observers: what a value's elements were over all samples, in memory that does not grow with them.

The histogram has bins of width 2**exponent whose edges are whole multiples of that width. So zero is always an edge, and doubling the
width merges bins 2j and 2j+1 into bin j: mass is moved, never interpolated. Scaling a float32 by a power of two and taking its floor
is exact, therefore a histogram depends on the set of values that were seen and not on their order. (Exact while the product does not
underflow: a negative element nearer to zero than 2**-126 of a bin's width may be counted right of zero.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

__all__ = ["BINS", "Histogram", "Observer", "ValueStats"]

BINS: Final = 2048
_BLOCK: Final = 16384  # elements a step: its float32 and int64 scratch stay in the second-level cache
_SQUARES_FIT: Final = (1e-12, 1e12)  # magnitudes whose squares, a block of them summed, neither overflow nor vanish in float32
_EXPONENT_MIN: Final = -120  # 2**120 is still a float32, so is its product with any value that this width can hold


class Histogram:
    """Counts of float32 elements in `BINS` bins of a width that doubles as the range grows. Memory is constant.

    Attributes:
        counts: int64 [BINS]; bin i holds the elements of ``[(origin + i) * 2**exponent, (origin + i + 1) * 2**exponent)``.
        exponent: width of a bin as a power of two; the least that lets the range, zero included, fit into the bins.
        origin: whole number, <= 0.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.exponent = _EXPONENT_MIN
        self.origin = 0

    def add(self, elements: np.ndarray[Any, Any], low: float, high: float) -> None:
        """Count `elements` (float32, one-dimensional, contiguous), all of which lie in [`low`, `high`]. Both must be finite."""
        self._grow(min(low, 0.0), max(high, 0.0))
        scaled = np.empty(min(_BLOCK, elements.size), np.float32)
        index = np.empty(scaled.size, np.intp)
        factor = np.float32(math.ldexp(1.0, -self.exponent))
        for start in range(0, elements.size, _BLOCK):
            block = elements[start : start + _BLOCK]
            part, bins = scaled[: block.size], index[: block.size]
            np.multiply(block, factor, out=part)
            np.floor(part, out=part)
            np.copyto(bins, part, casting="unsafe")
            np.subtract(bins, self.origin, out=bins)
            self.counts += np.bincount(bins, minlength=BINS)

    def _grow(self, low: float, high: float) -> None:
        """Widen the bins by doublings, and move the origin, until [low, high] and all that was counted fit."""
        occupied = np.flatnonzero(self.counts)
        exponent = self.exponent
        while True:
            first, last = _bin_of(low, exponent), _bin_of(high, exponent)
            if occupied.size:
                shift = exponent - self.exponent
                first = min(first, (self.origin + int(occupied[0])) >> shift)
                last = max(last, (self.origin + int(occupied[-1])) >> shift)
            if last - first < BINS:
                break
            exponent += 1
        if exponent == self.exponent and first == self.origin:
            return
        counts = np.zeros(BINS, np.int64)
        moved = ((occupied + self.origin) >> (exponent - self.exponent)) - first
        np.add.at(counts, moved, self.counts[occupied])
        self.counts, self.exponent, self.origin = counts, exponent, first


def _bin_of(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


@dataclass(frozen=True, eq=False)
class ValueStats:
    """What the elements of one value were over all samples.

    Attributes:
        count: number of elements seen.
        low, high: exact extremes.
        channel_low, channel_high, channel_mean, channel_std: float64 [channels] along the channel axis; None for values of rank < 2.
        histogram: int64 [BINS].
        exponent, origin: the bins, see `Histogram`.
        mean, std: of all elements (std divides by the count).
    """

    count: int
    low: float
    high: float
    mean: float
    std: float
    channel_low: np.ndarray[Any, Any] | None
    channel_high: np.ndarray[Any, Any] | None
    channel_mean: np.ndarray[Any, Any] | None
    channel_std: np.ndarray[Any, Any] | None
    histogram: np.ndarray[Any, Any]
    exponent: int
    origin: int

    @property
    def bin_width(self) -> float:
        """Width of a bin of the histogram, a power of two, in the value's own unit."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> np.ndarray[Any, Any]:
        """float64 [BINS + 1]: the borders of the bins; 0.0 is one of them."""
        return np.asarray((self.origin + np.arange(BINS + 1, dtype=np.float64)) * self.bin_width)

    def percentile(self, p: float) -> tuple[float, float]:
        """The central `p` per cent of the elements, 0 < p <= 100, as (low, high).

        The order statistics of rank floor((count - 1) * tail) from either end, tail = (1 - p / 100) / 2, widened outwards to the edge
        of their bin and never beyond the exact extremes: never narrower than the truth, and wider by less than one bin.
        """
        if not 0.0 < p <= 100.0:
            raise ValueError(f"p must be above 0 and at most 100, not {p}")
        rank = int((self.count - 1) * ((1.0 - p / 100.0) / 2.0))
        below = int(np.searchsorted(np.cumsum(self.histogram), rank, side="right"))
        above = BINS - 1 - int(np.searchsorted(np.cumsum(self.histogram[::-1]), rank, side="right"))
        low = max(self.low, (self.origin + below) * self.bin_width)
        high = min(self.high, (self.origin + above + 1) * self.bin_width)
        return low, high


class Observer:
    """Streaming statistics of one value: extremes and moments a channel, and a histogram of all elements.

    Moments are merged pairwise (Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979),
    in float64 from float32 sums of at most one block: nothing of the value's size is held in float64.
    """

    def __init__(self) -> None:
        self._histogram = Histogram()
        self._per_channel = False
        self._count = 0  # elements of one channel
        self._low = self._high = self._mean = self._square = np.empty(0)

    def add(self, array: np.ndarray[Any, Any], channel_axis: int = 1) -> bool:
        """Take in one sample's value. Returns False, changing nothing, where it holds NaN or infinity.

        Raises ValueError where the number of channels is not that of the samples before. Empty arrays are passed over.
        """
        if array.size == 0:
            return True
        per_channel = array.ndim > max(1, channel_axis)
        rows = _rows(array, channel_axis) if per_channel else np.ascontiguousarray(array, np.float32).reshape(1, 1, -1)
        low, high = rows.min(axis=2).min(axis=0), rows.max(axis=2).max(axis=0)
        lowest, highest = float(low.min()), float(high.max())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            return False
        if self._count == 0:
            self._per_channel = per_channel
            self._low, self._high = np.full(low.size, np.inf), np.full(low.size, -np.inf)
            self._mean, self._square = np.zeros(low.size), np.zeros(low.size)
        elif low.size != self._low.size:
            raise ValueError(f"{low.size} channels where the samples before had {self._low.size}")
        np.minimum(self._low, low, out=self._low)
        np.maximum(self._high, high, out=self._high)
        widest = max(abs(lowest), abs(highest))
        precision = np.float32 if _SQUARES_FIT[0] < widest < _SQUARES_FIT[1] else np.float64
        for image in rows:
            self._add_moments(image, precision)
        self._histogram.add(rows.reshape(-1), lowest, highest)
        return True

    def _add_moments(self, image: np.ndarray[Any, Any], precision: type[np.floating[Any]]) -> None:
        """Merge mean and sum of squared deviations of `image` (float32 [channels, elements]), block by block in `precision`."""
        channels, length = image.shape
        width = min(length, _BLOCK)
        height = max(1, _BLOCK // width)
        for left in range(0, length, width):
            part = image[:, left : left + width]
            added, total = part.shape[1], self._count + part.shape[1]
            for top in range(0, channels, height):
                at = slice(top, top + height)
                block = part[at].astype(precision, copy=False)
                mean = block.sum(axis=1) / precision(added)
                centred = block - mean[:, None]
                # The deviations' own mean is what rounding left of the block's: put back, so that the float32 sum costs no accuracy.
                rest = centred.sum(axis=1) / precision(added)
                squares = np.einsum("ij,ij->i", centred, centred).astype(np.float64) - added * np.square(rest, dtype=np.float64)
                delta = mean.astype(np.float64) + rest - self._mean[at]
                self._mean[at] += delta * (added / total)
                self._square[at] += np.maximum(squares, 0.0) + delta**2 * (self._count * added / total)
            self._count = total

    def result(self) -> ValueStats:
        """The statistics so far. Raises ValueError where no element was seen."""
        if self._count == 0:
            raise ValueError("no element was seen")
        mean = float(self._mean.mean())
        variance = float((self._square / self._count + (self._mean - mean) ** 2).mean())
        channel = (self._low, self._high, self._mean, np.sqrt(self._square / self._count))
        low, high, means, stds = (entry.copy() for entry in channel) if self._per_channel else (None,) * 4
        return ValueStats(
            count=self._count * self._low.size,
            low=float(self._low.min()),
            high=float(self._high.max()),
            mean=mean,
            std=math.sqrt(variance),
            channel_low=low,
            channel_high=high,
            channel_mean=means,
            channel_std=stds,
            histogram=self._histogram.counts.copy(),
            exponent=self._histogram.exponent,
            origin=self._histogram.origin,
        )


def _rows(array: np.ndarray[Any, Any], channel_axis: int) -> np.ndarray[Any, Any]:
    """`array` as contiguous float32 [outer, channels, inner]: a view where it is one already."""
    outer = math.prod(array.shape[:channel_axis])
    return np.ascontiguousarray(array, np.float32).reshape(outer, array.shape[channel_axis], -1)
