"""How much of what calibration saw an encoding should cover: the range of a value, chosen from its statistics.

A wider range rounds everything more coarsely, a narrower one clips what lies outside. All methods but ``minmax`` judge that by the
histogram, and count every channel's exact extremes besides: elements that are known to exist although the histogram may have missed them.
What calibration did not see lies further out yet: `headroom` expects that from how the extremes of its samples fall off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np

__all__ = ["Floored", "Histogram", "Method", "choose_range", "expected_error"]

Array = np.ndarray[Any, Any]

Method = Literal["minmax", "headroom", "percentile", "entropy", "mse"]

_PERCENT: Final = 99.99
_CANDIDATES: Final = 64
_COARSE: Final = 16  # of both ends apart, where judging a range walks the histogram


class Histogram(Protocol):
    """What choosing needs of `calibration.ValueStats`: `edges` has one entry more than `histogram`."""

    @property
    def count(self) -> int: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def channel_low(self) -> Array | None: ...
    @property
    def channel_high(self) -> Array | None: ...
    @property
    def histogram(self) -> Array: ...
    @property
    def edges(self) -> Array: ...
    @property
    def samples(self) -> int: ...
    @property
    def lows(self) -> Array: ...
    @property
    def highs(self) -> Array: ...
    def percentile(self, percent: float, /) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Floored:
    """Statistics of a value that saturates at a floor: what lies below counts as lying there."""

    whole: Histogram
    floor: float

    @property
    def count(self) -> int:
        return self.whole.count

    @property
    def low(self) -> float:
        return max(self.whole.low, self.floor)

    @property
    def high(self) -> float:
        return max(self.whole.high, self.floor)

    @property
    def channel_low(self) -> Array | None:
        return None if self.whole.channel_low is None else np.maximum(self.whole.channel_low, self.floor)

    @property
    def channel_high(self) -> Array | None:
        return None if self.whole.channel_high is None else np.maximum(self.whole.channel_high, self.floor)

    @property
    def histogram(self) -> Array:
        return self.whole.histogram

    @property
    def edges(self) -> Array:
        return np.maximum(self.whole.edges, self.floor)

    @property
    def samples(self) -> int:
        return self.whole.samples

    @property
    def lows(self) -> Array:
        return np.maximum(self.whole.lows, self.floor)

    @property
    def highs(self) -> Array:
        return np.maximum(self.whole.highs, self.floor)

    def percentile(self, percent: float, /) -> tuple[float, float]:
        low, high = self.whole.percentile(percent)
        return max(low, self.floor), max(high, self.floor)


def choose_range(stats: Histogram, method: Method, *, symmetric: bool = False, steps: int = 255) -> tuple[float, float]:
    """The real range (low, high) that an encoding of `steps` steps should cover; beyond what was seen, or zero, for headroom alone.

    - minmax: all that was seen.
    - headroom: all that was seen, and as much beyond as lowers the expected squared error on samples that were not (`_headroom`).
    - percentile: the central 99.99 % of the elements (Wu et al. 2020, "Integer Quantization for Deep Learning Inference", section 3.2).
    - entropy: the range whose rounded distribution has the least Kullback-Leibler divergence from the real one (Migacz 2017,
      "8-bit Inference with TensorRT"), both ends apart.
    - mse: the range with the least expected squared error, rounding and clipping together (`expected_error`; Banner, Nahshan and
      Soudry 2019, "Post training 4-bit quantization of convolutional networks", section 2, on the histogram instead of a fitted density);
      an end that it does not cut has headroom.
    """
    if method == "minmax" or stats.low >= stats.high or not np.any(stats.histogram):
        return stats.low, stats.high
    if method == "headroom":
        return _with_headroom(stats, stats.low, stats.high, steps)
    if method == "percentile":
        return stats.percentile(_PERCENT)
    lows, highs = _candidates(stats, symmetric, _COARSE if method == "entropy" and not symmetric else _CANDIDATES)
    error = _divergences(stats, lows, highs, steps) if method == "entropy" else expected_error(stats, lows, highs, steps)
    best = int(np.argmin(error))
    low, high = float(lows[best]), float(highs[best])
    return _with_headroom(stats, low, high, steps) if method == "mse" else (low, high)


def expected_error(stats: Histogram, low: Array, high: Array, steps: int = 255) -> Array:
    """The mean squared error of ranges [low, high] (float64 [ranges]) encoded in `steps` steps: rounding, scale^2 / 12, and clipping.

    Elements of the bin around zero have no rounding error: behind a ReLU they are exact zeros, which every encoding has.
    """
    counts, edges = np.asarray(stats.histogram, np.float64), np.asarray(stats.edges, np.float64)
    middles = (edges[:-1] + edges[1:]) / 2
    total = max(counts.sum(), 1.0)
    rounded = _rounded(stats)
    clipped = _squares(middles, counts, low, high) / total
    # As many elements as there are channels are known for certain to lie this far out.
    peaks = [np.atleast_1d(stats.low if stats.channel_low is None else stats.channel_low)]
    peaks += [np.atleast_1d(stats.high if stats.channel_high is None else stats.channel_high)]
    known = _squares(np.concatenate(peaks), np.ones(2 * peaks[0].size), low, high) / max(stats.count, 1)
    return np.asarray(np.maximum(clipped, known) + rounded * np.square((high - low) / steps) / 12)


def _rounded(stats: Histogram) -> float:
    """The share of elements that rounding changes: not those of the bin around zero."""
    counts, edges = np.asarray(stats.histogram, np.float64), np.asarray(stats.edges, np.float64)
    return float(counts[(edges[:-1] > 0.0) | (edges[1:] <= 0.0)].sum() / max(counts.sum(), 1.0))


def _with_headroom(stats: Histogram, low: float, high: float, steps: int) -> tuple[float, float]:
    """A range, with headroom at each end that reaches as far as what was seen."""
    if low <= stats.low:
        low = min(low, stats.low - _headroom(stats, -stats.low, -stats.lows, steps))
    if high >= stats.high:
        high = max(high, stats.high + _headroom(stats, stats.high, stats.highs, steps))
    return low, high


def _headroom(stats: Histogram, end: float, peaks: Array, steps: int) -> float:
    """How far beyond its greatest element `end` a range should reach; for its other end, of the negative value.

    With n samples the next one exceeds them all with a probability of 1 / (n + 1), by an exponential amount whose mean s is that by which
    the greatest `peaks` exceed the next: so do tails of distributions without a bound (Pickands 1975, "Statistical Inference Using Extreme
    Order Statistics", with shape 0; `peaks`: maxima of samples, descending). Headroom x leaves an expected squared error of
    2 s^2 exp(-x / s) / (n + 1) a sample; the wider step costs all elements.
    """
    most = min(len(peaks) - 1, stats.samples // 4)
    if end <= 0.0 or most < 1:
        return 0.0
    spread = float(np.mean(peaks[:most]) - max(peaks[most], 0.0))
    if spread <= 0.0:
        return 0.0
    more = np.arange(_CANDIDATES) / _CANDIDATES * end  # at most twice as wide
    span = max(stats.high, 0.0) - min(stats.low, 0.0) + more
    unseen = 2 * spread**2 * np.exp(-more / spread) / (stats.samples + 1)
    rounding = _rounded(stats) * stats.count / stats.samples * np.square(span / steps) / 12
    return float(more[np.argmin(unseen + rounding)])


def _squares(places: Array, weights: Array, low: Array, high: Array) -> Array:
    """Sum over `places` of their squared distances from each range, weighted: by sums of powers over the places in order."""
    order = np.argsort(places)
    places, weights = places[order], weights[order]
    powers = [np.concatenate([[0.0], np.cumsum(weights * places**power)]) for power in range(3)]
    below, above = np.searchsorted(places, low), np.searchsorted(places, high)
    under = powers[2][below] - 2 * low * powers[1][below] + low**2 * powers[0][below]
    over = [whole[-1] - whole[above] for whole in powers]
    return np.asarray(np.maximum(under, 0.0) + np.maximum(over[2] - 2 * high * over[1] + high**2 * over[0], 0.0))


def _candidates(stats: Histogram, symmetric: bool, count: int) -> tuple[Array, Array]:
    """Ranges to choose from, the widest first: both ends cut in `count` steps, together where the encoding is symmetric."""
    parts = 1.0 - np.arange(count) / count
    if symmetric:
        highs = max(-stats.low, stats.high) * parts
        return -highs, highs
    low, high = min(stats.low, 0.0), max(stats.high, 0.0)
    lows, highs = np.meshgrid(low * parts if low else [0.0], high * parts if high else [0.0], indexing="ij")
    return lows.ravel(), highs.ravel()


def _divergences(stats: Histogram, lows: Array, highs: Array, steps: int) -> Array:
    """Kullback-Leibler divergence of each range's rounded distribution from the real one, what lies outside counted at its ends.

    The elements of a step are spread evenly over those of its bins that hold any, as in the reference; a bin that lies in no range keeps
    a thousandth of an element, so that leaving mass out costs.
    """
    counts, edges = np.asarray(stats.histogram, np.float64), np.asarray(stats.edges, np.float64)
    filled = np.flatnonzero(counts)
    places, weights = (edges[filled] + edges[filled + 1]) / 2, counts[filled]
    found = np.empty(lows.size)
    for at, (low, high) in enumerate(zip(lows, highs, strict=True)):
        scale = (high - low) / steps
        inside = (places >= low) & (places <= high)
        if scale <= 0.0 or not inside.any():
            found[at] = np.inf
            continue
        wanted = np.where(inside, weights, 0.0)
        index = np.flatnonzero(inside)
        step = np.rint((places[index] - low) / scale).astype(np.int64)
        shared = np.bincount(step, weights[index]) / np.maximum(np.bincount(step), 1)
        wanted[index[0]] += weights[: index[0]].sum()
        wanted[index[-1]] += weights[index[-1] + 1 :].sum()
        given = shared[step] / weights.sum()
        real = wanted[index] / weights.sum()
        found[at] = float(np.sum(real * np.log(real / np.maximum(given, 1e-3 / weights.sum()))))
    return found
