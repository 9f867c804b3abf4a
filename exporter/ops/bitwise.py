"""Logic of the bits of integers, and their shifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant
from exporter.ops.base import Constraint, LayoutRule, Lowering, Port, Rewriter, register
from exporter.ops.common import Elementwise, elementwise_layout, input_of, input_shape, output_shape, uniform_layout
from exporter.ops.formulas import Formula
from exporter.ops.kernels import dtype_of, takes

__all__ = ["BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"]

_UP_TO_32: Final = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
_WIDE: Final = ("int64", "uint64")
_REFUSES: Final[Mapping[str, str]] = {"quantize": "bits of integers are not quantized"}


def _same_size(node: ir.Node) -> bool:
    """Both dtypes of BitCast have elements of as many bytes (floats are float32 inside of a graph)."""
    return np.dtype(dtype_of(input_of(node, 0))).itemsize == np.dtype(dtype_of(node.outputs[0])).itemsize


@register
class BitCast(Elementwise):
    """The same bits as another dtype."""

    op_type = "BitCast"
    constraints = (Constraint("tflite", _same_size),)
    refuses: ClassVar[Mapping[str, str]] = {
        "quantize": "the bits of what an encoding stands for are not the bits of its integers"
    }

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("BITCAST", [to.input(0)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [inputs[0].view(getattr(torch, dtype_of(node.outputs[0])))]


def _same_shapes(node: ir.Node) -> bool:
    """Both inputs have the shape of the output (legalize expands what is broadcast)."""
    return all(input_shape(node, index) == output_shape(node) for index in range(len(node.inputs)))


@register
class BitwiseAnd(Elementwise):
    """The bits that both have."""

    op_type = "BitwiseAnd"
    constraints = (takes("BitwiseAnd", (*_UP_TO_32, *_WIDE)), Constraint("tflite", _same_shapes))
    refuses: ClassVar[Mapping[str, str]] = _REFUSES

    def layout(self, node: ir.Node) -> LayoutRule:
        return elementwise_layout(node) if _same_shapes(node) else uniform_layout(node, Port.FIRST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """The kernel does not broadcast: a smaller input is spread by an operator that does and changes no bit."""
        if rewriter.runtime != "tflite" or _same_shapes(node):
            return None
        always = rewriter.const(np.ones(output_shape(node), np.bool_), "always")
        spread = [
            value if index_shape == output_shape(node) else rewriter.op("Where", always, value, value)
            for value, index_shape in ((input_of(node, index), input_shape(node, index)) for index in (0, 1))
        ]
        return [rewriter.op("BitwiseAnd", *spread)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("STABLEHLO_AND", [to.input(0), to.input(1)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] & inputs[1]]


@register
class BitwiseXor(Elementwise):
    """The bits that one of both has."""

    op_type = "BitwiseXor"
    constraints = (takes("BitwiseXor", _UP_TO_32),)
    refuses: ClassVar[Mapping[str, str]] = _REFUSES

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """With 64 bits: x + y - 2 (x & y), which is exact however it overflows."""
        if rewriter.runtime != "tflite" or dtype_of(input_of(node, 0)) not in _WIDE:
            return None
        f, x, y = Formula(node, rewriter), input_of(node, 0), input_of(node, 1)
        both = f("BitwiseAnd", x, y)
        return [f("Sub", f("Sub", f("Add", x, y), both), both)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("BITWISE_XOR", [to.input(0), to.input(1)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] ^ inputs[1]]


@register
class BitwiseOr(Elementwise):
    """The bits that either has."""

    op_type = "BitwiseOr"
    refuses: ClassVar[Mapping[str, str]] = {**_REFUSES, "lower": "TFLite has no kernel of BitwiseOr; legalize makes it others"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """x ^ y ^ (x & y); with 64 bits x + y - (x & y)."""
        if rewriter.runtime != "tflite":
            return None
        f, x, y = Formula(node, rewriter), input_of(node, 0), input_of(node, 1)
        both = f("BitwiseAnd", x, y)
        if dtype_of(x) in _WIDE:
            return [f("Sub", f("Add", x, y), both)]
        return [f("BitwiseXor", f("BitwiseXor", x, y), both)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] | inputs[1]]


@register
class BitwiseNot(Elementwise):
    """The opposite of every bit."""

    op_type = "BitwiseNot"
    refuses: ClassVar[Mapping[str, str]] = {
        **_REFUSES,
        "lower": "TFLite has no kernel of BitwiseNot; legalize makes it BitwiseXor",
    }

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """x ^ 11...1; with 64 bits -1 - x."""
        if rewriter.runtime != "tflite":
            return None
        x = input_of(node, 0)
        dtype = np.dtype(dtype_of(x))
        ones = rewriter.const(np.asarray(np.iinfo(dtype).max if dtype.kind == "u" else -1, dtype))
        return [rewriter.op("Sub", ones, x) if dtype.itemsize == 8 else rewriter.op("BitwiseXor", x, ones)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [~inputs[0]]


def _shifts_in_range(node: ir.Node) -> bool:
    """Bits are shifted to the right, by a number of places that the width has (legalize makes others of the rest)."""
    if attribute(node, "direction", "") != "RIGHT":
        return False
    places, width = node.inputs[1], _width(node)
    array = constant(places)
    if array is not None:
        return bool(((array >= 0) & (array < width)).all())
    before = places.producer() if places is not None else None
    if before is not None and before.op_type == "Cast" and before.inputs[0] is not None:
        before = before.inputs[0].producer()
    limit = constant(before.inputs[1]) if before is not None and before.op_type == "Min" else None
    return limit is not None and bool((limit < width).all())  # nothing below 0 reaches the Min that legalize writes


def _width(node: ir.Node) -> int:
    return 8 * np.dtype(dtype_of(input_of(node, 0))).itemsize


@register
class BitShift(Elementwise):
    """The bits of integers, moved by a number of places; to the right the sign moves in, else zeros.

    A number of places that is negative or not below the width leaves what has moved in alone (ONNX's BitShift-28).
    """

    op_type = "BitShift"
    constraints = (takes("BitShift", _UP_TO_32), Constraint("tflite", _shifts_in_range))
    refuses: ClassVar[Mapping[str, str]] = _REFUSES

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        f, width = Formula(node, rewriter), _width(node)
        if attribute(node, "direction", "") != "RIGHT":
            return [self._left(f, node, width)]
        if dtype_of(input_of(node, 0)) in _WIDE:
            return [self._wide_right(f, node)]
        if _shifts_in_range(node):
            return None
        places = self._places(f, node, width - 1)
        wide = "int64" if width == 32 else "int32"
        limited = f.cast(f("Min", f.cast(places, wide), f.number(width - 1, wide)), dtype_of(places))
        shifted = f("BitShift", input_of(node, 0), limited, direction="RIGHT")
        if _signed(node):
            return [shifted]
        return [f.chosen(f("Greater", places, width - 1), 0, shifted)]

    @staticmethod
    def _places(f: Formula, node: ir.Node, instead: int) -> ir.Value:
        """The number of places, `instead` where it is negative."""
        places = input_of(node, 1)
        return f.chosen(f("Less", places, 0), instead, places) if _signed(node) else places

    def _left(self, f: Formula, node: ir.Node, width: int) -> ir.Value:
        """x * 2**places, with the power from a table, whose last entry stands for all places beyond the width: nothing is left."""
        places = f.cast(f("Min", self._places(f, node, width), width), "int32")
        powers = np.asarray([*(1 << place for place in range(width)), 0], np.uint64).astype(np.int64)
        product = f("Mul", f.cast(input_of(node, 0), "int64"), f("Gather", powers, places, axis=0))
        return f.cast(product, dtype_of(input_of(node, 0)))

    def _wide_right(self, f: Formula, node: ir.Node) -> ir.Value:
        """Of 64 bits: (x - x mod 2**places) / 2**places; what is left after 63 places or more is the sign.

        Of unsigned ones the bits that moved in as signs are masked off.
        """
        limit = 63 if _signed(node) else 64
        places = f.cast(f("Min", self._places(f, node, limit), limit), "int32")
        x = f.cast(input_of(node, 0), "int64")
        g = Formula(node, f.rewriter, dtype="int64")
        power = g("Gather", np.asarray([1 << min(place, 62) for place in range(65)], np.int64), places, axis=0)
        quotient = g("Div", g("Sub", x, g("Mod", x, power)), power)
        last = g("Greater", g.cast(places, "int64"), 62)
        shifted = g.chosen(last, g.chosen(g("Less", x, 0), -1, 0), quotient)
        if _signed(node):
            return shifted
        masks = np.asarray([(1 << (64 - place)) - 1 for place in range(65)], np.uint64).astype(np.int64)
        kept = g("BitwiseAnd", shifted, g("Gather", masks, places, axis=0))
        return g.cast(kept, "uint64")

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("RIGHT_SHIFT", [to.input(0), to.input(1)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        x, places = inputs
        width = _width(node)
        outside = (places < 0) | (places >= width)
        if attribute(node, "direction", "") == "RIGHT":
            filled = torch.where(x < 0, -torch.ones_like(x), torch.zeros_like(x))
            return [torch.where(outside, filled, x >> places.clamp(0, width - 1))]
        return [torch.where(outside, torch.zeros_like(x), x << places.clamp(0, width - 1))]


def _signed(node: ir.Node) -> bool:
    return dtype_of(input_of(node, 0)).startswith("int")
