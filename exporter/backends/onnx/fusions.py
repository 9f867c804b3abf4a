"""Sums written so that onnxruntime does not fuse them into something slower; they compute the same.

::

    Add -> LayerNormalization           Sum -> LayerNormalization             (SkipLayerNormalization is a plain loop)
    MatMul(int8, int8) -> Add(b [n])    MatMul(int8, int8) -> Add(b [1, 1, n])    (Gemm with a float bias has no integer kernel)

What onnxruntime (1.31) does by itself: SkipLayerNormFusion takes an Add, no Sum; MatMulAddFusion takes a bias of one or two axes, and runs
before the product of integers is recognised.
"""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph.values import consumers, is_constant, name_of, rank
from exporter.quantization.costs import SKIPPED_NORMALIZATION, slow_builtins
from targets.schema import Target

__all__ = ["keep_apart"]

_FUSABLE_RANK = 2  # of a bias that onnxruntime makes a Gemm's


def keep_apart(graph: ir.Graph, target: Target) -> None:
    """Rewrite the sums of a graph in the form that is written, in place, where the target's runtime is onnxruntime."""
    if target.artifact.runtime != "onnxruntime":
        return
    plain_sums = SKIPPED_NORMALIZATION in slow_builtins(target)
    for node in [node for node in graph if node.op_type == "Add"]:
        normalizes = any(
            user.op_type == "LayerNormalization" and user.inputs[0] is node.outputs[0] for user in consumers(node.outputs[0])
        )
        if normalizes and plain_sums:
            node.op_type = "Sum"
        for index, value in enumerate(node.inputs):
            other = node.inputs[1 - index]
            if value is not None and other is not None and is_constant(value) and _is_integer_product(other.producer()):
                _widen(graph, node, index, value, rank(other))


def _is_integer_product(node: ir.Node | None) -> bool:
    if node is None or node.op_type != "MatMul":
        return False
    sides = [value.producer() if value is not None else None for value in node.inputs]
    return all(side is not None and side.op_type == "DequantizeLinear" for side in sides)


def _widen(graph: ir.Graph, node: ir.Node, index: int, bias: ir.Value, axes: int) -> None:
    """Let `node` read the constant with as many axes as the product has."""
    if bias.const_value is None or rank(bias) > _FUSABLE_RANK or axes <= _FUSABLE_RANK:
        return
    array = bias.const_value.numpy()
    name = f"{name_of(bias)}_wide"
    wide = graph.initializers.get(name)
    if wide is None:
        wide = ir.val(name, const_value=ir.Tensor(array.reshape((1,) * (axes - array.ndim) + array.shape), name=name))
        graph.register_initializer(wide)
    node.replace_input_with(index, wide)
    if not bias.uses() and not bias.is_graph_output():
        del graph.initializers[name_of(bias)]
