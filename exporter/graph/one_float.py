"""One float dtype inside: half and double precision stay at the graph's boundary alone.

::

    x float16 -> Conv (float16) -> y float16          x float16 -> Cast -> Conv (float32) -> Cast -> y float16

TFLite's kernels compute float32. Half precision only gains by it; double precision loses its last 29 bits, which the check of what was written
against the original measures.

Requires: typed values. Ensures: of the values between the boundary's casts none is float16 or float64.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import name_of

__all__ = ["one_float"]

_OTHERS: Final = frozenset({ir.DataType.FLOAT16, ir.DataType.DOUBLE})
_ONE: Final = ir.DataType.FLOAT


def one_float(model: ir.Model) -> int:
    """Make every float16 and float64 value a float32 one in place, with a Cast behind inputs and before outputs; returns how many values."""
    graph = model.graph
    if any(node.op_type == "BitCast" for node in graph.all_nodes()):  # it reads the bits of a dtype: that dtype is its meaning
        return 0
    computed = [value for node in graph.all_nodes() for value in node.outputs if value.dtype in _OTHERS]
    computed += [value for part in model.graphs() if part is not graph for value in part.inputs if value.dtype in _OTHERS]
    constants = [value for part in model.graphs() for value in part.initializers.values() if value.dtype in _OTHERS]
    inputs = [value for value in graph.inputs if value.dtype in _OTHERS]
    boundary = {value: value.dtype for value in graph.outputs if value.dtype in _OTHERS}
    for value in computed:
        value.type = ir.TensorType(_ONE)
    for value in constants:
        assert value.const_value is not None
        with np.errstate(over="ignore"):  # what only a double holds becomes infinite, as in the kernel
            array = value.const_value.numpy().astype(np.float32)
        value.const_value, value.type = ir.tensor(array, name=name_of(value)), ir.TensorType(_ONE)
    for node in graph.all_nodes():
        wanted = node.attributes.get("to")
        if node.op_type == "Cast" and wanted is not None and wanted.as_int() in {int(dtype) for dtype in _OTHERS}:
            node.attributes["to"] = ir.AttrInt64("to", int(_ONE))
    for value in inputs:
        _cast_input(graph, value)
    for value, dtype in boundary.items():
        _cast_output(graph, value, dtype)
    return len(computed) + len(constants) + len(inputs)


def _cast_input(graph: ir.Graph, value: ir.Value) -> None:
    cast = _cast(value, _ONE, f"{name_of(value)}/float32")
    for node, index in [(node, index) for node, index in value.uses() if node is not cast]:
        node.replace_input_with(index, cast.outputs[0])
    _insert_first(graph, cast)


def _insert_first(graph: ir.Graph, node: ir.Node) -> None:
    first = next(iter(graph), None)
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)


def _cast_output(graph: ir.Graph, value: ir.Value, dtype: ir.DataType | None) -> None:
    if value in graph.inputs or dtype is None:
        return
    name = name_of(value)
    if value.is_initializer():
        graph.initializers.pop(name)
        value.name = f"{name}/float32"
        graph.register_initializer(value)
    else:
        value.name = f"{name}/float32"
    cast = _cast(value, dtype, name)
    graph.append(cast)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}/Cast")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, ir.TensorType(dtype), value.shape
    return node
