"""Operators that are made of others: their decomposition, written once as `legalize`, also says what they compute and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from exporter.graph.rewriter import GraphRewriter, Names
from exporter.graph.values import constant
from exporter.ops.base import Cost, LayoutRule, Operator, Port, Refused, operator_of
from exporter.ops.common import uniform_layout

__all__ = ["Composite", "parts"]


class Composite(Operator):
    """Base of the operators that no TFLite kernel computes as a whole. A subclass gives `legalize`, for "tflite" at least.

    Gradients reach the computed inputs in torch; constants go through the decomposition as arrays.
    """

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.FIRST)

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        import torch

        graph = parts(node)
        computed = [tensor for value, tensor in zip(node.inputs, inputs, strict=True) if value is not None and not _known(value)]
        known: dict[ir.Value, Any] = dict(zip(graph.inputs, computed, strict=True))
        for value in graph.initializers.values():
            known[value] = torch.from_numpy(constant(value).copy())  # type: ignore[union-attr]
        for part in graph:
            results = operator_of(part).torch(part, [None if value is None else known[value] for value in part.inputs])
            known.update(zip(part.outputs, results, strict=True))
        return [known[value] for value in graph.outputs]

    def cost(self, node: ir.Node) -> Cost:
        costs = [operator_of(part).cost(part) for part in parts(node)]
        return Cost(sum(cost.macs for cost in costs), sum(cost.elementwise for cost in costs))


def parts(node: ir.Node) -> ir.Graph:
    """The node's decomposition for TFLite as a graph of its own; its inputs are the node's computed ones, in order.

    Raises Refused where the node cannot be decomposed.
    """
    inputs: list[ir.Value] = []
    values: list[ir.Value | None] = []
    for value in node.inputs:
        if value is None or _known(value):
            values.append(value)
            continue
        inputs.append(ir.Value(name=f"input_{len(inputs)}", shape=value.shape, type=value.type))
        values.append(inputs[-1])
    constants: dict[ir.Value, ir.Value] = {}
    for value in values:
        if value is not None and _known(value) and value not in constants:
            constants[value] = ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=value.const_value)
    twin = ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else constants.get(value, value) for value in values],
        node.attributes.values(),
        num_outputs=len(node.outputs),
        name="parts",
    )
    for index, (value, old) in enumerate(zip(twin.outputs, node.outputs, strict=True)):
        value.name, value.shape, value.type = f"output_{index}", old.shape, old.type
    opset = node.graph.opset_imports.get("", 21) if node.graph is not None else 21
    graph = ir.Graph(inputs, twin.outputs, nodes=[twin], initializers=list(constants.values()), opset_imports={"": opset})
    rewriter = GraphRewriter(graph, twin, "tflite", Names(graph))
    replacements = operator_of(twin).legalize(twin, rewriter)
    if replacements is None:
        raise Refused(node, f"this form of {node.op_type} is not made of other operators")
    rewriter.replace(replacements)
    return graph


def _known(value: ir.Value) -> bool:
    return constant(value) is not None
