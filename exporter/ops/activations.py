"""Activation functions: elementwise, of one input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import pi, sqrt
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, rank
from exporter.ops.activation_integers import (
    clamp_integers,
    elu,
    gelu,
    gelu_by_tanh,
    hard_swish_integers,
    logistic,
    requantizes,
)
from exporter.ops.agreement import same_products, same_scaling, same_table
from exporter.ops.base import Constraint, Lowering, OutputRule, QuantRule, Refused, Rewriter, register
from exporter.ops.common import (
    FIXED_UNIT,
    INT8_AND_INT16,
    OWN,
    Elementwise,
    activation_rule,
    input_of,
    is_float,
    scalar_of,
    version,
)
from exporter.ops.formulas import Formula
from exporter.ops.gates import SIGMOID_FLOOR, hard_sigmoid_floor
from exporter.ops.reference import Affine, Stored, encoding_of, pair, rescaled, single, tabulated

__all__ = ["Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh", "clip_bounds"]


class Activation(Elementwise):
    """Base of the activations that are one TFLite operator."""

    builtin: ClassVar[str]
    int8_version: ClassVar[int]
    encoding: ClassVar[OutputRule] = OWN
    floor: ClassVar[float] = -np.inf  # `InputRule.floor`

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, self.encoding, floors={0: self.floor})

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit(
            self.builtin, [to.input(0)], [to.output()], version=version(1, self.int8_version, to.quantized), **self.options(node)
        )

    def options(self, node: ir.Node) -> Mapping[str, Any]:
        """Fields of the TFLite operator's options."""
        return {}


def _clamps_floats(node: ir.Node) -> bool:
    """Whether the input is no tensor of integers, which the clamping kernels would take for quantized ones."""
    x = input_of(node, 0)
    return x.dtype is None or is_float(x)


def _lower_clamp(to: Lowering, builtin: str, int8_version: int, low: float, high: float) -> None:
    """The clamping kernels take integers one by one; where the output's encoding clamps by itself, requantizing (vectorised) does it all.

    Two bounds are clamped in the output's encoding: tflite-micro's kernels of these do not requantize.
    """
    x, y = to.input(0), to.output()
    if to.clamps(y, low, high):
        to.emit("QUANTIZE", [x], [y])
        return
    if to.quantized and builtin != "RELU":
        requantized = to.temp(y, to.shape(y))
        to.emit("QUANTIZE", [x], [requantized])
        x = requantized
    to.emit(builtin, [x], [y], version=version(1, int8_version, to.quantized))


@register
class Relu(Activation):
    """max(x, 0)."""

    op_type = "Relu"
    references_int16 = True
    kernel_dtypes = INT8_AND_INT16
    builtin, int8_version = "RELU", 2
    floor = 0.0

    def activation(self, node: ir.Node) -> str:
        return "RELU" if _clamps_floats(node) else "NONE"

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """The kernels clamp floats (and what stands for them); integers as such go to Max."""
        x = input_of(node, 0)
        if rewriter.runtime != "tflite" or _clamps_floats(node):
            return None
        return [Formula(node, rewriter)("Max", x, 0)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        _lower_clamp(to, "RELU", 2, 0.0, np.inf)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].relu()]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        return [clamp_integers(single(inputs[0]), encoding_of(outputs), 0.0, np.inf)]

    def agrees(self, node: ir.Node, inputs: Sequence[Affine | None], outputs: Sequence[Affine | None]) -> bool:
        return requantizes(0.0, np.inf, encoding_of(outputs)) or same_scaling(encoding_of(inputs), encoding_of(outputs), 1.0)


_FARTHEST: Final = float(np.finfo(np.float32).max)


