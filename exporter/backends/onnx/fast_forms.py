"""What onnxruntime runs slowly, written in a form that it runs fast and that computes the same.

::

    PRelu(x, s)                         Max(x, x * s), or Relu(x) + Min(x, 0) * s     (its kernel is a plain loop)
    Add -> LayerNormalization           Sum -> LayerNormalization             (SkipLayerNormalization is a plain loop)
    MatMul(int8, int8) -> Add(b [n])    MatMul(int8, int8) -> Add(b [1, 1, n])    (Gemm with a float bias has no integer kernel)

What onnxruntime (1.31) does by itself: SkipLayerNormFusion takes an Add, no Sum; MatMulAddFusion takes a bias of one or two axes, and runs
before the product of integers is recognised.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import consumers, is_constant, name_of, rank
from exporter.quantization.costs import SKIPPED_NORMALIZATION, slow_builtins
from targets.schema import Target

__all__ = ["fast_forms"]

_FUSABLE_RANK: Final = 2  # of a bias that onnxruntime makes a Gemm's
_ZERO: Final = "PRelu/zero"


def fast_forms(graph: ir.Graph, target: Target) -> None:
    """Rewrite a graph in the form that is written, in place, where the target's runtime is onnxruntime."""
    if target.artifact.runtime != "onnxruntime":
        return
    slow = slow_builtins(target)
    for node in list(graph):
        if (
            node.op_type == "PRelu"
            and "PRelu" in slow
            and node.inputs[0] is not None
            and node.inputs[0].dtype == ir.DataType.FLOAT
        ):
            _write_out(graph, node)
        elif node.op_type == "Add":
            if SKIPPED_NORMALIZATION in slow and _is_normalized(node.outputs[0]):
                node.op_type = "Sum"
            _widen_bias(graph, node)


# --- PRelu ------------------------------------------------------------------------------------------------------------


def _write_out(graph: ir.Graph, node: ir.Node) -> None:
    """Slopes of 1 at most make it the greater of two; one of 0 would turn an infinity into NaN there."""
    x, slope = node.inputs
    assert x is not None
    assert slope is not None
    array = slope.const_value.numpy() if slope.const_value is not None else None
    if array is not None and bool(((array <= 1) & (array != 0)).all()):
        parts = [_new("Mul", node, "scaled", x, slope)]
        parts.append(_new("Max", node, "", x, parts[0].outputs[0]))
    else:
        parts = [_new("Relu", node, "positive", x), _new("Min", node, "negative", x, _zero(graph))]
        parts.append(_new("Mul", node, "scaled", parts[1].outputs[0], slope))
        parts.append(_new("Add", node, "", parts[0].outputs[0], parts[2].outputs[0]))
    old, new = node.outputs[0], parts[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], parts, [old], [new])


def _new(op_type: str, node: ir.Node, role: str, *inputs: ir.Value) -> ir.Node:
    """A node in place of `node`: named after it, with its type and shape; without a role its last one, which takes its output's name over."""
    old = node.outputs[0]
    tail = f"/{role}" if role else ""
    result = ir.Value(name=f"{old.name}{tail}", shape=old.shape, type=old.type)
    return ir.node(op_type, list(inputs), outputs=[result], name=f"{node.name or old.name}{tail}")


def _zero(graph: ir.Graph) -> ir.Value:
    if _ZERO not in graph.initializers:
        graph.register_initializer(ir.val(_ZERO, const_value=ir.Tensor(np.zeros((), np.float32), name=_ZERO)))
    return graph.initializers[_ZERO]


# --- sums -------------------------------------------------------------------------------------------------------------


def _is_normalized(value: ir.Value) -> bool:
    return any(user.op_type == "LayerNormalization" and user.inputs[0] is value for user in consumers(value))


def _widen_bias(graph: ir.Graph, node: ir.Node) -> None:
    """Give a constant that is added to a product of integers as many axes as the product has."""
    for index, value in enumerate(node.inputs):
        other = node.inputs[1 - index]
        if value is None or other is None or value.const_value is None or not _is_integer_product(other.producer()):
            continue
        if not is_constant(value) or rank(value) > _FUSABLE_RANK or rank(other) <= _FUSABLE_RANK:
            continue
        array, name = value.const_value.numpy(), f"{name_of(value)}_wide"
        if name not in graph.initializers:
            tensor = ir.Tensor(array.reshape((1,) * (rank(other) - array.ndim) + array.shape), name=name)
            graph.register_initializer(ir.val(name, const_value=tensor))
        node.replace_input_with(index, graph.initializers[name])
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name_of(value)]


def _is_integer_product(node: ir.Node | None) -> bool:
    if node is None or node.op_type != "MatMul":
        return False
    sides = [value.producer() if value is not None else None for value in node.inputs]
    return all(side is not None and side.op_type == "DequantizeLinear" for side in sides)
