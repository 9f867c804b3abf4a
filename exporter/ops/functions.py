"""Functions of each element of one tensor that are no activations: powers, logarithms, sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import constant, rank
from exporter.ops.base import Constraint, Lowering, QuantRule, Refused, Rewriter, register
from exporter.ops.common import INT8_AND_INT16, Elementwise, activation_rule, input_of, is_float, scalar_of, version
from exporter.ops.formulas import Formula
from exporter.ops.integers import integer_power
from exporter.ops.kernels import dtype_of, in_wider_dtype, takes
from exporter.ops.reference import Affine, Stored, encoding_of, rescaled, single

__all__ = ["Abs", "Exp", "Log", "Neg", "Pow", "Reciprocal", "Sqrt"]

_SMALL: Final = dict.fromkeys(("int8", "int16"), "int32")


@register
class Neg(Elementwise):
    """-x."""

    op_type = "Neg"
    kernel_dtypes = INT8_AND_INT16
    constraints = (takes("Neg", ("int32", "int64")),)

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """-x = x * -1, exactly: the product of floats has integer kernels, the operator has none."""
        x = input_of(node, 0)
        if not is_float(x):
            return in_wider_dtype(node, rewriter, _SMALL)
        return [Formula(node, rewriter)("Mul", x, -1)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("NEG", [to.input(0)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [-inputs[0]]


@register
class Abs(Elementwise):
    """|x|."""

    op_type = "Abs"
    references_int16 = True
    kernel_dtypes = INT8_AND_INT16
    constraints = (takes("Abs", ("float32",)),)

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Of integers, max(x, -x), as the kernel for them is young; unsigned ones are their own."""
        x = input_of(node, 0)
        if rewriter.runtime == "tflite" and dtype_of(x).startswith("uint"):
            return [x]
        if rewriter.runtime == "tflite" and dtype_of(x) in ("int32", "int64"):
            return [rewriter.op("Max", x, rewriter.op("Neg", x))]
        return in_wider_dtype(node, rewriter, _SMALL)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("ABS", [to.input(0)], [to.output()], version=version(1, 2, to.quantized))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].abs()]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        """Source: AbsEvalQuantized in LiteRT `kernels/elementwise.cc`."""
        x, to = single(inputs[0]), encoding_of(outputs)
        return [rescaled(node, np.abs(x.centred), float(x.scale / np.float32(to.scale[0])), to)]


class FloatOnly(Elementwise):
    """Base of the functions without an int8 kernel in every TFLite runtime."""

    builtin: ClassVar[str]
    constraints: ClassVar[tuple[Constraint, ...]] = (takes("It", ("float32",)),)

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


def _one_dtype(node: ir.Node) -> bool:
    """Base and exponent of Pow have one dtype (integers are not raised to float exponents)."""
    return dtype_of(input_of(node, 0)) == dtype_of(input_of(node, 1))


@register
class Pow(FloatOnly):
    """x to the y."""

    op_type, builtin = "Pow", "POW"
    constraints = (takes("Pow", ("float32", "int32")), Constraint("tflite", _one_dtype))
    refuses: ClassVar[Mapping[str, str]] = {"quantize": "no runtime has an int8 kernel of Pow (x**2 becomes Mul)"}

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """x**2 = x*x, x**3 = x*x*x, x**1 = x, x**0.5 = sqrt(x): cheaper, and products have integer kernels.

        The kernel takes both of one dtype, so that exponents of another are cast. Integers are raised by products.
        """
        x, exponent = input_of(node, 0), scalar_of(node.inputs[1])
        if not is_float(x):
            return self._of_integers(node, rewriter)
        if rank(x) == rank(node.outputs[0]):
            if exponent in (2, 3):
                square = rewriter.op("Mul", x, x)
                return [square if exponent == 2 else rewriter.op("Mul", square, x)]
            if exponent in (0.5, 1):
                return [x if exponent == 1 else rewriter.op("Sqrt", x)]
        power = input_of(node, 1)
        if rewriter.runtime != "tflite" or power.dtype == x.dtype:
            return None
        f = Formula(node, rewriter)
        if dtype_of(power) == "uint64":  # beyond 2**62, all exponents do the same
            power = f.cast(f("Min", power, rewriter.const(np.asarray(2**62, np.uint64))), "int64")
        return [f("Pow", x, f.cast(power, dtype_of(x)))]

    def _of_integers(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        x, power = input_of(node, 0), input_of(node, 1)
        if rewriter.runtime != "tflite":
            return None
        if is_float(power):
            raise Refused(
                node, "Pow of integers with float exponents: the kernel computes in float32, which does not hold the result"
            )
        known = constant(power)
        if dtype_of(x) == dtype_of(power) == "int32" and known is not None and (known >= 0).all():
            return None  # the kernel stops at a negative exponent
        f = Formula(node, rewriter, dtype="int64")
        return [f.cast(integer_power(f, f.cast(x, "int64"), f.cast(power, "int64")), dtype_of(x))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [(inputs[0] ** inputs[1]).to(inputs[0].dtype)]


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
        return [Formula(node, rewriter)("Div", 1, input_of(node, 0))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].reciprocal()]
