"""The parts of an output that come from different places: an accuracy over boxes and scores together says nothing of the scores.

::

    boxes  [1, 4, 8400]  --+-> Concat(1) -> output [1, 84, 8400]:  output[:, 0:4], output[:, 4:84]
    scores [1, 80, 8400] --+

Parts are read off the graph: what the last concatenations join, followed through everything that only moves it. Where they join along several
axes (the levels of a pyramid along one, columns along another), the shortest one tells the parts: entries of a column mean the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, name_of, static_shape

__all__ = ["Columns", "by_columns", "column_groups", "joins_before"]

Array = np.ndarray[Any, Any]

_RESHAPES: Final = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"))
_MOST: Final = 32  # parts of one output: more are no few things that a user tells apart


@dataclass(frozen=True)
class Columns:
    """A run of entries along one axis of an output.

    Attributes:
        output: name of the output.
        axis: which one; counted from the front.
        start, stop: of the run, as a slice has them.
    """

    output: str
    axis: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """As numpy would write it: ``output[:, 4:84]``."""
        return f"{self.output}[{':, ' * self.axis}{self.start}:{self.stop}]"

    def of(self, array: Array) -> Array:
        """The run in an array of the output's shape."""
        return np.asarray(array[(slice(None),) * self.axis + (slice(self.start, self.stop),)])


def column_groups(model: ir.Model) -> tuple[Columns, ...]:
    """The parts of every float output that has some, in order; they cover the output and do not overlap."""
    return tuple(part for value in model.graph.outputs for part in _parts(value))


def by_columns(outputs: Mapping[str, Array], columns: Sequence[Columns]) -> dict[str, Array]:
    """The outputs by name, each part by itself where an output has some."""
    parted: dict[str, dict[str, Array]] = {}
    for part in columns:
        if part.output in outputs:
            parted.setdefault(part.output, {})[part.name] = part.of(outputs[part.output])
    return {key: piece for name, array in outputs.items() for key, piece in parted.get(name, {name: array}).items()}


def joins_before(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that only move data between `value` and what computes it, nearest first; concatenations are followed to all they join."""
    todo, seen = [value], set()
    while todo:
        node = todo.pop(0).producer()
        if node is None or node in seen or node.domain:
            continue
        if node.op_type in _RESHAPES or node.op_type == "Transpose":
            moved = list(node.inputs[:1])
        elif node.op_type == "Concat":
            moved = list(node.inputs)
        else:
            continue
        seen.add(node)
        todo += [source for source in moved if source is not None]
        yield node


def _parts(value: ir.Value) -> list[Columns]:
    if value.dtype is None or not value.dtype.is_floating_point() or value.producer() is None:
        return []
    if not any(node.op_type == "Concat" for node in joins_before(value)):
        return []
    labels = _labels(value, {})
    cuts = {
        axis: np.flatnonzero((np.diff(labels, axis=axis) != 0).any(axis=tuple(a for a in range(labels.ndim) if a != axis))) + 1
        for axis in range(labels.ndim)
    }
    found = [axis for axis in cuts if cuts[axis].size]
    if not found:
        return []
    axis = min(found, key=lambda one: (labels.shape[one], -one))
    bounds = [0, *cuts[axis].tolist(), labels.shape[axis]]
    if len(bounds) > _MOST + 1:
        return []
    return [Columns(name_of(value), axis, start, stop) for start, stop in pairwise(bounds)]


def _labels(value: ir.Value, sources: dict[ir.Value, int]) -> Array:
    """For every entry of `value` the number of the computed value that it is moved from."""
    node, shape = value.producer(), static_shape(value)
    if node is not None and not node.domain and None not in node.inputs[:1]:
        if node.op_type in _RESHAPES:
            return _labels(node.inputs[0], sources).reshape(shape)  # type: ignore[arg-type]
        if node.op_type == "Transpose":
            return _labels(node.inputs[0], sources).transpose(attribute(node, "perm", None))  # type: ignore[arg-type]
        if node.op_type == "Concat":
            joined = [_labels(source, sources) for source in node.inputs if source is not None]
            return np.concatenate(joined, axis=attribute(node, "axis"))
    return np.full(shape, sources.setdefault(value, len(sources)), np.int32)
