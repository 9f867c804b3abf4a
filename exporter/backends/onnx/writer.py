"""Write a planned graph as an ONNX file: float32, float16, or integers in QDQ form. The same graph and plan give the same bytes."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from exporter.backends.onnx.downgrade import fit_floor
from exporter.backends.onnx.float16 import to_float16
from exporter.backends.onnx.qdq import insert_qdq
from exporter.quantization.plan import Plan
from targets.floor import floor_of
from targets.schema import Target

__all__ = ["IR_VERSION", "OPSET", "write_onnx"]

OPSET: Final = 21
IR_VERSION: Final = 10  # the format's version that belongs to opset 21 (ONNX 1.16)


def write_onnx(model: ir.Model, plan: Plan, target: Target) -> bytes:
    """The bytes of an ONNX file that computes `model` as `plan` says. `model` is left as it was.

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
        insert_qdq(copy, plan, target.quantization.activations)
    _strip(copy)
    proto = ir.serde.serialize_model(copy)
    floor = floor_of(target)
    if floor is not None:
        proto = fit_floor(proto, floor, target.name)
    return bytes(proto.SerializeToString(deterministic=True))


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
