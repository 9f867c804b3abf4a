"""Conv: plain, depthwise and grouped convolution over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
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
from exporter.ops.common import INT8_AND_INT16, OWN, input_of, input_shape, output_shape, uniform_layout, version
from exporter.ops.kernels import takes
from exporter.ops.reference import Affine, Stored, accumulated, encoding_of, pair, rescaled_by_channel
from exporter.ops.windows import Window, lifted, spatial_pads, unlifted, window_of

__all__ = ["Conv"]


def _up_to_three_axes(node: ir.Node) -> bool:
    """The convolution has one, two or three spatial axes."""
    return len(input_shape(node)) in (3, 4, 5)


def _volumes_by_constants(node: ir.Node) -> bool:
    """A convolution over three axes has a constant weight."""
    return rank(input_of(node, 0)) < 5 or is_constant(input_of(node, 1))


@register
class Conv(Operator):
    """Input [N, C, spatial...], weight [O, C / group, kernel...], bias [O]; output [N, O, spatial...]."""

    op_type = "Conv"
    references_int16 = True
    kernel_dtypes = INT8_AND_INT16
    bias_index = 2
    fuses_activation = True
    constraints = (
        takes("Conv", ("float32",)),
        Constraint("tflite", _up_to_three_axes),
        Constraint("tflite", _volumes_by_constants),
    )

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
        if rank(input_of(node, 0)) == 5:
            raise Refused(node, "CONV_3D has no integer kernel")
        if len(node.inputs) > 2 and node.inputs[2] is not None and not is_constant(node.inputs[2]):
            raise Refused(node, "Conv with a computed bias has no integer kernel")
        rules = (InputRule(Role.ACTIVATION), InputRule(Role.WEIGHT, 0), InputRule(Role.BIAS))
        return QuantRule(rules[: len(node.inputs)], (OWN,))

    def hybrid(self, node: ir.Node) -> str:
        # Which release first runs groups in this form is not on record.
        if rank(input_of(node, 0)) != 4 or _is_grouped(node):
            return ""
        return "DEPTHWISE_CONV_2D" if attribute(node, "group", 1) > 1 else "CONV_2D"

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.LAST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite, one spatial axis becomes two, paddings that are neither VALID nor SAME become a Pad, and the groups of a volume
        zeros in the weight. A computed weight takes the same ways by operators of its own. Groups run one by one where the oldest runtime
        has no grouped CONV_2D."""
        if rewriter.runtime != "tflite" or not _up_to_three_axes(node):
            return None
        x, weight, bias = input_of(node, 0), input_of(node, 1), node.inputs[2] if len(node.inputs) > 2 else None
        window, array = _window(node), constant(weight)
        group = attribute(node, "group", 1)
        if rank(x) == 3:
            y = rewriter.op(
                "Conv",
                lifted(x, rewriter),
                lifted(weight, rewriter) if array is None else rewriter.const(array[:, :, None], "weight"),
                bias,
                kernel_shape=(1, *window.kernel),
                strides=(1, *window.strides),
                dilations=(1, *window.dilations),
                pads=(0, *window.before, 0, *window.after),
                group=group,
            )
            return [unlifted(y, rewriter)]
        dense = rank(x) == 5 and group > 1 and array is not None
        if window.tflite_padding is not None and not dense:
            return [_one_by_one(node, window, rewriter)] if _is_grouped(node) and not rewriter.runs("CONV_2D", 6) else None
        pads = window.pads
        if window.tflite_padding is None:
            x = rewriter.op("Pad", x, rewriter.const(spatial_pads(*window.touched), "pads"), mode="constant")
            pads = (0,) * len(pads)
        if dense and array is not None:
            weight, group = rewriter.const(_ungrouped(array, group), "weight"), 1
        return [
            rewriter.op(
                "Conv",
                x,
                weight,
                bias,
                kernel_shape=window.kernel,
                strides=window.strides,
                dilations=window.dilations,
                pads=pads,
                group=group,
            )
        ]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        filters = input_shape(node, 1)[0]
        channels, group = input_shape(node)[1], attribute(node, "group", 1)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        addend = to.bias(2, filters) if bias is None or is_constant(bias) else to.input(2)
        if rank(input_of(node, 0)) == 5:
            # [O, C, d, h, w] -> [d, h, w, C, O]
            inputs = [to.input(0), to.weight(1, perm=(2, 3, 4, 1, 0)), addend]
            to.emit("CONV_3D", inputs, [to.output()], 1, **_options(node, to))
        elif group > 1 and not _is_grouped(node):
            # [C * M, 1, h, w] -> [1, h, w, C * M]; output channel c * M + m in both.
            inputs = [to.input(0), to.weight(1, perm=(1, 2, 3, 0)), addend]
            dilated = max(_window(node).dilations) > 1
            number = version(2 if dilated else 1, 3, to.quantized)
            to.emit(
                "DEPTHWISE_CONV_2D", inputs, [to.output()], number, depth_multiplier=filters // channels, **_options(node, to)
            )
        else:
            # A computed weight [O, C / group, h, w] is channels-last as the kernel wants it.
            fixed = is_constant(input_of(node, 1))
            inputs = [to.input(0), to.weight(1, perm=(0, 2, 3, 1)) if fixed else to.input(1), addend]
            number = 6 if group > 1 else version(1, 3, to.quantized)
            to.emit("CONV_2D", inputs, [to.output()], number, **_options(node, to))

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

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        x, weight = pair(inputs)
        return [rescaled_by_channel(node, accumulated(node, inputs), x, weight, encoding_of(outputs))]

    def cost(self, node: ir.Node) -> Cost:
        return Cost(macs=prod(output_shape(node)) * prod(input_shape(node, 1)[1:]))

    def kernel(self, node: ir.Node) -> str:
        group = attribute(node, "group", 1)
        return "Conv" if group == 1 else "GroupedConv" if input_shape(node, 1)[1] > 1 else "DepthwiseConv"


