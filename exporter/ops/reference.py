"""What operators' `integers` facets are written with: tensors of integers as they are stored, and the forms that kernels share.

Accumulators come from an operator's own torch function on centred integers in float64, which holds every integer below 2**53:
sums of products are exact there, whatever their order. What is particular to the kernels is how accumulators are brought to the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from exporter.graph.values import fused_activation
from exporter.ops.base import Refused, operator_of
from exporter.ops.fixed_point import multiply, multiply_long, quantize_multiplier, round_away

__all__ = [
    "INTEGER_LIMITS",
    "Affine",
    "Stored",
    "accumulated",
    "clamped",
    "clamped_bounds",
    "encoding_of",
    "limits",
    "moved",
    "pair",
    "rescaled",
    "rescaled_by_channel",
    "rounded_once",
    "single",
    "tabulated",
    "through_torch",
]

Array = np.ndarray[Any, Any]

INTEGER_LIMITS = {"int4": (-8, 7), "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
_BOUNDS = {"NONE": (-np.inf, np.inf), "RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}


class Affine(Protocol):
    """``real = scale * (integer - zero_point)``, one scale a tensor or one an index of `axis`; scales are float32 values."""

    @property
    def dtype(self) -> str: ...
    @property
    def scale(self) -> tuple[float, ...]: ...
    @property
    def zero_point(self) -> tuple[int, ...]: ...
    @property
    def axis(self) -> int | None: ...


@dataclass(frozen=True)
class Stored:
    """A value as the artifact holds it, axes in the canonical order: integers of an encoding, or numbers that stand for themselves."""

    array: Array
    encoding: Affine | None = None

    @property
    def scale(self) -> np.float32:
        """The one scale of an encoded tensor."""
        return np.float32(_encoded(self).scale[0])

    @property
    def zero_point(self) -> int:
        """The one zero point of an encoded tensor."""
        return _encoded(self).zero_point[0]

    @property
    def centred(self) -> Array:
        """Integers minus the zero point, int64."""
        return self.array.astype(np.int64) - self.zero_point


def single(stored: Stored | None) -> Stored:
    """An input that the operator needs."""
    if stored is None:
        raise ValueError("the input is absent")
    return stored


def pair(inputs: Sequence[Stored | None]) -> tuple[Stored, Stored]:
    """The first two inputs, which the operator needs."""
    return single(inputs[0]), single(inputs[1])


def encoding_of(values: Sequence[Affine | None]) -> Affine:
    """The encoding of the first of a node's values, which the operator reads or writes in integers."""
    if values[0] is None:
        raise ValueError("the value has no encoding")
    return values[0]


def limits(node: ir.Node, encoding: Affine) -> tuple[int, int]:
    """Least and greatest integer that a node's kernel writes: those of the dtype, and those of a fused activation.

    Source: CalculateActivationRangeQuantized in LiteRT `kernels/kernel_util.cc`.
    """
    behind = fused_activation(node)
    low, high = _BOUNDS[operator_of(behind).activation(behind) if behind is not None else "NONE"]
    return clamped_bounds(low, high, encoding)


def clamped_bounds(low: float, high: float, encoding: Affine) -> tuple[int, int]:
    """Integers of the real bounds `low` and `high` (infinite: none) within the dtype."""
    least, greatest = INTEGER_LIMITS[encoding.dtype]
    scale, zero_point = np.float32(encoding.scale[0]), encoding.zero_point[0]
    if np.isfinite(low):
        least = max(least, zero_point + int(round_away(np.float32(low) / scale)))
    if np.isfinite(high):
        greatest = min(greatest, zero_point + int(round_away(np.float32(high) / scale)))
    return least, greatest


def clamped(node: ir.Node, integers: Any, encoding: Affine) -> Array:
    """Centred integers with the output's zero point, within what the node's kernel writes."""
    low, high = limits(node, encoding)
    return np.asarray(np.clip(integers + encoding.zero_point[0], low, high))


def rescaled(node: ir.Node, centred: Any, factor: float, encoding: Affine) -> Array:
    """Accumulators times one real factor, as a kernel writes them."""
    return clamped(node, multiply(centred, *quantize_multiplier(float(factor))), encoding)


