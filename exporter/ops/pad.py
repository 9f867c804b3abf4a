"""Pad: constant, reflected and edge padding; negative amounts crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, is_constant, static_shape
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
from exporter.ops.common import INT8_AND_INT16, SHARED, input_of, input_shape, ints_of, output_shape
from exporter.ops.kernels import MOVED, builtin_version, in_wider_dtype, most_axes, stored_dtype, takes

__all__ = ["Pad", "amounts"]


def _constant_amounts(node: ir.Node) -> bool:
    """The amounts, the axes and the value are constants."""
    return all(is_constant(value) for value in node.inputs[1:] if value is not None)


def _known_mode(node: ir.Node) -> bool:
    """The mode is constant, reflect or edge (wrap becomes a Gather)."""
    return attribute(node, "mode", "constant") in ("constant", "reflect", "edge")


@register
class Pad(Operator):
    """Data, amounts (all before, then all behind), value, axes."""

    op_type = "Pad"
    kernel_dtypes = INT8_AND_INT16
    constraints = (
        Constraint("tflite", _constant_amounts),
        Constraint("tflite", _known_mode),
        takes("Pad", MOVED),
        most_axes("Pad", 5),
        *hexagon.PAD,
    )

    def couple(self, node: ir.Node) -> Coupling:
        """Axes without padding pass through; padded ones stay whole."""
        shape, before, after = input_shape(node), *amounts(node)
        whole = [axis for axis in range(len(shape)) if before[axis] == after[axis] == 0]
        padded = [axis for axis in range(len(shape)) if axis not in whole]
        return Coupling(
            tuple((Channels("in", 0, axis, shape[axis]), Channels("out", 0, axis, shape[axis])) for axis in whole),
            blocked=(
                *(Channels("in", 0, axis, shape[axis]) for axis in padded),
                *(Channels("out", 0, axis, shape[axis] + before[axis] + after[axis]) for axis in padded),
            ),
        )

    def quantize(self, node: ir.Node) -> QuantRule:
        roles = (Role.ACTIVATION, Role.PARAMETER, Role.PARAMETER if _value(node) == 0.0 else Role.ACTIVATION, Role.PARAMETER)
        return QuantRule(tuple(InputRule(role) for role in roles[: len(node.inputs)]), (SHARED,))

    def layout(self, node: ir.Node) -> LayoutRule:
        return LayoutRule((Port.NODE, *(Port.ANY,) * (len(node.inputs) - 1)), (Port.NODE,))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Nothing to pad is no node. For TFLite: negative amounts are a Slice, and an edge is copied one element at a time
        (its MIRROR_PAD copies an edge only where symmetric and edge padding are the same). What it cannot mirror, and what wraps
        around, is gathered axis by axis. Axes beside each other that are not padded become one, where there are too many."""
        x, before, after = input_of(node, 0), *amounts(node)
        if not any(before) and not any(after):
            return [x]
        if rewriter.runtime != "tflite" or not _constant_amounts(node):
            return None
        mode, value = attribute(node, "mode", "constant"), node.inputs[2] if len(node.inputs) > 2 else None
        if min(before + after) < 0:
            shape = input_shape(node)
            starts = [max(-amount, 0) for amount in before]
            ends = [length - max(-amount, 0) for length, amount in zip(shape, after, strict=True)]
            cropped = rewriter.op(
                "Slice",
                x,
                rewriter.const(np.asarray(starts, np.int64), "starts"),
                rewriter.const(np.asarray(ends, np.int64), "ends"),
                rewriter.const(np.arange(len(shape), dtype=np.int64), "axes"),
            )
            rest = [max(amount, 0) for amount in before + after]
            return [rewriter.op("Pad", cropped, rewriter.const(np.asarray(rest, np.int64), "pads"), value, mode=mode)]
        if mode == "wrap" or (mode == "reflect" and _beyond(node)) or (mode != "constant" and len(before) > 5):
            return [_gathered(rewriter, x, before, after, mode)]
        if len(before) > 5:
            return _merged(node, rewriter, before, after)
        if mode == "edge" and max(before + after) > 1:
            once = [min(amount, 1) for amount in before + after]
            rest = [amount - one for amount, one in zip(before + after, once, strict=True)]
            near = rewriter.op("Pad", x, rewriter.const(np.asarray(once, np.int64), "pads"), mode="edge")
            return [rewriter.op("Pad", near, rewriter.const(np.asarray(rest, np.int64), "pads"), mode="edge")]
        return in_wider_dtype(node, rewriter, {"uint16": "int32", "uint32": "int64"})

    def lower(self, node: ir.Node, to: Lowering) -> None:
        axes = len(input_shape(node))
        table = np.zeros((axes, 2), np.int32)
        for axis, pair in enumerate(zip(*amounts(node), strict=True)):
            table[to.axis(axis, axes)] = pair
        inputs, dtype = [to.input(0), to.ints(table)], stored_dtype(node, to)
        mode = attribute(node, "mode", "constant")
        if mode != "constant":
            number = builtin_version("MIRROR_PAD", dtype)
            to.emit("MIRROR_PAD", inputs, [to.output()], number, mode="REFLECT" if mode == "reflect" else "SYMMETRIC")
        elif _value(node) == 0.0:
            to.emit("PAD", inputs, [to.output()], builtin_version("PAD", dtype, axes))
        else:
            to.emit("PADV2", [*inputs, to.input(2)], [to.output()], builtin_version("PADV2", dtype, axes))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        x, before, after = inputs[0], *amounts(node)
        mode = attribute(node, "mode", "constant")
        if mode == "constant":
            pairs = [amount for axis in reversed(range(x.dim())) for amount in (before[axis], after[axis])]
            value = inputs[2] if len(inputs) > 2 and inputs[2] is not None else None
            return (torch.nn.functional.pad(x, pairs, value=0.0 if value is None else float(value)),)
        for axis, (first, last) in enumerate(zip(before, after, strict=True)):
            whole = np.arange(x.shape[axis])[max(-first, 0) : x.shape[axis] - max(-last, 0)]
            order = np.pad(whole, (max(first, 0), max(last, 0)), mode=mode)
            x = x.index_select(axis, torch.as_tensor(order, device=x.device))
        return (x,)

    def cost(self, node: ir.Node) -> Cost:
        return Cost()


