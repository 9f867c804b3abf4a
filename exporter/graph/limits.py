"""Counts of a node that a target's unit may limit, and the sentence where a limit is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Final

import onnx_ir as ir

from exporter.graph.values import attribute, is_constant, static_shape
from targets.schema import Limit, Measure

__all__ = ["exceeded", "measured"]

_CHANNELS: Final = 1  # the axis of them, in the canonical order


def exceeded(limit: Limit, node: ir.Node) -> str:
    """Why `node` is beyond `limit`, with the number that is; "" where it is within, or the limit is about other operators."""
    if "*" not in limit.operators and node.op_type not in limit.operators:
        return ""
    what = limit.measure.replace("_", " ")
    for number in measured(limit.measure, node):
        if limit.least is not None and number < limit.least:
            return f"{what} is {number}, at least {limit.least}: {limit.why}"
        if limit.most is not None and number > limit.most:
            return f"{what} is {number}, at most {limit.most}: {limit.why}"
        if limit.multiple_of is not None and number % limit.multiple_of:
            return f"{what} is {number}, no multiple of {limit.multiple_of}: {limit.why}"
        if limit.among and number not in limit.among:
            return f"{what} is {number}, none of {', '.join(map(str, limit.among))}: {limit.why}"
    return ""


def measured(measure: Measure, node: ir.Node) -> tuple[int, ...]:
    """The numbers of a node that a limit of this measure is about; none where the node has nothing of the kind.

    Raises ValueError where an activation has no static shape.
    """
    return tuple(_MEASURES[measure](node))


def _computed(values: Sequence[ir.Value | None]) -> list[ir.Value]:
    return [value for value in values if value is not None and not is_constant(value)]


def _shapes(node: ir.Node, *, least_rank: int = 0) -> list[tuple[int, ...]]:
    """Of the activations that a node reads and writes."""
    shapes = [static_shape(value) for value in (*_computed(node.inputs), *node.outputs) if value.name]
    return [shape for shape in shapes if len(shape) >= least_rank]


def _channels(values: Sequence[ir.Value | None]) -> list[int]:
    shapes = [static_shape(value) for value in _computed(values) if value.name]
    return [shape[_CHANNELS] for shape in shapes if len(shape) >= 3]


def _kernel(node: ir.Node) -> Sequence[int]:
    """A convolution may leave out the attribute, its weight [out, in, *kernel] has it in any case; a global pooling's is its input."""
    if node.op_type.startswith("Global"):
        return static_shape(node.inputs[0])[2:] if node.inputs[0] is not None else ()
    given: Sequence[int] = attribute(node, "kernel_shape", ())
    weight = node.inputs[1] if node.op_type in ("Conv", "ConvTranspose") else None
    return given or (static_shape(weight)[2:] if weight is not None else ())


def _pads(node: ir.Node) -> bool:
    return any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")


def _padded_stride(node: ir.Node) -> Sequence[int]:
    strides: Sequence[int] = attribute(node, "strides", ())
    return strides if _pads(node) or any(rate > 1 for rate in attribute(node, "dilations", ())) else ()


def _scales(node: ir.Node) -> list[int]:
    source = node.inputs[0]
    if node.op_type != "Resize" or source is None:
        return []
    pairs = zip(static_shape(source), static_shape(node.outputs[0]), strict=True)
    return [after // before if after % before == 0 else 0 for before, after in pairs if before != after]


def _mirrored(node: ir.Node) -> list[int]:
    source = node.inputs[0]
    if node.op_type != "Pad" or source is None or attribute(node, "mode", "constant") == "constant":
        return []
    pairs = zip(static_shape(source), static_shape(node.outputs[0]), strict=True)
    return [sum(before != after for before, after in pairs)]


def _grouped(node: ir.Node) -> list[int]:
    groups = attribute(node, "group", 1) if node.op_type in ("Conv", "ConvTranspose") else 1
    return [channels // groups for channels in (*_channels(node.inputs), *_channels(node.outputs))] if groups > 1 else []


_MEASURES: Final[Mapping[Measure, Callable[[ir.Node], Sequence[int]]]] = {
    "batch": lambda node: [shape[0] for shape in _shapes(node, least_rank=4)],
    "rank": lambda node: [len(shape) for shape in _shapes(node)],
    "size": lambda node: [size for shape in _shapes(node) for size in shape],
    "elements": lambda node: [prod(shape) for shape in _shapes(node)],
    "input_channels": lambda node: _channels(node.inputs),
    "output_channels": lambda node: _channels(node.outputs),
    "kernel": _kernel,
    "kernel_axes": lambda node: [len(found)] if (found := _kernel(node)) else [],
    "stride": lambda node: attribute(node, "strides", ()),
    "dilation": lambda node: attribute(node, "dilations", ()),
    "padded_kernel": lambda node: _kernel(node) if _pads(node) else (),
    "padded_stride": _padded_stride,
    "scale": _scales,
    "operands": lambda node: [len(_computed(node.inputs))],
    "mirrored": _mirrored,
    "grouped": _grouped,
}
