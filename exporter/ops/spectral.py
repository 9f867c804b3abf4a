"""Fourier transforms of static length: DFT as a product with a constant matrix, STFT as a convolution with its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, rank
from exporter.ops.base import Channels, Coupling, Refused, Rewriter, register
from exporter.ops.common import input_of, input_shape, ints_of, output_shape
from exporter.ops.composite import Composite
from exporter.ops.tape import Tape

__all__ = ["DFT", "STFT", "fourier_matrix"]

_REFUSES: Final[Mapping[str, str]] = {
    "quantize": "a spectrum spans more powers of two than 8 bits hold",
    "lower": "TFLite has no operator for it in this form; the legalize stage makes it a product with a constant matrix",
}
_FLOAT: Final = "part of a Fourier transform: a spectrum spans more powers of two than 8 bits hold"


def fourier_matrix(size: int, count: int, length: int, *, inverse: bool = False) -> np.ndarray[Any, Any]:
    """[size, 2, count, 2], float64: real and imaginary part of ``exp(-2 pi i j k / length)`` from input j to output k.

    With `inverse` the conjugate over `length`. Inputs beyond `length` are left out, missing ones are zero.
    """
    j, k = np.arange(size)[:, None], np.arange(count)[None, :]
    angle = 2 * np.pi * ((j * k) % length) / length
    cosine, sine = np.cos(angle), np.sin(angle) * (-1 if inverse else 1)
    matrix = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], axis=1)
    return np.asarray(np.where(j[..., None, None] < length, matrix, 0.0) / (length if inverse else 1))


def _real_from_half(size: int, length: int) -> np.ndarray[Any, Any]:
    """[size, 2, length, 1]: the inverse transform of a spectrum of which the half with negative frequencies is left out, being its mirror."""
    matrix = fourier_matrix(size, length, length, inverse=True)[..., :1]
    frequency = np.arange(size)
    alone = (frequency == 0) | (2 * frequency == length)
    return np.asarray(matrix * np.where(frequency > length // 2, 0, np.where(alone, 1, 2))[:, None, None, None])


class _Spectral(Composite):
    """Frequencies and times mix: nothing is cut."""

    refuses: ClassVar[Mapping[str, str]] = _REFUSES

    def couple(self, node: ir.Node) -> Coupling:
        sides = (("in", input_shape(node)), ("out", output_shape(node)))
        return Coupling(
            (), blocked=tuple(Channels(side, 0, axis, shape[axis]) for side, shape in sides for axis in range(len(shape)))
        )


@register
class DFT(_Spectral):
    """Discrete Fourier transform of [..., n, ..., 1 or 2] along one axis, forward or back, whole or the half that a real signal has."""

    op_type = "DFT"

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        x, shape, result = _float_input(node), input_shape(node), output_shape(node)
        (axis,) = ints_of(node, 2) or (attribute(node, "axis", -2),)
        axis %= rank(x)
        inverse, half = bool(attribute(node, "inverse", 0)), bool(attribute(node, "onesided", 0))
        if axis == rank(x) - 1:
            raise Refused(node, "DFT along the axis of real and imaginary parts is not defined")
        given = ints_of(node, 1)
        length = given[0] if given else result[axis] if inverse else shape[axis]
        real = inverse and half
        whole = (
            _real_from_half(shape[axis], length) if real else fourier_matrix(shape[axis], result[axis], length, inverse=inverse)
        )
        matrix = whole[:, : shape[-1], :, : result[-1]]
        to, perm = Tape(rewriter, _FLOAT), [place for place in range(rank(x)) if place != axis]
        perm.insert(rank(x) - 2, axis)
        outside = [shape[place] for place in perm[:-2]]
        rows = to.reshape(to.transpose(x, perm), (prod(outside), shape[axis] * shape[-1]))
        y = to.op("MatMul", rows, matrix.reshape(shape[axis] * shape[-1], -1))
        spectrum = to.reshape(y, (*outside, result[axis], result[-1]))
        return [to.transpose(spectrum, [int(place) for place in np.argsort(perm)])]


@register
class STFT(_Spectral):
    """Fourier transforms [batch, frames, bins, 2] of windowed frames of a signal [batch, length, 1 or 2]: a convolution with a stride."""

    op_type = "STFT"

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        if rewriter.runtime != "tflite":
            return None
        x, shape, result = _float_input(node), input_shape(node), output_shape(node)
        (step,), given = ints_of(node, 1) or (0,), ints_of(node, 3)
        window = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if len(node.inputs) > 2 and node.inputs[2] is not None and window is None:
            raise Refused(node, "the window of STFT is computed; only a constant is supported")
        length = given[0] if given else window.size if window is not None else 0
        if length == 0 or step <= 0 or (window is not None and window.size != length):
            raise Refused(node, "STFT needs a step, and a frame length that is the window's where both are given")
        parts, to = (shape[2] if len(shape) > 2 else 1), Tape(rewriter, _FLOAT)
        matrix = fourier_matrix(length, result[2], length)[:, :parts]
        if window is not None:
            matrix = matrix * window.astype(np.float64).reshape(-1, 1, 1, 1)
        filters = matrix.transpose(2, 3, 1, 0).reshape(result[2] * 2, parts, length)
        signal = to.transpose(to.reshape(x, (shape[0], shape[1], parts)), (0, 2, 1))
        y = to.op("Conv", signal, filters, kernel_shape=(length,), strides=(step,))
        return [to.reshape(to.transpose(y, (0, 2, 1)), result)]


def _float_input(node: ir.Node) -> ir.Value:
    x = input_of(node, 0)
    if x.dtype != ir.DataType.FLOAT:
        raise Refused(node, f"{node.op_type} of float32 alone is supported")
    return x
