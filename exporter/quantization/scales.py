"""Choose the scale of every weight channel by what it does to the layer's output on calibration data.

The scale that makes the greatest weight 127 is seldom the best of the scales near it: where the weights fall on the grid is chance.
For each output channel the one is taken whose rounding error, multiplied with inputs that the layer really sees, has the least
variance (the mean of that error is what bias correction removes). Rounding stays to nearest; only the scale is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, name_of, static_shape
from exporter.ops.base import Role, operator_of
from exporter.quantization.apply import node_name, read_encoding, runs_in_integers
from exporter.quantization.plan import Encoding, Plan
from exporter.quantization.ranges import bias_encoding
from exporter.quantization.segments import output_arrays

__all__ = ["choose_weight_scales"]

SAMPLES: Final = 32
_COLUMNS: Final = 384  # input vectors a layer is judged on, spread evenly over positions and samples
_FACTORS: Final = tuple(np.linspace(1.0, 1.5, 51).tolist())  # never below 1: clipping weights gained nothing


@dataclass(frozen=True)
class _Layer:
    node: ir.Node
    weight: np.ndarray[Any, Any]  # [groups, outputs a group, inputs a group x kernel]
    channels: int


def choose_weight_scales(model: ir.Model, plan: Plan, samples: Iterable[Mapping[str, np.ndarray[Any, Any]]]) -> Plan:
    """The plan with refined scales of per-channel weights, and of the biases that go with them.

    Convolutions and fully connected layers that run in integers take part. One sample at a time is run; of each, a few hundred
    input vectors a layer are held.
    """
    layers = [layer for node in model.graph if (layer := _layer(node, plan)) is not None]
    held = list(islice(samples, SAMPLES))
    if not layers or not held:
        return plan
    columns: dict[ir.Node, list[np.ndarray[Any, Any]]] = {layer.node: [] for layer in layers}
    each = -(-_COLUMNS // len(held))
    for arrays in output_arrays(model, [name_of(layer.node.inputs[0]) for layer in layers], held):  # type: ignore[arg-type]
        for layer, array in zip(layers, arrays, strict=True):
            columns[layer.node].append(_vectors(layer.node, array, each))
    encodings = dict(plan.encodings)
    for layer in layers:
        vectors = np.concatenate(columns.pop(layer.node), axis=-1)
        _refine(layer, vectors - vectors.mean(axis=-1, keepdims=True), encodings)
    return replace(plan, encodings=encodings)


def _layer(node: ir.Node, plan: Plan) -> _Layer | None:
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op_type not in ("Conv", "Gemm") or weight is None or not runs_in_integers(node, plan):
        return None
    encoding = read_encoding(node, 1, plan)
    shared = any(f"{node_name(node)}:{index}" in plan.requantize for index in (1, 2))
    if encoding is None or encoding.axis is None or shared:
        return None
    groups = int(attribute(node, "group", 1))
    rows = np.moveaxis(weight, encoding.axis, 0)
    return _Layer(node, rows.reshape(groups, rows.shape[0] // groups, -1).astype(np.float32), rows.shape[0])


def _refine(layer: _Layer, vectors: np.ndarray[Any, Any], encodings: dict[str, Encoding]) -> None:
    weight = layer.node.inputs[1]
    assert weight is not None
    given = encodings[name_of(weight)]
    start = np.asarray(given.scale, np.float32).reshape(*layer.weight.shape[:2], 1)
    steps = float(np.max(np.rint(np.abs(layer.weight) / start)))
    best, least = start.copy(), np.full(start.shape, np.inf, np.float32)
    for factor in _FACTORS:
        scale = np.float32(factor) * start
        rounded = np.clip(np.rint(layer.weight / scale), -steps, steps) * scale
        error = np.square(np.matmul(rounded - layer.weight, vectors)).sum(axis=-1, keepdims=True)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    chosen = replace(given, scale=tuple(best.ravel().tolist()))
    encodings[name_of(weight)] = chosen
    for index, rule in enumerate(operator_of(layer.node).quantize(layer.node).inputs[: len(layer.node.inputs)]):
        value = layer.node.inputs[index]
        first = layer.node.inputs[0]
        if rule.role is Role.BIAS and value is not None and first is not None:
            encodings[name_of(value)] = bias_encoding(encodings[name_of(first)], chosen, len(static_shape(value)) - 1)


def _vectors(node: ir.Node, array: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Input vectors of a layer at `count` positions: [groups, inputs a group x kernel, positions]."""
    if node.op_type == "Gemm":
        rows = array if attribute(node, "transA", 0) == 0 else array.T
        return rows.T[None, :, _spread(rows.shape[0], count)]
    groups = int(attribute(node, "group", 1))
    kernel = static_shape(node.inputs[1])[2:]  # type: ignore[arg-type]
    rank = len(kernel)
    strides = attribute(node, "strides", (1,) * rank)
    dilations = attribute(node, "dilations", (1,) * rank)
    pads = attribute(node, "pads", (0,) * 2 * rank)
    padded = np.pad(array, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spans = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    step = (slice(None), slice(None), *(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
    windows = windows[step]
    places = windows.shape[2 : 2 + rank]
    positions = np.unravel_index(_spread(int(np.prod(places)), count), places)
    taken = windows[0][(slice(None), *positions)]  # [channels, positions, *kernel]
    flat = taken.reshape(groups, taken.shape[0] // groups, taken.shape[1], -1)
    return np.asarray(flat.transpose(0, 1, 3, 2).reshape(groups, -1, taken.shape[1]))


def _spread(length: int, count: int) -> np.ndarray[Any, Any]:
    """At most `count` indices below `length`, evenly spread, the same on each call."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).astype(np.int64))
