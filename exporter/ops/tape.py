"""Writes formulas: a thin hand on the rewriter that takes numbers and arrays where ONNX wants constants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import FLOAT, static_shape
from exporter.ops.base import Rewriter

__all__ = ["Operand", "Tape"]

Operand = ir.Value | float | np.ndarray[Any, Any]


class Tape:
    """Appends operators to the replacement of a node. Numbers and float arrays become float32 constants, integer arrays stay as they are.

    With `float_because`, the operators stay in float where the rest of the graph runs in integers.
    """

    def __init__(self, rewriter: Rewriter, float_because: str = "") -> None:
        self.rewriter, self._reason = rewriter, float_because

    def op(self, op_type: str, *inputs: Operand | None, **attributes: Any) -> ir.Value:
        """An operator's first output."""
        made = self.rewriter.op(op_type, *(None if entry is None else self.value(entry) for entry in inputs), **attributes)
        node = made.producer()
        if self._reason and node is not None:
            node.metadata_props[FLOAT] = self._reason
        return made

    def value(self, entry: Operand) -> ir.Value:
        """An operand as a value of the graph."""
        if isinstance(entry, ir.Value):
            return entry
        array = np.asarray(entry)
        return self.rewriter.const(array.astype(np.float32) if array.dtype == np.float64 or array.ndim == 0 else array)

    def ints(self, entries: Iterable[int], name: str = "") -> ir.Value:
        """A constant of int64 (shapes, axes, indices)."""
        return self.rewriter.const(np.asarray(tuple(entries), np.int64), name)

    def reshape(self, x: ir.Value, shape: Sequence[int]) -> ir.Value:
        """`x` itself where it has the shape."""
        return x if static_shape(x) == tuple(shape) else self.op("Reshape", x, self.ints(shape, "shape"))

    def transpose(self, x: ir.Value, perm: Sequence[int]) -> ir.Value:
        """`x` itself where nothing moves."""
        return x if list(perm) == sorted(perm) else self.op("Transpose", x, perm=tuple(perm))

    def reduce(self, op_type: str, x: ir.Value, axes: Iterable[int], keep: bool = True) -> ir.Value:
        return self.op(op_type, x, self.ints(axes, "axes"), keepdims=int(keep))

    def moved(self, x: ir.Value, axis: int, to: int) -> ir.Value:
        """`x` with `axis` taken out and put in at `to` (counted without it); negative `to` counts from the end."""
        rest = [other for other in range(len(static_shape(x))) if other != axis]
        rest.insert(to if to >= 0 else len(rest) + 1 + to, axis)
        return self.transpose(x, rest)

    def part(self, x: ir.Value, axis: int, start: int, end: int, step: int = 1) -> ir.Value:
        """A range of places along one axis."""
        return self.op("Slice", x, *(self.ints([number]) for number in (start, end, axis, step)))
