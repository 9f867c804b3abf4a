"""Products of matrices between two computed values, or of integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import constant, is_constant, rank, static_shape
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
from exporter.ops.common import INT8_AND_INT16, OWN, activation_rule, input_of, input_shape, output_shape, uniform_layout, version
from exporter.ops.composite import Composite
from exporter.ops.fixed_point import multiply, multiply_long, quantize_multiplier
from exporter.ops.indexing import reshaped
from exporter.ops.kernels import dtype_of, most_axes, takes
from exporter.ops.reference import Affine, Stored, accumulated, clamped, encoding_of, pair

__all__ = ["MatMul", "MatMulInteger"]


@register
class MatMul(Operator):
    """A [..., M, K] @ B [..., K, N] with broadcast batch axes."""

    op_type = "MatMul"
    references_int16 = True
    kernel_dtypes = INT8_AND_INT16
    weight_only: ClassVar[Mapping[int, int | None]] = {1: None}
    constraints = (takes("MatMul", ("float32",)), most_axes("MatMul", 5), most_axes("MatMul", 5, 1))

    def couple(self, node: ir.Node) -> Coupling:
        a, b, out = input_shape(node), input_shape(node, 1), output_shape(node)
        if min(len(a), len(b)) < 2:
            return Coupling((), blocked=_whole("in", 0, a) + _whole("in", 1, b) + _whole("out", 0, out))
        ra, rb, ro = len(a), len(b), len(out)
        ties: list[tuple[Channels, ...]] = [
            (Channels("in", 0, ra - 1, a[-1]), Channels("in", 1, rb - 2, b[-2])),
            (Channels("in", 1, rb - 1, b[-1]), Channels("out", 0, ro - 1, b[-1])),
            (Channels("in", 0, ra - 2, a[-2]), Channels("out", 0, ro - 2, a[-2])),
        ]
        for axis in range(ro - 2):
            runs = [
                Channels("in", index, axis - ro + len(shape), out[axis])
                for index, shape in enumerate((a, b))
                if axis - ro + len(shape) >= 0 and shape[axis - ro + len(shape)] == out[axis]
            ]
            ties.append((*runs, Channels("out", 0, axis, out[axis])))
        return Coupling(tuple(ties), free_outputs=(1,) if is_constant(node.inputs[1]) else ())

    def quantize(self, node: ir.Node) -> QuantRule:
        if is_constant(node.inputs[1]) and rank(input_of(node, 1)) == 2:
            return QuantRule((InputRule(Role.ACTIVATION), InputRule(Role.WEIGHT, 1)), (OWN,))
        return activation_rule(node)

    def hybrid(self, node: ir.Node) -> str:
        # Broadcast batches are left to float: the kernel quantizes the rows of each product anew.
        return "BATCH_MATMUL" if input_shape(node)[:-2] == input_shape(node, 1)[:-2] else ""

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.FIRST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """With a constant [K, N] on the right it is a Gemm; for TFLite, batch axes are folded into its rows, and vectors are matrices."""
        x, weight = input_of(node, 0), constant(node.inputs[1])
        shape = static_shape(x)
        if rewriter.runtime == "tflite" and (min(len(shape), rank(input_of(node, 1))) < 2 or rank(node.outputs[0]) > 5):
            return [_as_matrices(node, rewriter)]
        if dtype_of(x) != "float32":
            return None
        if weight is None or weight.ndim != 2 or len(shape) < 2 or (len(shape) > 2 and rewriter.runtime != "tflite"):
            return None
        matrix = rewriter.const(weight.T, "weight")
        if len(shape) == 2:
            return [rewriter.op("Gemm", x, matrix, transB=1)]
        rows = rewriter.op("Reshape", x, rewriter.const(np.asarray((prod(shape[:-1]), shape[-1]), np.int64), "rows"))
        y = rewriter.op("Gemm", rows, matrix, transB=1)
        return [rewriter.op("Reshape", y, rewriter.const(np.asarray(output_shape(node), np.int64), "shape"))]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("BATCH_MATMUL", [to.input(0), to.input(1)], [to.output()], version(1, 2, to.quantized), adj_x=False, adj_y=False)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return (inputs[0] @ inputs[1],)

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        """Source: LiteRT `kernels/batch_matmul.cc` and `kernels/internal/reference/batch_matmul.h`."""
        (left, right), to = pair(inputs), encoding_of(outputs)
        multiplier = quantize_multiplier(float(left.scale * right.scale) / to.scale[0])
        times = multiply_long if to.dtype == "int16" else multiply
        return [clamped(node, times(accumulated(node, inputs), *multiplier), to)]

    def cost(self, node: ir.Node) -> Cost:
        return Cost(macs=prod(output_shape(node)) * input_shape(node)[-1])

    def kernel(self, node: ir.Node) -> str:
        return "Gemm" if is_constant(node.inputs[1]) else "MatMul"


def _whole(side: str, index: int, shape: tuple[int, ...]) -> tuple[Channels, ...]:
    return tuple(Channels(side, index, axis, length) for axis, length in enumerate(shape))


def _as_matrices(node: ir.Node, rewriter: Rewriter) -> ir.Value:
    """Vectors as matrices of one row or column; more than three batch axes as one, repeated where they are broadcast."""
    a, b = input_shape(node), input_shape(node, 1)
    a, b = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    sides = [reshaped(rewriter, input_of(node, index), shape) for index, shape in enumerate((a, b))]
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    if len(batch) > 3:
        for index, shape in enumerate((a, b)):
            if prod(shape[:-2]) > 1 and shape[:-2] != batch:
                wide = rewriter.const(np.asarray((*batch, *shape[-2:]), np.int64), "shape")
                sides[index] = rewriter.op("Expand", sides[index], wide)
            sides[index] = reshaped(rewriter, sides[index], (prod(batch) if prod(shape[:-2]) > 1 else 1, *shape[-2:]))
    return reshaped(rewriter, rewriter.op("MatMul", *sides), output_shape(node))


# float32 holds every integer below this, so sums that stay below are exact in any order.
_EXACT: Final = 1 << 24


def _constant_points(node: ir.Node) -> bool:
    """The zero points of MatMulInteger are constants."""
    return all(value is None or is_constant(value) for value in node.inputs[2:])


@register
class MatMulInteger(Composite):
    """The product of two matrices of 8-bit integers less their zero points, in int32."""

    op_type = "MatMulInteger"
    constraints = (Constraint("tflite", _constant_points),)
    refuses: ClassVar[Mapping[str, str]] = {
        "lower": "TFLite has no product that gives int32; legalize makes it exact ones in float32"
    }

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(())

    def quantize(self, node: ir.Node) -> QuantRule:
        raise Refused(node, "MatMulInteger is a product of integers already")

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite: products in float32 of stretches of the inner axis that are short enough to be exact, added up in int32."""
        if rewriter.runtime != "tflite" or not _constant_points(node):
            return None
        depth = input_shape(node)[-1]
        reach = [_reach(node, index) for index in (0, 1)]
        stretch = max((_EXACT - 1) // max(reach[0] * reach[1], 1), 1)
        sides = [_shifted(node, index, rewriter) for index in (0, 1)]
        inner = [rank(input_of(node, 0)) - 1, max(rank(input_of(node, 1)) - 2, 0)]
        total: ir.Value | None = None
        for start in range(0, depth, stretch):
            parts = [
                side if stretch >= depth else _cut(rewriter, side, axis, start, min(start + stretch, depth))
                for side, axis in zip(sides, inner, strict=True)
            ]
            part = rewriter.op("Cast", rewriter.op("MatMul", *parts), to=int(ir.DataType.INT32))
            total = part if total is None else rewriter.op("Add", total, part)
        return None if total is None else [total]


def _reach(node: ir.Node, index: int) -> int:
    """The greatest magnitude of an element less its zero point."""
    point = _point(node, index)
    given = constant(node.inputs[index])
    limits = np.iinfo(np.dtype(dtype_of(input_of(node, index))))
    low, high = (limits.min, limits.max) if given is None or not given.size else (int(given.min()), int(given.max()))
    return max(int(abs(low - point.max())), int(abs(high - point.min())))


def _point(node: ir.Node, index: int) -> np.ndarray[Any, Any]:
    given = constant(node.inputs[2 + index]) if len(node.inputs) > 2 + index else None
    return np.zeros((), np.int64) if given is None else given.astype(np.int64)


def _shifted(node: ir.Node, index: int, rewriter: Rewriter) -> ir.Value:
    """An input less its zero point (one for all, or one a row of A or column of B), as exact floats."""
    point, given = _point(node, index).astype(np.float32), constant(node.inputs[index])
    if index == 0 and point.ndim == 1 and point.size > 1:
        point = point.reshape(-1, 1)
    elif point.size == 1:
        point = point.reshape(())
    if given is not None:
        return rewriter.const(given.astype(np.float32) - point, "matrix")
    value = rewriter.op("Cast", input_of(node, index), to=int(ir.DataType.FLOAT))
    return rewriter.op("Sub", value, rewriter.const(point, "zero_point")) if point.any() else value


def _cut(rewriter: Rewriter, value: ir.Value, axis: int, start: int, end: int) -> ir.Value:
    given = constant(value)
    if given is not None:
        return rewriter.const(given.take(range(start, end), axis), "stretch")
    return rewriter.op("Slice", value, *(rewriter.const(np.asarray([number], np.int64)) for number in (start, end, axis)))
