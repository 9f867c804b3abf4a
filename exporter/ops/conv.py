"""Conv: plain, depthwise and grouped convolution over one or two spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import onnx_ir as ir

from exporter.graph.values import attribute, constant, is_constant, rank
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
from exporter.ops.common import OWN, input_of, input_shape, output_shape, uniform_layout, version
from exporter.ops.windows import Window, lifted, spatial_pads, unlifted, window_of

__all__ = ["Conv"]


def _constant_weight(node: ir.Node) -> bool:
    """The weight and the bias are constants."""
    return all(is_constant(value) for value in node.inputs[1:] if value is not None)


def _two_spatial_axes(node: ir.Node) -> bool:
    """The convolution has one or two spatial axes."""
    return len(input_shape(node)) in (3, 4)


@register
class Conv(Operator):
    """Input [N, C, spatial...], weight [O, C / group, kernel...], bias [O]; output [N, O, spatial...]."""

    op_type = "Conv"
    fuses_activation = True
    constraints = (Constraint("tflite", _constant_weight), Constraint("tflite", _two_spatial_axes))

    def couple(self, node: ir.Node) -> Coupling:
        """Filters are free, input channels are not. With groups, a cut takes the same channel of every group; a depthwise convolution
        loses whole groups."""
        channels, filters = input_shape(node)[1], input_shape(node, 1)[0]
        group = attribute(node, "group", 1)
        bias = len(node.inputs) > 2 and node.inputs[2] is not None
        if group == channels > 1:
            per = filters // channels
            runs = [Channels("in", 0, 1, channels), Channels("in", 1, 0, channels, repeat=per)]
            runs += [Channels("in", 2, 0, channels, repeat=per)] if bias else []
            return Coupling(((*runs, Channels("out", 0, 1, channels, repeat=per)),), update=_mend_group)
        depth, per = channels // group, filters // group
        made = [Channels("in", 1, 0, per, outer=group), *([Channels("in", 2, 0, per, outer=group)] if bias else [])]
        return Coupling(
            (
                (Channels("in", 0, 1, depth, outer=group), Channels("in", 1, 1, depth)),
                (*made, Channels("out", 0, 1, per, outer=group)),
            ),
            free_outputs=(1,),
        )

    def quantize(self, node: ir.Node) -> QuantRule:
        if not is_constant(input_of(node, 1)):
            raise Refused(node, "Conv with a computed weight has no integer kernel")
        rules = (InputRule(Role.ACTIVATION), InputRule(Role.WEIGHT, 0), InputRule(Role.BIAS))
        return QuantRule(rules[: len(node.inputs)], (OWN,))

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.LAST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite, one spatial axis becomes two, and paddings that are neither VALID nor SAME become a Pad."""
        if rewriter.runtime != "tflite" or not _two_spatial_axes(node) or not _constant_weight(node):
            return None
        x, weight, bias = input_of(node, 0), input_of(node, 1), node.inputs[2] if len(node.inputs) > 2 else None
        window = _window(node)
        group = attribute(node, "group", 1)
        if rank(x) == 3:
            array = constant(weight)
            if array is None:
                return None
            y = rewriter.op(
                "Conv",
                lifted(x, rewriter),
                rewriter.const(array[:, :, None], "weight"),
                bias,
                kernel_shape=(1, *window.kernel),
                strides=(1, *window.strides),
                dilations=(1, *window.dilations),
                pads=(0, *window.before, 0, *window.after),
                group=group,
            )
            return [unlifted(y, rewriter)]
        if window.tflite_padding is not None:
            return None
        padded = rewriter.op("Pad", x, rewriter.const(spatial_pads(*window.touched), "pads"), mode="constant")
        return [
            rewriter.op(
                "Conv",
                padded,
                weight,
                bias,
                kernel_shape=window.kernel,
                strides=window.strides,
                dilations=window.dilations,
                pads=(0,) * 4,
                group=group,
            )
        ]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        window, filters = _window(node), input_shape(node, 1)[0]
        channels, group = input_shape(node)[1], attribute(node, "group", 1)
        options = {
            "padding": window.tflite_padding,
            "stride_h": window.strides[0],
            "stride_w": window.strides[1],
            "dilation_h_factor": window.dilations[0],
            "dilation_w_factor": window.dilations[1],
            "fused_activation_function": to.activation,
        }
        if group == channels and group > 1:
            # [C * M, 1, h, w] -> [1, h, w, C * M]; output channel c * M + m in both.
            inputs = [to.input(0), to.weight(1, perm=(1, 2, 3, 0)), to.bias(2, filters)]
            dilated = max(window.dilations) > 1
            number = version(2 if dilated else 1, 3, to.quantized)
            to.emit("DEPTHWISE_CONV_2D", inputs, [to.output()], number, depth_multiplier=filters // channels, **options)
        else:
            inputs = [to.input(0), to.weight(1, perm=(0, 2, 3, 1)), to.bias(2, filters)]
            number = 6 if group > 1 else version(1, 3, to.quantized)
            to.emit("CONV_2D", inputs, [to.output()], number, **options)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        from torch.nn import functional

        x, weight, bias = (*inputs, None)[:3]
        window = _window(node)
        pairs = [length for axis in reversed(range(len(window.kernel))) for length in (window.before[axis], window.after[axis])]
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(window.kernel) - 1]
        padded = functional.pad(x, pairs) if any(pairs) else x
        return (
            convolve(
                padded,
                weight,
                bias,
                stride=window.strides,
                dilation=window.dilations,
                groups=attribute(node, "group", 1),
            ),
        )

    def cost(self, node: ir.Node) -> Cost:
        return Cost(macs=prod(output_shape(node)) * prod(input_shape(node, 1)[1:]))


def _window(node: ir.Node) -> Window:
    return window_of(node, input_shape(node, 1)[2:])


def _mend_group(node: ir.Node, kept: tuple[Sequence[int], ...]) -> None:
    node.attributes["group"] = ir.AttrInt64("group", len(kept[0]))
