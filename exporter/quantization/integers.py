"""The integer reference of a plan: every value of the artifact, in numpy, to the last bit of TFLite's reference kernels.

`simulate` rounds floats to encodings and is differentiable; here integers go from node to node as the kernels compute them, from each
operator's `integers` facet. A value is stored in the form in which its producer writes it; where a reader wants another, there is the
QUANTIZE, DEQUANTIZE or requantization that the writer puts in between. Float nodes compute in float by their torch facet, which a
runtime's float kernels match up to the order of sums. Needs the `torch` extra.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import activation_nodes, constant, fused_activation, name_of
from exporter.ops.base import Refused, operator_of
from exporter.ops.fixed_point import multiply, quantize_multiplier, round_away
from exporter.ops.reference import Affine, Stored, moved
from exporter.quantization.apply import (
    apply_corrections,
    encode_constant,
    precision_of,
    read_encoding,
    runs_in_integers,
    stores_integers,
)
from exporter.quantization.plan import Encoding, Plan, integer_range

__all__ = ["Step", "Values", "run", "steps", "stored_encodings"]

Array = np.ndarray[Any, Any]
Values = Mapping[str, Array]


@dataclass(frozen=True)
class Step:
    """One node that runs by itself and the values it writes, by name, as they are stored.

    `integer`: whether it runs in integers; then the values are exact.
    """

    node: ir.Node
    integer: bool
    values: Values


def run(model: ir.Model, plan: Plan, inputs: Values) -> dict[str, Array]:
    """Every value of the artifact on one sample, by name: integers where it holds integers.

    Args:
        model: the legalized graph that the plan was made for.
        inputs: inputs by name in the canonical order of axes, floats.
    Raises:
        Refused: a node has no integer reference (or no torch facet): those of int16x8 that look functions up in tables have none
            (`Operator.references_int16`), nor have those that quantize activations as they run.
    """
    values: dict[str, Array] = {}
    homes = stored_encodings(model, plan)
    for value in model.graph.inputs:
        encoding = homes[name_of(value)]
        found = inputs[name_of(value)]
        values[name_of(value)] = found if encoding is None else _quantize(np.asarray(found, np.float32), encoding)
    for step in steps(model, plan, values):
        values.update(step.values)
    return values


def steps(model: ir.Model, plan: Plan, values: Values) -> Iterator[Step]:
    """Each node in graph order, computed from `values`, which the caller fills as it goes.

    With the artifact's own tensors as `values` each node is judged by itself: what one computes otherwise is not seen at the next.
    Float nodes whose values are all there are passed over.

    Args:
        values: stored values by name, canonical order of axes; those that a node reads must be there when its turn comes.
    Raises:
        Refused: a node has no integer reference (or no torch facet): those of int16x8 that look functions up in tables have none
            (`Operator.references_int16`), nor have those that quantize activations as they run.
    """
    homes = stored_encodings(model, plan)
    for node, written in activation_nodes(model.graph):
        integer = runs_in_integers(node, plan)
        results = [written, *node.outputs[1:]]
        if not integer and all(value.name in values for value in results if value.name):
            continue
        given = [_read(node, index, plan, homes, values) for index in range(len(node.inputs))]
        encodings = [homes[value.name or ""] for value in results]
        precision = precision_of(node, plan)
        found = _integers(node, given, encodings, precision) if integer else _floats(node, given, precision)
        made = {
            name_of(value): _typed(array, encoding)
            for value, array, encoding in zip(results, found, encodings, strict=False)
            if value.name
        }
        yield Step(node, integer, made)


def stored_encodings(model: ir.Model, plan: Plan) -> dict[str, Encoding | None]:
    """The encoding in which the artifact holds each value where it is produced, by name; None for one that is not in integers."""
    homes: dict[str, Encoding | None] = {"": None}  # an output that nobody wants has no name
    for value in model.graph.inputs:
        dtype = plan.io_dtype_of(name_of(value))
        encoding = plan.encodings.get(name_of(value)) if dtype != "float32" else None
        if encoding is not None and dtype == "uint8" and encoding.dtype == "int8":
            encoding = replace(encoding, dtype="uint8", zero_point=tuple(point + 128 for point in encoding.zero_point))
        homes[name_of(value)] = encoding
    for node, written in activation_nodes(model.graph):
        for value in (written, *node.outputs[1:]):
            if value.name:
                homes[value.name] = plan.encodings.get(value.name) if runs_in_integers(node, plan) else None
    return homes


def _read(node: ir.Node, index: int, plan: Plan, homes: Mapping[str, Encoding | None], values: Values) -> Stored | None:
    """Input `index` in the form in which the node reads it."""
    value = node.inputs[index]
    if value is None:
        return None
    wanted = read_encoding(node, index, plan) if runs_in_integers(node, plan) else None
    array = constant(value)
    if array is not None:
        if wanted is None and not (stores_integers(node, plan) and read_encoding(node, index, plan)):
            return Stored(apply_corrections(array, plan, name_of(value)))
        integers, encoding = encode_constant(node, index, plan)
        return Stored(encoding.dequantize(integers)) if wanted is None else Stored(integers, encoding)
    home, found = homes[name_of(value)], values[name_of(value)]
    if home == wanted:
        return Stored(found, wanted)
    if home is None:
        return Stored(found) if wanted is None else Stored(_quantize(found, wanted), wanted)
    return Stored(home.dequantize(found)) if wanted is None else Stored(_requantize(found, home, wanted), wanted)


def _integers(node: ir.Node, given: Sequence[Stored | None], outputs: Sequence[Affine | None], precision: str) -> Sequence[Array]:
    operator = operator_of(node)
    plain = all(encoding is None for encoding in outputs) or operator.quantize(node).shared
    if plain and not operator.has("integers"):
        return moved(node, given, outputs)
    if precision == "int16x8" and not operator.references_int16:
        raise Refused(node, f"{node.op_type} in {precision} has no integer reference")
    return operator.integers(node, given, outputs)


def _floats(node: ir.Node, given: Sequence[Stored | None], precision: str) -> Sequence[Array]:
    import torch

    if precision.startswith("dynamic"):
        raise Refused(node, f"{node.op_type} in {precision} has no integer reference")
    with torch.no_grad():
        inputs = [None if stored is None else torch.from_numpy(np.array(stored.array)) for stored in given]
        found = list(operator_of(node).torch(node, inputs))
        behind = fused_activation(node)
        if behind is not None:
            others = [constant(value) for value in behind.inputs[1:]]
            found[:1] = operator_of(behind).torch(
                behind, [found[0], *(None if array is None else torch.from_numpy(np.array(array)) for array in others)]
            )
    return [np.asarray(tensor) for tensor in found]


def _typed(array: Array, encoding: Encoding | None) -> Array:
    return array if encoding is None else array.astype("int8" if encoding.dtype == "int4" else encoding.dtype)


def _quantize(array: Array, encoding: Encoding) -> Array:
    """QUANTIZE of floats: ties away from zero. Source: LiteRT `kernels/internal/reference/quantize.h`."""
    low, high = integer_range(encoding.dtype)
    rounded = round_away(array.astype(np.float32) / np.float32(encoding.scale[0])) + encoding.zero_point[0]
    return _typed(np.clip(rounded, low, high), encoding)


def _requantize(array: Array, source: Encoding, target: Encoding) -> Array:
    """QUANTIZE of integers. Source: LiteRT `kernels/quantize.cc` and `kernels/internal/reference/requantize.h`."""
    low, high = integer_range(target.dtype)
    factor = quantize_multiplier(source.scale[0] / target.scale[0])
    found = multiply(array.astype(np.int64) - source.zero_point[0], *factor) + target.zero_point[0]
    return _typed(np.clip(found, low, high), target)
