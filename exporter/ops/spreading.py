"""Operators that repeat elements or set them by place: Expand, Tile, Trilu, OneHot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, is_constant, rank, static_shape
from exporter.ops.base import (
    Channels,
    Cost,
    Coupling,
    LayoutRule,
    Lowering,
    Operator,
    Port,
    QuantRule,
    Refused,
    Rewriter,
    register,
)
from exporter.ops.common import (
    INT8_AND_INT16,
    SHARED,
    activation_rule,
    input_of,
    input_shape,
    ints_of,
    output_shape,
)
from exporter.ops.composite import Composite
from exporter.ops.kernels import MOVED, builtin_version, dtype_of, most_axes, stored_dtype, takes

__all__ = ["Expand", "OneHot", "Tile", "Trilu"]

_ANY: Final = (*MOVED, "uint16", "uint32")


@register
class Expand(Operator):
    """Axes of length 1 repeated, by numpy's rules of broadcasting, up to the shape of the output."""

    op_type = "Expand"
    kernel_dtypes = INT8_AND_INT16
    constraints = (takes("Expand", _ANY), most_axes("Expand", 8))

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(_broadcast_ties(node))

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED, parameters=(1,))

    def layout(self, node: ir.Node) -> LayoutRule:
        """Axes are counted from the end, so an input of lower rank stays in the canonical order."""
        port = Port.NODE if rank(input_of(node, 0)) == rank(node.outputs[0]) else Port.FIRST
        return LayoutRule((port, Port.ANY), (port,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """The same shape is the same tensor; more axes of length 1 alone are a Reshape; a Tile where the oldest runtime has no BROADCAST_TO."""
        x, shape = input_of(node, 0), output_shape(node)
        if input_shape(node) == shape:
            return [x]
        if sorted(length for length in input_shape(node) if length != 1) == sorted(length for length in shape if length != 1):
            return [rewriter.op("Reshape", x, rewriter.const(np.asarray(shape, np.int64), "shape"))]
        return None if rewriter.runtime != "tflite" or rewriter.runs("BROADCAST_TO", 3) else [_tiled(x, shape, rewriter)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        out, at = to.output(), builtin_version("BROADCAST_TO", stored_dtype(node, to))
        to.emit("BROADCAST_TO", [to.input(0), to.ints(to.shape(out))], [out], version=at)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].expand(output_shape(node))]

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


def _tiled(x: ir.Value, shape: Sequence[int], rewriter: Rewriter) -> ir.Value:
    """`x` repeated to `shape` by TILE, which wants all axes."""
    own = (*(1,) * (len(shape) - rank(x)), *static_shape(x))
    whole = x if rank(x) == len(shape) else rewriter.op("Reshape", x, rewriter.const(np.asarray(own, np.int64), "shape"))
    times = [wide // length if length else 1 for wide, length in zip(shape, own, strict=True)]
    return rewriter.op("Tile", whole, rewriter.const(np.asarray(times, np.int64), "repeats"))


@register
class Tile(Operator):
    """The tensor repeated along every axis."""

    op_type = "Tile"
    kernel_dtypes = INT8_AND_INT16
    constraints = (takes("Tile", _ANY), most_axes("Tile", 8))

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(_broadcast_ties(node))

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, SHARED, parameters=(1,))

    def layout(self, node: ir.Node) -> LayoutRule:
        return LayoutRule((Port.NODE, Port.ANY), (Port.NODE,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Repeated once is the same tensor."""
        return [input_of(node, 0)] if input_shape(node) == output_shape(node) else None

    def lower(self, node: ir.Node, to: Lowering) -> None:
        """In int8 as CONCATENATION: the version of TILE that has it is not among the reference kernels."""
        source, out, dtype = to.input(0), to.output(), stored_dtype(node, to)
        times = [wide // own if own else 1 for wide, own in zip(to.shape(out), to.shape(source), strict=True)]
        if dtype != "int8":
            to.emit("TILE", [source, to.ints(times)], [out])
            return
        repeated = [axis for axis, count in enumerate(times) if count > 1]
        for axis in repeated:
            shape = [length * (times[axis] if place == axis else 1) for place, length in enumerate(to.shape(source))]
            target = out if axis == repeated[-1] else to.temp(source, shape)
            to.emit("CONCATENATION", [source] * times[axis], [target], builtin_version("CONCATENATION", dtype), axis=axis)
            source = target

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].repeat(ints_of(node, 1))]

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


def _broadcast_ties(node: ir.Node) -> tuple[tuple[Any, ...], ...]:
    """Axes behind the batch that keep their length."""
    before, after = input_shape(node), output_shape(node)
    shift = len(after) - len(before)
    return tuple(
        (Channels("in", 0, axis, length), Channels("out", 0, axis + shift, length))
        for axis, length in enumerate(before)
        if axis + shift > 0 and after[axis + shift] == length
    )


def _constant_diagonal(node: ir.Node) -> bool:
    return len(node.inputs) < 2 or node.inputs[1] is None or is_constant(node.inputs[1])


@register
class Trilu(Composite):
    """The upper or lower triangle of matrices, zeros elsewhere."""

    op_type = "Trilu"
    refuses: ClassVar[Mapping[str, str]] = {
        "lower": "Trilu with a constant diagonal is written as a choice between the matrix and zeros; its diagonal is computed"
    }

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(())

    def quantize(self, node: ir.Node) -> QuantRule:
        raise Refused(node, "Trilu becomes Where before it is planned")

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """A product with a mask would keep infinities and make them NaN; a choice does not."""
        if rewriter.runtime != "tflite" or not _constant_diagonal(node):
            return None
        shape, (diagonal,) = input_shape(node), ints_of(node, 1) or (0,)
        pick = np.triu if attribute(node, "upper", 1) else np.tril
        mask = rewriter.const(pick(np.ones(shape[-2:], bool), diagonal), "triangle")
        x = input_of(node, 0)
        if 0 in shape:
            return [x]
        return [rewriter.op("Where", mask, x, rewriter.const(np.zeros((1, 1), np.dtype(dtype_of(x))), "zero"))]


def _constant_depth(node: ir.Node) -> bool:
    return is_constant(node.inputs[1]) and is_constant(node.inputs[2])


@register
class OneHot(Composite):
    """A new axis of `depth` places: the second of two values where the index says, the first elsewhere."""

    op_type = "OneHot"
    refuses: ClassVar[Mapping[str, str]] = {
        "lower": "OneHot becomes comparisons of the indices with places; its depth or values are computed"
    }

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(())

    def quantize(self, node: ir.Node) -> QuantRule:
        raise Refused(node, "OneHot becomes comparisons before it is planned")

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """TFLite's ONE_HOT knows no indices that count from the end: each index is compared with both names of every place.

        Floats that are no integers name no place, as in ONNX's reference implementation (onnxruntime rounds them down).
        """
        if rewriter.runtime != "tflite" or not _constant_depth(node):
            return None
        (depth,), (off, on) = ints_of(node, 1) or (1,), constant(node.inputs[2]).reshape(-1)  # type: ignore[union-attr]
        indices, wide = input_of(node, 0), rank(node.outputs[0])
        axis = int(attribute(node, "axis", -1)) % wide
        if dtype_of(indices) not in ("float32", "int32", "int64"):
            indices = rewriter.op("Cast", indices, to=int(ir.DataType.INT64))
        dtype = np.dtype(dtype_of(indices))
        places = np.arange(depth, dtype=dtype).reshape((depth,) + (1,) * (wide - 1 - axis))
        column = rewriter.op("Unsqueeze", indices, rewriter.const(np.asarray([axis], np.int64), "axes"))
        named = [
            rewriter.op("Equal", column, rewriter.const(numbers, "places")) for numbers in (places, places - dtype.type(depth))
        ]
        values = (rewriter.const(np.full((1,) * wide, value), "value") for value in (on, off))
        return [rewriter.op("Where", rewriter.op("Or", *named), *values)]
