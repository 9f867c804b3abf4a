"""Sparse constants of TFLite, made dense.

A level of the storage is an axis, or a block inside of one, in traversal order; each is dense, or lists the indices that hold values
(compressed as in CSR). The format is that of ``SparsityParameters`` in the TFLite schema, after TACO (Chou, Kjolstad, Amarasinghe 2018).
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np

from exporter.frontends.source import Array

__all__ = ["densify"]

_DENSE: Final = 0  # DimensionType.DENSE
_MOST_ELEMENTS: Final = 1 << 24  # of a dense tensor: a sparse one of a few bytes may claim any shape


def densify(values: Array, shape: tuple[int, ...], sparsity: Any) -> Array:
    """The dense array of `shape` whose stored entries are `values`.

    `sparsity` is the schema's SparsityParametersT. Raises ValueError or IndexError where it contradicts itself, the shape or the values.
    """
    order = [int(axis) for axis in sparsity.traversalOrder]
    blocked = [] if sparsity.blockMap is None else [int(axis) for axis in sparsity.blockMap]
    levels = sparsity.dimMetadata
    if prod(shape) > _MOST_ELEMENTS:
        raise ValueError(f"a sparse tensor has shape {shape}")
    if sorted(order) != list(range(len(shape) + len(blocked))) or len(levels) != len(order):
        raise ValueError("the storage of a sparse tensor does not fit its shape")
    coordinates: dict[int, Array] = {}
    entries = 1
    for axis, level in zip(order, levels, strict=True):
        parent, index = _enter(level, entries, prod(shape))
        coordinates = {known: array[parent] for known, array in coordinates.items()} | {axis: index}
        entries = len(index)
    if entries != values.size:
        raise ValueError(f"a sparse tensor holds {values.size} values where {entries} are indexed")
    place = [coordinates[axis] for axis in range(len(shape))]
    for number, axis in enumerate(blocked):
        place[axis] = place[axis] * int(levels[order.index(len(shape) + number)].denseSize) + coordinates[len(shape) + number]
    dense = np.zeros(shape, values.dtype)
    if any(index.size and (index.min() < 0 or index.max() >= length) for index, length in zip(place, shape, strict=True)):
        raise IndexError("an entry of a sparse tensor lies outside of it")
    dense[tuple(place)] = values
    return dense


def _enter(level: Any, entries: int, most: int) -> tuple[Array, Array]:
    """For every entry one level down: which entry it is in, and its index there; never more than `most`."""
    if level.format == _DENSE:
        size = int(level.denseSize)
        if size < 0 or entries * size > most:
            raise ValueError("a sparse tensor indexes more entries than it holds")
        return np.repeat(np.arange(entries), size), np.tile(np.arange(size), entries)
    segments, indices = (np.asarray(vector.values, np.int64) for vector in (level.arraySegments, level.arrayIndices))
    lengths = np.diff(segments)
    if len(lengths) != entries or segments[0] != 0 or (lengths < 0).any() or segments[-1] != len(indices):
        raise ValueError("the segments of a sparse tensor contradict each other")
    return np.repeat(np.arange(entries), lengths), indices
