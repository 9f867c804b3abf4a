"""The canonical graph in float64: the judge of whose rounding it is where two float32 runtimes differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import constant, name_of
from exporter.ops.base import operator_of

__all__ = ["ExactRunner"]

Array = np.ndarray[Any, Any]


class ExactRunner:
    """Calls a graph whose every float is float64, by the operators' own torch functions: named inputs to named outputs.

    Constants are those of the graph, so an exact answer is that of the model as it was stored.
    Raises `exporter.ops.base.Refused` where an operator has no torch function.
    """

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph

    def __call__(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        values = {name: _double(torch.from_numpy(np.ascontiguousarray(array))) for name, array in sample.items()}
        with torch.no_grad():
            for node in self._graph:
                given = []
                for value in node.inputs:
                    array = constant(value)
                    if value is None:
                        given.append(None)
                    else:
                        given.append(values[name_of(value)] if array is None else _double(torch.from_numpy(np.array(array))))
                for value, result in zip(node.outputs, operator_of(node).torch(node, given), strict=False):
                    values[name_of(value)] = _double(result)
        return {name_of(value): np.asarray(values[name_of(value)]) for value in self._graph.outputs}


def _double(tensor: Any) -> Any:
    return tensor.double() if tensor.is_floating_point() else tensor
