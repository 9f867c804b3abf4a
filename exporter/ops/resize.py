"""Resize in all its modes: the kernels of TFLite where they do the same, else constant indices (nearest) and matrices (linear, cubic)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute
from exporter.ops import hexagon
from exporter.ops.base import (
    Channels,
    Constraint,
    Cost,
    Coupling,
    InputRule,
    LayoutRule,
    Lowering,
    Operator,
    Port,
    QuantRule,
    Refused,
    Rewriter,
    Role,
    register,
)
from exporter.ops.common import INT8_AND_INT16, SHARED, input_of, input_shape, output_shape, version
from exporter.ops.fixed_point import quotient
from exporter.ops.reference import Affine, Stored, moved, single
from exporter.ops.resampling import interpolation_matrix, mode_of, moves, nearest_indices, outside, positions, refusal

__all__ = ["Resize"]

# (align_corners, half_pixel_centers) of the TFLite kernels, plainest first.
_FORMS: Final = ((False, False), (False, True), (True, False))
_NEAREST_TYPES: Final = frozenset((ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16))


def _resolved(node: ir.Node) -> bool:
    """The region of interest, scales and sizes are constant, and onnxruntime computes what the ONNX specification says: corners are aligned
    for whole output lengths alone, and a resize to the same lengths has scales of 1."""
    return not refusal(node)


def _interpolates_floats(node: ir.Node) -> bool:
    """What is interpolated is float32; integers are resized in mode nearest alone."""
    return mode_of(node) == "nearest" or input_of(node, 0).dtype == ir.DataType.FLOAT


@register
class Resize(Operator):
    """Data, region of interest, scales, sizes. The static output shape decides the sizes."""

    op_type = "Resize"
    references_int16 = True
    kernel_dtypes = INT8_AND_INT16
    constraints = (Constraint("tflite", _resolved), Constraint("tflite", _interpolates_floats), *hexagon.RESIZE)

    def couple(self, node: ir.Node) -> Coupling:
        shape, result = input_shape(node), output_shape(node)
        kept = [axis for axis in range(len(shape)) if shape[axis] == result[axis]]
        resized = [axis for axis in range(len(shape)) if axis not in kept]
        return Coupling(
            tuple((Channels("in", 0, axis, shape[axis]), Channels("out", 0, axis, shape[axis])) for axis in kept),
            blocked=(
                *(Channels("in", 0, axis, shape[axis]) for axis in resized),
                *(Channels("out", 0, axis, result[axis]) for axis in resized),
            ),
        )

    def quantize(self, node: ir.Node) -> QuantRule:
        parameters = (InputRule(Role.PARAMETER),) * (len(node.inputs) - 1)
        return QuantRule((InputRule(Role.ACTIVATION), *parameters), (SHARED,))

    def layout(self, node: ir.Node) -> LayoutRule:
        return LayoutRule((Port.LAST, *(Port.ANY,) * (len(node.inputs) - 1)), (Port.LAST,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite, what no kernel of its computes is a Gather (nearest) or a product with a constant matrix (linear, cubic) an axis.

        A resize that moves nothing is its input.
        """
        if refusal(node) or not _interpolates_floats(node):
            return None
        x = input_of(node, 0)
        axes = [axis for axis in range(len(input_shape(node))) if moves(node, axis)]
        if not axes:
            return [x]
        if rewriter.runtime != "tflite" or _tflite_form(node) is not None:
            return None
        # What shrinks most first: the axes behind it then have less to do.
        for axis in sorted(axes, key=lambda axis: output_shape(node)[axis] / input_shape(node)[axis]):
            if mode_of(node) == "nearest":
                x = rewriter.op("Gather", x, rewriter.const(nearest_indices(node, axis), "indices"), axis=axis)
            else:
                x = _product(x, interpolation_matrix(node, axis), axis, rewriter)
        return [_extrapolated(node, x, rewriter)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        form = _tflite_form(node)
        if form is None:
            raise Refused(node, refusal(node) or "no TFLite kernel computes this Resize; the legalize stage replaces it")
        align_corners, half_pixel = form
        mode = mode_of(node)
        new = half_pixel or (align_corners and mode == "nearest")
        to.emit(
            "RESIZE_NEAREST_NEIGHBOR" if mode == "nearest" else "RESIZE_BILINEAR",
            [to.input(0), to.ints(output_shape(node)[2:])],
            [to.output()],
            3 if new else version(1, 2, to.quantized),
            align_corners=align_corners,
            half_pixel_centers=half_pixel,
        )

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        if refusal(node):
            raise Refused(node, refusal(node))
        x = inputs[0]
        for axis in range(len(input_shape(node))):
            if not moves(node, axis):
                continue
            if mode_of(node) == "nearest":
                x = x.index_select(axis, torch.as_tensor(nearest_indices(node, axis), device=x.device))
            else:
                x = (x.movedim(axis, -1) @ x.new_tensor(interpolation_matrix(node, axis))).movedim(-1, axis)
        beyond = _outside_anywhere(node)
        if not beyond.any():
            return (x,)
        fill = x.new_tensor(attribute(node, "extrapolation_value", 0.0))
        return (torch.where(torch.as_tensor(beyond, device=x.device), fill, x),)

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        """Source: ResizeBilinear of int8 in LiteRT `kernels/internal/reference/resize_bilinear.h`."""
        form = _tflite_form(node)
        if mode_of(node) == "nearest":
            return moved(node, inputs, outputs)
        if form is None:
            raise Refused(node, "no TFLite kernel computes this Resize")
        found = single(inputs[0]).array.astype(np.int64)
        for axis in (2, 3):
            below, above, part = _tenth_bit_places(input_shape(node)[axis], output_shape(node)[axis], *form)
            part = part.reshape(-1, *(1,) * (3 - axis))
            found = found.take(below, axis) * ((1 << 10) - part) + found.take(above, axis) * part
        return [quotient(found + np.where(found > 0, 1 << 19, -(1 << 19)), 1 << 20)]

    def cost(self, node: ir.Node) -> Cost:
        taps = {"nearest": 1, "linear": 4}.get(mode_of(node), 16)
        return Cost(elementwise=prod(output_shape(node)) * taps)


def _tenth_bit_places(size: int, count: int, align: bool, half: bool) -> tuple[np.ndarray[Any, Any], ...]:
    """Elements below and above each output along an axis, and how far it lies above the lower one, in 1/1024 of an element."""
    spans, steps = (size - 1, count - 1) if align and count > 1 else (size, count)
    scale = ((1 << 10) * spans + steps // 2) // steps
    at = np.arange(count) * scale + (scale // 2 - (1 << 9) if half else 0)
    below = np.maximum(quotient(at, 1 << 10), 0)
    above = np.minimum(quotient(at + (1 << 10) - 1, 1 << 10), size - 1)
    return below, above, at - (below << 10)


def _product(x: ir.Value, matrix: np.ndarray[Any, Any], axis: int, rewriter: Rewriter) -> ir.Value:
    """`x` times `matrix` [size, count] along `axis`, which comes to the end for it: fully connected layers run everywhere."""
    last = len(x.shape or ()) - 1
    perm = list(range(last + 1))
    perm[axis], perm[last] = last, axis  # a swap is its own inverse
    moved = x if axis == last else rewriter.op("Transpose", x, perm=perm)
    product = rewriter.op("MatMul", moved, rewriter.const(matrix, "interpolation"))
    return product if axis == last else rewriter.op("Transpose", product, perm=perm)


def _extrapolated(node: ir.Node, x: ir.Value, rewriter: Rewriter) -> ir.Value:
    """`x` with the extrapolation value at the outputs that a crop takes from outside of the input."""
    beyond = _outside_anywhere(node)
    if not beyond.any():
        return x
    if x.dtype != ir.DataType.FLOAT:
        raise Refused(node, "Resize extrapolates float32 alone")
    if mode_of(node) == "nearest":
        x = rewriter.op("Mul", x, rewriter.const((~beyond).astype(np.float32), "inside"))
    fill = float(attribute(node, "extrapolation_value", 0.0))
    return rewriter.op("Add", x, rewriter.const((beyond * np.float32(fill)).astype(np.float32), "fill")) if fill else x


def _outside_anywhere(node: ir.Node) -> np.ndarray[Any, Any]:
    """Which outputs lie outside of the input along any axis, broadcastable to the output."""
    masks = [outside(node, axis) for axis in range(len(input_shape(node)))]
    beyond = np.zeros((1,) * len(masks), bool)
    for axis, mask in enumerate(masks):
        if mask.any():
            beyond = beyond | mask.reshape([-1 if place == axis else 1 for place in range(len(masks))])
    return beyond


def _tflite_form(node: ir.Node) -> tuple[bool, bool] | None:
    """(align_corners, half_pixel_centers) of the kernel that computes this resize, or None."""
    shape, mode = input_shape(node), mode_of(node)
    kept = len(shape) == 4 and not refusal(node) and not any(moves(node, axis) for axis in (0, 1))
    if not kept or mode == "cubic" or attribute(node, "antialias", 0) or _outside_anywhere(node).any():
        return None
    if (mode == "nearest" and input_of(node, 0).dtype not in _NEAREST_TYPES) or not _interpolates_floats(node):
        return None
    axes = [axis for axis in (2, 3) if moves(node, axis)]
    for align, half in _FORMS:
        if all(_same_elements(node, axis, mode, align, half) for axis in axes):
            return align, half
    return None


def _same_elements(node: ir.Node, axis: int, mode: str, align: bool, half: bool) -> bool:
    """Whether a kernel form reads the same input elements (nearest) or the same places between them (linear) along `axis`.

    The formulas and their float32 arithmetic are those of TFLite's reference kernels.
    """
    size, count = input_shape(node)[axis], output_shape(node)[axis]
    out = np.arange(count, dtype=np.float32)
    stretched = align and count > 1
    scale = np.float32((size - 1) / np.float32(count - 1) if stretched else size / np.float32(count))
    at = (out + np.float32(0.5 if half else 0.0)) * scale
    if mode == "nearest":
        rounded = np.floor(at + np.float32(0.5)) if align else np.floor(at)
        return bool((np.clip(rounded, 0, size - 1) == nearest_indices(node, axis)).all())
    at = at - np.float32(0.5) if half else at
    wanted = np.clip(positions(node, axis), 0, size - 1)
    return bool(np.allclose(np.clip(at, 0, size - 1), wanted, rtol=0, atol=size * 1e-6))
