"""Normalization by fixed statistics. A BatchNormalization behind a convolution is folded before; this is what is left of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, rank
from exporter.ops.base import Channels, Cost, Coupling, Operator, Refused, Rewriter, register
from exporter.ops.common import elementwise_cost, input_of, input_shape
from exporter.ops.tape import Tape

__all__ = ["BatchNormalization"]

_BECOMES = "BatchNormalization becomes Mul and Add before it is planned"


@register
class BatchNormalization(Operator):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, one of each a channel."""

    op_type = "BatchNormalization"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": _BECOMES, "layout": _BECOMES, "lower": _BECOMES}

    def couple(self, node: ir.Node) -> Coupling:
        shape = input_shape(node)
        channels = [Channels("in", 0, 1, shape[1]), *(Channels("in", index, 0, shape[1]) for index in range(1, 5))]
        channels.append(Channels("out", 0, 1, shape[1]))
        spatial = (tuple(Channels(side, 0, axis, shape[axis]) for side in ("in", "out")) for axis in range(2, len(shape)))
        return Coupling((tuple(channels), *spatial))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """y = x*a + b with a = scale / sqrt(variance + epsilon), b = bias - mean*a, computed in double precision where all are constants;
        else the same by operators, for TFLite alone."""
        if attribute(node, "training_mode", 0):
            raise Refused(node, "BatchNormalization is in training mode; export the model in evaluation mode")
        x = input_of(node, 0)
        if x.dtype != ir.DataType.FLOAT:
            raise Refused(node, "BatchNormalization of float32 alone is supported")
        arrays = [constant(input_of(node, index)) for index in range(1, 5)]
        shape, epsilon = (-1, *(1,) * (rank(x) - 2)), float(attribute(node, "epsilon", 1e-5))
        if any(array is None for array in arrays):
            return [_computed(node, shape, epsilon, rewriter)] if rewriter.runtime == "tflite" else None
        scale, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
        factor = scale / np.sqrt(variance + epsilon)
        offset = bias - mean * factor
        scaled = rewriter.op("Mul", x, rewriter.const(factor.reshape(shape).astype(np.float32)))
        return [rewriter.op("Add", scaled, rewriter.const(offset.reshape(shape).astype(np.float32)))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        x, scale, bias, mean, variance = inputs
        return [torch.nn.functional.batch_norm(x, mean, variance, scale, bias, eps=float(attribute(node, "epsilon", 1e-5)))]

    def cost(self, node: ir.Node) -> Cost:
        return elementwise_cost(node, 2)


def _computed(node: ir.Node, shape: tuple[int, ...], epsilon: float, rewriter: Rewriter) -> ir.Value:
    to = Tape(rewriter, "part of a normalization by computed statistics, whose reciprocal root 8 bits do not hold")
    scale, bias, mean, variance = (input_of(node, index) for index in range(1, 5))
    factor = to.op("Div", scale, to.op("Sqrt", to.op("Add", variance, epsilon)))
    offset = to.op("Sub", bias, to.op("Mul", mean, factor))
    channels = (input_shape(node)[1], *shape[1:])
    return to.op("Add", to.op("Mul", input_of(node, 0), to.reshape(factor, channels)), to.reshape(offset, channels))
