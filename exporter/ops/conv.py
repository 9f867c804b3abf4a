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
from exporter.ops.common import OWN, input_of, input_shape, ints_of, output_shape, uniform_layout, version
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
        channels, filters = input_shape(node)[1], input_shape(node, 1)[0]
        group = attribute(node, "group", 1)
        if group == 1:
            return Coupling(
                (
                    (Channels("in", 0, 1, channels), Channels("in", 1, 1, channels)),
                    (Channels("in", 1, 0, filters), *_bias_run(node, filters), Channels("out", 0, 1, filters)),
                ),
                free_outputs=(1,),
            )
        if group == channels:
            per = filters // channels
            runs = (
                Channels("in", 0, 1, channels),
                Channels("in", 1, 0, channels, repeat=per),
                *_bias_run(node, channels, per),
                Channels("out", 0, 1, channels, repeat=per),
            )
            return Coupling((runs,), update=_mend_group)
        # The groups stay equally wide: channel c goes from all of them at once, as does filter f.
        each, per = channels // group, filters // group
        bias = (Channels("in", 2, 0, per, outer=group),) if _bias_run(node, filters) else ()
        return Coupling(
            (
                (Channels("in", 0, 1, each, outer=group), Channels("in", 1, 1, each)),
                (Channels("in", 1, 0, per, outer=group), *bias, Channels("out", 0, 1, per, outer=group)),
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
        """One spatial axis becomes two; paddings that TFLite cannot name become a Pad; a Pad before that makes SAME is absorbed."""
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
        source, pads = _through_pad(x, window)
        if source is None:
            if window.tflite_padding is not None:
                return None
            before, behind = window.touched
            source = rewriter.op("Pad", x, rewriter.const(spatial_pads(before, behind), "pads"), mode="constant")
            pads = (0,) * 4
        y = rewriter.op(
            "Conv",
            source,
            weight,
            bias,
            kernel_shape=window.kernel,
            strides=window.strides,
            dilations=window.dilations,
            pads=pads,
            group=group,
        )
        return [y]

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


def _bias_run(node: ir.Node, count: int, repeat: int = 1) -> tuple[Channels, ...]:
    present = len(node.inputs) > 2 and node.inputs[2] is not None
    return (Channels("in", 2, 0, count, repeat=repeat),) if present else ()


def _mend_group(node: ir.Node, kept: tuple[Sequence[int], ...]) -> None:
    node.attributes["group"] = ir.AttrInt64("group", len(kept[0]))


def _through_pad(x: ir.Value, window: Window) -> tuple[ir.Value | None, tuple[int, ...]]:
    """Input and paddings of a zero Pad in front and the window together, where that makes SAME of what it was not; else None."""
    pad = x.producer()
    if pad is None or pad.op_type != "Pad" or attribute(pad, "mode", "constant") != "constant" or any(pad.inputs[3:4]):
        return None, ()
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    zero = value is None or (is_constant(value) and float(constant(value)) == 0.0)  # type: ignore[arg-type]
    if not zero or not is_constant(pad.inputs[1]) or x.is_graph_output() or len(x.uses()) > 1:
        return None, ()
    extra = ints_of(pad, 1) or ()
    before, after = extra[2:4], extra[6:8]
    if any(extra[:2]) or any(extra[4:6]) or min(extra) < 0:
        return None, ()
    source = input_of(pad, 0)
    whole = Window(
        window.kernel,
        window.strides,
        window.dilations,
        tuple(a + b for a, b in zip(before, window.before, strict=True)),
        tuple(a + b for a, b in zip(after, window.after, strict=True)),
        tuple(size - a - b for size, a, b in zip(window.size, before, after, strict=True)),
        window.count,
    )
    return (source, whole.pads) if whole.tflite_padding is not None else (None, ())
