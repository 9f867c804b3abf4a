"""Strided slices that together hold every pixel once, joined as channels, are one SpaceToDepth.

::

    x -+-> Slice [0::2, 0::2] -+
       +-> Slice [1::2, 0::2] -+-> Concat(channels) -> Conv(w)          x -> SpaceToDepth(2) -> Conv(w, its input channels reordered)
       +-> Slice [0::2, 1::2] -+
       +-> Slice [1::2, 1::2] -+

Detectors begin so. TFLite's kernels with a step copy element by element, and no delegate takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import onnx_ir as ir

from exporter.graph.rewriter import GraphRewriter
from exporter.graph.values import attribute, constant, is_constant, static_shape
from exporter.ops.slicing import slice_ranges

__all__ = ["phases_to_depth"]


def phases_to_depth(node: ir.Node, rewriter: GraphRewriter) -> Sequence[ir.Value] | None:
    """The Conv that reads the slices reads a SpaceToDepth instead; whatever their order, its weight takes the order that this gives."""
    if rewriter.runtime != "tflite" or node.op_type != "Conv" or attribute(node, "group", 1) != 1:
        return None
    x, weight = node.inputs[0], constant(node.inputs[1])
    joined = x.producer() if x is not None else None
    if weight is None or weight.ndim != 4 or joined is None or joined.op_type != "Concat":
        return None
    if attribute(joined, "axis") not in (1, -3):
        return None
    cuts = _slices(joined)
    source = cuts[0].inputs[0] if cuts else None
    if source is None or any(cut.inputs[0] is not source for cut in cuts):
        return None
    block = slice_ranges(cuts[0])[2][2]
    phases, wanted = _phases(cuts, static_shape(source), block), list(product(range(block), range(block)))
    if not phases or sorted(phases) != wanted:
        return None
    parts = weight.reshape(len(weight), block * block, -1, *weight.shape[2:])
    reordered = parts.take([phases.index(phase) for phase in wanted], axis=1).reshape(weight.shape)
    depth = rewriter.op("SpaceToDepth", source, blocksize=block)
    return [rewriter.copy(node, [depth, rewriter.const(reordered, "weight"), *node.inputs[2:]])]


def _slices(joined: ir.Node) -> list[ir.Node]:
    """The slices, at constant places, that are all inputs of a Concat; none where one input is something else."""
    cuts = [cut for value in joined.inputs if value is not None and (cut := value.producer()) is not None]
    known = [
        cut for cut in cuts if cut.op_type == "Slice" and all(value is None or is_constant(value) for value in cut.inputs[1:])
    ]
    return known if len(known) == len(joined.inputs) else []


def _phases(cuts: Sequence[ir.Node], shape: tuple[int, ...], block: int) -> list[tuple[int, int]]:
    """The first row and column of every slice; none where one is not all of a channel's pixels at a step of `block` both ways."""
    samples, channels, height, width = shape
    if block < 2 or height % block or width % block:
        return []
    phases = []
    for batch, depth, rows, columns in map(slice_ranges, cuts):
        whole = batch == (0, samples, 1) and depth == (0, channels, 1)
        if not whole or rows[1:] != (height // block, block) or columns[1:] != (width // block, block):
            return []
        phases.append((rows[0], columns[0]))
    return phases
