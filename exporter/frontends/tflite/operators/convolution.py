"""Convolutions and matrix products.

TFLite stores the weights of CONV_2D as [O, h, w, I], of DEPTHWISE_CONV_2D as [1, h, w, C * M], of TRANSPOSE_CONV as [O, h, w, I], of CONV_3D as
[d, h, w, I, O], of CONV_3D_TRANSPOSE as [d, h, w, O, I] and of FULLY_CONNECTED as [O, I].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.frontends.tflite.reading import Reading, same_padding
from exporter.frontends.tflite.registry import reads

__all__: list[str] = []

_SAME: Final = 0  # Padding.SAME


def pads_of(
    to: Reading, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """ONNX's pads (all before, then all behind) of the operator's padding option."""
    if to.option("padding") != _SAME:
        return (0,) * (2 * len(kernel))
    pairs = [same_padding(*window) for window in zip(sizes, kernel, strides, dilations, strict=True)]
    return tuple(before for before, _ in pairs) + tuple(behind for _, behind in pairs)


@reads("CONV_2D")
def conv_2d(to: Reading) -> None:
    """Conv; grouped where the weight has fewer input channels than the input."""
    _, *kernel, depth = to.shape(1)
    _convolve(to, (0, 3, 1, 2), kernel, to.shape()[-1] // max(depth, 1))


@reads("DEPTHWISE_CONV_2D")
def depthwise_conv_2d(to: Reading) -> None:
    """Conv with as many groups as channels; output channel c * M + m in both."""
    _, *kernel, _ = to.shape(1)
    _convolve(to, (3, 0, 1, 2), kernel, to.shape()[-1])


@reads("CONV_3D")
def conv_3d(to: Reading) -> None:
    *kernel, depth, _ = to.shape(1)
    _convolve(to, (4, 3, 0, 1, 2), kernel, to.shape()[-1] // max(depth, 1))


def _convolve(to: Reading, perm: Sequence[int], kernel: Sequence[int], group: int) -> None:
    letters = "DHW"[-len(kernel) :]
    strides = tuple(int(to.option(f"stride{letter}", 1)) for letter in letters)
    dilations = tuple(int(to.option(f"dilation{letter}Factor", 1)) for letter in letters)
    pads = pads_of(to, to.shape()[1:-1], kernel, strides, dilations)
    y = to.op(
        "Conv",
        to.input(0, first=True),
        to.weight(1, perm),
        _bias(to, 2),
        kernel_shape=tuple(kernel),
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=group,
    )
    to.give(y, first=True)


def _bias(to: Reading, index: int) -> ir.Value | None:
    return to.input(index) if to.present(index) else None


@reads("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE")
def transpose_conv(to: Reading) -> None:
    """ConvTranspose, cropped to the output shape as the gradient of a padded convolution is; what the kernel does not reach stays bias."""
    size, given = to.ints(0)[1:-1], to.shape(2)[1:-1]
    volume = to.kind == "CONV_3D_TRANSPOSE"  # its weights are [d, h, w, O, I]
    kernel = to.shape(1)[:-2] if volume else to.shape(1)[1:-1]
    letters = "DHW"[-len(kernel) :]
    strides = tuple(int(to.option(f"stride{letter}", 1)) for letter in letters)
    dilations = tuple(int(to.option(f"dilation{letter}Factor", 1)) for letter in letters)
    before, behind, beyond = [], [], []
    for window in zip(size, given, kernel, strides, dilations, strict=True):
        length, count, taps, stride, dilation = window
        whole = (count - 1) * stride + (taps - 1) * dilation + 1
        first = same_padding(length, taps, stride, dilation)[0] if to.option("padding") == _SAME else 0
        before.append(first)
        behind.append(max(whole - first - length, 0))
        beyond.append(max(length - (whole - first), 0))
    y = to.op(
        "ConvTranspose",
        to.input(2, first=True),
        to.weight(1, (4, 3, 0, 1, 2) if volume else (3, 0, 1, 2)),
        _bias(to, 3),
        kernel_shape=tuple(kernel),
        strides=strides,
        dilations=dilations,
        pads=(*before, *behind),
        output_padding=tuple(beyond),
    )
    to.give(y, first=True)


@reads("FULLY_CONNECTED")
def fully_connected(to: Reading) -> None:
    """Gemm of the input as rows of the weight's length; the leading axes come back where they are kept."""
    units, depth = to.shape(1)
    x = to.input(0)
    if len(to.shape()) != 2 or to.shape()[-1] != depth:
        x = to.op("Reshape", x, to.int64((-1, depth)))
    y = to.op("Gemm", x, to.input(1), _bias(to, 2), transB=1)
    if to.option("keepNumDims", False) and len(to.shape()) != 2:
        y = to.op("Reshape", y, to.int64((*to.shape()[:-1], units)))
    to.give(y)


@reads("BATCH_MATMUL")
def batch_matmul(to: Reading) -> None:
    """MatMul; adjX and adjY transpose the last two axes."""
    sides = []
    for index, adjoint in enumerate(("adjX", "adjY")):
        swapped = [*range(len(to.shape(index)) - 2), len(to.shape(index)) - 1, len(to.shape(index)) - 2]
        sides.append(to.weight(index, swapped) if to.option(adjoint, False) else to.input(index))
    to.give(to.op("MatMul", *sides))


@reads("EMBEDDING_LOOKUP")
def embedding_lookup(to: Reading) -> None:
    """Rows of the second input."""
    to.give(to.op("Gather", to.input(1), to.input(0), axis=0))


@reads("DENSIFY")
def densify(to: Reading) -> None:
    """A sparse constant was made dense when the file was read."""
    to.parameter(0)
    to.give(to.input(0))


@reads("DEQUANTIZE")
def dequantize(to: Reading) -> None:
    """Real numbers of an encoded input; float16 is widened, at once where it is a constant."""
    if to.dtype() != "float16":
        x, first = to.loose()
        to.give(x, first=first)
        return
    known = to.constant(0)
    to.give(to.op("Cast", to.input(0), to=ir.DataType.FLOAT) if known is None else to.const(known.astype(np.float32)))


@reads("QUANTIZE")
def quantize(to: Reading) -> None:
    """The same numbers under the output's encoding."""
    x, first = to.loose()
    to.give(x, first=first)
