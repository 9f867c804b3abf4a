"""Col2Im: columns of blocks summed into an image, which is a transposed convolution with one tap a row of the block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute
from exporter.ops.base import Channels, Coupling, Refused, Rewriter, register
from exporter.ops.common import input_of, input_shape, ints_of, output_shape
from exporter.ops.composite import Composite
from exporter.ops.tape import Tape

__all__ = ["Col2Im"]


@register
class Col2Im(Composite):
    """[N, C * block, L] -> [N, C, image...]: every column is a block of the image, overlapping elements are summed."""

    op_type = "Col2Im"
    refuses: ClassVar[Mapping[str, str]] = {
        "quantize": "it becomes a transposed convolution and a padding, which are planned apart",
        "lower": "TFLite has no operator for it; the legalize stage makes it a transposed convolution",
    }

    def couple(self, node: ir.Node) -> Coupling:
        count, block = output_shape(node)[1], prod(ints_of(node, 2) or ())
        return Coupling(((Channels("in", 0, 1, count, repeat=block), Channels("out", 0, 1, count)),))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """A ConvTranspose of the columns laid out as an image of blocks: tap t of a block comes from channel ``c * block + t`` alone."""
        if rewriter.runtime != "tflite":
            return None
        image, block = ints_of(node, 1), ints_of(node, 2)
        if image is None or block is None or input_of(node, 0).dtype != ir.DataType.FLOAT:
            raise Refused(node, "Col2Im of float32 with constant image and block shapes alone is supported")
        ones, zeros = (1,) * len(image), (0,) * 2 * len(image)
        strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
        pads = attribute(node, "pads", zeros)
        reach = [(k - 1) * d + 1 for k, d in zip(block, dilations, strict=True)]
        padded = [size + low + high for size, low, high in zip(image, pads[: len(image)], pads[len(image) :], strict=True)]
        counts = [(size - r) // s + 1 for size, r, s in zip(padded, reach, strides, strict=True)]
        rest = [size - (n - 1) * s - r for size, n, s, r in zip(padded, counts, strides, reach, strict=True)]
        (batch, rows, _), taps = input_shape(node), prod(block)
        one_hot = np.tile(np.eye(taps).reshape(taps, 1, *block), (rows // taps, *(1,) * (len(block) + 1)))
        to = Tape(rewriter)
        laid_out = to.reshape(input_of(node, 0), (batch, rows, *counts))
        whole = to.op(
            "ConvTranspose",
            laid_out,
            one_hot,
            np.zeros(rows // taps),
            group=rows // taps,
            kernel_shape=block,
            strides=strides,
            dilations=dilations,
            pads=(0,) * 2 * len(block),
        )
        if any(rest):  # no block reaches the last elements
            whole = to.op("Pad", whole, to.ints((0,) * (len(rest) + 4) + tuple(rest)), mode="constant")
        for axis, (low, size) in enumerate(zip(pads, image, strict=False)):
            if padded[axis] != size:
                whole = to.part(whole, axis + 2, low, low + size)
        return [whole]
