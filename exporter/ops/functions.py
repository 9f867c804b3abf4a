"""Functions of each element of one tensor that are no activations: powers, logarithms, sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import rank
from exporter.ops.base import Lowering, QuantRule, Rewriter, register
from exporter.ops.common import Elementwise, activation_rule, input_of, is_float, scalar_of, version

__all__ = ["Abs", "Exp", "Log", "Neg", "Pow", "Reciprocal", "Sqrt"]


@register
class Neg(Elementwise):
    """-x."""

    op_type = "Neg"
    refuses: ClassVar[Mapping[str, str]] = {"lower": "TFLite's NEG has no int8 kernel; legalize makes it Mul by -1"}

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """-x = x * -1, exactly."""
        if not is_float(node.outputs[0]):
            return None
        return [rewriter.op("Mul", input_of(node, 0), rewriter.const(np.asarray(-1, np.float32)))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [-inputs[0]]


@register
class Abs(Elementwise):
    """|x|."""

    op_type = "Abs"

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("ABS", [to.input(0)], [to.output()], version=version(1, 2, to.quantized))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].abs()]


class FloatOnly(Elementwise):
    """Base of the functions without an int8 kernel in every TFLite runtime."""

    builtin: ClassVar[str]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit(self.builtin, [to.input(index) for index in range(len(node.inputs))], [to.output()], version=1)


@register
class Exp(FloatOnly):
    """e to the x."""

    op_type, builtin = "Exp", "EXP"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "int8 kernels of Exp are in recent LiteRT alone"}

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].exp()]


@register
class Log(FloatOnly):
    """Natural logarithm."""

    op_type, builtin = "Log", "LOG"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "int8 kernels of Log are in recent LiteRT alone"}

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].log()]


@register
class Sqrt(FloatOnly):
    """Square root."""

    op_type, builtin = "Sqrt", "SQRT"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "int8 kernels of Sqrt are in recent LiteRT alone"}

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].sqrt()]


@register
class Pow(FloatOnly):
    """x to the y."""

    op_type, builtin = "Pow", "POW"
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "no runtime has an int8 kernel of Pow (x**2 becomes Mul)"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """x**2 = x*x, x**1 = x, x**0.5 = sqrt(x): cheaper, and the square has integer kernels."""
        x, exponent = input_of(node, 0), scalar_of(node.inputs[1])
        if rank(x) != rank(node.outputs[0]):
            return None
        if exponent == 2:
            return [rewriter.op("Mul", x, x)]
        if exponent == 1:
            return [x]
        return [rewriter.op("Sqrt", x)] if exponent == 0.5 else None

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] ** inputs[1]]


@register
class Reciprocal(Elementwise):
    """1 / x."""

    op_type = "Reciprocal"
    refuses: ClassVar[Mapping[str, str]] = {
        "quantize": "no runtime has an int8 kernel of Reciprocal",
        "lower": "TFLite has no RECIPROCAL; legalize makes it 1 / x",
    }

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        return [rewriter.op("Div", rewriter.const(np.asarray(1, np.float32)), input_of(node, 0))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].reciprocal()]
