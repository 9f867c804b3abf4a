"""Layers with a weight as products of matrices: rows of the weight times the input vectors at chosen positions."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, static_shape

__all__ = ["Layer", "layer_of"]

Array = np.ndarray[Any, np.dtype[Any]]

_GOLDEN: Final = 0.6180339887498949  # multiples of it, modulo 1, fill [0, 1) evenly however many are taken


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul with a constant weight, seen as ``rows @ vectors``.

    Attributes:
        node: the layer.
        rows: the weight as [groups, outputs a group, inputs a group x kernel], float64.
        places: number of input vectors of one run.
    """

    node: ir.Node
    rows: Array
    places: int

    def positions(self, sample: int, count: int) -> Array:
        """`count` positions (all where there are not more) at which to look at sample number `sample`."""
        if count >= self.places:
            return np.arange(self.places)
        return np.asarray((np.arange(sample * count, (sample + 1) * count) * _GOLDEN % 1.0 * self.places).astype(np.int64))

    def vectors(self, inputs: Array, positions: Array) -> Array:
        """Input vectors [groups, inputs a group x kernel, positions] from the layer's first input."""
        if self.node.op_type == "Conv":
            return _windows(self.node, inputs, positions, self.rows.shape[0])
        return np.asarray(inputs.reshape(-1, inputs.shape[-1])[positions].T[None])

    def outputs(self, outputs: Array, positions: Array) -> Array:
        """Output vectors [groups, outputs a group, positions] from the layer's output."""
        groups, each, _ = self.rows.shape
        if self.node.op_type == "Conv":
            outputs = np.moveaxis(outputs, 1, -1)
        return np.asarray(outputs.reshape(-1, groups * each)[positions].T.reshape(groups, each, -1))

    def weight(self, rows: Array) -> Array:
        """Rows in the shape of the weight initializer."""
        shape = static_shape(self.node.inputs[1])  # type: ignore[arg-type]
        if self.node.op_type == "Conv" or attribute(self.node, "transB", 0):
            return rows.reshape(shape)
        return np.ascontiguousarray(rows.reshape(shape[::-1]).T)


def layer_of(node: ir.Node) -> Layer | None:
    """The layer, or None where the node is of another kind or its weight is computed."""
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or node.op_type not in ("Conv", "Gemm", "MatMul") or (node.op_type != "Conv" and weight.ndim != 2):
        return None
    shape = static_shape(node.outputs[0])
    if node.op_type == "Conv":
        rows = weight.reshape(int(attribute(node, "group", 1)), -1, prod(weight.shape[1:]))
        return Layer(node, rows.astype(np.float64), shape[0] * prod(shape[2:]))
    if any(attribute(node, key, default) != default for key, default in (("transA", 0), ("alpha", 1.0), ("beta", 1.0))):
        return None
    rows = weight if attribute(node, "transB", 0) else weight.T
    return Layer(node, rows[None].astype(np.float64), prod(shape[:-1]))


def _windows(node: ir.Node, array: Array, positions: Array, groups: int) -> Array:
    """What the kernel sees at some positions: few of a large map, so each entry is fetched. Outside of the map are zeros."""
    kernel, places = static_shape(node.inputs[1])[2:], static_shape(node.outputs[0])[2:]  # type: ignore[arg-type]
    rank, channels = len(kernel), array.shape[1]
    strides, dilations = (attribute(node, name, (1,) * rank) for name in ("strides", "dilations"))
    pads = attribute(node, "pads", (0,) * 2 * rank)
    index, *at = np.unravel_index(positions, (len(array), *places))
    inside = np.ones((*kernel, len(positions)), np.bool_)
    for axis, size in enumerate(array.shape[2:]):
        seen = at[axis] * strides[axis] + (np.arange(kernel[axis]) * dilations[axis] - pads[axis])[:, None]
        seen = seen.reshape(*(kernel[axis] if axis == other else 1 for other in range(rank)), -1)
        inside &= (seen >= 0) & (seen < size)
        index = index * size + np.clip(seen, 0, size - 1)
    taken = np.take(array.swapaxes(0, 1).reshape(channels, -1), index, axis=1)  # [channels, *kernel, positions]
    np.copyto(taken, 0, where=~inside)
    return taken.reshape(groups, -1, len(positions))
