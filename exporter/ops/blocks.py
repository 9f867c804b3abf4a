"""DepthToSpace and SpaceToDepth: pixels to channels and back."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant
from exporter.ops.base import Channels, Cost, Coupling, LayoutRule, Lowering, Operator, Port, QuantRule, Rewriter, register
from exporter.ops.common import SHARED, activation_rule, input_of, input_shape, output_shape, uniform_layout
from exporter.ops.kernels import builtin_version, in_wider_dtype, stored_dtype, takes

__all__ = ["DepthToSpace", "SpaceToDepth"]

_DTYPES = ("float32", "int8", "uint8", "int32", "int64")
_WIDER = {"int16": "int32", "uint16": "int32", "uint32": "int64", "bool": "uint8", "float16": "float32"}


@register
class DepthToSpace(Operator):
    """[N, C * b * b, H, W] -> [N, C, H * b, W * b]; DCR: the block index is the outer one of the channels, CRD: the inner one."""

    op_type = "DepthToSpace"
    constraints = (takes("DepthToSpace", _DTYPES),)

    def couple(self, node: ir.Node) -> Coupling:
        block = attribute(node, "blocksize") ** 2
        count = output_shape(node)[1]
        crd = attribute(node, "mode", "DCR") == "CRD"
        inside = Channels("in", 0, 1, count, repeat=block if crd else 1, outer=1 if crd else block)
        return Coupling(((inside, Channels("out", 0, 1, count)),))

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED)

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.LAST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """TFLite has DCR. CRD is DCR of reordered channels: of the filters of the Conv in front, else by a Transpose."""
        if rewriter.runtime != "tflite" or attribute(node, "mode", "DCR") == "DCR":
            return in_wider_dtype(node, rewriter, _WIDER)
        x, block = input_of(node, 0), attribute(node, "blocksize")
        batch, channels, height, width = input_shape(node)
        order = np.arange(channels).reshape(-1, block * block).T.reshape(-1)
        reordered = _reordered_conv(x, order, rewriter)
        if reordered is None:
            split, moved = (channels // block**2, block**2), (block**2, channels // block**2)
            y = rewriter.op("Reshape", x, rewriter.const(np.asarray((batch, *split, height * width), np.int64), "split"))
            y = rewriter.op("Transpose", y, perm=(0, 2, 1, 3))
            reordered = rewriter.op(
                "Reshape", y, rewriter.const(np.asarray((batch, prod(moved), height, width), np.int64), "joined")
            )
        return [rewriter.op("DepthToSpace", reordered, blocksize=block, mode="DCR")]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        block = attribute(node, "blocksize")
        # Version 2 is what TensorFlow's table gives int8, but the kernel took it from version 1 on and the reference resolver has no other.
        to.emit("DEPTH_TO_SPACE", [to.input(0)], [to.output()], 1, block_size=block)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        x, block = inputs[0], attribute(node, "blocksize")
        n, c, h, w = x.shape
        rest = c // block**2
        if attribute(node, "mode", "DCR") == "DCR":
            y = x.reshape(n, block, block, rest, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            y = x.reshape(n, rest, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
        return (y.reshape(n, rest, h * block, w * block),)

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


@register
class SpaceToDepth(Operator):
    """[N, C, H * b, W * b] -> [N, b * b * C, H, W]; channels by block first (DCR) or by channel first (CRD, of opset 28)."""

    op_type = "SpaceToDepth"
    constraints = (takes("SpaceToDepth", _DTYPES),)

    def couple(self, node: ir.Node) -> Coupling:
        block, count = attribute(node, "blocksize") ** 2, input_shape(node)[1]
        crd = attribute(node, "mode", "DCR") == "CRD"
        made = Channels("out", 0, 1, count, repeat=block if crd else 1, outer=1 if crd else block)
        return Coupling(((Channels("in", 0, 1, count), made),))

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED)

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.LAST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """TFLite has DCR. CRD is DCR before a change of places among the channels."""
        if rewriter.runtime != "tflite" or attribute(node, "mode", "DCR") == "DCR":
            return in_wider_dtype(node, rewriter, _WIDER)
        block, channels = attribute(node, "blocksize"), input_shape(node)[1]
        order = np.arange(channels * block * block).reshape(block * block, channels).T.reshape(-1)
        plain = rewriter.op("SpaceToDepth", input_of(node, 0), blocksize=block)
        return [rewriter.op("Gather", plain, rewriter.const(order.astype(np.int64), "order"), axis=1)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        at = builtin_version("SPACE_TO_DEPTH", stored_dtype(node, to))
        to.emit("SPACE_TO_DEPTH", [to.input(0)], [to.output()], version=at, block_size=attribute(node, "blocksize"))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        x, block = inputs[0], attribute(node, "blocksize")
        n, c, h, w = x.shape
        crd = attribute(node, "mode", "DCR") == "CRD"
        y = x.reshape(n, c, h // block, block, w // block, block).permute((0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4))
        return (y.reshape(n, c * block**2, h // block, w // block),)

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


def _reordered_conv(x: ir.Value, order: np.ndarray[Any, Any], rewriter: Rewriter) -> ir.Value | None:
    """`x` with its channels in `order`, by reordering the filters of the Conv that alone makes it; None where there is none such."""
    conv = x.producer()
    if conv is None or conv.op_type != "Conv" or len(x.uses()) > 1 or x.is_graph_output() or attribute(conv, "group", 1) != 1:
        return None
    weight, bias = constant(conv.inputs[1]), conv.inputs[2] if len(conv.inputs) > 2 else None
    addend = constant(bias)
    if weight is None or (bias is not None and addend is None):
        return None
    attributes = {name: attribute(conv, name) for name in conv.attributes}
    shift = None if addend is None else rewriter.const(addend[order], "bias")
    return rewriter.op("Conv", input_of(conv, 0), rewriter.const(weight[order], "weight"), shift, **attributes)
