"""How far one output is from its reference: streaming accumulators, one pass, constant memory.

Sums are float64. A NaN anywhere makes every numeric metric of that output NaN, so that no gate can pass on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from diagnostics import RuntimeFailure

__all__ = [
    "AT_MOST_ONE",
    "HIGHER_IS_BETTER",
    "Accumulator",
    "Metrics",
    "class_rows",
    "cosine",
    "decibels",
    "json_number",
    "top_k_hits",
]

Array = np.ndarray[Any, Any]

# Every metric that a gate may name, and whether more of it is better.
HIGHER_IS_BETTER: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "sqnr_db": True,
        "cosine": True,
        "max_abs": False,
        "mean_abs": False,
        "top1_agreement": True,
        "top5_agreement": True,
    }
)
AT_MOST_ONE: Final = frozenset({"cosine", "top1_agreement", "top5_agreement"})


def decibels(signal: float, error: float) -> float:
    """Signal to quantization noise ratio: ``10 log10(signal / error)`` dB of two sums of squares.

    +inf where the error is 0 (also for a signal of 0), -inf where only the signal is 0, NaN where either is NaN.
    """
    if math.isnan(signal) or math.isnan(error):
        return math.nan
    if error == 0:
        return math.inf
    if signal == 0 or math.isinf(error):
        return -math.inf
    return 10.0 * (math.log10(signal) - math.log10(error))


def cosine(reference: Array, candidate: Array) -> float:
    """Cosine of the angle between two arrays read as vectors: ``<r, c> / (|r| |c|)``; 1 where both are 0, 0 where one is."""
    r, c = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    norms = float(np.linalg.norm(r)), float(np.linalg.norm(c))
    if 0.0 in norms and not any(map(math.isnan, norms)):
        return 1.0 if norms == (0.0, 0.0) else 0.0
    with np.errstate(invalid="ignore"):
        return float(np.clip(np.dot(r / norms[0], c / norms[1]), -1.0, 1.0))


def class_rows(array: Array) -> Array | None:
    """Rows [N, K] where the output is a class vector, else None.

    An output is a class vector if its shape is [N, K] or [N, K, 1, ...] with K >= 2. Embeddings have that shape too: for them
    an agreement of the largest entry says little, and nothing but a gate that names it judges it.
    """
    if array.ndim >= 2 and array.shape[1] >= 2 and all(dim == 1 for dim in array.shape[2:]):
        return array.reshape(array.shape[:2])
    return None


def top_k_hits(reference: Array, candidate: Array, k: int) -> int:
    """Rows of [N, K] whose best class in `reference` is among the `k` best of `candidate`.

    Ties are broken towards the lower index on both sides, as argmax does in an application. A row with NaN never hits.
    """
    best = reference.argmax(axis=1)
    own = np.take_along_axis(candidate, best[:, None], axis=1)
    lower = np.arange(candidate.shape[1])[None, :] < best[:, None]
    ahead = ((candidate > own) | ((candidate == own) & lower)).sum(axis=1)
    sound = ~(np.isnan(reference).any(axis=1) | np.isnan(candidate).any(axis=1))
    return int(((ahead < k) & sound).sum())


def json_number(value: float | None) -> float | str | None:
    """A number as JSON can hold it: infinities and NaN become "inf", "-inf" and "nan" (`float` reads them back)."""
    return value if value is None or math.isfinite(value) else str(value)


@dataclass(frozen=True)
class Metrics:
    """Distance of one output from its reference over all samples.

    Attributes:
        elements: number of compared elements.
        sqnr_db: ``10 log10(sum r^2 / sum (c - r)^2)`` over all samples; +inf where they are equal.
        cosine: mean over samples of the cosine similarity.
        max_abs: ``max |c - r|`` over all elements, in the output's own unit.
        mean_abs: mean of ``|c - r|`` over all elements.
        top1_agreement: part of the rows with the same best class; None where the output is no class vector.
        top5_agreement: part of the rows whose best class is among the candidate's five best; None below 10 classes.
    """

    elements: int
    sqnr_db: float
    cosine: float
    max_abs: float
    mean_abs: float
    top1_agreement: float | None = None
    top5_agreement: float | None = None

    def get(self, metric: str) -> float | None:
        """The metric of that name (a key of `HIGHER_IS_BETTER`)."""
        value: float | None = getattr(self, metric)
        return value

    def to_dict(self) -> dict[str, float | str | None]:
        """Plain data for JSON; see `json_number`."""
        return {entry.name: json_number(getattr(self, entry.name)) for entry in fields(self)}


class Accumulator:
    """Collects one output's metrics, sample by sample. `name` is the output's, for messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._samples = self._elements = self._rows = self._hits1 = self._hits5 = 0
        self._signal = self._error = self._cosines = self._absolute = self._largest = 0.0
        self._classes = 0

    def update(self, reference: Array, candidate: Array) -> None:
        """Add one sample. Raises RuntimeFailure EW-R005 where the shapes differ.

        Infinite entries that both sides share (masks) count as equal and add nothing to the signal.
        """
        if reference.shape != candidate.shape:
            raise RuntimeFailure(
                "EW-R005",
                f"output {self._name} has shape {candidate.shape}",
                why=f"the original gives shape {reference.shape}",
            )
        r, c = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.where(r == c, 0.0, np.abs(c - r))
            self._signal += float(np.square(r, where=~np.isinf(r), out=np.zeros_like(r)).sum())
            self._error += float(np.square(difference).sum())
            self._absolute += float(difference.sum())
        self._largest = float(np.maximum(self._largest, difference.max(initial=0.0)))
        self._cosines += cosine(*(np.where(np.isinf(r) & (r == c), 0.0, side) for side in (r, c)))
        self._samples += 1
        self._elements += r.size
        self._count_classes(r, c)

    def _count_classes(self, reference: Array, candidate: Array) -> None:
        rows, others = class_rows(reference), class_rows(candidate)
        if rows is None or others is None:
            return
        self._classes = rows.shape[1]
        self._rows += len(rows)
        self._hits1 += top_k_hits(rows, others, 1)
        self._hits5 += top_k_hits(rows, others, 5)

    def result(self) -> Metrics:
        """The metrics so far. Raises ValueError where no sample was added."""
        if not self._samples:
            raise ValueError(f"output {self._name} was never compared")
        return Metrics(
            elements=self._elements,
            sqnr_db=decibels(self._signal, self._error),
            cosine=self._cosines / self._samples,
            max_abs=self._largest,
            mean_abs=self._absolute / max(self._elements, 1),
            top1_agreement=self._hits1 / self._rows if self._rows else None,
            top5_agreement=self._hits5 / self._rows if self._rows and self._classes >= 10 else None,
        )
