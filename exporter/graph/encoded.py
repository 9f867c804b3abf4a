"""Encodings that a model brings along: how a quantized source says them, and where the float graph keeps them.

An encoding is metadata of the value that it belongs to. A constant's is believed only where it gives back the constant's very numbers, so
that a pass which changes a constant need not know of encodings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant
from exporter.quantization.plan import Encoding

__all__ = [
    "BOUNDARY",
    "constant_encoding",
    "drop_encoding",
    "encoding_of",
    "in_int8",
    "inherit_encoding",
    "pair_encoding",
    "set_encoding",
]

_ENCODED: Final = "edgewright.encoding"
# Metadata key on a graph input or output that the source holds as integers; its value is their dtype.
BOUNDARY: Final = "edgewright.boundary"


def set_encoding(value: ir.Value, encoding: Encoding) -> None:
    """Say that the source holds `value` in `encoding`."""
    value.metadata_props[_ENCODED] = json.dumps(asdict(encoding))


def encoding_of(value: ir.Value | None) -> Encoding | None:
    """The encoding that the source gives a computed value, or None."""
    text = value.metadata_props.get(_ENCODED) if value is not None else None
    if text is None:
        return None
    found: dict[str, Any] = json.loads(text)
    return Encoding(**{**found, "scale": tuple(found["scale"]), "zero_point": tuple(found["zero_point"])})


def drop_encoding(value: ir.Value) -> None:
    value.metadata_props.pop(_ENCODED, None)


def constant_encoding(value: ir.Value | None, axis: int | None) -> Encoding | None:
    """The encoding that the source gives a constant: along `axis`, or one for all; None where it is not exactly the constant's."""
    given, array = encoding_of(value), constant(value)
    return _fitted(given, array, (axis,)) if given is not None and array is not None else None


def inherit_encoding(value: ir.Value, sources: Iterable[ir.Value | None]) -> None:
    """Let a constant that is made of others have the encoding of one of them, where that gives back its very numbers."""
    array = constant(value)
    if array is None or array.dtype != np.float32:
        return
    for source in sources:
        given = encoding_of(source)
        found = _fitted(given, array, range(array.ndim)) if given is not None and source is not value else None
        if found is not None:
            set_encoding(value, found)
            return


def _fitted(given: Encoding, array: np.ndarray[Any, Any], axes: Iterable[int | None]) -> Encoding | None:
    """`given` along the first of `axes` (or for the whole tensor) under which it loses nothing of `array`."""
    if len(given.scale) == 1:
        candidates: list[int | None] = [None]
    else:
        candidates = [axis for axis in axes if axis is not None and array.shape[axis] == len(given.scale)]
    for axis in candidates:
        placed = Encoding(given.dtype, given.scale, given.zero_point, axis)
        if np.array_equal(placed.dequantize(placed.quantize(array)), array):
            return placed
    return None


def pair_encoding(node: ir.Node) -> Encoding | None:
    """What a QuantizeLinear or DequantizeLinear says of its integers; None for computed or blocked scales and dtypes without an `Encoding`."""
    scale, point = constant(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
    integers = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    if scale is None or integers is None or integers.dtype is None or attribute(node, "block_size", 0):
        return None
    dtype = integers.dtype.name.lower()
    zeros = np.zeros(scale.shape, np.int32) if point is None else constant(point)
    if (
        dtype not in ("int8", "uint8", "int16", "uint16", "int32")
        or zeros is None
        or zeros.size != scale.size
        or scale.dtype != np.float32
    ):
        return None
    if not np.isfinite(scale).all() or (scale <= 0).any():
        return None
    rank = len(integers.shape or ())
    axis = None if scale.size == 1 else int(attribute(node, "axis", 1)) % max(rank, 1)
    return Encoding(dtype, tuple(float(s) for s in scale.reshape(-1)), tuple(int(z) for z in zeros.reshape(-1)), axis)


def in_int8(encoding: Encoding) -> Encoding:
    """An encoding as plans say it: integers and zero points of uint8 are 128 less and mean the same numbers."""
    if encoding.dtype != "uint8":
        return encoding
    return Encoding("int8", encoding.scale, tuple(point - 128 for point in encoding.zero_point), encoding.axis)