def clip_bounds(node: ir.Node) -> tuple[float, float]:
    """Least and greatest value that a Clip lets through: infinite where a bound is absent, or as far out as float32 reaches.

    Raises Refused where one is computed.
    """
    bounds = [-np.inf, np.inf]
    for index in (1, 2):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None:
            number = scalar_of(value)
            if number is None:
                raise Refused(node, f"bound {value.name} of Clip is computed; only constant bounds are supported")
            bounds[index - 1] = number
    return (bounds[0] if bounds[0] > -_FARTHEST else -np.inf), (bounds[1] if bounds[1] < _FARTHEST else np.inf)


_FUSIBLE: Mapping[tuple[float, float], str] = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


@register
class Clip(Elementwise):
    """min(max(x, low), high); either bound may be absent."""

    op_type = "Clip"
    references_int16 = True
    kernel_dtypes = INT8_AND_INT16

    def activation(self, node: ir.Node) -> str:
        try:
            return _FUSIBLE.get(clip_bounds(node), "NONE") if _clamps_floats(node) else "NONE"
        except Refused:
            return "NONE"

    def runs_in(self, node: ir.Node, dtype: str) -> bool:
        return super().runs_in(node, dtype) and (dtype == "int8" or self.activation(node) != "RELU_N1_TO_1")

    def quantize(self, node: ir.Node) -> QuantRule:
        low, high = (scalar_of(node.inputs[index]) if index < len(node.inputs) else None for index in (1, 2))
        least, greatest = (-np.inf if low is None else low), (np.inf if high is None else high)
        output = OutputRule(least=least, greatest=greatest) if least <= greatest else OutputRule()
        return activation_rule(node, output, parameters=(1, 2), floors={0: least})

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """TFLite has three clamps; others become Max, then Min, with constants (ONNX: the upper bound wins where they cross)."""
        builtin = self.activation(node)
        if rewriter.runtime != "tflite" or (builtin != "NONE" and rewriter.runs(builtin)):
            return None
        value = input_of(node, 0)
        for index, op_type, idle in ((1, "Max", -_FARTHEST), (2, "Min", _FARTHEST)):
            bound = node.inputs[index] if index < len(node.inputs) else None
            number = scalar_of(bound)
            if bound is None or (number is not None and is_float(value) and abs(number) >= _FARTHEST and number * idle > 0):
                continue  # absent, or as far out as float32 reaches
            value = rewriter.op(op_type, value, bound)
        return [value]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        builtin = self.activation(node)
        if builtin == "NONE":
            raise Refused(node, f"TFLite has no clamp to {clip_bounds(node)}; legalize makes it MAXIMUM and MINIMUM")
        # RELU_N1_TO_1 never had a second version: its int8 kernel came with the first.
        int8 = 1 if builtin == "RELU_N1_TO_1" else 2
        _lower_clamp(to, builtin, int8, *clip_bounds(node))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        value = inputs[0]
        for bound, at in zip(inputs[1:], ("min", "max"), strict=False):
            value = value if bound is None else value.clamp(**{at: bound})
        return [value]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        return [clamp_integers(single(inputs[0]), encoding_of(outputs), *clip_bounds(node))]


@register
class LeakyRelu(Activation):
    """x where x >= 0, else alpha * x."""

    op_type = "LeakyRelu"
    references_int16 = True
    kernel_dtypes = INT8_AND_INT16
    builtin, int8_version = "LEAKY_RELU", 1

    def options(self, node: ir.Node) -> Mapping[str, Any]:
        return {"alpha": float(attribute(node, "alpha", 0.01))}

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.nn.functional.leaky_relu(inputs[0], float(attribute(node, "alpha", 0.01)))]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        """Source: LiteRT `kernels/internal/reference/leaky_relu.h`."""
        x, to = single(inputs[0]), encoding_of(outputs)
        slope, scale = np.float32(attribute(node, "alpha", 0.01)), np.float32(to.scale[0])
        found = [rescaled(node, x.centred, float(factor), to) for factor in (x.scale / scale, x.scale * slope / scale)]
        return [np.where(x.centred >= 0, *found)]

    def agrees(self, node: ir.Node, inputs: Sequence[Affine | None], outputs: Sequence[Affine | None]) -> bool:
        return same_scaling(encoding_of(inputs), encoding_of(outputs), 1.0, float(np.float32(attribute(node, "alpha", 0.01))))


