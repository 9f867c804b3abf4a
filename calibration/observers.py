"""Streaming sketches: what the elements of values were over all samples, in memory that does not grow with them.

The histogram has bins of width 2**exponent whose edges are whole multiples of that width. So zero is always an edge, and doubling the
width merges bins 2j and 2j+1 into bin j: mass is moved, never interpolated. Scaling a float32 by a power of two and taking its floor
is exact, therefore a histogram depends on the set of values that were seen and not on their order. (Exact while the product does not
underflow: a negative element nearer to zero than 2**-126 of a bin's width may be counted right of zero.) Sums are exact
(`calibration.exact`). So the sketches of a set of samples are the same bits in whatever order, pieces or processes they were seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from calibration.exact import ExactSums
from calibration.reduction import Reduced

__all__ = ["BINS", "PEAKS", "Sketches", "ValueStats"]

Array = np.ndarray[Any, Any]

BINS: Final = 2048
PEAKS: Final = 17  # of the samples' own extremes that are kept of each value: what its tails are judged by
_EXPONENT_MIN: Final = -120  # 2**120 is still a float32, so is its product with any value that this width can hold


@dataclass(frozen=True, eq=False)
class ValueStats:
    """What the elements of one value were over all samples.

    Attributes:
        count: number of elements seen.
        low, high: exact extremes; infinite where the value held infinities, and then all that follows is zero.
        mean: of all elements. std: of those that the histogram counts.
        channel_low, channel_high, channel_mean: float64 [channels] along the channel axis; None for values of rank < 2.
        histogram: int64 [BINS], of the elements at `reduction.picks` of each sample: all of them in small values. Bin i holds
            those in ``[(origin + i) * 2**exponent, (origin + i + 1) * 2**exponent)``.
        exponent: width of a bin as a power of two; the least that lets the range, zero included, fit into the bins.
        origin: whole number, <= 0.
        samples: how many the value was seen in.
        lows, highs: float64 [min(samples, PEAKS)], the least of the samples' minima, ascending, and the greatest of their maxima, descending.
    """

    count: int
    low: float
    high: float
    mean: float
    std: float
    channel_low: Array | None
    channel_high: Array | None
    channel_mean: Array | None
    histogram: Array
    exponent: int
    origin: int
    samples: int
    lows: Array
    highs: Array

    @property
    def bin_width(self) -> float:
        """Width of a bin of the histogram, a power of two, in the value's own unit."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> Array:
        """float64 [BINS + 1]: the borders of the bins; 0.0 is one of them."""
        return np.asarray((self.origin + np.arange(BINS + 1, dtype=np.float64)) * self.bin_width)

    def percentile(self, p: float) -> tuple[float, float]:
        """The central `p` per cent of the elements that the histogram counts, 0 < p <= 100, as (low, high).

        The order statistics of rank floor((count - 1) * tail) from either end, tail = (1 - p / 100) / 2, widened outwards to the edge
        of their bin and never beyond the exact extremes: never narrower than the truth, and wider by less than one bin.
        """
        if not 0.0 < p <= 100.0:
            raise ValueError(f"p must be above 0 and at most 100, not {p}")
        if p == 100.0:
            return self.low, self.high
        rank = int((int(self.histogram.sum()) - 1) * ((1.0 - p / 100.0) / 2.0))
        below = int(np.searchsorted(np.cumsum(self.histogram), rank, side="right"))
        above = BINS - 1 - int(np.searchsorted(np.cumsum(self.histogram[::-1]), rank, side="right"))
        low = max(self.low, (self.origin + below) * self.bin_width)
        high = min(self.high, (self.origin + above + 1) * self.bin_width)
        return low, high


