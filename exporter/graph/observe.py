"""The canonical graph run for calibration: onnxruntime reduces each value where it has just been computed, so that little is copied out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir

from calibration.reduction import PICKS, Reduced, picked_runs, reduce_array
from exporter.graph.run import FloatRunner, Session, observed_values
from exporter.graph.values import name_of, static_shape

__all__ = ["Observer"]

Array = np.ndarray[Any, Any]

_REDUCTIONS: Final = ("ReduceMin", "ReduceMax", "ReduceSum")
_PREFIX: Final = "edgewright.observe/"  # of everything that is added to the graph
_FLAT: Final = f"{_PREFIX}flat"
_ALL: Final = f"{_PREFIX}all"


class Observer:
    """Calls the graph: a sample to what `calibration.reduction.reduce_array` gives of each value of `observed_values`.

    Extremes, counts and picked elements are those of `reduce_array` to the last bit; the sums are onnxruntime's, in float32. A value
    whose sum is not finite is fetched whole and reduced by numpy, which tells NaN from infinity and from a sum that overflowed.

    Raises RuntimeFailure EW-R002 where onnxruntime lacks a kernel of the graph.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inputs = {name_of(value) for value in model.graph.inputs}
        values = {
            value.name: value for node in model.graph for value in node.outputs if value.name
        }  # an output left out has none
        shapes = {name: static_shape(values[name]) for name in observed_values(model) if name in values}
        self._shapes = {name: shape for name, shape in shapes.items() if 0 not in shape}
        if not self._shapes:
            return
        proto = ir.to_proto(model)
        del proto.graph.output[:]
        _append_constant(proto.graph, _FLAT, [-1])
        # onnxruntime goes depth first from the node that was added last: so it reduces each value while that is still in the cache, and
        # frees it, instead of computing all of them first. One output: fetching hundreds of small ones takes longer than computing them.
        parts = [_append_reduced(proto.graph, *entry) for entry in reversed(self._shapes.items())]
        joined = [name for names in reversed(parts) for name in names]
        proto.graph.node.append(onnx.helper.make_node("Concat", joined, [_ALL], axis=0))
        proto.graph.output.append(onnx.helper.make_tensor_value_info(_ALL, onnx.TensorProto.FLOAT, None))
        self._session = Session(proto.SerializeToString())

    def __call__(self, sample: Mapping[str, Array]) -> dict[str, Reduced]:
        if not self._shapes:
            return {}
        feed = {name: array for name, array in sample.items() if name in self._inputs}
        (found,) = self._session([_ALL], feed)
        reduced, start = {}, 0
        for name, shape in self._shapes.items():
            count, width = math.prod(shape), shape[1] if len(shape) > 1 else 1
            low, high, total = found[start : start + 3 * width].reshape(3, width)
            start += 3 * width
            picked = found[start : start + min(count, PICKS)]
            start += picked.size
            reduced[name] = Reduced(low, high, total.astype(np.float64), picked, count, len(shape) > 1)
        doubtful = [name for name, entry in reduced.items() if not np.isfinite(entry.total).all()]
        if doubtful:
            reduced |= {name: reduce_array(array) for name, array in FloatRunner(self._model, doubtful)(sample).items()}
        return reduced


def _append_reduced(graph: onnx.GraphProto, name: str, shape: tuple[int, ...]) -> list[str]:
    """Append what `Reduced` has of a value, each one-dimensional; returns their names: extremes and sums, then the picked elements.

    Extremes and sums are one number a channel (axis 1), or one in all where there is no such axis.
    """
    results = [f"{_PREFIX}{op_type}/{name}" for op_type in _REDUCTIONS]
    axes = f"{_PREFIX}axes/{name}"
    _append_constant(graph, axes, [axis for axis in range(max(len(shape), 1)) if axis != 1])
    whole = name if len(shape) > 1 else _append_reshaped(graph, name, f"{_PREFIX}whole/{name}", _FLAT)
    for op_type, result in zip(_REDUCTIONS, results, strict=True):
        graph.node.append(onnx.helper.make_node(op_type, [whole, axes], [result], keepdims=int(len(shape) < 2)))
    return [*results, _append_picks(graph, name, math.prod(shape))]


def _append_picks(graph: onnx.GraphProto, name: str, count: int) -> str:
    """The elements at `picks`, one-dimensional; returns their name."""
    result = f"{_PREFIX}picked/{name}"
    if count <= PICKS:
        return _append_reshaped(graph, name, result, _FLAT)
    runs, length = picked_runs(count)
    _append_constant(graph, f"{result}/shape", [-1, length])
    _append_constant(graph, f"{result}/at", runs.tolist())
    rows = _append_reshaped(graph, name, f"{result}/rows", f"{result}/shape")
    graph.node.append(onnx.helper.make_node("Gather", [rows, f"{result}/at"], [f"{result}/runs"], axis=0))
    return _append_reshaped(graph, f"{result}/runs", result, _FLAT)


def _append_reshaped(graph: onnx.GraphProto, name: str, result: str, shape: str) -> str:
    graph.node.append(onnx.helper.make_node("Reshape", [name, shape], [result]))
    return result


def _append_constant(graph: onnx.GraphProto, name: str, numbers: list[int]) -> None:
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers, np.int64), name))
