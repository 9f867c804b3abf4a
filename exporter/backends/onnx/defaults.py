"""Attributes that an ONNX file may leave out, written for readers that do not know what they are then."""

from __future__ import annotations

from collections.abc import Collection

import onnx

__all__ = ["write_defaults"]


def write_defaults(proto: onnx.ModelProto, operators: Collection[str]) -> None:
    """Give nodes of these types, in place, the defaults of their attributes at the file's opset."""
    opset = next(entry.version for entry in proto.opset_import if not entry.domain)
    for node in proto.graph.node:
        if node.domain or node.op_type not in operators:
            continue
        known = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset).attributes
        given = {entry.name for entry in node.attribute}
        missing = (known[name].default_value for name in sorted(known.keys() - given))
        node.attribute.extend(default for default in missing if default.type != onnx.AttributeProto.UNDEFINED)
