"""Run a plan in torch: each operator's own torch function, each encoded value rounded to its encoding behind it.

The numbers are those of the artifact up to a runtime's own rounding of accumulators. Constants are rounded too, biases corrected.
A float reader of a value that a float node wrote sees the rounded value here where an integer node reads it as well.
Needs the `torch` extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import constant, name_of
from exporter.ops.base import operator_of
from exporter.quantization.apply import encode_constant, read_encoding, runs_in_integers
from exporter.quantization.plan import Encoding, Plan, integer_range

__all__ = ["fake_quantize", "simulate"]


def simulate(model: ir.Model, plan: Plan, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """All computed values of one sample as the plan rounds them, dequantized, by value name.

    Args:
        model: the graph that the plan was made for.
        inputs: float inputs by name.
    Raises:
        Refused: an operator has no torch facet.
    """
    import torch

    values: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
    for value in model.graph.inputs:
        values[name_of(value)] = _stored(values[name_of(value)], name_of(value), plan)
    with torch.no_grad():
        for node in model.graph:
            given = [_given(node, index, plan, values) for index in range(len(node.inputs))]
            for value, result in zip(node.outputs, operator_of(node).torch(node, given), strict=False):
                values[name_of(value)] = _stored(result, name_of(value), plan)
    return {name: np.asarray(array) for name, array in values.items()}


def fake_quantize(tensor: Any, encoding: Encoding) -> Any:
    """The tensor rounded to an encoding (ties to even) and back."""
    import torch

    low, high = integer_range(encoding.dtype)
    scale, zero_point = torch.tensor(encoding.scale[0], dtype=torch.float32), encoding.zero_point[0]
    return (torch.clamp(torch.round(tensor / scale) + zero_point, low, high) - zero_point) * scale


def _stored(tensor: Any, name: str, plan: Plan) -> Any:
    encoding = plan.encodings.get(name)
    return tensor if encoding is None else fake_quantize(tensor, encoding)


def _given(node: ir.Node, index: int, plan: Plan, values: Mapping[str, Any]) -> Any:
    """Input `index` of a node in the encoding in which the node reads it."""
    import torch

    value = node.inputs[index]
    if value is None:
        return None
    array = constant(value)
    integer = runs_in_integers(node, plan) and read_encoding(node, index, plan) is not None
    if array is not None:
        if integer:
            integers, encoding = encode_constant(node, index, plan)
            return torch.from_numpy(encoding.dequantize(integers))
        return torch.from_numpy(np.array(array))
    override = read_encoding(node, index, plan) if integer else None
    if override is not None and override != plan.encodings.get(name_of(value)):
        return fake_quantize(values[name_of(value)], override)
    return values[name_of(value)]