class Sketches:
    """The sketches of a fixed set of values, all of them in flat columns so that one sample costs a few operations in all.

    Attributes:
        names: the values, sorted.
        widths: int64 [values], channels of each; 0 for values without a channel axis (they take one entry in the columns).
    """

    def __init__(self, names: Sequence[str], widths: Sequence[int]) -> None:
        self.names = tuple(names)
        self.widths = np.asarray(widths, np.int64)
        self._entries = np.maximum(self.widths, 1)
        self._starts = np.concatenate([[0], np.cumsum(self._entries)])
        size, values = int(self._starts[-1]), len(self.names)
        self._low, self._high = np.full(size, np.inf, np.float32), np.full(size, -np.inf, np.float32)
        self._totals, self._moments = ExactSums(size), ExactSums(2 * values)
        self._count, self._infinite = np.zeros(values, np.int64), np.zeros(values, bool)
        self._counts = np.zeros((values, BINS), np.int64)
        self._samples = np.zeros((), np.int64)
        self._peaks = np.full((2, PEAKS, values), -np.inf, np.float32)  # of the negative values, then of the values, ascending
        self._exponent, self._origin = np.full(values, _EXPONENT_MIN, np.int64), np.zeros(values, np.int64)

    @classmethod
    def of(cls, sample: Mapping[str, Reduced]) -> Sketches:
        """Empty sketches for the values of a sample."""
        names = sorted(sample)
        return cls(names, [sample[name].low.size if sample[name].per_channel else 0 for name in names])

    def add(self, sample: Mapping[str, Reduced]) -> None:
        """Take in one sample. Raises ValueError, changing nothing, where its values or their channels are not those of the sketches."""
        if not self.names:
            return
        if tuple(sorted(sample)) != self.names:
            raise ValueError(f"{sorted(set(sample) ^ set(self.names))[:3]} were not in every sample")
        given = [sample[name] for name in self.names]
        for name, entry, width in zip(self.names, given, self.widths, strict=True):
            if (entry.low.size if entry.per_channel else 0) != width:
                raise ValueError(f"{name!r}: {entry.low.size} channels where the samples before had {width}")
        low, high = np.concatenate([entry.low for entry in given]), np.concatenate([entry.high for entry in given])
        np.minimum(self._low, low, out=self._low)
        np.maximum(self._high, high, out=self._high)
        ends = np.maximum.reduceat(np.stack([-low, high]), self._starts[:-1], axis=1)
        self._see(ends[:, None].astype(np.float32))
        self._samples += 1
        self._count += [entry.count for entry in given]
        self._totals.add(np.concatenate([entry.total for entry in given]))
        self._fit()
        lengths = np.array([0 if off else entry.picked.size for entry, off in zip(given, self._infinite, strict=True)])
        picked = np.concatenate([entry.picked[:length] for entry, length in zip(given, lengths, strict=True)])
        filled = np.flatnonzero(lengths)
        if not filled.size:
            return
        self._tally(picked, lengths)
        starts = (np.cumsum(lengths) - lengths)[filled]
        moments = np.zeros((2, len(self.names)))
        moments[0, filled] = np.add.reduceat(picked, starts, dtype=np.float64)
        moments[1, filled] = np.add.reduceat(np.square(picked, dtype=np.float64), starts)
        self._moments.add(moments.ravel())

    def widen(self, name: str, low: Array, high: Array) -> None:
        """Let the extremes of a value reach to these as well, [channels]. Raises ValueError where there is no such value."""
        value = self.names.index(name)
        at = slice(int(self._starts[value]), int(self._starts[value + 1]))
        self._low[at] = np.minimum(self._low[at], low)
        self._high[at] = np.maximum(self._high[at], high)
        self._fit()

    def merge(self, other: Sketches) -> None:
        """Take in the sketches of other samples: the result is that of all samples in one. Raises ValueError for other values."""
        if other.names != self.names or not np.array_equal(other.widths, self.widths):
            raise ValueError("they are of other values")
        np.minimum(self._low, other._low, out=self._low)
        np.maximum(self._high, other._high, out=self._high)
        self._count += other._count
        self._samples += other._samples
        self._see(other._peaks)
        self._totals.merge(other._totals)
        self._moments.merge(other._moments)
        self._fit()
        for value in range(len(self.names)):
            bins = np.flatnonzero(other._counts[value])
            shift = int(self._exponent[value] - other._exponent[value])
            if bins.size and not self._infinite[value]:
                np.add.at(
                    self._counts[value],
                    ((bins + other._origin[value]) >> shift) - self._origin[value],
                    other._counts[value][bins],
                )

    def columns(self) -> dict[str, Array]:
        """Everything, as arrays. Equal sets of samples give equal arrays."""
        blank = self._infinite.copy()
        self._totals.clear(np.repeat(blank, self._entries))
        self._moments.clear(np.tile(blank, 2))
        return {
            "names": np.frombuffer("\0".join(self.names).encode(), np.uint8),
            "channels": self.widths,
            "count": self._count,
            "channel_low": self._low,
            "channel_high": self._high,
            "channel_totals": self._totals.digits(),
            "moments": self._moments.digits(),
            "histogram": self._counts,
            "exponent": self._exponent,
            "origin": self._origin,
            "seen": self._samples,
            "peaks": self._peaks,
        }

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array]) -> Sketches:
        """Back from `columns`. Raises KeyError or ValueError where they do not fit together."""
        text = columns["names"].tobytes().decode()
        sketches = cls(text.split("\0") if text else [], columns["channels"].tolist())
        for name, key in _STATE.items():
            wanted = getattr(sketches, name)
            if columns[key].shape != wanted.shape or columns[key].dtype != wanted.dtype:
                raise ValueError(f"its column {key} is {columns[key].dtype} {list(columns[key].shape)}")
            setattr(sketches, name, columns[key].copy())
        sketches._totals = ExactSums(sketches._low.size, columns["channel_totals"])
        sketches._moments = ExactSums(2 * len(sketches.names), columns["moments"])
        sketches._mark_infinite()
        return sketches

    def statistics(self) -> dict[str, ValueStats]:
        """The statistics so far, by value name."""
        totals, (sums, squares) = self._totals.values(), self._moments.values().reshape(2, -1)
        peaks = self._peaks[:, : -1 - min(int(self._samples), PEAKS) : -1].astype(np.float64)
        found = {}
        for value, name in enumerate(self.names):
            at = slice(int(self._starts[value]), int(self._starts[value + 1]))
            low, high = (column[at].astype(np.float64) for column in (self._low, self._high))
            finite, counted = not self._infinite[value], max(1, int(self._counts[value].sum()))
            mean = totals[at] * (self._entries[value] / self._count[value]) * finite
            variance = (squares[value] - sums[value] ** 2 / counted) / counted * finite
            per_channel = self.widths[value] > 0
            found[name] = ValueStats(
                count=int(self._count[value]),
                low=float(low.min()),
                high=float(high.max()),
                mean=float(mean.mean()),
                std=math.sqrt(max(variance, 0.0)),
                channel_low=low if per_channel else None,
                channel_high=high if per_channel else None,
                channel_mean=mean if per_channel else None,
                histogram=self._counts[value].copy(),
                exponent=int(self._exponent[value]),
                origin=int(self._origin[value]),
                samples=int(self._samples),
                lows=-peaks[0, :, value],
                highs=peaks[1, :, value],
            )
        return found

    def _see(self, peaks: Array) -> None:
        """Keep the greatest of those held and these, [2, any number, values]."""
        if (peaks.max(axis=1) > self._peaks[:, 0]).any():
            self._peaks = np.sort(np.concatenate([self._peaks, peaks], axis=1), axis=1)[:, -PEAKS:]

    def _tally(self, picked: Array, lengths: Array) -> None:
        scaled = picked * np.repeat(np.ldexp(np.float32(1), -self._exponent.astype(np.int32)), lengths)
        index = np.floor(scaled, out=scaled).astype(np.int32)  # below 2**12 in magnitude
        index += np.repeat((np.arange(len(self.names)) * BINS - self._origin).astype(np.int32), lengths)
        self._counts += np.bincount(index, minlength=self._counts.size).reshape(self._counts.shape)

    def _mark_infinite(self) -> None:
        if self.names:
            self._infinite = np.isinf(self._extremes()).any(axis=0) & (self._count > 0)

    def _extremes(self) -> Array:
        """float64 [2, values]: least and greatest element of each value, zero included."""
        low = np.minimum(np.minimum.reduceat(self._low, self._starts[:-1]), 0.0)
        high = np.maximum(np.maximum.reduceat(self._high, self._starts[:-1]), 0.0)
        return np.stack([low, high]).astype(np.float64)

    def _fit(self) -> None:
        """Widen the bins of each value by doublings, and move its origin, until its extremes and all that was counted fit."""
        self._mark_infinite()
        low, high = self._extremes()
        width = np.ldexp(1.0, self._exponent)
        outside = (low < self._origin * width) | (high >= (self._origin + BINS) * width)
        for value in np.flatnonzero(outside | (self._infinite & (self._exponent != _EXPONENT_MIN))):
            if self._infinite[value]:
                self._counts[value], self._exponent[value], self._origin[value] = 0, _EXPONENT_MIN, 0
            else:
                self._widen(int(value), float(low[value]), float(high[value]))

    def _widen(self, value: int, low: float, high: float) -> None:
        before = int(self._exponent[value])
        exponent = max(before, math.frexp(high - low)[1] - BINS.bit_length())  # at this width the range takes BINS bins or more
        while _bin_of(high, exponent) - _bin_of(low, exponent) >= BINS:
            exponent += 1
        origin, occupied = _bin_of(low, exponent), np.flatnonzero(self._counts[value])
        moved = ((occupied + self._origin[value]) >> (exponent - before)) - origin
        counts = np.zeros(BINS, np.int64)
        np.add.at(counts, moved, self._counts[value][occupied])
        self._counts[value], self._exponent[value], self._origin[value] = counts, exponent, origin


_STATE: Final = {
    "_low": "channel_low",
    "_high": "channel_high",
    "_count": "count",
    "_counts": "histogram",
    "_exponent": "exponent",
    "_origin": "origin",
    "_samples": "seen",
    "_peaks": "peaks",
}


def _bin_of(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))
