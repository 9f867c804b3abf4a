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
    kernel = static_shape(node.inputs[1])[2:]  # type: ignore[arg-type]
    rank = len(kernel)
    strides = attribute(node, "strides", (1,) * rank)
    dilations = attribute(node, "dilations", (1,) * rank)
    pads = attribute(node, "pads", (0,) * 2 * rank)
    if any(pads):
        array = np.pad(array, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spans = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(array, spans, axis=tuple(range(2, 2 + rank)))
    every = (slice(None), slice(None), *(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
    windows = np.moveaxis(windows[every], 1, 1 + rank)  # [batch, *places, channels, *kernel]
    taken = windows[np.unravel_index(positions, windows.shape[: 1 + rank])]
    return np.asarray(taken.reshape(len(positions), groups, -1).transpose(1, 2, 0))
