"""The arithmetic of ONNX's Resize, one axis at a time: where outputs lie in the input, which elements they read, with which weights.

Every mode of Resize is separable: along one axis, nearest is a choice of indices, linear and cubic are products with a matrix. Both follow
from static lengths, so both are constants. Formulas: the ONNX operator specification, Resize-19; float32 where onnxruntime computes in float32,
since where a place falls on a boundary of rounding its error decides.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, is_constant
from exporter.ops.base import Refused
from exporter.ops.common import input_shape, output_shape

__all__ = ["interpolation_matrix", "mode_of", "moves", "nearest_indices", "outside", "positions", "refusal"]

_MODES: Final = frozenset(("nearest", "linear", "cubic"))
_HALF_WAY: Final = 1e-6  # of an element; onnxruntime 1.31.1, where 1.43e-6 is no tie and 0.95e-6 is one
_TOLERANCE: Final = 1e-6  # of a length: two places closer than this are one


def mode_of(node: ir.Node) -> str:
    """ "nearest", "linear" or "cubic"."""
    return str(attribute(node, "mode", "nearest"))


def refusal(node: ir.Node) -> str:
    """Why a Resize cannot be resolved to constants; empty where it can."""
    if any(value is not None and not is_constant(value) for value in node.inputs[1:]):
        return "The region of interest, the scales and the sizes of Resize are constant."
    if mode_of(node) not in _MODES:
        return "The mode of Resize is nearest, linear or cubic."
    if _fractional_corners(node):
        return (
            "Resize aligns corners of a whole output length: of a fractional one (scales that do not give whole lengths) the ONNX"
            " specification spreads over the fractional length, onnxruntime over the rounded one."
        )
    if input_shape(node) == output_shape(node) and any(_rescaled(node, axis) for axis in range(len(input_shape(node)))):
        return "Resize to the same lengths has scales of 1: with others the ONNX specification moves elements, and onnxruntime copies the input."
    return ""


def positions(node: ir.Node, axis: int) -> np.ndarray[Any, Any]:
    """Where each output index of `axis` lies in the input, as `coordinate_transformation_mode` says; float32, may lie outside."""
    size, count, scale = np.float32(input_shape(node)[axis]), output_shape(node)[axis], _scale(node, axis)
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    out, half, one = np.arange(count, dtype=np.float32), np.float32(0.5), np.float32(1)
    if mode == "tf_crop_and_resize":
        start, end = _region(node, axis)
        if count == 1:
            return np.full(1, half * (start + end) * (size - one), np.float32)
        return np.asarray(start * (size - one) + out * (end - start) * (size - one) / np.float32(count - 1), np.float32)
    if scale == 1:
        return out
    if mode == "asymmetric":
        return np.asarray(out / scale)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and count > 1):
        return np.asarray((out + half) / scale - half)
    if mode == "half_pixel_symmetric":
        offset = size / np.float32(2) * (one - np.float32(count) / (scale * size))
        at = float(offset) + (out.astype(np.float64) + 0.5) / float(scale) - 0.5  # its kernel has this line in double precision
        return at.astype(np.float32)
    if mode == "align_corners" and count > 1:
        return np.asarray(out * (size - one) / np.float32(count - 1))
    if mode in ("align_corners", "pytorch_half_pixel"):
        return np.zeros(count, np.float32)
    raise Refused(node, f"Resize with coordinate_transformation_mode {mode} is not supported")


def outside(node: ir.Node, axis: int) -> np.ndarray[Any, Any]:
    """Which outputs along `axis` get the extrapolation value: those that a crop takes from outside of the input."""
    if attribute(node, "coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize":
        return np.zeros(output_shape(node)[axis], bool)
    at = positions(node, axis)
    return np.asarray((at < 0) | (at > input_shape(node)[axis] - 1))


def nearest_indices(node: ir.Node, axis: int) -> np.ndarray[Any, Any]:
    """Input index that each output index of `axis` takes, in mode nearest.

    What `nearest_mode` rounds to either side counts as half way within `_HALF_WAY` of it, as in onnxruntime.
    """
    at, rounding = positions(node, axis).astype(np.float64), attribute(node, "nearest_mode", "round_prefer_floor")
    below = np.floor(at)
    if rounding == "ceil":
        below = np.ceil(at)
    elif rounding != "floor":
        half_way = np.abs(at - (below + 0.5)) < _HALF_WAY
        below += np.where(half_way, rounding == "round_prefer_ceil", at > below + 0.5)
    return np.asarray(np.clip(below, 0, input_shape(node)[axis] - 1).astype(np.int64))


def interpolation_matrix(node: ir.Node, axis: int) -> np.ndarray[Any, Any]:
    """[size, count], float32: along `axis`, ``output = input @ matrix`` in the modes linear and cubic. Outputs outside of it are zero.

    Taps beyond an end of the input read the element at that end; with `exclude_outside` they are left out and the others scaled up.
    """
    size, at = input_shape(node)[axis], positions(node, axis).astype(np.float64)
    if mode_of(node) == "linear":
        at = np.clip(at, 0, size - 1) if not attribute(node, "antialias", 0) else at
    shrink = min(float(_scale(node, axis)), 1.0) if attribute(node, "antialias", 0) else 1.0
    support = int(np.ceil((2 if mode_of(node) == "cubic" else 1) / shrink))
    taps = np.floor(at).astype(np.int64)[:, None] + np.arange(1 - support, support + 1)
    weights = _kernel(node, (taps - at[:, None]) * shrink)
    if attribute(node, "exclude_outside", 0):
        weights = np.where((taps >= 0) & (taps < size), weights, 0.0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    weights[outside(node, axis)] = 0.0
    matrix = np.zeros((size, at.size), np.float64)
    np.add.at(matrix, (np.clip(taps, 0, size - 1), np.arange(at.size)[:, None]), weights)
    return matrix.astype(np.float32)


def moves(node: ir.Node, axis: int) -> bool:
    """Whether the outputs along `axis` differ from the inputs."""
    size, count = input_shape(node)[axis], output_shape(node)[axis]
    if size != count or outside(node, axis).any():
        return True
    if (positions(node, axis) == np.arange(size)).all():
        return False
    if mode_of(node) == "nearest":
        return bool((nearest_indices(node, axis) != np.arange(size)).any())
    return bool((interpolation_matrix(node, axis) != np.eye(size)).any())


def _kernel(node: ir.Node, distance: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weight of a tap at a distance: the triangle, or the cubic convolution kernel (Keys 1981) with `cubic_coeff_a`."""
    x = np.abs(distance)
    if mode_of(node) == "linear":
        return np.asarray(np.clip(1 - x, 0, 1))
    a = float(attribute(node, "cubic_coeff_a", -0.75))
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _scale(node: ir.Node, axis: int) -> np.float32:
    """Output length over input length; the given scale where there is one, which a rounded length may differ from.

    A policy that keeps the aspect ratio has one scale for all axes that it resizes: the least or greatest of them.
    """
    shape, result = input_shape(node), output_shape(node)
    scales, sizes = (constant(node.inputs[index]) if index < len(node.inputs) else None for index in (2, 3))
    given = scales if scales is not None and scales.size else sizes
    if given is None or given.size == 0:
        return np.float32(result[axis]) / np.float32(shape[axis])
    axes = [place % len(shape) for place in attribute(node, "axes", tuple(range(given.size)))]
    if axis not in axes:
        return np.float32(1)
    if given is scales:
        return np.float32(given.reshape(-1)[axes.index(axis)])
    policy = attribute(node, "keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return np.float32(result[axis]) / np.float32(shape[axis])
    ratios = [np.float32(size) / np.float32(shape[place]) for size, place in zip(given.reshape(-1), axes, strict=True)]
    return min(ratios) if policy == "not_larger" else max(ratios)


def _region(node: ir.Node, axis: int) -> tuple[np.float32, np.float32]:
    """Start and end of the region of interest along `axis`, in units of the input's length."""
    given = constant(node.inputs[1] if len(node.inputs) > 1 else None)
    if given is None or given.size == 0:
        raise Refused(node, "Resize with tf_crop_and_resize needs a region of interest")
    region = given.reshape(-1).astype(np.float32)
    axes = [place % len(input_shape(node)) for place in attribute(node, "axes", tuple(range(region.size // 2)))]
    if axis not in axes:
        return np.float32(0), np.float32(1)
    place = axes.index(axis)
    return region[place], region[place + region.size // 2]


def _rescaled(node: ir.Node, axis: int) -> bool:
    crop = attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return not crop and moves(node, axis)


def _fractional_corners(node: ir.Node) -> bool:
    if attribute(node, "coordinate_transformation_mode", "half_pixel") != "align_corners":
        return False
    shape, result = input_shape(node), output_shape(node)
    return any(
        abs(float(_scale(node, axis)) * shape[axis] - result[axis]) > _TOLERANCE * result[axis]
        for axis in range(len(shape))
        if result[axis] > 1 and shape[axis] > 1
    )
