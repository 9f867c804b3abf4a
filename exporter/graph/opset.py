"""Bring a model of any opset to the canonical one.

::

    Upsample-9(x, scales)  ->  Resize-21(x, , scales)          RMSNormalization-23(x, s)  ->  Mul, ReduceMean, Sqrt, ...

Requires: nothing. Ensures: the default domain is at `OPSET`, or at the model's own newer one where an operator (or a dtype of it) is younger
than `OPSET` and has no definition by older ones; functions are inlined, Constant nodes are initializers, and no initializer is a graph input.
"""

from __future__ import annotations

from typing import Final

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from diagnostics import ModelError
from exporter.graph.expand_functions import expand_functions
from exporter.ops.base import all_operators

__all__ = ["OPSET", "canonical_opset"]

OPSET: Final = 21
_SCAN_WITHOUT_BATCH: Final = 9  # onnx's converter drops the batch axis of older ones
_IR_VERSION: Final = 10  # the first that has opset 21


def canonical_opset(model: ir.Model) -> ir.Model:
    """The model at `OPSET`, or at its own opset where that is newer and cannot be said in `OPSET`.

    Edited in place, or a new model where it had to be converted. Raises ModelError EW-M003 for an older one that cannot be converted.
    """
    if model.functions:
        common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveInitializersFromInputsPass()(model)
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if not opset:
        raise ModelError("EW-M003", "the model imports no opset of the standard domain", fix="export the model again")
    model.ir_version = max(model.ir_version, _IR_VERSION)  # before 4, the converter wants initializers among the inputs
    return model if opset == OPSET else _convert(model, opset)


def _convert(model: ir.Model, opset: int) -> ir.Model:
    from onnx import version_converter

    for node in model.graph.all_nodes() if opset < _SCAN_WITHOUT_BATCH else ():
        if node.op_type == "Scan" and not node.domain:
            raise ModelError(
                "EW-M003",
                f"the Scan of opset {opset} runs over batches, as no newer one does",
                where=f"node {node.name}",
                fix=f"export the model again with opset {_SCAN_WITHOUT_BATCH} or newer",
            )
    if opset > OPSET:
        known = {op_type for domain, op_type in all_operators() if not domain}
        expand_functions(model, keep=lambda op_type: op_type in known or onnx.defs.has(op_type, OPSET))
    metadata = {node.name: dict(node.metadata_props) for node in model.graph if node.name and node.metadata_props}
    try:
        proto = ir.to_proto(model)
        converted: ir.Model = ir.from_proto(version_converter.convert_version(proto, OPSET))
    except Exception as error:  # the converter raises RuntimeError, ConvertError or whatever an adapter asserts
        if opset > OPSET:  # nothing that OPSET could say: the operators' own rules decide what can be done with them
            return model
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            "EW-M003",
            f"the model cannot be converted from opset {opset} to {OPSET}",
            why=first,
            fix=f"export the model again with opset {OPSET}",
        ) from error
    for node in converted.graph:
        if node.name in metadata:
            node.metadata_props.update(metadata[node.name])
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(converted)
    return converted
