"""Where the nodes of a planned artifact run: in the precisions of its plan, not in the one that the target would like."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import onnx_ir as ir

from exporter.graph.summary import Placement, place
from exporter.graph.values import activation_nodes
from exporter.quantization.apply import node_name
from exporter.quantization.plan import Plan
from targets.schema import Target

__all__ = ["planned_placements"]

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


def planned_placements(graph: ir.Graph, plan: Plan, target: Target, reasons: Mapping[str, str] = _NONE) -> tuple[Placement, ...]:
    """One placement for each node of the graph that `plan` was made for, in graph order.

    Args:
        reasons: why nodes cannot run in integers, by node name; those of the plan come first.
    """
    found = []
    for node, written in activation_nodes(graph):
        name = node_name(node)
        precision = plan.precision.get(name, "float32")
        unit, refused = place(node, precision, target)
        told = {**reasons, **plan.reasons}.get(name)
        why = (*([told] if told else []), *refused)
        found.append(Placement(name, node.op_type, unit, precision if unit else "", why, written.name or ""))
    return tuple(found)
