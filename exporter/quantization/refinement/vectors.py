"""Layers with a weight as products of matrices: rows of the weight times the input vectors at chosen positions."""

from __future__ import annotations

from collections.abc import Callable
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

    def positions(self, samples: int, count: int) -> Array:
        """int64 [samples, count]: where to look at each sample: at `count` places (all where there are not more)."""
        if count >= self.places:
            return np.tile(np.arange(self.places), (samples, 1))
        places = (np.arange(samples * count) * _GOLDEN % 1.0 * self.places).astype(np.int64)
        return places.reshape(samples, count)

    def looking(self, positions: Array) -> Callable[[int, Array], Array]:
        """What takes the number of a sample and the layer's first input in it to the input vectors [groups, inputs a group x kernel, count]
        there. Which entries to fetch is worked out once for all samples.

        Args:
            positions: [samples, count].
        """
        if self.node.op_type == "Conv":
            return _windows(self.node, positions, self.rows.shape[0])
        return lambda sample, inputs: np.asarray(inputs.reshape(-1, inputs.shape[-1])[positions[sample]].T[None])

    def outputs(self, outputs: Array, positions: Array) -> Array:
        """Output vectors [groups, outputs a group, count] from the layer's output in one sample, at its positions [count]."""
        groups, each, _ = self.rows.shape
        if self.node.op_type == "Conv":
            return np.take(outputs.swapaxes(0, 1).reshape(groups * each, -1), positions, axis=1).reshape(groups, each, -1)
        return np.asarray(outputs.reshape(-1, each)[positions].T[None])

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


def _windows(node: ir.Node, positions: Array, groups: int) -> Callable[[int, Array], Array]:
    """What the kernel sees at some positions: few of a large map, so each entry is fetched. Outside of the map are zeros."""
    batch, channels, *sizes = static_shape(node.inputs[0])  # type: ignore[arg-type]
    kernel, places = static_shape(node.inputs[1])[2:], static_shape(node.outputs[0])[2:]  # type: ignore[arg-type]
    rank, (samples, count) = len(kernel), positions.shape
    strides, dilations = (attribute(node, name, (1,) * rank) for name in ("strides", "dilations"))
    pads = attribute(node, "pads", (0,) * 2 * rank)
    index, *at = (entry[:, None] for entry in np.unravel_index(positions, (batch, *places)))
    inside = np.ones((samples, prod(kernel), count), np.bool_)
    for axis, (size, tap) in enumerate(zip(sizes, np.indices(kernel).reshape(rank, -1), strict=True)):
        seen = at[axis] * strides[axis] + (tap * dilations[axis] - pads[axis])[:, None]
        inside &= (seen >= 0) & (seen < size)
        index = index * size + np.clip(seen, 0, size - 1)  # [samples, kernel, count]

    def see(sample: int, inputs: Array) -> Array:
        taken = np.take(inputs.swapaxes(0, 1).reshape(channels, -1), index[sample], axis=1)  # [channels, kernel, count]
        np.copyto(taken, 0, where=~inside[sample])
        return np.asarray(taken.reshape(groups, -1, count))

    return see
