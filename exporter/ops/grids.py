"""Images sampled along computed grids: AffineGrid, GridSample and DeformConv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, static_shape
from exporter.ops.base import Channels, Coupling, Refused, Rewriter, register
from exporter.ops.common import input_of, input_shape, ints_of
from exporter.ops.composite import Composite
from exporter.ops.sampling import reflected, sampled
from exporter.ops.tape import Tape
from exporter.ops.windows import window_of

__all__ = ["AffineGrid", "DeformConv", "GridSample"]

_FLOAT: Final = "part of a grid of places, of which 8 bits name 256"
_REFUSES: Final[Mapping[str, str]] = {
    "quantize": "its places are fractions of elements, which 8 bits do not hold",
    "lower": "TFLite has no operator for it; the legalize stage makes it of arithmetic and a Gather",
}
_MODES: Final = {"bilinear": "linear", "linear": "linear", "bicubic": "cubic", "cubic": "cubic", "nearest": "nearest"}


class _Grid(Composite):
    """What they share: float32 alone."""

    refuses: ClassVar[Mapping[str, str]] = _REFUSES

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        if any(value is not None and value.dtype not in _DTYPES for value in node.inputs):
            raise Refused(node, f"{self.op_type} of float32 alone is supported")
        return [self._made(node, Tape(rewriter, _FLOAT))]

    def _made(self, node: ir.Node, to: Tape) -> ir.Value:
        raise NotImplementedError


_DTYPES: Final = frozenset((ir.DataType.FLOAT, ir.DataType.INT64))  # of data; of sizes


@register
class AffineGrid(_Grid):
    """Places [N, spatial..., d] of an image's elements under affine maps [N, d, d + 1], in units of [-1, 1] an axis."""

    op_type = "AffineGrid"

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(())

    def _made(self, node: ir.Node, to: Tape) -> ir.Value:
        sizes = (ints_of(node, 1) or ())[2:]
        (batch, axes, _), aligned = input_shape(node), bool(attribute(node, "align_corners", 0))
        lines = np.meshgrid(*(_line(size, aligned) for size in sizes), indexing="ij")
        points = np.stack([line.reshape(-1) for line in reversed(lines)] + [np.ones(prod(sizes))])  # [d + 1, points]
        rows = to.op("MatMul", to.reshape(input_of(node, 0), (batch * axes, axes + 1)), points)
        moved = to.transpose(to.reshape(rows, (batch, axes, prod(sizes))), (0, 2, 1))
        return to.reshape(moved, (batch, *sizes, axes))


def _line(size: int, aligned: bool) -> np.ndarray[Any, Any]:
    """Centres of `size` elements that fill [-1, 1], or, where corners are aligned, the first and last of which are -1 and 1."""
    step = 2 / (max(size - 1, 1) if aligned else size)
    return np.asarray(-1 + np.arange(size) * step + (0 if aligned else step / 2))


@register
class GridSample(_Grid):
    """The image [N, C, spatial...] at the places [N, out..., d] (last axis first, in units of [-1, 1])."""

    op_type = "GridSample"

    def couple(self, node: ir.Node) -> Coupling:
        count = input_shape(node)[1]
        return Coupling(((Channels("in", 0, 1, count), Channels("out", 0, 1, count)),))

    def _made(self, node: ir.Node, to: Tape) -> ir.Value:
        x, grid, sizes = input_of(node, 0), input_of(node, 1), input_shape(node)[2:]
        mode, padding = _MODES[attribute(node, "mode", "linear")], attribute(node, "padding_mode", "zeros")
        aligned = bool(attribute(node, "align_corners", 0))
        if mode == "cubic" and len(sizes) != 2:
            raise Refused(node, "GridSample in mode cubic is defined for images of two axes alone")
        if mode == "cubic" and padding == "border":
            raise Refused(
                node,
                "GridSample in mode cubic with padding border clamps places in the ONNX specification, and not in onnxruntime",
            )
        batch, *outside = static_shape(grid)[:-1]
        flat = to.reshape(grid, (batch * prod(outside), len(sizes)))
        places = []
        for axis, size in enumerate(sizes):
            column = len(sizes) - 1 - axis
            place = _elements(to.part(flat, 1, column, column + 1), size, aligned, to)
            if mode == "nearest":
                place = to.op("Round", place)
            if padding == "border" and mode != "nearest":
                place = to.op("Clip", place, 0.0, float(size - 1))
            elif padding == "reflection" and mode != "nearest":
                place = reflected(place, size, aligned, to)
            places.append(place)
        y = sampled(x, places, to, mode=mode, padding=padding, align_corners=aligned)
        channels = input_shape(node)[1]
        image = to.reshape(y, (batch, *outside, channels))
        return to.transpose(image, (0, len(outside) + 1, *range(1, len(outside) + 1)))


