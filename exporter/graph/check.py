"""The graph checker: what every stage may rely on, asked after every stage."""

from __future__ import annotations

import onnx_ir as ir

from diagnostics import ModelError
from exporter.graph.opset import OPSET
from exporter.graph.values import is_constant, source_line, static_shape

__all__ = ["check"]


def check(model: ir.Model, stage: str) -> None:
    """Raise ModelError EW-M007, naming `stage` and the node or value, unless the graph is canonical:

    opset 21 (or the source's own newer one), no functions and no Constant nodes; every node and value named, names unique;
    every value typed and of static shape; single assignment in topological order; every input of a node is a graph input,
    an initializer or an earlier output.
    """
    graph = model.graph
    if model.opset_imports.get("", 0) < OPSET:
        raise _failed(stage, f"the graph is of opset {model.opset_imports.get('')}, below {OPSET}")
    if model.functions:
        raise _failed(stage, f"the graph has {len(model.functions)} functions that are not inlined")
    defined: set[ir.Value] = set()
    names: set[str] = set()
    for value in graph.inputs:
        _check_value(value, None, stage, names)
        if value.const_value is not None:
            raise _failed(stage, f"the initializer {value.name!r} is a graph input")
        defined.add(value)
    for key, value in graph.initializers.items():
        _check_value(value, None, stage, names)
        if key != value.name or not is_constant(value):
            raise _failed(stage, f"the initializer {key!r} has no data or another name")
        defined.add(value)
    nodes: set[str] = set()
    for node in graph:
        if not node.name or node.name in nodes:
            raise _failed(stage, f"the name {node.name!r} of a {node.op_type} is empty or taken", node)
        nodes.add(node.name)
        if node.op_type == "Constant" and not node.domain:
            raise _failed(stage, "a Constant node is not an initializer", node)
        for used in node.inputs:
            if used is not None and used not in defined:
                raise _failed(stage, f"the value {used.name!r} is used before it is computed", node)
        for value in node.outputs:
            if value.name or value.uses():
                _check_value(value, node, stage, names)
            defined.add(value)
    for value in graph.outputs:
        if value not in defined:
            raise _failed(stage, f"the output {value.name!r} is not computed")


def _check_value(value: ir.Value, node: ir.Node | None, stage: str, names: set[str]) -> None:
    if not value.name or value.name in names:
        raise _failed(stage, f"the value name {value.name!r} is empty or taken", node)
    names.add(value.name)
    if value.dtype is None:
        raise _failed(stage, f"the value {value.name!r} has no dtype", node)
    try:
        static_shape(value)
    except ValueError as error:
        raise _failed(stage, str(error), node) from error


def _failed(stage: str, what: str, node: ir.Node | None = None) -> ModelError:
    where = f"after {stage}" if node is None else f"after {stage}, node {node.name} ({node.op_type}) {source_line(node)}".rstrip()
    return ModelError("EW-M007", what, where=where)
