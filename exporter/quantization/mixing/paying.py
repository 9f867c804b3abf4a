"""Where 8 bits do not pay: nodes that are slower in integers than in float, conversions at their borders included.

A runtime has vector code for some integer kernels and plain loops, or none, for others (`targets/kernels` has what was measured). Which nodes
to leave in float for the least time in all is a minimum cut: each node costs what it takes in its form, each value that is needed in both
forms a conversion. Nodes with weights or tables stay: 8 bits of those are what an integer artifact is for.
"""

from __future__ import annotations

from math import prod
from typing import Final

import onnx_ir as ir

from exporter.graph.minimum_cut import SINK, SOURCE, MinimumCut
from exporter.graph.summary import place
from exporter.graph.values import activation_nodes, fused_into, static_shape
from exporter.ops.base import Role, operator_of
from exporter.ops.forms import lacking
from exporter.quantization.apply import node_name, runs_in_integers
from exporter.quantization.costs import kernel_of, node_us
from exporter.quantization.plan import Plan
from exporter.quantization.weights import holds_much
from targets.cost import CostModel
from targets.schema import Target

__all__ = ["faster_in_float", "int16_candidates", "slower_than_float"]

_MARGIN: Final = 1.25  # by which float has to be faster, with its conversions: estimates are no clock


def faster_in_float(model: ir.Model, plan: Plan, target: Target) -> dict[str, str]:
    """Why each node that `plan` runs in integers had better run in float, by node name; empty on a target without float.

    Args:
        model: the legalized graph that an 8-bit plan was made for; of the plan only its precisions and what is encoded are read.
    """
    if not target.quantization.float_fallback or target.artifact.activations != "int8":
        return {}
    costs, cut = CostModel(target), MinimumCut()
    nodes = {node_name(node): node for node, _ in activation_nodes(model.graph) if runs_in_integers(node, plan)}
    integer = {name: node_us(costs, node, "int8") for name, node in nodes.items()}
    floating = {name: node_us(costs, node, "float32") for name, node in nodes.items()}
    for name, node in nodes.items():
        cut.edge(SOURCE, name, None if _has_weight(node) else floating[name] * _MARGIN)
        cut.edge(name, SINK, integer[name])
    outside = SINK if target.artifact.io_dtype == "float32" else SOURCE
    written = [(value, outside) for value in model.graph.inputs]
    written += [(value, node_name(node) if node_name(node) in nodes else SINK) for node, value in activation_nodes(model.graph)]
    for value, producer in written:
        if value.name not in plan.encodings:
            continue
        users = [node_name(user) for user, _ in value.uses() if fused_into(user) is None]
        readers = [*(name if name in nodes else SINK for name in users), *([outside] if value.is_graph_output() else [])]
        conversion = costs.convert_us(prod(static_shape(value))) * _MARGIN
        cut.edge(f"{value.name} integer", producer, conversion)
        cut.edge(producer, f"{value.name} float", conversion)
        for reader in readers:
            cut.edge(reader, f"{value.name} integer")  # one QUANTIZE serves all that read integers
            if costs.dequantizes_for_each:
                cut.edge(producer, reader, conversion)
            else:
                cut.edge(f"{value.name} float", reader)
    slow = cut.sink_side() & set(nodes)
    runtime = target.artifact.runtime
    return {
        name: f"{kernel_of(nodes[name])} is {integer[name] / floating[name]:.1f} times slower in int8 than in float on {runtime}"
        if integer[name] > floating[name]
        else "its neighbours are faster in float: converting to integers and back would cost more than it saves"
        for name in nodes
        if name in slow
    }


def slower_than_float(model: ir.Model, plan: Plan, target: Target) -> bool:
    """Whether the nodes that `plan` runs in integers are estimated to take longer in all than the same in float, conversions left aside."""
    costs = CostModel(target)
    nodes = [node for node, _ in activation_nodes(model.graph) if runs_in_integers(node, plan)]
    return sum(node_us(costs, node, "int8") for node in nodes) > sum(node_us(costs, node, "float32") for node in nodes)


def int16_candidates(model: ir.Model, plan: Plan, target: Target) -> dict[str, str]:
    """Why each node that `plan` runs in int8 may run in int16x8, by name: a unit of the target does, and no other runs it as fast in float.

    Where there is float, what only moves numbers is none of them: it takes the form of its neighbours.
    """
    costs = CostModel(target)
    found = {}
    for node, _ in activation_nodes(model.graph):
        if not (runs_in_integers(node, plan) and place(node, "int16x8", target)[0]):
            continue
        if lacking(operator_of(node), node, "int16", target.artifact.format):
            continue
        if not target.quantization.float_fallback:
            found[node_name(node)] = f"{target.name} has no float"
            continue
        computes = not operator_of(node).quantize(node).shared and costs.measured(kernel_of(node), "int16x8")
        if computes and node_us(costs, node, "int16x8") < node_us(costs, node, "float32"):
            found[node_name(node)] = "its int16 kernel is faster than its float one"
    return found


def _has_weight(node: ir.Node) -> bool:
    return holds_much(node) or any(rule.role is Role.WEIGHT for rule in operator_of(node).quantize(node).inputs)
