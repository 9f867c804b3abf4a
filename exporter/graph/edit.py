"""What the passes share when they edit a graph in place: constants, single users, names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import name_of

__all__ = ["add_constant", "bypass", "only_user", "replace_constant"]


def only_user(value: ir.Value | None) -> ir.Node | None:
    """The one node that uses `value`, at one input, where nobody else sees it (no second use, no graph output)."""
    if value is None or value.is_graph_output():
        return None
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 else None


def add_constant(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """A new initializer that holds `array`; `name` gets a number behind it where it is taken."""
    unique, number = name, 2
    while unique in graph.initializers:
        unique, number = f"{name}_{number}", number + 1
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace_constant(node: ir.Node, index: int, array: np.ndarray[Any, Any]) -> None:
    """Let input `index` of `node` be the constant `array`. An initializer that other inputs share is copied, never edited."""
    old, graph = node.inputs[index], node.graph
    assert old is not None
    assert isinstance(graph, ir.Graph)
    if len(tuple(old.uses())) == 1:
        old.const_value = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name_of(old))
        old.shape = ir.Shape(array.shape)
    else:
        node.replace_input_with(index, add_constant(graph, f"{name_of(old)}_of_{node.name or node.op_type}", array))


def bypass(node: ir.Node, value: ir.Value) -> bool:
    """Remove `node` and let users of its first output use `value` instead; False where the graph's interface forbids it.

    A graph output keeps its name: `value` takes it over, unless it is a graph input, a constant or an output itself.
    """
    output, graph = node.outputs[0], node.graph
    assert isinstance(graph, ir.Graph)
    if output.is_graph_output():
        if value.producer() is None or value.is_graph_output():
            return False
        name = output.name
        output.name = None
        value.name = name
    ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True
