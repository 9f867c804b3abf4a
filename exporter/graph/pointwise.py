"""Fully connected layers as convolutions of one pixel: the same product of the same weights, by another kernel.

::

    GlobalAveragePool -> Flatten -> Gemm -> Relu -> Gemm        GlobalAveragePool -> Conv -> Relu -> Conv -> Squeeze

Rows of a matrix are pixels of one image, in the order in which channels-last holds them, so that no element moves; what stays of the new axes is
a RESHAPE at most, where a neighbour has none itself. An activation that a kernel applies for free stays right behind it.

Requires: every Gemm of floats by a constant is ``A @ B' + c`` (its own `legalize`). Ensures: no such Gemm is left.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.edit import only_user
from exporter.graph.encoded import inherit_encoding
from exporter.graph.fuse_activations import fusable
from exporter.graph.rewriter import GraphRewriter, Names
from exporter.graph.values import constant, static_shape

__all__ = ["connected_as_convolutions"]

# Of a matrix [1, 1, rows, depth]: its rows as pixels [1, depth, 1, rows], and back.
_TO_PIXELS: Final = (0, 3, 1, 2)
_TO_ROWS: Final = (0, 2, 3, 1)


def connected_as_convolutions(graph: ir.Graph, names: Names) -> int:
    """Make every fully connected layer of floats a convolution, in place; returns how many were."""
    found = 0
    for node in list(graph):
        if node.op_type == "Gemm" and not node.domain and constant(node.inputs[1]) is not None and _of_floats(node):
            _rewrite(graph, node, names)
            found += 1
    return found


def _of_floats(node: ir.Node) -> bool:
    return node.outputs[0].dtype == ir.DataType.FLOAT


def _rewrite(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    behind = only_user(node.outputs[0])
    clamp = behind if behind is not None and fusable(behind) is not None else None
    to = GraphRewriter(graph, clamp or node, "tflite", names)
    x, matrix = node.inputs[0], constant(node.inputs[1])
    assert x is not None
    assert matrix is not None
    many = static_shape(x)[0] > 1
    axes = to.const(np.asarray((0, 1) if many else (2, 3), np.int64), "axes")
    pixels = to.op("Unsqueeze", x, axes)
    if many:
        pixels = to.op("Transpose", pixels, perm=_TO_PIXELS)
    weight = to.const(matrix[:, :, None, None], "weight")
    inherit_encoding(weight, (node.inputs[1],))
    y = convolved = to.op(
        "Conv", pixels, weight, *node.inputs[2:], kernel_shape=(1, 1), strides=(1, 1), dilations=(1, 1), pads=(0,) * 4
    )
    if clamp is not None:
        y = to.copy(clamp, [y, *clamp.inputs[1:]])
    if many:
        y = to.op("Transpose", y, perm=_TO_ROWS)
    to.replace([to.op("Squeeze", y, axes)])
    if clamp is not None:
        graph.remove(node, safe=True)
        if (conv := convolved.producer()) is not None:
            conv.name = node.name
