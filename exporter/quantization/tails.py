"""Values of which only the upper end matters: what clamps, sigmoids and gates cut off, what a softmax reads, and masks added on the way there.

Hard swish gives 0 for all that is below -3, so its input, be it as low as -30, needs no steps there; the operator says so (`InputRule.floor`).

A softmax gives nothing to an entry far below the greatest of its row; masks put entries there on purpose, at -10,000 or -3.4e38. An encoding
that reached so far would have no steps left for the scores. Calibration watches the greatest entry of every row; the least of those, less
what the operator says it resolves, is the floor under which a value may saturate. An addend may saturate under the floor of the sum, less
the most that the other addend gives.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import activation_nodes, constant, fused_activation, is_constant, name_of, static_shape
from exporter.ops.base import QuantRule, Refused, operator_of
from exporter.ops.common import scalar_of
from exporter.quantization.apply import node_name

__all__ = ["floors_of", "with_row_peaks"]

_SUFFIX: Final = "/edgewright.row_peak"


def with_row_peaks(model: ir.Model) -> ir.Model:
    """A clone that also computes the greatest entry of every row of the values that an operator reads for their upper end."""
    clone = model.clone()
    for node in list(clone.graph):
        rule = _rule(node)
        for given, value in zip(rule.inputs if rule is not None else (), node.inputs, strict=False):
            if value is None or given.tail is None or is_constant(value) or f"{value.name}{_SUFFIX}" in _names(clone.graph):
                continue
            axes = ir.val(f"{value.name}{_SUFFIX}.axes", const_value=ir.tensor(np.array([given.axis], np.int64)))
            clone.graph.register_initializer(axes)
            shape = list(static_shape(value))
            shape[given.axis or 0] = 1
            peak = ir.Value(name=f"{value.name}{_SUFFIX}", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
            clone.graph.insert_before(node, ir.node("ReduceMax", [value, axes], {"keepdims": 1}, outputs=[peak], name=peak.name))
    return clone


def floors_of(
    model: ir.Model, values: Mapping[str, Any], activations: str = "int8", wide: Collection[str] = ()
) -> dict[str, float]:
    """The least number that matters of each value (constants included) that has one, by name.

    Args:
        model: the legalized graph.
        values: statistics by value name, of a run of `with_row_peaks`.
        activations: dtype of the integers; those of 16 bits tell numbers apart that are one to 8 bits, and have steps to spare.
        wide: names of the nodes that run in 16 bits whatever `activations` says.
    """
    outputs = {value.name for value in model.graph.outputs}
    wanted: dict[str, float] = {}  # the least floor over a value's readers so far; -inf: some reader needs it all
    for node, written in reversed(list(activation_nodes(model.graph))):
        made = [value.name for value in (written, *node.outputs[1:]) if value.name]
        below = min((-np.inf if name in outputs else wanted.get(name, -np.inf) for name in made), default=-np.inf)
        behind, coarse = fused_activation(node), activations == "int8" and node_name(node) not in wide
        if behind is not None and coarse:
            below = max(below, _own(behind, 0))
        for index, value in enumerate(node.inputs):
            if value is not None and value.name:
                floor = _floor(node, index, below, values)
                own = _own(node, index) if coarse else -np.inf
                wanted[value.name] = min(wanted.get(value.name, np.inf), max(floor, own))
    return {name: floor for name, floor in wanted.items() if np.isfinite(floor) and name not in outputs}


def _floor(node: ir.Node, index: int, below: float, values: Mapping[str, Any]) -> float:
    """The least number that `node` tells from any smaller one at an input, when of its output nothing matters under `below`."""
    rule, value = _rule(node), node.inputs[index]
    assert value is not None
    if rule is None or index >= len(rule.inputs):
        return -np.inf
    tail = rule.inputs[index].tail
    if tail is not None:
        peaks = values.get(f"{value.name}{_SUFFIX}")
        return float(peaks.low) - tail if peaks is not None else -np.inf
    if not np.isfinite(below):
        return -np.inf
    if rule.shared and not operator_of(node).has("integers"):  # it moves or picks entries; one that averages them needs all
        return below
    if node.op_type == "Mul" and (factor := scalar_of(node.inputs[1 - index]) or 0.0) > 0:
        return below / factor
    return below - _greatest(node.inputs[1 - index], values) if rule.sums else -np.inf


def _own(node: ir.Node, index: int) -> float:
    """The least number that the operator itself tells from smaller ones at an input, in 8 bits."""
    rule = _rule(node)
    return rule.inputs[index].floor if rule is not None and index < len(rule.inputs) else -np.inf


def _greatest(value: ir.Value | None, values: Mapping[str, Any]) -> float:
    array = constant(value)
    if array is not None:
        return float(array.max(initial=-np.inf))
    found = values.get(name_of(value)) if value is not None else None
    return float(found.high) if found is not None else np.inf


def _rule(node: ir.Node) -> QuantRule | None:
    try:
        return operator_of(node).quantize(node)
    except Refused:
        return None


def _names(graph: ir.Graph) -> set[str | None]:
    return {value.name for node in graph for value in node.outputs}
