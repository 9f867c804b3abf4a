"""Weights beside an ONNX file: protobuf messages end at 2 GB, so a larger model names a file that holds them."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.content import Content

__all__ = ["PROTOBUF_LIMIT", "take_out"]

PROTOBUF_LIMIT: Final = 2**31 - 2**26  # bytes of initializers; the rest is for the graph itself
_ALIGNMENT: Final = 4096  # a page, so that weights can be mapped into memory
_SMALL: Final = 1024  # bytes: shapes, axes and scales stay in the model, where shape inference reads them


def take_out(graph: ir.Graph, limit: int = PROTOBUF_LIMIT) -> dict[str, Content]:
    """Replace large initializers by references where all of them take more than `limit` bytes.

    Gives the file that they refer to by its name, which is that of its content; nothing where there is none.
    """
    held = {name: value.const_value for name, value in graph.initializers.items() if value.const_value is not None}
    if sum(tensor.nbytes for tensor in held.values()) <= limit:
        return {}
    large = {name: tensor for name, tensor in held.items() if tensor.nbytes > _SMALL}
    parts: list[bytes | memoryview] = []
    places: dict[str, int] = {}
    at = 0
    digest = hashlib.sha256()
    for name, tensor in large.items():
        gap = bytes(-at % _ALIGNMENT)
        data = _bytes_of(tensor)
        for part in (gap, data):
            digest.update(part)
            parts.append(part)
        places[name] = at + len(gap)
        at = places[name] + len(data)
    location = f"weights-{digest.hexdigest()[:16]}.data"
    for name, tensor in large.items():
        graph.initializers[name].const_value = ir.ExternalTensor(
            location, places[name], tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    return {location: Content(tuple(parts))}


def _bytes_of(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """A tensor as ONNX stores it, without a copy where numpy holds it so."""
    array = tensor.numpy()
    if array.dtype.kind in "fiu" and array.nbytes == tensor.nbytes and array.dtype.isnative and array.flags.c_contiguous:
        return array.reshape(-1).view(np.uint8).data
    return tensor.tobytes()
