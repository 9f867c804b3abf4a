"""Operators that the product does not know become their own definition, where the ONNX standard defines them by others.

::

    x, s -> RMSNormalization -> y          x -> Mul(x, x) -> ReduceMean -> Add -> Sqrt -> Reciprocal -> Mul(x, .) -> Mul(., s) -> y

Requires: typed values of static shape where inference can know them. Ensures: no operator with a function body is left, other than those that
`keep` accepts; the bodies are of the model's own opset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.graph.infer_shapes import infer_shapes
from exporter.graph.name_everything import name_everything

__all__ = ["expand_functions"]

_DOMAIN: Final = "edgewright.body"  # of the functions that exist between definition and inlining
_MOST_ROUNDS: Final = 8  # bodies that hold functions themselves (SwiGLU: Swish: ...) are a few levels deep


def expand_functions(model: ir.Model, keep: Callable[[str], bool]) -> bool:
    """Replace in place every standard operator whose type `keep` does not accept by its function body; whether there was one.

    Operators without a body stay. The new nodes inherit the metadata (stack trace, module path) of the node they replace.
    """
    expanded = False
    for _ in range(_MOST_ROUNDS):
        if not _round(model, keep):
            break
        expanded = True
    return expanded


def _round(model: ir.Model, keep: Callable[[str], bool]) -> bool:
    opset = model.opset_imports.get("", 0)
    candidates = [node for node in model.graph if not node.domain and not keep(node.op_type) and _has_body(node.op_type, opset)]
    if not candidates:
        return False
    name_everything(model)
    infer_shapes(model, strict=False)
    found = False
    for number, node in enumerate(candidates):
        body = _body(node, opset)
        if body is None:
            continue
        function = _function(body, node, f"{node.op_type}_{number}", opset)
        model.functions[function.identifier()] = function
        _fill_defaults(node, opset)
        node.domain, node.op_type = _DOMAIN, function.name
        found = True
    if found:
        model.opset_imports[_DOMAIN] = 1
        common.InlinePass()(model)
        del model.opset_imports[_DOMAIN]
        common.RemoveUnusedNodesPass()(model)  # bodies compute outputs that the node may lack
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return found


def _has_body(op_type: str, opset: int) -> bool:
    schema = _schema(op_type, opset)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def _schema(op_type: str, opset: int) -> Any:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _body(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    """The definition of this node, which may depend on its attributes and its inputs' types; None where the standard has none for it."""
    schema = _schema(node.op_type, opset)
    if schema.has_function:
        versions = [version for version in schema.function_opset_versions if version <= opset]
        content = schema.get_function_with_opset_version(versions[-1]) if versions else None
    else:
        versions = [version for version in schema.context_dependent_function_opset_versions if version <= opset]
        types = [_type(value).SerializeToString() for value in node.inputs]
        proto = ir.serde.serialize_node(node).SerializeToString()
        content = schema.get_context_dependent_function_with_opset_version(versions[-1], proto, types) if versions else None
    if not content:
        return None
    return content if isinstance(content, onnx.FunctionProto) else onnx.FunctionProto.FromString(content)


def _type(value: ir.Value | None) -> onnx.TypeProto:
    if value is None or value.type is None:
        return onnx.TypeProto()
    proto = ir.serde.serialize_value(value).type
    return proto if isinstance(proto, onnx.TypeProto) else onnx.TypeProto()


def _function(body: onnx.FunctionProto, node: ir.Node, name: str, opset: int) -> ir.Function:
    body.domain, body.name = _DOMAIN, name
    for entry in body.opset_import:
        if not entry.domain:
            entry.version = opset
    outputs = [name or f"absent_{index}" for index, name in enumerate([*body.output][: len(node.outputs)])]
    made = {name for inner in body.node for name in inner.output}
    for missing in [name for name in outputs if name not in made]:  # an optional output that the node lacks: nothing reads it
        body.node.append(onnx.helper.make_node("Identity", [body.input[0]], [missing]))
    del body.output[:]
    body.output.extend(outputs)
    function = ir.serde.deserialize_function(body)
    for inner in function:
        inner.metadata_props.update(node.metadata_props)
    return function


def _fill_defaults(node: ir.Node, opset: int) -> None:
    """Bodies refer to the node's attributes, given or not."""
    for name, attribute in _schema(node.op_type, opset).attributes.items():
        default = attribute.default_value
        if name not in node.attributes and default.type != onnx.AttributeProto.UNDEFINED:
            filled = ir.serde.deserialize_attribute(default)
            node.attributes[name] = ir.Attr(name, filled.type, filled.value)
