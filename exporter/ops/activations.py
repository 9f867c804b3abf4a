"""Activation functions: elementwise, of one input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, rank
from exporter.ops.base import Constraint, Lowering, OutputRule, QuantRule, Refused, Rewriter, register
from exporter.ops.common import (
    FIXED_UNIT,
    OWN,
    Elementwise,
    activation_rule,
    input_of,
    scalar_of,
    version,
)

__all__ = ["Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh", "clip_bounds"]


class Activation(Elementwise):
    """Base of the activations that are one TFLite operator."""

    builtin: ClassVar[str]
    int8_version: ClassVar[int]
    encoding: ClassVar[OutputRule] = OWN

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, self.encoding)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit(
            self.builtin, [to.input(0)], [to.output()], version=version(1, self.int8_version, to.quantized), **self.options(node)
        )

    def options(self, node: ir.Node) -> Mapping[str, Any]:
        """Fields of the TFLite operator's options."""
        return {}


@register
class Relu(Activation):
    """max(x, 0)."""

    op_type = "Relu"
    builtin, int8_version = "RELU", 2

    def activation(self, node: ir.Node) -> str:
        return "RELU"

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].relu()]


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
    farthest = float(np.finfo(np.float32).max)
    return (bounds[0] if bounds[0] > -farthest else -np.inf), (bounds[1] if bounds[1] < farthest else np.inf)


_FUSIBLE: Mapping[tuple[float, float], str] = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


def _clip_constant(node: ir.Node) -> bool:
    """The bounds of Clip are constant."""
    return all(value is None or constant(value) is not None for value in node.inputs[1:])


@register
class Clip(Elementwise):
    """min(max(x, low), high) with constant bounds, either of which may be absent."""

    op_type = "Clip"
    constraints = (Constraint("tflite", _clip_constant),)

    def activation(self, node: ir.Node) -> str:
        try:
            return _FUSIBLE.get(clip_bounds(node), "NONE")
        except Refused:
            return "NONE"

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node, parameters=(1, 2))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """TFLite has three clamps; others become Max, then Min, with constants (ONNX: the upper bound wins where they cross)."""
        if rewriter.runtime != "tflite" or self.activation(node) != "NONE":
            return None
        low, high = clip_bounds(node)
        value = input_of(node, 0)
        dtype = value.dtype.numpy() if value.dtype is not None else np.float32
        if low == -np.inf and high == np.inf:
            return [value]
        if low > -np.inf:
            value = rewriter.op("Max", value, rewriter.const(np.asarray(low, dtype)))
        if high < np.inf:
            value = rewriter.op("Min", value, rewriter.const(np.asarray(high, dtype)))
        return [value]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        builtin = self.activation(node)
        if builtin == "NONE":
            raise Refused(node, f"TFLite has no clamp to {clip_bounds(node)}; legalize makes it MAXIMUM and MINIMUM")
        # RELU_N1_TO_1 never had a second version: its int8 kernel came with the first.
        int8 = 1 if builtin == "RELU_N1_TO_1" else 2
        to.emit(builtin, [to.input(0)], [to.output()], version=version(1, int8, to.quantized))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        low, high = clip_bounds(node)
        return [inputs[0].clamp(min=low).clamp(max=high)]


@register
class LeakyRelu(Activation):
    """x where x >= 0, else alpha * x."""

    op_type = "LeakyRelu"
    builtin, int8_version = "LEAKY_RELU", 1

    def options(self, node: ir.Node) -> Mapping[str, Any]:
        return {"alpha": float(attribute(node, "alpha", 0.01))}

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.nn.functional.leaky_relu(inputs[0], float(attribute(node, "alpha", 0.01)))]


def _prelu_rank(node: ir.Node) -> bool:
    """The input of PRelu has at most 4 axes."""
    return rank(input_of(node, 0)) <= 4


def _prelu_constant(node: ir.Node) -> bool:
    """The slope of PRelu is constant."""
    return constant(node.inputs[1]) is not None


@register
class PRelu(Elementwise):
    """x where x >= 0, else slope * x, with a slope that broadcasts (one a channel, mostly)."""

    op_type = "PRelu"
    constraints = (Constraint("tflite", _prelu_rank), Constraint("tflite", _prelu_constant))

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

    def lower(self, node: ir.Node, to: Lowering) -> None:
        to.emit("PRELU", [to.input(0), to.input(1)], [to.output()], version=1)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        x, slope = inputs
        return [x.clamp(min=0) + slope * x.clamp(max=0)]


@register
class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    op_type = "Sigmoid"
    builtin, int8_version = "LOGISTIC", 2
    encoding = FIXED_UNIT

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].sigmoid()]


@register
class Tanh(Activation):
    """Hyperbolic tangent."""

    op_type = "Tanh"
    builtin, int8_version = "TANH", 2
    encoding = OutputRule("fixed", 1 / 128, 0)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0].tanh()]


@register
class HardSigmoid(Elementwise):
    """clip(alpha * x + beta, 0, 1)."""

    op_type = "HardSigmoid"
    refuses: ClassVar[Mapping[str, str]] = {
        "lower": "TFLite has no HARD_SIGMOID; legalize makes it a clamp to [0, 6] and a scale"
    }

    def quantize(self, node: ir.Node) -> QuantRule:
        return activation_rule(node)

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

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [inputs[0] * (inputs[0] / 6 + 0.5).clamp(0, 1)]


def _elu_alpha(node: ir.Node) -> bool:
    """The alpha of Elu is 1."""
    return float(attribute(node, "alpha", 1.0)) == 1.0


@register
class Elu(Activation):
    """x where x >= 0, else alpha * (exp(x) - 1)."""

    op_type = "Elu"
    builtin, int8_version = "ELU", 1
    constraints = (Constraint("tflite", _elu_alpha),)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.nn.functional.elu(inputs[0], float(attribute(node, "alpha", 1.0)))]


@register
class Gelu(Activation):
    """x times the normal distribution function of x, or its approximation by tanh (Hendrycks and Gimpel 2016)."""

    op_type = "Gelu"
    builtin, int8_version = "GELU", 2

    def options(self, node: ir.Node) -> Mapping[str, Any]:
        return {"approximate": attribute(node, "approximate", "none") == "tanh"}

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        return [torch.nn.functional.gelu(inputs[0], approximate=attribute(node, "approximate", "none"))]