def _window(node: ir.Node) -> Window:
    return window_of(node, input_shape(node, 1)[2:])


def _options(node: ir.Node, to: Lowering) -> dict[str, Any]:
    """The options of the TFLite operator: padding, and stride and dilation by axis."""
    window, names = _window(node), "dhw"[-len(_window(node).kernel) :]
    return {
        "padding": window.tflite_padding,
        **{f"stride_{name}": stride for name, stride in zip(names, window.strides, strict=True)},
        **{f"dilation_{name}_factor": dilation for name, dilation in zip(names, window.dilations, strict=True)},
        "fused_activation_function": to.activation,
    }


def _ungrouped(weight: np.ndarray[Any, Any], group: int) -> np.ndarray[Any, Any]:
    """[O, C / group, ...] with groups as [O, C, ...] without: zeros where filter and input channel are of different groups."""
    filters, depth = weight.shape[:2]
    dense = np.zeros((filters, depth * group, *weight.shape[2:]), weight.dtype)
    for number in range(group):
        rows = slice(number * filters // group, (number + 1) * filters // group)
        dense[rows, number * depth : (number + 1) * depth] = weight[rows]
    return dense


def _is_grouped(node: ir.Node) -> bool:
    """Whether a convolution over two axes runs as a CONV_2D with groups; a depthwise one of constant weight has a kernel of its own."""
    group = attribute(node, "group", 1)
    depthwise = group == input_shape(node)[1] and is_constant(input_of(node, 1))
    return bool(group > 1 and rank(input_of(node, 0)) == 4 and not depthwise)


def _one_by_one(node: ir.Node, window: Window, rewriter: Rewriter) -> ir.Value:
    """Each group by a convolution of its own.

    ::

                     +--> Conv w[0] --+
        x --> Split -+--> ...        -+--> Concat --> y
    """
    group = attribute(node, "group", 1)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    parts = zip(
        _split(input_of(node, 0), 1, group, rewriter),
        _split(input_of(node, 1), 0, group, rewriter),
        _split(bias, 0, group, rewriter) if bias is not None else [None] * group,
        strict=True,
    )
    made = [
        rewriter.op(
            "Conv", *part, kernel_shape=window.kernel, strides=window.strides, dilations=window.dilations, pads=window.pads
        )
        for part in parts
    ]
    return rewriter.op("Concat", *made, axis=1)


def _split(value: ir.Value, axis: int, count: int, rewriter: Rewriter) -> Sequence[ir.Value]:
    """`count` equal parts of a value along an axis; those of a constant are constants."""
    array = constant(value)
    if array is not None:
        return [rewriter.const(np.ascontiguousarray(part), "part") for part in np.split(array, count, axis)]
    first = rewriter.op("Split", value, outputs=count, axis=axis, num_outputs=count)
    made = first.producer()
    assert made is not None
    return made.outputs


def _mend_group(node: ir.Node, kept: tuple[Sequence[int], ...]) -> None:
    node.attributes["group"] = ir.AttrInt64("group", len(kept[0]))
