"""Bring a model of any opset from 9 up to the canonical one.

::

    Upsample-9(x, scales)  ->  Resize-21(x, , scales)

Requires: nothing. Ensures: the default domain is at `OPSET`, functions are inlined, Constant nodes are initializers,
and no initializer is a graph input.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir
import onnx_ir.passes.common as common

from diagnostics import ModelError

__all__ = ["OLDEST_OPSET", "OPSET", "canonical_opset"]

OPSET: Final = 21
OLDEST_OPSET: Final = 9
_IR_VERSION: Final = 10  # the first that has opset 21


def canonical_opset(model: ir.Model) -> ir.Model:
    """The model at `OPSET`: edited in place where it already is, a new one where it had to be converted.

    Raises ModelError EW-M003 for an opset below `OLDEST_OPSET`, or one that cannot be converted.
    """
    if model.functions:
        common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveInitializersFromInputsPass()(model)
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if opset < OLDEST_OPSET:
        raise ModelError(
            "EW-M003",
            f"the model is of opset {opset}",
            why=f"opsets from {OLDEST_OPSET} up are read",
            fix="export the model again with a newer opset",
        )
    model.ir_version = max(model.ir_version, _IR_VERSION)  # before 4, the converter wants initializers among the inputs
    if opset != OPSET:
        model = _convert(model, opset)
    return model


def _convert(model: ir.Model, opset: int) -> ir.Model:
    from onnx import version_converter

    metadata = {node.name: dict(node.metadata_props) for node in model.graph if node.name and node.metadata_props}
    try:
        proto = ir.to_proto(model)
        converted: ir.Model = ir.from_proto(version_converter.convert_version(proto, OPSET))
    except Exception as error:  # the converter raises RuntimeError, ConvertError or whatever an adapter asserts
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