def _prelu_kernel(node: ir.Node) -> bool:
    """PRelu has a float input of at most 4 axes and a constant slope (legalize makes others of it)."""
    return rank(input_of(node, 0)) <= 4 and constant(node.inputs[1]) is not None and is_float(input_of(node, 0))


@register
class PRelu(Elementwise):
    """x where x >= 0, else slope * x, with a slope that broadcasts (one a channel, mostly)."""

    op_type = "PRelu"
    constraints = (Constraint("tflite", _prelu_kernel),)

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite, LeakyRelu for one slope (2.14 under XNNPACK reads a single slope as many), max(x, 0) + slope * min(x, 0) where no kernel
        takes it."""
        if rewriter.runtime != "tflite":
            return None
        f, x = Formula(node, rewriter), input_of(node, 0)
        slope = scalar_of(node.inputs[1])
        if slope is not None and is_float(x) and rank(input_of(node, 1)) <= rank(x):
            return [rewriter.op("LeakyRelu", x, alpha=slope)]
        if _prelu_kernel(node):
            return None
        return [f("Add", f("Relu", x), f("Mul", f("Min", x, 0), input_of(node, 1)))]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("PRELU", [to.input(0), to.input(1)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        x, slope = inputs
        return [x.clamp(min=0) + slope * x.clamp(max=0)]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        """Source: LiteRT `kernels/internal/reference/prelu.h`."""
        (x, slope), to = pair(inputs), encoding_of(outputs)
        scale = np.float32(to.scale[0])
        above = rescaled(node, x.centred, float(x.scale / scale), to)
        below = rescaled(node, x.centred * slope.centred, float(x.scale * slope.scale / scale), to)
        return [np.where(x.centred >= 0, above, below)]

    def agrees(self, node: ir.Node, inputs: Sequence[Affine | None], outputs: Sequence[Affine | None]) -> bool:
        x, slope, to = encoding_of(inputs), encoding_of(inputs[1:]), encoding_of(outputs)
        return same_scaling(x, to, 1.0) and same_products(x, slope, to)


@register
class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    op_type = "Sigmoid"
    kernel_dtypes = INT8_AND_INT16
    builtin, int8_version = "LOGISTIC", 2
    encoding = FIXED_UNIT
    floor = SIGMOID_FLOOR

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].sigmoid()]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        return [tabulated(single(inputs[0]), encoding_of(outputs), logistic)]

    def agrees(self, node: ir.Node, inputs: Sequence[Affine | None], outputs: Sequence[Affine | None]) -> bool:
        return same_table("logistic", encoding_of(inputs))


@register
class Tanh(Activation):
    """Hyperbolic tangent."""

    op_type = "Tanh"
    kernel_dtypes = INT8_AND_INT16
    builtin, int8_version = "TANH", 2
    encoding = OutputRule("fixed", 1 / 128, 0)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].tanh()]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        return [tabulated(single(inputs[0]), encoding_of(outputs), np.tanh)]

    def agrees(self, node: ir.Node, inputs: Sequence[Affine | None], outputs: Sequence[Affine | None]) -> bool:
        return same_table("tanh", encoding_of(inputs))


@register
class HardSigmoid(Elementwise):
    """clip(alpha * x + beta, 0, 1)."""

    op_type = "HardSigmoid"
    kernel_dtypes = INT8_AND_INT16
    refuses: ClassVar[Mapping[str, str]] = {
        "lower": "TFLite has no HARD_SIGMOID; legalize makes it a clamp to [0, 6] and a scale"
    }

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, OutputRule(least=0.0, greatest=1.0), floors={0: hard_sigmoid_floor(node)})

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """clip(alpha*x + beta, 0, 1) = relu6(6*alpha*x + 6*beta) / 6: the clamp fuses into the addition's kernel."""
        if rewriter.runtime != "tflite":
            return None
        alpha, beta = _slope_and_offset(node)
        value, slope = input_of(node, 0), np.asarray(6 * alpha, np.float32)
        if slope != 1:
            value = rewriter.op("Mul", value, rewriter.const(slope))
        value = rewriter.op("Add", value, rewriter.const(np.asarray(6 * beta, np.float32)))
        value = rewriter.op("Clip", value, rewriter.const(np.asarray(0, np.float32)), rewriter.const(np.asarray(6, np.float32)))
        return [rewriter.op("Mul", value, rewriter.const(np.asarray(1 / 6, np.float32)))]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        alpha, beta = _slope_and_offset(node)
        return [(inputs[0] * alpha + beta).clamp(0, 1)]


