"""Samples of a workload as files that any environment reads: numpy alone is imported here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

__all__ = ["fitted", "read_samples", "write_samples"]

_RECORD = "inputs.json"

Array = Any
Sample = dict[str, Array]


def write_samples(folder: str | os.PathLike[str], names: Sequence[str], samples: Iterable[Sample]) -> None:
    """One .npz a sample, and the names of the inputs."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, _RECORD), "w", encoding="utf-8") as file:
        json.dump(list(names), file)
    for number, sample in enumerate(samples):
        np.savez(os.path.join(folder, f"{number:05d}.npz"), *(sample[name] for name in names))


def read_samples(folder: str | os.PathLike[str], limit: int | None = None) -> Iterator[Sample]:
    """The samples by input name, in their order, one in memory at a time."""
    with open(os.path.join(folder, _RECORD), encoding="utf-8") as file:
        names = json.load(file)
    for name in islice(sorted(entry for entry in os.listdir(folder) if entry.endswith(".npz")), limit):
        with np.load(os.path.join(folder, name)) as arrays:
            yield {key: arrays[f"arr_{place}"] for place, key in enumerate(names)}


def fitted(array: Array, shape: Sequence[int]) -> Array:
    """The array in the order of axes that has this shape (-1: any size): as it is, else with its channels last.

    Raises ValueError where neither has.
    """
    for ordered in (array, np.moveaxis(array, 1, -1) if array.ndim >= 3 else array):
        if len(shape) == ordered.ndim and all(size in (-1, given) for size, given in zip(shape, ordered.shape)):  # noqa: B905
            return ordered
    raise ValueError(f"an input of shape {array.shape} where {tuple(shape)} is wanted")