def rescaled_by_channel(node: ir.Node, accumulators: Array, x: Stored, weight: Stored, encoding: Affine) -> Array:
    """Accumulators [N, channels, ...] of ``x * weight`` at the output's encoding, each channel by its own multiplier.

    Source: PopulateConvolutionQuantizationParams in LiteRT `kernels/kernel_util.cc`.
    """
    pairs = np.asarray([quantize_multiplier(factor) for factor in _factors(x, weight, encoding)], np.int64)
    shape = (1, -1, *(1,) * (accumulators.ndim - 2))
    if encoding.dtype == "int16":  # their accumulators have 48 bits
        return clamped(node, multiply_long(accumulators, pairs[:, 0].reshape(shape), pairs[:, 1].reshape(shape)), encoding)
    return clamped(node, multiply(accumulators, pairs[:, 0].reshape(shape), pairs[:, 1].reshape(shape)), encoding)


def rounded_once(node: ir.Node, accumulators: Array, x: Stored, weight: Stored, encoding: Affine) -> Array:
    """Accumulators [rows, channels] of ``x * weight`` at the output's encoding, each product rounded once, in double precision.

    Source: FullyConnected and FullyConnectedPerChannel in LiteRT `kernels/internal/reference/integer_ops/fully_connected.h`.
    """
    factors = np.asarray(_factors(x, weight, encoding)).reshape(1, -1)
    return clamped(node, round_away(accumulators * factors).astype(np.int64), encoding)


def _factors(x: Stored, weight: Stored, encoding: Affine) -> list[float]:
    return [float(x.scale) * scale / encoding.scale[0] for scale in _encoded(weight).scale]


def accumulated(node: ir.Node, inputs: Sequence[Stored | None]) -> Array:
    """The node's own torch function on centred integers in float64: exact integers, int64, of its first output."""
    return np.rint(through_torch(node, inputs, np.float64)[0]).astype(np.int64)


def moved(node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]) -> list[Array]:
    """Outputs of a node that only moves, picks or compares numbers of one encoding.

    float32 holds the integers of 16 bits, and zero is the centre of the encoding, so a padding with zeros is right as well.
    """
    found = through_torch(node, inputs)
    return [
        array if encoding is None else clamped(node, array.astype(np.int64), encoding)
        for array, encoding in zip(found, outputs, strict=False)
    ]


def tabulated(x: Stored, encoding: Affine, function: Callable[[Array], Array]) -> Array:
    """A function of one number through the table of all 256 integers. `function` computes in float32.

    Source: LUTPopulate in LiteRT `kernels/internal/common.h`.
    """
    if _encoded(x).dtype != "int8":
        raise Refused(None, f"tables of {_encoded(x).dtype} have no integer reference")
    indices = np.arange(-128, 128)
    real = x.scale * (indices - x.zero_point).astype(np.float32)
    inverse = np.float32(1) / np.float32(encoding.scale[0])
    with np.errstate(over="ignore"):
        rounded = round_away(np.asarray(function(real), np.float32) * inverse)
    low, high = INTEGER_LIMITS[encoding.dtype]
    table = np.clip(rounded + encoding.zero_point[0], low, high).astype(np.int64)
    return np.asarray(table[x.array.astype(np.int64) + 128])


def through_torch(node: ir.Node, inputs: Sequence[Stored | None], dtype: type = np.float32) -> list[Array]:
    """Outputs of the node's own torch function; encoded inputs as centred integers in `dtype`, others as they are."""
    import torch

    def tensor(stored: Stored | None) -> Any:
        if stored is None:
            return None
        array = stored.array if stored.encoding is None else _centred_by_axis(stored).astype(dtype)
        return torch.from_numpy(np.array(array))

    with torch.no_grad():
        return [np.asarray(found) for found in operator_of(node).torch(node, [tensor(stored) for stored in inputs])]


def _centred_by_axis(stored: Stored) -> Array:
    encoding = _encoded(stored)
    points = np.asarray(encoding.zero_point, np.int64)
    if encoding.axis is None or points.size == 1:
        return np.asarray(stored.array.astype(np.int64) - points[0])
    shape = [1] * stored.array.ndim
    shape[encoding.axis] = -1
    return np.asarray(stored.array.astype(np.int64) - points.reshape(shape))


def _encoded(stored: Stored) -> Affine:
    if stored.encoding is None:
        raise ValueError("the value has no encoding")
    return stored.encoding