def _slope_and_offset(node: ir.Node) -> tuple[float, float]:
    return float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))


@register
class HardSwish(Activation):
    """x * clip(x / 6 + 1/2, 0, 1) (Howard et al. 2019, MobileNetV3)."""

    op_type = "HardSwish"
    builtin, int8_version = "HARD_SWISH", 1
    floor = -3.0

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """x * relu6(x + 3) / 6 where the oldest runtime has no HARD_SWISH."""
        if rewriter.runtime != "tflite" or rewriter.runs(self.builtin, self.int8_version):
            return None
        f, x = Formula(node, rewriter), input_of(node, 0)
        return [f("Mul", f("Mul", x, f("Clip", f("Add", x, 3), 0, 6)), 1 / 6)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] * (inputs[0] / 6 + 0.5).clamp(0, 1)]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        return [hard_swish_integers(single(inputs[0]), encoding_of(outputs))]


def _elu_alpha(node: ir.Node) -> bool:
    """The alpha of Elu is 1."""
    return float(attribute(node, "alpha", 1.0)) == 1.0


@register
class Elu(Activation):
    """x where x >= 0, else alpha * (exp(x) - 1)."""

    op_type = "Elu"
    builtin, int8_version = "ELU", 1
    constraints = (Constraint("tflite", _elu_alpha),)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For another alpha, max(x, 0) + alpha * elu(min(x, 0))."""
        if rewriter.runtime != "tflite" or _elu_alpha(node):
            return None
        f, x = Formula(node, rewriter), input_of(node, 0)
        below = f("Mul", f("Elu", f("Min", x, 0)), float(attribute(node, "alpha", 1.0)))
        return [f("Add", f("Relu", x), below)]

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.nn.functional.elu(inputs[0], float(attribute(node, "alpha", 1.0)))]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        return [tabulated(single(inputs[0]), encoding_of(outputs), elu)]


@register
class Gelu(Activation):
    """x times the normal distribution function of x, or its approximation by tanh (Hendrycks and Gimpel 2016)."""

    op_type = "Gelu"
    builtin, int8_version = "GELU", 2

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Its definition by Erf or by Tanh where the oldest runtime has no GELU."""
        if rewriter.runtime != "tflite" or rewriter.runs(self.builtin, self.int8_version):
            return None
        f, x = Formula(node, rewriter, "GELU runs in float: its definition is not to be had in 8 bits"), input_of(node, 0)
        if attribute(node, "approximate", "none") == "tanh":
            inner = f("Mul", f("Add", x, f("Mul", f("Mul", f("Mul", x, x), x), 0.044715)), sqrt(2 / pi))
            gate = f("Tanh", inner)
        else:
            gate = f("Erf", f("Mul", x, sqrt(1 / 2)))
        return [f("Mul", f("Mul", x, 0.5), f("Add", gate, 1))]

    def options(self, node: ir.Node) -> Mapping[str, Any]:
        return {"approximate": attribute(node, "approximate", "none") == "tanh"}

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.nn.functional.gelu(inputs[0], approximate=attribute(node, "approximate", "none"))]

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        approximate = attribute(node, "approximate", "none") == "tanh"
        return [tabulated(single(inputs[0]), encoding_of(outputs), gelu_by_tanh if approximate else gelu)]
