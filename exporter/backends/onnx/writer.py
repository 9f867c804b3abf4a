"""Write a planned graph as an ONNX file: float32, float16, or integers in QDQ form. The same graph and plan give the same bytes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from exporter.backends.onnx.defaults import write_defaults
from exporter.backends.onnx.downgrade import fit_floor
from exporter.backends.onnx.external import PROTOBUF_LIMIT, take_out
from exporter.backends.onnx.fast_forms import fast_forms
from exporter.backends.onnx.float16 import to_float16
from exporter.backends.onnx.qdq import insert_qdq
from exporter.content import Content
from exporter.quantization.plan import Plan
from targets.floor import floor_of
from targets.schema import Target

__all__ = ["IR_VERSION", "OPSET", "OnnxArtifact", "onnx_artifact", "write_onnx"]

OPSET: Final = 21
IR_VERSION: Final = 10  # the format's version that belongs to opset 21 (ONNX 1.16)


@dataclass(frozen=True)
class OnnxArtifact:
    """An ONNX file, and the files of weights that it names, which must lie beside it."""

    content: bytes
    beside: Mapping[str, Content]


def write_onnx(model: ir.Model, plan: Plan, target: Target) -> bytes:
    """`onnx_artifact` of a model that fits into one file."""
    return onnx_artifact(model, plan, target, sys.maxsize).content


def onnx_artifact(model: ir.Model, plan: Plan, target: Target, limit: int = PROTOBUF_LIMIT) -> OnnxArtifact:
    """The ONNX file that computes `model` as `plan` says, weights beside it where they take more than `limit` bytes.

    `model` is left as it was.

    Values keep their names; the names of quantized ones are described in `qdq`. The file holds nothing of the machine it was made on:
    documentation strings and metadata (stack traces among them) are dropped.

    Raises:
        ModelError: EW-Q002, the plan does not fit the graph; EW-Q004, a weight does not fit float16.
        TargetError: EW-T005, the target's runtime floor has no form of an operator.
    """
    copy = model.clone()
    precisions = set(plan.precision.values())
    if "float16" in precisions:
        to_float16(copy)
    elif precisions - {"float32"}:
        scheme = target.quantization
        insert_qdq(copy, plan, scheme.activations, scheme.biases, scheme.activations_wide)
    fast_forms(copy.graph, target)
    _strip(copy)
    beside = take_out(copy.graph, limit)
    proto = ir.serde.serialize_model(copy)
    floor = floor_of(target)
    if floor is not None:
        proto = fit_floor(proto, floor, target.name)
    write_defaults(proto, target.artifact.explicit_defaults)
    return OnnxArtifact(bytes(proto.SerializeToString(deterministic=True)), beside)


def _strip(model: ir.Model) -> None:
    graph = model.graph
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "edgewright", None
    model.domain = model.model_version = model.doc_string = None
    graph.name, graph.doc_string = "edgewright", None
    model.metadata_props.clear()
    graph.metadata_props.clear()
    domains = {node.domain for node in graph.all_nodes()}
    for domain in [domain for domain in model.opset_imports if domain and domain not in domains]:
        del model.opset_imports[domain]
    for value in (*graph.inputs, *graph.initializers.values()):
        value.doc_string = None
        value.metadata_props.clear()
    for node in graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.doc_string = None
            value.metadata_props.clear()
