"""Static shapes and dtypes on every value.

::

    x [1, 3, 8, 8] -> Conv -> y ?            x [1, 3, 8, 8] -> Conv -> y float32 [1, 16, 4, 4]

Requires: static input shapes, names on all values. Ensures: what ONNX shape inference can know of the main graph's values is on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import onnx
import onnx_ir as ir

from diagnostics import ModelError
from exporter.graph.values import attribute, source_line, static_shape

__all__ = ["infer_shapes", "require_static", "shown_opset"]

# Constants up to this many elements are shown by value (axes, shapes, sizes); larger ones by type, as copying weights takes the time.
_SHOWN: Final = 256
# Operators whose inference (onnx 1.23) takes another default for an absent attribute than their specification: it is shown the attribute.
_DEFAULTS: Final = {"STFT": ir.AttrInt64("onesided", 1), "MeanVarianceNormalization": ir.AttrInt64s("axes", [0, 2, 3])}
_POOLS: Final = frozenset(("AveragePool", "LpPool", "MaxPool"))


def infer_shapes(model: ir.Model, *, strict: bool = True) -> None:
    """Infer in place by ONNX shape inference, with values of small integer tensors carried along.

    Raises ModelError EW-M007 where the graph contradicts itself, unless not `strict`: then values stay unknown.
    """
    proto = _without_weights(model)
    try:
        try:
            found = onnx.shape_inference.infer_shapes(proto, check_type=strict, strict_mode=strict, data_prop=True)
        except (
            Exception
        ):  # what it carries along it takes for vectors: of a matrix of indices plus another it says that ranks differ
            found = onnx.shape_inference.infer_shapes(proto, check_type=strict, strict_mode=strict)
    except Exception as error:  # onnx raises InferenceError, TypeError and RuntimeError
        text = " ".join(str(error).split())
        if strict and _has_custom_operators(model):  # nothing can be inferred behind one; require_static names it
            infer_shapes(model, strict=False)
            return
        if not strict:
            return
        raise ModelError("EW-M007", "shapes cannot be inferred", where="shape inference", why=text[:400]) from error
    inferred = {info.name: info for info in (*found.graph.value_info, *found.graph.output)}
    for node in model.graph:
        for value in node.outputs:
            info = inferred.get(value.name or "")
            if info is not None:
                known = ir.serde.deserialize_value_info_proto(info, None)
                value.type = known.type or value.type
                value.shape = known.shape if known.shape is not None else value.shape


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
                if _is_custom(node):
                    raise ModelError("EW-M009", f"the operator {node.domain}.{node.op_type} is not known", where=where) from error
                if value.type is not None and not isinstance(value.type, ir.TensorType):
                    raise ModelError(
                        "EW-M006",
                        f"{value.name!r} is no tensor, and what it holds depends on data",
                        where=where,
                        why=f"it is a {type(value.type).__name__.removesuffix('Type').lower()}",
                        fix="sequences of known length and positions can be resolved; make their indices and trip counts constants",
                    ) from error
                raise ModelError(
                    "EW-M006",
                    f"the shape of {value.name!r} depends on data",
                    where=where,
                    why=f"inferred as {value.shape}",
                    fix="give static input shapes, and cut operators with data-dependent outputs (NonZero, NonMaxSuppression, ...) off",
                ) from error


def shown_opset(nodes: Iterable[ir.Node], opset: int) -> int:
    """The opset that inference is shown: 22 where a pool has `ceil_mode`.

    Inference of the opsets before counts windows that start behind the input; runtimes have always left them out, and opset 22 says so.
    """
    pools = (node for node in nodes if node.op_type in _POOLS and not node.domain)
    return 22 if 19 <= opset < 22 and any(attribute(node, "ceil_mode", 0) for node in pools) else opset


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model's protobuf for inference: every large initializer is a graph input of its type, misread defaults are spelled out."""
    copy = model.clone()
    for name, value in list(copy.graph.initializers.items()):
        if value.const_value is not None and value.const_value.size > _SHOWN:
            value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(value.const_value.numpy().shape)
            value.const_value = None
            del copy.graph.initializers[name]
            copy.graph.inputs.append(value)
    for node in copy.graph:
        default = _DEFAULTS.get(node.op_type)
        if default is not None and default.name not in node.attributes:
            node.attributes.add(default)
    if "" in copy.opset_imports:
        copy.opset_imports[""] = shown_opset(copy.graph, copy.opset_imports[""])
    return ir.to_proto(copy)


def _has_custom_operators(model: ir.Model) -> bool:
    return any(_is_custom(node) for node in model.graph)


def _is_custom(node: ir.Node) -> bool:
    return node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type)
