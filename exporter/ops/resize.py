"""Resize (nearest and linear), DepthToSpace and SpaceToDepth."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, is_constant
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
from exporter.ops.common import SHARED, activation_rule, input_of, input_shape, output_shape, uniform_layout, version

__all__ = ["DepthToSpace", "Resize", "SpaceToDepth", "nearest_indices", "positions"]

_COORDINATES: Final = frozenset(("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"))
# (align_corners, half_pixel_centers) of the TFLite kernels, plainest first.
_FORMS: Final = ((False, False), (False, True), (True, False))


def _image(node: ir.Node) -> bool:
    """The value is an image [N, C, H, W] of which only H and W are resized."""
    shape, result = input_shape(node), output_shape(node)
    return len(shape) == 4 and shape[:2] == result[:2]


def _known_form(node: ir.Node) -> bool:
    """Mode, coordinates and rounding are those of a TFLite kernel: nearest that picks the same elements as one of asymmetric-floor,
    half-pixel or align-corners; linear with asymmetric, half-pixel or align-corners coordinates, without antialiasing."""
    return not _image(node) or _tflite_form(node) is not None


@register
class Resize(Operator):
    """Data, region of interest, scales, sizes. The static output shape decides the sizes."""

    op_type = "Resize"
    constraints = (Constraint("tflite", _image), Constraint("tflite", _known_form))

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
        """A resize to the same size is its input."""
        same = input_shape(node) == output_shape(node) and _known_coordinates(node)
        return [input_of(node, 0)] if same else None

    def lower(self, node: ir.Node, to: Lowering) -> None:
        form = _tflite_form(node)
        if form is None:
            raise Refused(node, self.constraints[1].sentence)
        align_corners, half_pixel = form
        mode = attribute(node, "mode", "nearest")
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

        x, mode = inputs[0], attribute(node, "mode", "nearest")
        if mode not in ("nearest", "linear") or attribute(node, "antialias", 0) or not _known_coordinates(node):
            raise Refused(node, f"Resize with mode {mode} and these attributes cannot be simulated; only nearest and linear can")
        for axis, (size, count) in enumerate(zip(input_shape(node), output_shape(node), strict=True)):
            if size == count:
                continue
            at = positions(node, axis)
            if mode == "nearest":
                x = x.index_select(axis, torch.as_tensor(nearest_indices(node, axis), device=x.device))
                continue
            low = np.floor(at)
            share = x.new_tensor(at - low).reshape(-1, *(1,) * (x.dim() - axis - 1))
            below, above = (
                torch.as_tensor(np.clip(low + step, 0, size - 1).astype(np.int64), device=x.device) for step in (0, 1)
            )
            x = x.index_select(axis, below) * (1 - share) + x.index_select(axis, above) * share
        return (x,)

    def cost(self, node: ir.Node) -> Cost:
        taps = 1 if attribute(node, "mode", "nearest") == "nearest" else 4
        return Cost(elementwise=prod(output_shape(node)) * taps)


def positions(node: ir.Node, axis: int) -> np.ndarray[Any, Any]:
    """Where each output index of `axis` lies in the input, as the ONNX specification's `coordinate_transformation_mode` says.

    In float32, as onnxruntime computes it: where a place falls on a boundary of rounding, its error decides, and the original does the same.
    Raises Refused for the other modes: a crop needs its region of interest, half_pixel_symmetric has no kernel.
    """
    size, count = input_shape(node)[axis], output_shape(node)[axis]
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    out, scale, half = np.arange(count, dtype=np.float32), _scale(node, axis), np.float32(0.5)
    if mode == "asymmetric":
        return out / scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and count > 1):
        return (out + half) / scale - half
    if mode in ("align_corners", "pytorch_half_pixel"):
        stretched = mode == "align_corners" and count > 1
        return out * np.float32(size - 1) / np.float32(count - 1) if stretched else np.zeros(count, np.float32)
    raise Refused(node, f"Resize with coordinate_transformation_mode {mode} is not supported")


def nearest_indices(node: ir.Node, axis: int) -> np.ndarray[Any, Any]:
    """Input index that each output index of `axis` takes, in mode nearest."""
    at, rounding = positions(node, axis), attribute(node, "nearest_mode", "round_prefer_floor")
    shift = {"round_prefer_floor": -0.5, "round_prefer_ceil": 0.5}.get(rounding, 0.0)
    rounded = np.ceil(at + shift) if rounding in ("ceil", "round_prefer_floor") else np.floor(at + shift)
    return np.asarray(np.clip(rounded, 0, input_shape(node)[axis] - 1).astype(np.int64))


def _scale(node: ir.Node, axis: int) -> np.float32:
    """Output length over input length; the given scale where there is one, which a rounded length may differ from."""
    given = constant(node.inputs[2] if len(node.inputs) > 2 else None)
    if given is None or given.size == 0:
        return np.float32(output_shape(node)[axis]) / np.float32(input_shape(node)[axis])
    axes = [place % len(input_shape(node)) for place in attribute(node, "axes", tuple(range(given.size)))]
    return np.float32(given.reshape(-1)[axes.index(axis)]) if axis in axes else np.float32(1)


def _known_coordinates(node: ir.Node) -> bool:
    return attribute(node, "coordinate_transformation_mode", "half_pixel") in _COORDINATES


def _tflite_form(node: ir.Node) -> tuple[bool, bool] | None:
    """(align_corners, half_pixel_centers) of the kernel that computes this resize, or None."""
    mode = attribute(node, "mode", "nearest")
    computed = any(value is not None and not is_constant(value) for value in node.inputs[1:])
    if mode not in ("nearest", "linear") or attribute(node, "antialias", 0) or not _known_coordinates(node) or computed:
        return None
    axes = [axis for axis in (2, 3) if input_shape(node)[axis] != output_shape(node)[axis]]
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


@register
class DepthToSpace(Operator):
    """[N, C * b * b, H, W] -> [N, C, H * b, W * b]; DCR: the block index is the outer one of the channels, CRD: the inner one."""

    op_type = "DepthToSpace"

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
            return None
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
    """[N, C, H * b, W * b] -> [N, b * b * C, H, W]."""

    op_type = "SpaceToDepth"

    def couple(self, node: ir.Node) -> Coupling:
        block, count = attribute(node, "blocksize") ** 2, input_shape(node)[1]
        return Coupling(((Channels("in", 0, 1, count), Channels("out", 0, 1, count, outer=block)),))

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED)

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.LAST)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        block = attribute(node, "blocksize")
        to.emit("SPACE_TO_DEPTH", [to.input(0)], [to.output()], version(1, 2, to.quantized), block_size=block)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        x, block = inputs[0], attribute(node, "blocksize")
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
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
