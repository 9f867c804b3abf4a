"""Multiplications by constants move back into the weights that made what they scale, across what commutes.

::

    x -> Conv(w, b) -> Relu -> MaxPool -> Mul(s) -> y          x -> Conv(w * s, b * s) -> Relu -> MaxPool -> y

    q -> MatMul(w) -> Add(b) -> Reshape --+--> MatMul -> Mul(s)          q -> MatMul(w * s) -> Add(b * s) -> Reshape --+--> MatMul
                                     k ---+                                                                       k ---+

Factors of 0 or more, one a channel, go back through poolings, Relu and its like; a number also through changes of shape and sums with
constants, and into one side of a product of two computed matrices. Nothing else may read what lies between, nor share the constants
that change. In 8 bits it costs nothing: factors of channels join the scales of a weight's rows, and a number those of the values between.

Requires: constants are initializers, ranks are known. Ensures: nothing; raising is an optimization.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.edit import bypass, only_user, replace_constant
from exporter.graph.fold_affine import affine_of, linear_of, scaled_rows
from exporter.graph.values import constant
from exporter.ops.common import is_float, scalar_of

__all__ = ["raise_scales"]

Array = np.ndarray[Any, Any]

# What gives s times its output for s times its first input, s >= 0: one s a channel, or of numbers alone.
_BY_CHANNEL: Final = frozenset(
    ("Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity")
)
_BY_NUMBER: Final = frozenset(
    ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Expand", "Tile", "DepthToSpace", "SpaceToDepth")
)


def raise_scales(model: ir.Model) -> int:
    """Raise what rises, in place; returns how many nodes disappeared."""
    return sum(_raise(node) for node in list(model.graph))


def _raise(node: ir.Node) -> bool:
    if node.graph is None or node.domain or node.op_type not in ("Mul", "Div"):
        return False
    for x in node.inputs:
        factor = _factor(node, x) if x is not None else None
        if x is None or factor is None or not factor.any():
            continue
        path = _Path(factor)
        if path.follow(x) and path.sound():
            path.apply()
            return bypass(node, x)
    return False


def _factor(node: ir.Node, x: ir.Value) -> Array | None:
    """What `node` multiplies `x` by where that is constant: float64, one entry a channel (axis 1), or one in all."""
    index = next(place for place, value in enumerate(node.inputs) if value is x)
    if not is_float(x) or x.shape != node.outputs[0].shape or (node.op_type == "Div" and index == 1):
        return None
    number = scalar_of(node.inputs[1 - index])
    if number is not None:
        return np.asarray([1 / number if node.op_type == "Div" else number]) if number else None
    channels = x.shape[1] if x.shape is not None and len(x.shape) > 1 else None
    affine = affine_of(node, x, channels) if isinstance(channels, int) else None
    return affine.scale if affine is not None else None


@dataclass
class _Path:
    """Where a factor goes that values come to have earlier: `edits` are the constants that take it, by node and input."""

    factor: Array
    edits: dict[tuple[ir.Node, int], Array] = field(default_factory=dict)

    def follow(self, value: ir.Value | None) -> bool:
        """Whether what computes `value` can be made to compute it times the factor; collects what that changes."""
        node = value.producer() if value is not None else None
        if node is None or node.domain or len(node.outputs) != 1 or only_user(value) is None:
            return False
        if not isinstance(node.graph, ir.Graph):
            return False
        if linear_of(node) is not None:
            return self._into_rows(node)
        if node.op_type in _BY_CHANNEL:
            return bool((self.factor >= 0).all()) and self.follow(node.inputs[0])
        if self.factor.size > 1:
            return False
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            return self._arithmetic(node)
        if node.op_type == "MatMul":
            return self._product(node)
        return node.op_type in _BY_NUMBER and self.follow(node.inputs[0])

    def sound(self) -> bool:
        """Whether every constant that it changes keeps finite and normal."""
        tiny = np.finfo(np.float32).tiny
        return all(np.isfinite(array).all() and (np.abs(array[array != 0]) >= tiny).all() for array in self.edits.values())

    def apply(self) -> None:
        for (node, index), array in self.edits.items():
            replace_constant(node, index, array)

    def _into_rows(self, node: ir.Node) -> bool:
        found = linear_of(node)
        assert found is not None
        scale = np.broadcast_to(self.factor, (found.channels_out,))
        with np.errstate(over="ignore"):
            if not self._edit(node, 1, scaled_rows(node, found, scale)):
                return False
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return True
        bias = constant(node.inputs[2])
        if bias is None or any(length != 1 for length in bias.shape[:-1]):
            return False
        return self._scale(node, 2, bias, scale)

    def _arithmetic(self, node: ir.Node) -> bool:
        """A sum with a constant multiplies that as well; a product with one ends there."""
        for index, other in enumerate(node.inputs):
            array, x = constant(other), node.inputs[1 - index]
            if array is None or x is None or x.shape != node.outputs[0].shape or (node.op_type == "Div" and index == 0):
                continue
            if node.op_type == "Div":
                return self._scale(node, index, array, 1 / self.factor[0])
            return self._scale(node, index, array, self.factor[0]) and (node.op_type == "Mul" or self.follow(x))
        return False

    def _product(self, node: ir.Node) -> bool:
        """The constant side of a product of matrices takes the number, or the first side that can."""
        for index in (1, 0):
            array = constant(node.inputs[index])
            if array is not None:
                return self._scale(node, index, array, self.factor[0])
        for value in node.inputs:
            before = dict(self.edits)
            if self.follow(value):
                return True
            self.edits = before
        return False

    def _scale(self, node: ir.Node, index: int, array: Array, factor: Array | float) -> bool:
        if array.dtype.kind != "f":
            return False
        with np.errstate(over="ignore"):
            return self._edit(node, index, np.asarray(array.astype(np.float64) * factor).astype(array.dtype))

    def _edit(self, node: ir.Node, index: int, array: Array) -> bool:
        """Enter a constant's new value; False where other inputs read the one that it has."""
        old = node.inputs[index]
        self.edits[node, index] = array
        return old is not None and len(tuple(old.uses())) == 1
