"""A bounded choice of real samples that depends on the set of samples alone, and the digest of that set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from random import Random
from typing import Any, Final, TypeVar

import numpy as np

__all__ = ["MOST_BYTES", "MOST_SAMPLES", "Reservoir", "drawn", "sample_digest", "spread"]

Sample = Mapping[str, np.ndarray[Any, Any]]

MOST_SAMPLES: Final = 64
MOST_BYTES: Final = 256 * 2**20
_MODULUS: Final = 1 << 256

_Item = TypeVar("_Item")


def sample_digest(sample: Sample) -> bytes:
    """sha256 of a sample: names in order, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(sample):
        array = np.ascontiguousarray(sample[name])
        digest.update(f"{name}\0{array.dtype.str}\0{sample[name].shape}\0".encode())
        digest.update(array.data if array.size else b"")
    return digest.digest()


def spread(items: Iterable[_Item], count: int) -> list[_Item]:
    """At most `count` of them, evenly spaced: data is often sorted by kind, and what lies side by side in time is alike."""
    return [part[0] for part in _parts(items, count)]


def drawn(items: Iterable[_Item], count: int) -> list[_Item]:
    """At most `count` of them, one from each of so many equal parts by lot, always the same: data often repeats itself, and every 16th image
    of 8 photos in turn is of one photo.
    """
    lot = Random(0)
    return [part[int(lot.random() * len(part))] for part in _parts(items, count)]


def _parts(items: Iterable[_Item], count: int) -> list[list[_Item]]:
    found = list(items)
    count = min(count, len(found))
    return [found[index * len(found) // count : (index + 1) * len(found) // count] for index in range(count)]


class Reservoir:
    """The samples with the least digests, in the order in which the data has them: as good as a random choice, and the same one in
    whatever pieces they come.

    As many as fit into `MOST_SAMPLES` and `MOST_BYTES`, at least one; equal samples are kept once.

    Attributes:
        total: sum of the digests of all samples modulo 2**256: identifies the multiset of samples, whatever their order.
    """

    def __init__(self, samples: Iterable[Sample] = (), numbers: Iterable[int] = (), total: int = 0) -> None:
        self._held = {sample_digest(sample): (number, sample) for number, sample in zip(numbers, samples, strict=True)}
        self.total = total

    def __iter__(self) -> Iterator[Sample]:
        return (sample for _, sample in self._ordered())

    def __len__(self) -> int:
        return len(self._held)

    @property
    def numbers(self) -> list[int]:
        """The number of each sample in the data, from 0."""
        return [number for number, _ in self._ordered()]

    @property
    def data(self) -> str:
        """`total` as 64 hexadecimal digits."""
        return f"{self.total:064x}"

    def add(self, number: int, sample: Sample, digest: bytes) -> None:
        """Take in the sample of this number in the data, with its `sample_digest`. A sample that is kept is copied."""
        self.total = (self.total + int.from_bytes(digest)) % _MODULUS
        if digest in self._held:
            self._held[digest] = min(self._held[digest], (number, sample), key=_number)
            return
        size = sum(array.nbytes for array in sample.values())
        most = max(1, min(MOST_SAMPLES, MOST_BYTES // max(1, size)))
        if len(self._held) < most or digest < max(self._held):
            self._held[digest] = number, {name: np.array(array) for name, array in sample.items()}
            self._trim(most)

    def merge(self, other: Reservoir) -> None:
        """Take in the choice from other samples: the result is the choice from all of them."""
        self.total = (self.total + other.total) % _MODULUS
        for digest, entry in other._held.items():
            self._held[digest] = min(self._held.get(digest, entry), entry, key=_number)
        sizes = [sum(array.nbytes for array in sample.values()) for _, sample in self._held.values()]
        self._trim(max(1, min(MOST_SAMPLES, MOST_BYTES // max(1, *sizes, 1))))

    def _ordered(self) -> list[tuple[int, Sample]]:
        return [self._held[digest] for digest in sorted(self._held, key=lambda digest: (self._held[digest][0], digest))]

    def _trim(self, most: int) -> None:
        for digest in sorted(self._held)[most:]:
            del self._held[digest]


def _number(entry: tuple[int, Sample]) -> int:
    return entry[0]
