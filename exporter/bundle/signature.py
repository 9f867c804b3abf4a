"""The artifact's inputs and outputs as an integrator must feed and read them: what the graph and the plan say, no runtime asked."""

from __future__ import annotations

import onnx_ir as ir

from exporter.backends.tflite.layout import CHANNELS_LAST, to_channels_last
from exporter.bundle.manifest import TensorRecord
from exporter.graph.values import name_of, static_shape
from exporter.quantization.plan import Encoding, Plan

__all__ = ["encodings_of", "signature"]


def signature(graph: ir.Model, plan: Plan) -> tuple[tuple[TensorRecord, ...], tuple[TensorRecord, ...]]:
    """Records of the inputs and of the outputs of the artifact that `plan` makes of a legalized graph."""
    return (
        tuple(_record(value, plan) for value in graph.graph.inputs),
        tuple(_record(value, plan) for value in graph.graph.outputs),
    )


def encodings_of(graph: ir.Model, plan: Plan) -> dict[str, Encoding]:
    """Encodings of the integer inputs and outputs, by name (an ONNX file does not tell them)."""
    return {
        record.name: Encoding(record.dtype, (record.scale,), (record.zero_point or 0,))
        for records in signature(graph, plan)
        for record in records
        if record.scale is not None
    }


def _record(value: ir.Value, plan: Plan) -> TensorRecord:
    name, shape = name_of(value), static_shape(value)
    last = plan.io_layout == CHANNELS_LAST and plan.layout.get(name) == CHANNELS_LAST
    dtype = plan.io_dtype_of(name)
    encoding = plan.encodings.get(name) if dtype != "float32" else None
    shift = 128 if dtype == "uint8" else 0
    return TensorRecord(
        name=name,
        shape=tuple(shape[axis] for axis in to_channels_last(len(shape))) if last else shape,
        dtype=dtype if encoding is not None else value.dtype.numpy().name if value.dtype is not None else "float32",
        scale=encoding.scale[0] if encoding is not None else None,
        zero_point=encoding.zero_point[0] + shift if encoding is not None else None,
        layout=CHANNELS_LAST if last else "as_original",
        original_name=name,
        original_shape=shape,
    )
