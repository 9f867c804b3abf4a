"""What the Hexagon NPU of a Snapdragon refuses, or computes otherwise than ONNX says it: conditions of single operators.

Each was found by `tools.conformance_htp` in the emulator of QNN 2.51 (onnxruntime-qnn 2.7.0), and is no wider than what was right there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant
from exporter.ops.base import Constraint
from exporter.ops.common import input_shape, output_shape
from exporter.ops.windows import window_of

__all__ = ["ARG_EXTREME", "AVERAGE_POOL", "CONV_TRANSPOSE", "GATHER", "MAX_POOL", "PAD", "RESIZE"]

_RUNTIME: Final = "qnn"
_HALF_PIXEL: Final = ("half_pixel", "pytorch_half_pixel")


def _one_pool(node: ir.Node) -> bool:
    """The pool has one or two spatial axes, its window is not dilated, and only the values are used, not the indices."""
    dilated = max(attribute(node, "dilations", (1,))) > 1
    indices = len(node.outputs) > 1 and bool(node.outputs[1].uses() or node.outputs[1].is_graph_output())
    return len(input_shape(node)) in (3, 4) and not dilated and not indices


def _not_dilated(node: ir.Node) -> bool:
    """The window is not dilated."""
    return bool(max(attribute(node, "dilations", (1,))) == 1)


def _whole_windows(node: ir.Node) -> bool:
    """No window reaches beyond the padding (`ceil_mode`): the NPU divides by what lies outside as well."""
    window = window_of(node, attribute(node, "kernel_shape"))
    axes = zip(window.count, window.strides, window.reach, window.before, window.size, window.after, strict=True)
    return all((count - 1) * stride + reach <= before + size + after for count, stride, reach, before, size, after in axes)


def _little_padding(node: ir.Node) -> bool:
    """Padding that does not count is at most half of the window: the NPU divides by too much beyond."""
    window = window_of(node, attribute(node, "kernel_shape"))
    counted = attribute(node, "count_include_pad", 0) == 1
    return counted or all(2 * pad <= reach for pad, reach in zip(window.pads, window.reach * 2, strict=True))


def _transposed_plainly(node: ir.Node) -> bool:
    """The kernel is not dilated, the output is at most one element longer than its input makes it, and its shape is not given."""
    dilated = max(attribute(node, "dilations", (1,))) > 1
    return not dilated and max(attribute(node, "output_padding", (0,))) <= 1 and attribute(node, "output_shape", None) is None


def _padded_with_zero(node: ir.Node) -> bool:
    """What is padded with is zero, or numbers of the input."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    number = constant(value)
    return value is None or (number is not None and not np.any(number))


def _counted_from_the_start(node: ir.Node) -> bool:
    """The indices are constants: a computed one that counts from the end reads another place there."""
    return constant(node.inputs[1]) is not None


def _first_of_equals(node: ir.Node) -> bool:
    """Of equal extremes the first one counts."""
    return bool(attribute(node, "select_last_index", 0) == 0)


def _whole_lengths(node: ir.Node) -> bool:
    """Scales give whole output lengths: the NPU goes by the lengths alone."""
    given = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if given is None or not given.size:
        return True
    before, after = np.asarray(input_shape(node)), np.asarray(output_shape(node))
    axes = list(attribute(node, "axes", range(len(before))))
    return bool(np.allclose(before[axes] * given.astype(np.float64), after[axes], rtol=1e-5, atol=0))


def _known_coordinates(node: ir.Node) -> bool:
    """Coordinates are half_pixel, pytorch_half_pixel, asymmetric or align_corners, without antialiasing."""
    known = (*_HALF_PIXEL, "asymmetric", "align_corners")
    return _coordinates(node) in known and attribute(node, "antialias", 0) == 0


def _nearest_alike(node: ir.Node) -> bool:
    """The nearest number is the lower one at asymmetric coordinates, or the one that half pixels round to; of two that are as near the
    NPU takes the upper one."""
    if attribute(node, "mode", "nearest") != "nearest":
        return True
    rounding = attribute(node, "nearest_mode", "round_prefer_floor")
    if _coordinates(node) == "asymmetric":
        return bool(rounding == "floor")
    if _coordinates(node) not in _HALF_PIXEL or rounding not in ("round_prefer_floor", "round_prefer_ceil"):
        return False
    return rounding == "round_prefer_ceil" or not any(map(_ties, input_shape(node), output_shape(node)))


def _coordinates(node: ir.Node) -> str:
    return str(attribute(node, "coordinate_transformation_mode", "half_pixel"))


def _ties(before: int, after: int) -> bool:
    """Whether an output place, ``(place + 1/2) * before / after - 1/2`` of the input, lies in the middle between two."""
    return any(((2 * place + 1) * before - after) % (2 * after) == after for place in range(after))


MAX_POOL: Final = (Constraint(_RUNTIME, _one_pool),)
AVERAGE_POOL: Final = tuple(Constraint(_RUNTIME, rule) for rule in (_not_dilated, _whole_windows, _little_padding))
CONV_TRANSPOSE: Final = (Constraint(_RUNTIME, _transposed_plainly),)
PAD: Final = (Constraint(_RUNTIME, _padded_with_zero),)
GATHER: Final = (Constraint(_RUNTIME, _counted_from_the_start),)
ARG_EXTREME: Final = (Constraint(_RUNTIME, _first_of_equals),)
RESIZE: Final = tuple(Constraint(_RUNTIME, rule) for rule in (_whole_lengths, _known_coordinates, _nearest_alike))
