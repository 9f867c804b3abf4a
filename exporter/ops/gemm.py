"""Gemm: fully connected layers; with a computed matrix B it is a MatMul."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, is_constant, static_shape
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
from exporter.ops.common import INT8_AND_INT16, OWN, input_of, input_shape, output_shape, uniform_layout, version
from exporter.ops.kernels import dtype_of, takes
from exporter.ops.reference import Affine, Stored, accumulated, encoding_of, pair, rounded_once

__all__ = ["Gemm"]


def _plain_form(node: ir.Node) -> bool:
    """The matrix B and the bias C are constants, so that the product can be written as rows of A times rows of B."""
    weight, bias = constant(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
    return weight is not None and _is_plain(node) and (bias is None or is_constant(bias))


@register
class Gemm(Operator):
    """``alpha * A' @ B' + beta * C``: A [M, K] (or transposed), B [K, N] (or transposed), C broadcast to [M, N]."""

    op_type = "Gemm"
    references_int16 = True
    kernel_dtypes = INT8_AND_INT16
    bias_index = 2
    fuses_activation = True
    constraints = (Constraint("tflite", _plain_form), takes("Gemm", ("float32",)))

    def couple(self, node: ir.Node) -> Coupling:
        row, column = (1, 0) if attribute(node, "transA", 0) else (0, 1)
        out, inner = (0, 1) if attribute(node, "transB", 0) else (1, 0)
        count, depth, rows = input_shape(node, 1)[out], input_shape(node)[column], input_shape(node)[row]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        shape = static_shape(bias) if bias is not None else ()
        columns = (Channels("in", 2, len(shape) - 1, count),) if shape and shape[-1] == count else ()
        varied = len(shape) == 2 and shape[0] == rows and rows > 1
        return Coupling(
            (
                (Channels("in", 0, column, depth), Channels("in", 1, inner, depth)),
                (Channels("in", 1, out, count), *columns, Channels("out", 0, 1, count)),
                (Channels("in", 0, row, rows), *((Channels("in", 2, 0, rows),) if varied else ()), Channels("out", 0, 0, rows)),
            ),
            free_outputs=(1,),
        )

    def quantize(self, node: ir.Node) -> QuantRule:
        if not is_constant(input_of(node, 1)):
            raise Refused(node, "Gemm with a computed matrix B has no integer kernel")
        axis = 0 if attribute(node, "transB", 0) else 1
        rules = (InputRule(Role.ACTIVATION), InputRule(Role.WEIGHT, axis), InputRule(Role.BIAS))
        return QuantRule(rules[: len(node.inputs)], (OWN,))

    def hybrid(self, node: ir.Node) -> str:
        return "FULLY_CONNECTED"

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.FIRST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """One form for all: ``transA = 0, transB = 1, alpha = beta = 1``, C a constant of one entry a column or absent.

        For TFLite, a flatten of [N, C, H, W] in front then reads channels last (the order that the image is stored in there),
        and the columns of the weight follow. A computed B makes it a MatMul.
        """
        weight = constant(node.inputs[1])
        if weight is None:
            return _computed(node, rewriter) if rewriter.runtime == "tflite" else None
        if dtype_of(input_of(node, 0)) != "float32":
            return None
        if not _is_plain(node) or not _bias_is_plain(node):
            return [_plain(node, weight, rewriter)]
        return _flatten_last(node, weight, rewriter) if rewriter.runtime == "tflite" else None

    def lower(self, node: ir.Node, to: Lowering) -> None:
        inputs = [to.input(0), to.weight(1), to.bias(2, output_shape(node)[1])]
        to.emit("FULLY_CONNECTED", inputs, [to.output()], version(1, 4, to.quantized), fused_activation_function=to.activation)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        a, b, c = (*inputs, None)[:3]
        a = a.T if attribute(node, "transA", 0) else a
        b = b.T if attribute(node, "transB", 0) else b
        y = attribute(node, "alpha", 1.0) * (a @ b)
        return (y if c is None else y + attribute(node, "beta", 1.0) * c,)

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        x, weight = pair(inputs)
        return [rounded_once(node, accumulated(node, inputs), x, weight, encoding_of(outputs))]

    def cost(self, node: ir.Node) -> Cost:
        depth = input_shape(node)[0 if attribute(node, "transA", 0) else 1]
        return Cost(macs=prod(output_shape(node)) * depth)


def _is_plain(node: ir.Node) -> bool:
    return (
        not attribute(node, "transA", 0)
        and bool(attribute(node, "transB", 0))
        and attribute(node, "alpha", 1.0) == 1.0
        and attribute(node, "beta", 1.0) == 1.0
    )


def _bias_is_plain(node: ir.Node) -> bool:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias is None or (is_constant(bias) and static_shape(bias) == output_shape(node)[1:])


def _plain(node: ir.Node, weight: np.ndarray[Any, Any], rewriter: Rewriter) -> ir.Value:
    """``transA = 0, transB = 1, alpha = beta = 1``; a C that is computed or differs between rows becomes an Add behind."""
    x, addend = input_of(node, 0), node.inputs[2] if len(node.inputs) > 2 else None
    if attribute(node, "transA", 0):
        x = rewriter.op("Transpose", x, perm=(1, 0))
    rows = weight if attribute(node, "transB", 0) else weight.T
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    matrix = rewriter.const((rows * alpha).astype(weight.dtype), "weight")
    if addend is None:
        return rewriter.op("Gemm", x, matrix, transB=1)
    array = constant(addend)
    if array is not None and (array.ndim < 2 or array.shape[0] == 1):
        bias = np.broadcast_to(array * beta, (1, rows.shape[0])).reshape(-1).astype(weight.dtype)
        return rewriter.op("Gemm", x, matrix, rewriter.const(bias, "bias"), transB=1)
    if beta != 1.0:
        factor = rewriter.const(np.asarray(beta, weight.dtype), "beta")
        addend = rewriter.op("Mul", addend, factor)
    return rewriter.op("Add", rewriter.op("Gemm", x, matrix, transB=1), addend)


def _flatten_last(node: ir.Node, weight: np.ndarray[Any, Any], rewriter: Rewriter) -> Sequence[ir.Value] | None:
    """Let a flatten in front read [N, H, W, C]; the weight's columns change places with it.

    ::

        [N, C, H, W] -> Reshape -> Gemm(w)        [N, C, H, W] -> Transpose -> Reshape -> Gemm(w, columns permuted)

    Where the image is stored channels-last the Transpose moves nothing.
    """
    flat = input_of(node, 0)
    reshape = flat.producer()
    if reshape is None or reshape.op_type not in ("Reshape", "Flatten"):
        return None
    image = input_of(reshape, 0)
    before, shape = image.producer(), static_shape(image)
    if len(shape) < 3 or shape[0] != static_shape(flat)[0] or shape[1] == 1 or prod(shape[2:]) == 1:
        return None
    if before is not None and before.op_type == "Transpose":
        return None
    last = (0, *range(2, len(shape)), 1)
    columns = np.arange(prod(shape[1:])).reshape(shape[1:]).transpose([axis - 1 for axis in last[1:]]).reshape(-1)
    moved = rewriter.op("Transpose", image, perm=last)
    rows = rewriter.op("Reshape", moved, rewriter.const(np.asarray(static_shape(flat), np.int64), "shape"))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return [rewriter.op("Gemm", rows, rewriter.const(weight[:, columns], "weight"), bias, transB=1)]


def _computed(node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value]:
    """Gemm of two computed matrices, from MatMul, Mul and Add."""
    sides = [
        rewriter.op("Transpose", input_of(node, index), perm=(1, 0)) if attribute(node, name, 0) else input_of(node, index)
        for index, name in enumerate(("transA", "transB"))
    ]
    y, addend = rewriter.op("MatMul", *sides), node.inputs[2] if len(node.inputs) > 2 else None
    dtype = np.dtype(dtype_of(y))
    if attribute(node, "alpha", 1.0) != 1.0:
        y = rewriter.op("Mul", y, rewriter.const(np.asarray(attribute(node, "alpha"), dtype), "alpha"))
    if addend is None:
        return [y]
    if attribute(node, "beta", 1.0) != 1.0:
        addend = rewriter.op("Mul", addend, rewriter.const(np.asarray(attribute(node, "beta"), dtype), "beta"))
    return [rewriter.op("Add", y, addend)]
