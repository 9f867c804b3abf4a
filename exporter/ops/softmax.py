"""Softmax and LogSoftmax: TFLite's kernels work along the last axis alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import rank
from exporter.ops.activation_integers import log_softmax_integers, softmax_integers
from exporter.ops.base import (
    Channels,
    Cost,
    Coupling,
    InputRule,
    LayoutRule,
    Lowering,
    Operator,
    OutputRule,
    Port,
    QuantRule,
    Rewriter,
    Role,
    register,
)
from exporter.ops.common import (
    FIXED_UNIT,
    INT8_AND_INT16,
    axis_of,
    elementwise_cost,
    elementwise_coupling,
    input_of,
    output_shape,
    uniform_layout,
    version,
)
from exporter.ops.reference import Affine, Stored, single

__all__ = ["LogSoftmax", "Softmax"]


class Normalized(Operator):
    """Base of both. An axis that is last in neither order of axes is brought to the end by a transpose, and back."""

    builtin: ClassVar[str]
    encoding: ClassVar[OutputRule]
    options: ClassVar[dict[str, Any]] = {}
    tail: ClassVar[float | None] = None

    def couple(self, node: ir.Node) -> Coupling:
        axis, count = axis_of(node, -1), output_shape(node)[axis_of(node, -1)]
        others = elementwise_coupling(node, skip=(axis,))
        return Coupling(others.ties, blocked=(Channels("in", 0, axis, count), Channels("out", 0, axis, count)))

    def quantize(self, node: ir.Node) -> QuantRule:
        return QuantRule((InputRule(Role.ACTIVATION, axis_of(node, -1), self.tail),), (self.encoding,))

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.LAST if _last_when_channels_last(node) else Port.FIRST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        axis, last = axis_of(node, -1), rank(input_of(node, 0)) - 1
        if rewriter.runtime != "tflite" or axis == last or _last_when_channels_last(node):
            return None
        perm = list(range(last + 1))
        perm[axis], perm[last] = last, axis  # a swap is its own inverse
        turned = rewriter.op("Transpose", input_of(node, 0), perm=perm)
        return [rewriter.op("Transpose", rewriter.op(self.op_type, turned, axis=last), perm=perm)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit(self.builtin, [to.input(0)], [to.output()], version=version(1, 2, to.quantized), **self.options)

    def cost(self, node: ir.Node) -> Cost:
        # Maximum, difference, exponential, sum, quotient.
        return elementwise_cost(node, 5)


def _last_when_channels_last(node: ir.Node) -> bool:
    return axis_of(node, -1) == 1 and rank(input_of(node, 0)) >= 3


@register
class Softmax(Normalized):
    """exp(x) over its sum along one axis."""

    op_type, builtin, encoding = "Softmax", "SOFTMAX", FIXED_UNIT
    kernel_dtypes = INT8_AND_INT16
    options: ClassVar[dict[str, Any]] = {"beta": 1.0}
    tail = 8.0  # exp(-8) is a twelfth of a step of 1/256

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].softmax(axis_of(node, -1))]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        return [softmax_integers(single(inputs[0]), axis_of(node, -1))]


@register
class LogSoftmax(Normalized):
    """The logarithm of Softmax."""

    op_type, builtin = "LogSoftmax", "LOG_SOFTMAX"
    encoding = OutputRule("fixed", 16 / 256, 127)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].log_softmax(axis_of(node, -1))]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        return [log_softmax_integers(single(inputs[0]), axis_of(node, -1))]