def _elements(place: ir.Value, size: int, aligned: bool, to: Tape) -> ir.Value:
    """Places in [-1, 1] in elements; in the order of onnxruntime's float32 operations, as ties of rounding hang on them."""
    moved = to.op("Add", place, 1.0)
    if aligned:
        return to.op("Mul", to.op("Mul", moved, 0.5), float(size - 1))
    return to.op("Mul", to.op("Sub", to.op("Mul", moved, float(size)), 1.0), 0.5)


@register
class DeformConv(_Grid):
    """A convolution whose taps are moved by computed offsets and weighed by a mask (Dai et al. 2017, Zhu et al. 2018)."""

    op_type = "DeformConv"

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(())

    def _made(self, node: ir.Node, to: Tape) -> ir.Value:
        """Samples at every tap, one row a window: their product with the filters."""
        weight, sizes = constant(input_of(node, 1)), input_shape(node)[2:]
        if weight is None or len(sizes) != 2:
            raise Refused(node, "DeformConv of images with constant filters alone is supported")
        x, window = input_of(node, 0), window_of(node, weight.shape[2:])
        (batch, channels), groups = input_shape(node)[:2], int(attribute(node, "offset_group", 1))
        taps, points, each = prod(window.kernel), prod(window.count), channels // groups
        offsets = to.reshape(input_of(node, 2), (batch, groups, taps, 2, points))
        starts = np.meshgrid(*(window.positions(axis)[:, 0] for axis in (0, 1)), indexing="ij")
        steps = np.meshgrid(*(np.arange(k) * d for k, d in zip(window.kernel, window.dilations, strict=True)), indexing="ij")
        samples = []
        for group in range(groups):
            places = []
            for axis in (0, 1):
                fixed = steps[axis].reshape(-1, 1) + starts[axis].reshape(1, -1)  # [taps, points]
                moved = to.part(to.part(offsets, 1, group, group + 1), 3, axis, axis + 1)
                place = to.op("Add", to.reshape(moved, (batch, taps, points)), fixed[None].astype(np.float64))
                places.append(to.reshape(place, (batch * taps * points, 1)))
            part = x if groups == 1 else to.part(x, 1, group * each, (group + 1) * each)
            y = to.reshape(sampled(part, places, to, mode="linear", padding="zeros"), (batch, taps, points, each))
            if len(node.inputs) > 4 and node.inputs[4] is not None:
                mask = to.reshape(node.inputs[4], (batch, groups, taps, points))
                y = to.op("Mul", y, to.reshape(to.part(mask, 1, group, group + 1), (batch, taps, points, 1)))
            samples.append(y)
        whole = samples[0] if groups == 1 else to.op("Concat", *samples, axis=3)
        rows = to.reshape(to.transpose(whole, (0, 2, 1, 3)), (batch * points, taps * channels))
        y = to.op("MatMul", rows, _filters(weight, int(attribute(node, "group", 1))))
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            y = to.op("Add", y, node.inputs[3])
        image = to.transpose(to.reshape(y, (batch, points, weight.shape[0])), (0, 2, 1))
        return to.reshape(image, (batch, weight.shape[0], *window.count))


def _filters(weight: np.ndarray[Any, Any], group: int) -> np.ndarray[Any, Any]:
    """[O, C / group, h, w] as a matrix [h * w * C, O]; zeros where filter and channel are of different groups."""
    filters, each = weight.shape[:2]
    dense = np.zeros((filters, each * group, prod(weight.shape[2:])), weight.dtype)
    for number in range(group):
        rows = slice(number * filters // group, (number + 1) * filters // group)
        dense[rows, number * each : (number + 1) * each] = weight[rows].reshape(-1, each, dense.shape[2])
    return dense.transpose(2, 1, 0).reshape(-1, filters)
