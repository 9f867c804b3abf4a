"""The canonical graph run for calibration: onnxruntime reduces each value where it has just been computed, so that little is copied out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir

from calibration.reduction import PICKS, Reduced, picks, reduce_array
from exporter.graph.run import FloatRunner, Session, observed_values
from exporter.graph.values import name_of, static_shape

__all__ = ["Observer"]

Array = np.ndarray[Any, Any]

_REDUCTIONS: Final = ("ReduceMin", "ReduceMax", "ReduceSum")
_PICKED: Final = "Picked"
_PREFIX: Final = "edgewright.observe/"  # of everything that is added to the graph
_FLAT: Final = f"{_PREFIX}flat"


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
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1], np.int64), _FLAT))
        for op_type in _REDUCTIONS:
            _append_joined(
                proto.graph, op_type, [_append_reduction(proto.graph, op_type, *entry) for entry in self._shapes.items()]
            )
        _append_joined(proto.graph, _PICKED, [_append_picks(proto.graph, *entry) for entry in self._shapes.items()])
        self._session = Session(proto.SerializeToString())

    def __call__(self, sample: Mapping[str, Array]) -> dict[str, Reduced]:
        if not self._shapes:
            return {}
        feed = {name: array for name, array in sample.items() if name in self._inputs}
        low, high, total, picked = self._session([_PREFIX + name for name in (*_REDUCTIONS, _PICKED)], feed)
        reduced, entry, pick = {}, 0, 0
        for name, shape in self._shapes.items():
            count = math.prod(shape)
            at = slice(entry, entry := entry + (shape[1] if len(shape) > 1 else 1))
            chosen = slice(pick, pick := pick + min(count, PICKS))
            reduced[name] = Reduced(low[at], high[at], total[at].astype(np.float64), picked[chosen], count, len(shape) > 1)
        doubtful = [name for name, entry in reduced.items() if not np.isfinite(entry.total).all()]
        if doubtful:
            reduced |= {name: reduce_array(array) for name, array in FloatRunner(self._model, doubtful)(sample).items()}
        return reduced


def _append_reduction(graph: onnx.GraphProto, op_type: str, name: str, shape: tuple[int, ...]) -> str:
    """A reduction to one number a channel (axis 1), or to one number where there is no such axis; returns its name."""
    result = f"{_PREFIX}{op_type}/{name}"
    if len(shape) < 2:
        graph.node.append(onnx.helper.make_node("Reshape", [name, _FLAT], [f"{result}/flat"]))
        graph.node.append(onnx.helper.make_node(op_type, [f"{result}/flat"], [result], keepdims=1))
        return result
    axes = np.array([axis for axis in range(len(shape)) if axis != 1], np.int64)
    graph.initializer.append(onnx.numpy_helper.from_array(axes, f"{result}/axes"))
    graph.node.append(onnx.helper.make_node(op_type, [name, f"{result}/axes"], [result], keepdims=0))
    return result


def _append_picks(graph: onnx.GraphProto, name: str, shape: tuple[int, ...]) -> str:
    """The elements at `picks`, one-dimensional; returns their name."""
    result, count = f"{_PREFIX}{_PICKED}/{name}", math.prod(shape)
    flat = result if count <= PICKS else f"{result}/flat"
    graph.node.append(onnx.helper.make_node("Reshape", [name, _FLAT], [flat]))
    if count > PICKS:
        graph.initializer.append(onnx.numpy_helper.from_array(picks(count).astype(np.int32), f"{result}/at"))
        graph.node.append(onnx.helper.make_node("Gather", [flat, f"{result}/at"], [result], axis=0))
    return result


def _append_joined(graph: onnx.GraphProto, label: str, parts: list[str]) -> None:
    """One output for all values: fetching hundreds of small ones takes longer than computing them."""
    graph.node.append(onnx.helper.make_node("Concat", parts, [_PREFIX + label], axis=0))
    graph.output.append(onnx.helper.make_tensor_value_info(_PREFIX + label, onnx.TensorProto.FLOAT, None))
