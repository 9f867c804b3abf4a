"""Outputs that join values of different scale: each keeps an encoding of its own, and what joins them runs in float behind it.

::

    boxes  int8, 0..640 --+-> Concat int8, 0..640 -> float          boxes  int8, 0..640 -> float --+-> Concat -> float
    scores int8, 0..1   --+   (scores are 0, or 2.5)                scores int8, 0..1   -> float --+

The same numbers are converted to float either way; before the concatenation rather than behind it costs the artifact no more than moving
floats instead of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, log2
from typing import Any, Final

import onnx_ir as ir

from exporter.graph.columns import joins_before
from exporter.graph.values import consumers
from exporter.ops.base import Refused, operator_of
from exporter.quantization.apply import node_name, runs_in_integers
from exporter.quantization.plan import Plan

__all__ = ["float_joins", "shared_scales"]

_APART: Final = 2.0  # times that ranges differ before the narrow one gets its own: one bit


def float_joins(graph: ir.Graph, values: Mapping[str, Any]) -> dict[str, str]:
    """Why nodes between float outputs and what computes them shall run in float, by node name; `values` are statistics by value name."""
    found: dict[str, str] = {}
    for output in graph.outputs:
        moving = set(joins_before(output))
        while lost := {node for node in moving if not _only_for(node, moving)}:
            moving -= lost
        ratio = _widest(moving, values)
        if ratio >= _APART:
            why = f"in float because the ranges of what is joined differ by a factor of {ratio:.3g}: each keeps its own encoding"
            found.update((node_name(node), why) for node in moving)
    return found


def shared_scales(graph: ir.Graph, plan: Plan, values: Mapping[str, Any]) -> tuple[str, ...]:
    """What it costs, in words, that outputs which join values of different scale have one encoding for all: where integers go out."""
    found = []
    for output in graph.outputs:
        moving = set(joins_before(output))
        ratio = _widest(moving, values) if any(runs_in_integers(node, plan) for node in moving) else 1.0
        if ratio >= _APART:
            found.append(
                f"output {output.name} joins values whose ranges differ by a factor of {ratio:.3g} in one encoding: the narrowest lose "
                f"{log2(ratio):.1f} bits; outputs of their own, or a float32 output (io_dtype) of a target that has float, would keep them"
            )
    return tuple(found)


def _widest(moving: set[ir.Node], values: Mapping[str, Any]) -> float:
    return max((_ratio(node, moving, values) for node in moving if node.op_type == "Concat"), default=1.0)


def _only_for(node: ir.Node, moving: set[ir.Node]) -> bool:
    """Whether what a node writes is an output of the graph, or read by nodes of `moving` alone."""
    value = node.outputs[0]
    return all(reader in moving for reader in consumers(value)) and (value.is_graph_output() or bool(value.uses()))


def _ratio(node: ir.Node, moving: set[ir.Node], values: Mapping[str, Any]) -> float:
    """The widest range of a concatenation's inputs in parts of the narrowest; 1 where less than two are known."""
    spans = [span for value in node.inputs if value is not None and (span := _span(value, moving, values)) > 0]
    return max(spans) / min(spans) if len(spans) > 1 else 1.0


def _span(value: ir.Value, moving: set[ir.Node], values: Mapping[str, Any]) -> float:
    """What the encodings of all that is moved into `value` have to reach over; 0 where that is not known."""
    node = value.producer()
    if node is not None and node in moving:
        return max(_span(source, moving, values) for source in node.inputs if source is not None)
    try:
        rule = operator_of(node).quantize(node).outputs[value.index() or 0] if node is not None else None
    except Refused:
        rule = None
    if rule is not None and rule.kind == "fixed":
        return 256 * rule.scale
    seen = values.get(value.name or "")
    span = float(max(seen.high, 0.0) - min(seen.low, 0.0)) if seen is not None else 0.0
    return span if isfinite(span) else 0.0