def amounts(node: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Elements before and behind every axis. Raises Refused where the amounts or axes are computed."""
    axes = len(input_shape(node))
    given = ints_of(node, 1) or ()
    chosen = ints_of(node, 3)
    before, after = [0] * axes, [0] * axes
    for place, axis in enumerate(range(axes) if chosen is None else chosen):
        before[axis % axes], after[axis % axes] = given[place], given[place + len(given) // 2]
    return tuple(before), tuple(after)


def _value(node: ir.Node) -> float:
    """The padded value. Raises Refused where it is computed."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or attribute(node, "mode", "constant") != "constant":
        return 0.0
    array = constant(value)
    if array is None:
        raise Refused(node, f"the value of Pad ({value.name}) is computed; only a constant is supported")
    return float(array.reshape(()))


def _beyond(node: ir.Node) -> bool:
    """Whether more is reflected than there is beside the edge."""
    return any(
        max(first, last) >= length for length, first, last in zip(input_shape(node), *amounts(node), strict=True) if first or last
    )


def _gathered(rewriter: Rewriter, x: ir.Value, before: Sequence[int], after: Sequence[int], mode: str) -> ir.Value:
    for axis, (first, last) in enumerate(zip(before, after, strict=True)):
        if first or last:
            places = np.pad(np.arange(static_shape(x)[axis]), (first, last), mode=mode)  # type: ignore[call-overload]
            x = rewriter.op("Gather", x, rewriter.const(places.astype(np.int64), "places"), axis=axis)
    return x


def _merged(node: ir.Node, rewriter: Rewriter, before: Sequence[int], after: Sequence[int]) -> Sequence[ir.Value] | None:
    """A constant Pad of more than 5 axes on the tensor with neighbouring whole axes as one; None where more than 5 remain."""
    shape: list[int] = []
    pairs: list[tuple[int, int]] = []
    for length, first, last in zip(input_shape(node), before, after, strict=True):
        if pairs and (first, last) == pairs[-1] == (0, 0):
            shape[-1] *= length
        else:
            shape.append(length)
            pairs.append((first, last))
    if len(shape) > 5:
        return None
    flat = rewriter.op("Reshape", input_of(node, 0), rewriter.const(np.asarray(shape, np.int64), "shape"))
    amount = [first for first, _ in pairs] + [last for _, last in pairs]
    padded = rewriter.op("Pad", flat, rewriter.const(np.asarray(amount, np.int64), "pads"), *node.inputs[2:3])
    return [rewriter.op("Reshape", padded, rewriter.const(np.asarray(output_shape(node), np.int64), "shape"))]
