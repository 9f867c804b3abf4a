"""Regions of an image: RoiAlign, and why NonMaxSuppression has no place in an artifact of static shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute
from exporter.ops.base import Channels, Coupling, Operator, Refused, Rewriter, register
from exporter.ops.common import input_of, input_shape
from exporter.ops.composite import Composite
from exporter.ops.tape import Tape

__all__ = ["NonMaxSuppression", "RoiAlign"]

_FLOAT: Final = "part of RoiAlign, whose places are fractions of elements, which 8 bits do not hold"
_COUNTED: Final = "the number of boxes that NonMaxSuppression gives depends on data; cut the model off before it"


@register
class RoiAlign(Composite):
    """Means of bilinear samples over the cells of regions (He et al. 2017): image [N, C, H, W], regions [R, 4], their images [R]."""

    op_type = "RoiAlign"
    refuses: ClassVar[Mapping[str, str]] = {
        "quantize": "its places are fractions of elements, which 8 bits do not hold",
        "lower": "TFLite has no operator for it; the legalize stage makes it two products a region",
    }

    def couple(self, node: ir.Node) -> Coupling:
        count = input_shape(node)[1]
        return Coupling(((Channels("in", 0, 1, count), Channels("out", 0, 1, count)),))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """A mean of bilinear samples is separable: ``rows [R, h, H] @ image @ columns [R, W, w]``, with the weights computed."""
        if rewriter.runtime != "tflite":
            return None
        x, samples = input_of(node, 0), int(attribute(node, "sampling_ratio", 0))
        if x.dtype != ir.DataType.FLOAT:
            raise Refused(node, "RoiAlign of float32 alone is supported")
        if attribute(node, "mode", "avg") != "avg":
            raise Refused(node, "RoiAlign in mode max takes weighed elements, not samples, in onnxruntime; only avg is supported")
        if samples <= 0:
            raise Refused(node, "RoiAlign with sampling_ratio 0 takes a number of samples that depends on the regions")
        to = Tape(rewriter, _FLOAT)
        batch, channels, height, width = input_shape(node)
        regions, tall, wide = (
            input_shape(node, 1)[0],
            int(attribute(node, "output_height", 1)),
            int(attribute(node, "output_width", 1)),
        )
        rows = _weights(node, 1, height, tall, samples, to)  # [R, h, H]
        columns = to.transpose(_weights(node, 0, width, wide, samples, to), (0, 2, 1))  # [R, W, w]
        lines = to.reshape(to.transpose(x, (0, 2, 1, 3)), (batch, height, channels * width))
        picked = to.op("Gather", lines, input_of(node, 2), axis=0)
        high = to.reshape(to.op("MatMul", rows, picked), (regions, tall * channels, width))
        y = to.reshape(to.op("MatMul", high, columns), (regions, tall, channels, wide))
        return [to.transpose(y, (0, 2, 1, 3))]


def _weights(node: ir.Node, column: int, size: int, count: int, samples: int, to: Tape) -> ir.Value:
    """[R, count, size]: the share of each element of an axis in each cell; a sample more than one element outside counts as zero."""
    regions, scale = input_shape(node, 1)[0], float(attribute(node, "spatial_scale", 1.0))
    half = attribute(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel"
    first, last = (to.op("Mul", to.part(input_of(node, 1), 1, side, side + 1), scale) for side in (column, column + 2))
    length = to.op("Sub", last, first)
    if half:
        first = to.op("Sub", first, 0.5)
    else:
        length = to.op("Max", length, 1.0)
    cells = (np.arange(count)[:, None] + (np.arange(samples) + 0.5) / samples).reshape(1, -1) / count
    place = to.reshape(to.op("Add", to.op("Mul", length, cells), first), (regions, count * samples, 1))
    inside = to.op("And", to.op("GreaterOrEqual", place, -1.0), to.op("LessOrEqual", place, float(size)))
    near = to.op("Clip", place, 0.0, float(size - 1))
    distance = to.op("Abs", to.op("Sub", near, np.arange(size, dtype=np.float64).reshape(1, 1, -1)))
    share = to.op("Max", to.op("Sub", 1.0, distance), 0.0)
    share = to.op("Mul", share, to.op("Cast", inside, to=int(ir.DataType.FLOAT)))
    return to.reduce("ReduceMean", to.reshape(share, (regions, count, samples, size)), [2], keep=False)


@register
class NonMaxSuppression(Operator):
    """Indices of the boxes that overlap no better one: as many as there are."""

    op_type = "NonMaxSuppression"
    refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(("couple", "quantize", "layout", "lower", "torch", "cost"), _COUNTED)
