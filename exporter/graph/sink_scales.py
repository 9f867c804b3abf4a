"""Multiplications by one number move on into the weights and constants that read them, across what commutes.

::

    x -> Mul(s) -> Add(t) -> Conv(w, padded)              x -> Add(t / s) -> Conv(w * s)

    x -> Mul(s) --+--> GlobalAveragePool -> Conv(w) -> ... -> Sigmoid --+          x --+--> GlobalAveragePool -> Conv(w * s) ...
                  +-----------------------------------------------------+-> Mul        +--> Mul

Poolings, reshapes, Relu and its like let a number above 0 through, a product does with any factor that it is not in, a sum with a constant
divides that. It fires where every path from the multiplication ends in weights or in another constant factor; else nothing changes.
Numbers alone move: factors that differ by channel would divide by the small ones.

Requires: constants are initializers, ranks are known. Ensures: nothing; sinking is an optimization.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.edit import bypass, replace_constant
from exporter.graph.values import attribute, constant
from exporter.ops.common import is_float, scalar_of

__all__ = ["sink_scales"]

Array = np.ndarray[Any, Any]

# What gives s times its output for s times its first input, s > 0.
_HOMOGENEOUS: Final = frozenset(
    (
        *("Relu", "LeakyRelu", "PRelu"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Expand", "Tile", "Identity"),
        *("DepthToSpace", "SpaceToDepth"),
    )
)
_WEIGHTED: Final = ("Conv", "ConvTranspose", "MatMul")  # linear in their first input, by the constant that is their second


def sink_scales(model: ir.Model) -> int:
    """Sink what sinks, in place, until nothing more does; returns how many nodes disappeared."""
    total = 0
    while sunk := sum(_sink(node) for node in list(model.graph)):
        total += sunk
    return total


def _sink(node: ir.Node) -> bool:
    if node.graph is None or node.domain or node.op_type not in ("Mul", "Div"):
        return False
    for x, other in (node.inputs, tuple(reversed(node.inputs)))[: 1 if node.op_type == "Div" else 2]:
        number = scalar_of(other)
        if x is None or not number or x.shape != node.outputs[0].shape or not is_float(x):
            continue
        if number == 1.0:
            return bypass(node, x)
        path = _Path(1 / number if node.op_type == "Div" else number)
        if path.follow(node.outputs[0]) and path.sound():
            path.apply()
            return bypass(node, x)
    return False


@dataclass
class _Path:
    """Where a factor goes that values no longer have: `edits` are the constants that take it, by node and input."""

    factor: float
    edits: dict[tuple[ir.Node, int], Array] = field(default_factory=dict)
    scaled: list[ir.Value] = field(default_factory=list)
    products: list[tuple[ir.Node, int]] = field(default_factory=list)  # of two computed values, with the index of the scaled one

    def follow(self, value: ir.Value) -> bool:
        """Whether all that reads `value` can do with it divided by the factor; collects what that changes."""
        if value in self.scaled:
            return True
        if value.is_graph_output():
            return False
        self.scaled.append(value)
        return all(self._reader(node, index) for node, index in value.uses())

    def sound(self) -> bool:
        """Whether no product has the factor twice, and every constant that it changes keeps finite and normal."""
        twice = any(node.inputs[1 - index] in self.scaled for node, index in self.products)
        tiny = np.finfo(np.float32).tiny
        return not twice and all(
            np.isfinite(array).all() and (np.abs(array[array != 0]) >= tiny).all() for array in self.edits.values()
        )

    def apply(self) -> None:
        for (node, index), array in self.edits.items():
            replace_constant(node, index, array)

    def _reader(self, node: ir.Node, index: int) -> bool:
        if node.domain or not isinstance(node.graph, ir.Graph):
            return False
        array = constant(node.inputs[1 - index]) if len(node.inputs) > 1 and index < 2 else None
        if node.op_type in _WEIGHTED or (node.op_type == "Gemm" and attribute(node, "alpha", 1.0) == 1.0):
            return index == 0 and self._edit(node, 1, array, self.factor)
        if node.op_type == "Mul":
            if array is not None:
                return self._edit(node, 1 - index, array, self.factor)
            self.products.append((node, index))
            return self.follow(node.outputs[0])
        if node.op_type == "Div":
            return index == 0 and self._edit(node, 1, array, 1 / self.factor)
        if node.op_type in ("Add", "Sub"):
            return self._edit(node, 1 - index, array, 1 / self.factor) and self.follow(node.outputs[0])
        if node.op_type in _HOMOGENEOUS and index == 0 and self.factor > 0 and len(node.outputs) == 1:
            return self.follow(node.outputs[0])
        return False

    def _edit(self, node: ir.Node, index: int, array: Array | None, factor: float) -> bool:
        if array is None or array.dtype.kind != "f":
            return False
        with np.errstate(over="ignore"):
            self.edits[node, index] = np.asarray(array.astype(np.float64) * factor).astype(array.dtype)
        return True
