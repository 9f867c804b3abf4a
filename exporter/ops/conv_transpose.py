"""ConvTranspose: the gradient of a convolution, for learned upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, is_constant, rank
from exporter.ops import hexagon
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
from exporter.ops.common import INT8_AND_INT16, OWN, input_of, input_shape, output_shape, uniform_layout
from exporter.ops.kernels import takes
from exporter.ops.reference import Affine, Stored, accumulated, encoding_of, pair, rescaled_by_channel
from exporter.ops.windows import lifted, unlifted

__all__ = ["ConvTranspose"]


@dataclass(frozen=True)
class _Shape:
    """The whole result spans ``(size - 1) * stride + reach``; `begin` of it is cut off, then `count` elements are kept an axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    size: tuple[int, ...]
    count: tuple[int, ...]

    @property
    def whole(self) -> tuple[int, ...]:
        return tuple(
            (size - 1) * stride + (kernel - 1) * dilation + 1
            for size, stride, kernel, dilation in zip(self.size, self.strides, self.kernel, self.dilations, strict=True)
        )

    @property
    def tflite_padding(self) -> str | None:
        """ "VALID" or "SAME" where TRANSPOSE_CONV computes exactly this, else None.

        SAME takes the result to be the input of a SAME convolution: ``size = ceil(count / stride)`` and the cut is halved, the odd one
        behind.
        """
        if max(self.dilations) > 1:
            return None
        if self.count == self.whole and not any(self.begin):
            return "VALID"
        cuts = [whole - count for whole, count in zip(self.whole, self.count, strict=True)]
        fits = all(-(-count // stride) == size for count, stride, size in zip(self.count, self.strides, self.size, strict=True))
        halved = all(cut >= 0 and begin == cut // 2 for cut, begin in zip(cuts, self.begin, strict=True))
        return "SAME" if fits and halved else None


def _constant_weight(node: ir.Node) -> bool:
    """The weight and the bias are constants."""
    return all(is_constant(value) for value in node.inputs[1:] if value is not None)


def _up_to_three_axes(node: ir.Node) -> bool:
    """The convolution has one, two or three spatial axes."""
    return len(input_shape(node)) in (3, 4, 5)


@register
class ConvTranspose(Operator):
    """Input [N, C, spatial...], weight [C, O / group, kernel...], bias [O]; output [N, O, spatial...].

    `fuses_activation` stays off: TRANSPOSE_CONV clamps only from version 4 on, and tflite-micro's kernel ignores it.
    """

    op_type = "ConvTranspose"
    references_int16 = True
    kernel_dtypes = INT8_AND_INT16
    bias_index = 2
    constraints = (
        takes("ConvTranspose", ("float32",)),
        Constraint("tflite", _constant_weight),
        Constraint("tflite", _up_to_three_axes),
        *hexagon.CONV_TRANSPOSE,
    )

    def couple(self, node: ir.Node) -> Coupling:
        channels, filters = input_shape(node)[1], output_shape(node)[1]
        if attribute(node, "group", 1) > 1:
            return Coupling((), blocked=(Channels("in", 0, 1, channels), Channels("out", 0, 1, filters)))
        bias = (Channels("in", 2, 0, filters),) if len(node.inputs) > 2 and node.inputs[2] is not None else ()
        return Coupling(
            (
                (Channels("in", 0, 1, channels), Channels("in", 1, 0, channels)),
                (Channels("in", 1, 1, filters), *bias, Channels("out", 0, 1, filters)),
            ),
            free_outputs=(1,),
        )

    def quantize(self, node: ir.Node) -> QuantRule:
        if not is_constant(input_of(node, 1)):
            raise Refused(node, "ConvTranspose with a computed weight has no integer kernel")
        if rank(input_of(node, 0)) == 5:
            raise Refused(node, "CONV_3D_TRANSPOSE has no integer kernel")
        # With groups no single axis of the weight counts output channels; the legalize stage removes them for TFLite.
        axis = 1 if attribute(node, "group", 1) == 1 else None
        rules = (InputRule(Role.ACTIVATION), InputRule(Role.WEIGHT, axis), InputRule(Role.BIAS))
        return QuantRule(rules[: len(node.inputs)], (OWN,))

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.LAST)

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """For TFLite: one spatial axis becomes two; groups and dilations become zeros in the weight; padding becomes a Slice of the
        whole result, an output padding beyond it one more row of zeros in the kernel."""
        weight = constant(node.inputs[1])
        if rewriter.runtime != "tflite" or weight is None or not _constant_weight(node) or not _up_to_three_axes(node):
            return None
        x, bias = input_of(node, 0), node.inputs[2] if len(node.inputs) > 2 else None
        shape, group = _shape(node), attribute(node, "group", 1)
        if rank(x) > 3 and group == 1 and shape.tflite_padding is not None:
            return None
        dense = _ungrouped(weight, group)
        if rank(x) == 3:
            image, dense, shape = lifted(x, rewriter), dense[:, :, None], _heightened(shape)
            return [unlifted(_plain(image, dense, bias, shape, rewriter), rewriter)]
        return [_plain(x, dense, bias, shape, rewriter)]

    def lower(self, node: ir.Node, to: Lowering) -> None:
        shape = _shape(node)
        y = to.output()
        options: dict[str, Any] = {"padding": shape.tflite_padding, "fused_activation_function": "NONE"}
        for name, stride in zip("dhw"[-len(shape.strides) :], shape.strides, strict=True):
            options[f"stride_{name}"] = stride
        if len(shape.kernel) == 3:
            # [C, O, d, h, w] -> [d, h, w, O, C]
            inputs = [to.ints(to.shape(y)), to.weight(1, perm=(2, 3, 4, 1, 0)), to.input(0)]
            inputs += [to.bias(2, output_shape(node)[1])] if len(node.inputs) > 2 and node.inputs[2] is not None else []
            to.emit("CONV_3D_TRANSPOSE", inputs, [y], 1, dilation_d_factor=1, dilation_h_factor=1, dilation_w_factor=1, **options)
            return
        inputs = [to.ints(to.shape(y)), to.weight(1, perm=(1, 2, 3, 0)), to.input(0)]
        number = 2 if to.quantized else 1
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            inputs.append(to.bias(2, output_shape(node)[1]))
            number = 3
        to.emit("TRANSPOSE_CONV", inputs, [y], number, **options)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        from torch.nn import functional

        x, weight, bias = (*inputs, None)[:3]
        shape = _shape(node)
        transpose = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[len(shape.kernel) - 1]
        y = transpose(x, weight, None, stride=shape.strides, groups=attribute(node, "group", 1), dilation=shape.dilations)
        for axis, (begin, count, whole) in enumerate(zip(shape.begin, shape.count, shape.whole, strict=True), start=2):
            beyond = max(begin + count - whole, 0)
            if beyond:
                y = functional.pad(y, (0, 0) * (y.dim() - 1 - axis) + (0, beyond))
            y = y.narrow(axis, begin, count)
        return (y if bias is None else y + bias.reshape(-1, *(1,) * len(shape.kernel)),)

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        x, weight = pair(inputs)
        return [rescaled_by_channel(node, accumulated(node, inputs), x, weight, encoding_of(outputs))]

    def cost(self, node: ir.Node) -> Cost:
        return Cost(macs=prod(input_shape(node)) * prod(input_shape(node, 1)[1:]))


def _shape(node: ir.Node) -> _Shape:
    """Sizes of a node, with `auto_pad` and `output_shape` resolved as the ONNX specification says."""
    kernel, size, count = input_shape(node, 1)[2:], input_shape(node)[2:], output_shape(node)[2:]
    ones = (1,) * len(size)
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    begin = attribute(node, "pads", (0,) * 2 * len(size))[: len(size)]
    automatic = attribute(node, "auto_pad", "NOTSET")
    if automatic == "VALID":
        begin = (0,) * len(size)
    elif automatic != "NOTSET" or attribute(node, "output_shape") is not None:
        extra = attribute(node, "output_padding", (0,) * len(size))
        total = [
            max(stride * (length - 1) + more + (k - 1) * d + 1 - wanted, 0)
            for stride, length, more, k, d, wanted in zip(strides, size, extra, kernel, dilations, count, strict=True)
        ]
        begin = tuple(t // 2 if automatic == "SAME_UPPER" else t - t // 2 for t in total)
    return _Shape(kernel, strides, dilations, begin, size, count)


def _heightened(shape: _Shape) -> _Shape:
    return _Shape(
        (1, *shape.kernel),
        (1, *shape.strides),
        (1, *shape.dilations),
        (0, *shape.begin),
        (1, *shape.size),
        (1, *shape.count),
    )


def _ungrouped(weight: np.ndarray[Any, Any], group: int) -> np.ndarray[Any, Any]:
    """[C, O / group, ...] with groups as [C, O, ...] without: zeros where input and output channel are of different groups."""
    if group == 1:
        return weight
    channels, per = weight.shape[0], weight.shape[1]
    dense = np.zeros((channels, per * group, *weight.shape[2:]), weight.dtype)
    for number in range(group):
        rows = slice(number * channels // group, (number + 1) * channels // group)
        dense[rows, number * per : (number + 1) * per] = weight[rows]
    return dense


def _plain(x: ir.Value, weight: np.ndarray[Any, Any], bias: ir.Value | None, shape: _Shape, rewriter: Rewriter) -> ir.Value:
    """A dense, undilated ConvTranspose in a form that TFLite has, and the Slice that cuts what the padding cuts."""
    reach = tuple((k - 1) * d + 1 for k, d in zip(shape.kernel, shape.dilations, strict=True))
    beyond = tuple(
        max(begin + count - whole, 0) for begin, count, whole in zip(shape.begin, shape.count, shape.whole, strict=True)
    )
    taps = np.zeros((*weight.shape[:2], *(r + b for r, b in zip(reach, beyond, strict=True))), weight.dtype)
    spread = tuple(slice(None, length, dilation) for length, dilation in zip(reach, shape.dilations, strict=True))
    taps[(slice(None), slice(None), *spread)] = weight
    plain = _Shape(taps.shape[2:], shape.strides, (1,) * len(reach), shape.begin, shape.size, shape.count)
    kernel = rewriter.const(taps, "weight")
    if plain.tflite_padding is not None:
        ends = tuple(whole - begin - count for whole, begin, count in zip(plain.whole, plain.begin, plain.count, strict=True))
        return rewriter.op(
            "ConvTranspose", x, kernel, bias, kernel_shape=plain.kernel, strides=plain.strides, pads=plain.begin + ends
        )
    whole = rewriter.op("ConvTranspose", x, kernel, bias, kernel_shape=plain.kernel, strides=plain.strides)
    return rewriter.op(
        "Slice",
        whole,
        rewriter.const(np.asarray(plain.begin, np.int64), "starts"),
        rewriter.const(np.add(plain.begin, plain.count).astype(np.int64), "ends"),
        rewriter.const(np.arange(2, 2 + len(reach), dtype=np.int64), "axes"),
    )
