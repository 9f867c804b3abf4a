"""Static shapes and dtypes on every value.

::

    x [1, 3, 8, 8] -> Conv -> y ?            x [1, 3, 8, 8] -> Conv -> y float32 [1, 16, 4, 4]

Requires: static input shapes, opset 21. Ensures: every value of the main graph has a dtype and a static shape.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from diagnostics import ModelError
from exporter.graph.values import source_line, static_shape

__all__ = ["infer_shapes", "require_static"]


def infer_shapes(model: ir.Model) -> None:
    """Infer in place by ONNX shape inference, with values of small integer tensors carried along.

    Raises ModelError EW-M007 where the graph contradicts itself.
    """
    try:
        common.ShapeInferencePass(check_type=True, strict_mode=True, data_prop=True)(model)
    except (
        Exception
    ) as error:  # onnx raises InferenceError, RuntimeError and others; an operator it lacks is found by require_static
        text = " ".join(str(error).split())
        if "No Op registered" in text or "No opset import" in text:
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
            return
        raise ModelError("EW-M007", "shapes cannot be inferred", where="shape inference", why=text[:400]) from error


def require_static(model: ir.Model) -> None:
    """Raise ModelError EW-M009 at an operator whose output has no shape as nothing is known of it, EW-M006 at one that stays dynamic."""
    for node in model.graph:
        for value in node.outputs:
            if not value.name and not value.uses():
                continue  # an optional output that is absent
            try:
                static_shape(value)
            except ValueError as error:
                where = f"node {node.name} ({node.op_type}) {source_line(node)}".rstrip()
                if node.domain not in ("", "ai.onnx"):
                    raise ModelError("EW-M009", f"the operator {node.domain}.{node.op_type} is not known", where=where) from error
                raise ModelError(
                    "EW-M006",
                    f"the shape of {value.name!r} depends on data",
                    where=where,
                    why=f"inferred as {value.shape}",
                    fix="give static input shapes, and cut operators with data-dependent outputs (NonZero, NonMaxSuppression, ...) off",
                ) from error
