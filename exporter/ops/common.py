"""Rules that many operators share: elementwise layout, coupling and cost, encodings by role, and shapes read off a node."""

from __future__ import annotations

from collections.abc import Container, Mapping
from math import prod
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, is_constant, name_of, rank, static_shape
from exporter.ops.base import (
    Channels,
    Cost,
    Coupling,
    InputRule,
    LayoutRule,
    Operator,
    OutputRule,
    Port,
    QuantRule,
    Refused,
    Role,
)

__all__ = [
    "FIXED_UNIT",
    "INT8_AND_INT16",
    "OWN",
    "SHARED",
    "Elementwise",
    "activation_rule",
    "aligned_axis",
    "axis_of",
    "elementwise_cost",
    "elementwise_coupling",
    "elementwise_layout",
    "input_of",
    "input_shape",
    "ints_of",
    "is_float",
    "output_shape",
    "replace_ints",
    "same_layout",
    "scalar_of",
    "uniform_layout",
    "version",
]

INT8_AND_INT16: Final = ("int8", "int16")  # for `Operator.kernel_dtypes`

OWN: Final = OutputRule("own")
SHARED: Final = OutputRule("shared")
FIXED_UNIT: Final = OutputRule("fixed", 1 / 256, -128)  # [0, 1): probabilities, as the TFLite quantization spec fixes them


# --- reading a node ---------------------------------------------------------------------------------------------------


def input_of(node: ir.Node, index: int) -> ir.Value:
    """Input `index`, which the operator needs. Raises Refused where it is absent."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise Refused(node, f"{node.op_type} lacks its input {index}")
    return value


def input_shape(node: ir.Node, index: int = 0) -> tuple[int, ...]:
    return static_shape(input_of(node, index))


def output_shape(node: ir.Node, index: int = 0) -> tuple[int, ...]:
    return static_shape(node.outputs[index])


def axis_of(node: ir.Node, default: int, name: str = "axis") -> int:
    """The axis attribute of a node, counted from the front of its first input."""
    axis = int(attribute(node, name, default))
    return axis + rank(input_of(node, 0)) if axis < 0 else axis


def ints_of(node: ir.Node, index: int) -> tuple[int, ...] | None:
    """The integers of a constant input, or None where it is absent. Raises Refused where it is computed."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    array = constant(value)
    if array is None:
        raise Refused(node, f"input {index} of {node.op_type} ({value.name}) is computed; only a constant is supported")
    return tuple(int(entry) for entry in array.reshape(-1))


def scalar_of(value: ir.Value | None) -> float | None:
    """The one number of a constant of one element, else None."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def version(plain: int, int8: int, quantized: bool) -> int:
    """The TFLite operator version: `int8` where the node runs in integers, else `plain`."""
    return int8 if quantized else plain


def replace_ints(node: ir.Node, index: int, entries: tuple[int, ...]) -> None:
    """Give a node its own int64 constant as input `index` (the one it had may belong to other nodes as well)."""
    graph = node.graph
    if graph is None:
        raise ValueError(f"node {node.name} belongs to no graph")
    old = node.inputs[index].name if index < len(node.inputs) and node.inputs[index] is not None else node.op_type  # type: ignore[union-attr]
    name = f"{old}_of_{name_of(node.outputs[0])}"
    tensor = ir.tensor(np.asarray(entries, np.int64), name=name)
    value = ir.Value(name=name, shape=ir.Shape((len(entries),)), type=ir.TensorType(ir.DataType.INT64), const_value=tensor)
    graph.initializers[name] = value
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


# --- layout -----------------------------------------------------------------------------------------------------------


def uniform_layout(node: ir.Node, port: Port) -> LayoutRule:
    """The same port for every input and output."""
    return LayoutRule((port,) * len(node.inputs), (port,) * len(node.outputs))


def same_layout(node: ir.Node) -> LayoutRule:
    """Either order, the same everywhere: operators that work on each element, or along an axis that `Lowering.axis` remaps."""
    return uniform_layout(node, Port.NODE)


def elementwise_layout(node: ir.Node) -> LayoutRule:
    """Either order where every computed input has the output's rank; channels-first where a computed one of lower rank is broadcast.

    Broadcasting counts axes from the end, so an input of lower rank cannot follow when the channel axis moves there;
    one element alone broadcasts in any order, and the writer pads and permutes constants.
    """
    wanted = rank(node.outputs[0])
    ports = []
    for value in node.inputs:
        if value is None or is_constant(value) or prod(static_shape(value)) == 1:
            ports.append(Port.ANY)
        elif rank(value) == wanted:
            ports.append(Port.NODE)
        else:
            return uniform_layout(node, Port.FIRST)
    return LayoutRule(tuple(ports), (Port.NODE,) * len(node.outputs))


# --- quantize ---------------------------------------------------------------------------------------------------------


def activation_rule(
    node: ir.Node, output: OutputRule = OWN, parameters: tuple[int, ...] = (), floors: Mapping[int, float] = MappingProxyType({})
) -> QuantRule:
    """All inputs are activations, except for those of the indices `parameters`; all outputs are encoded alike. `floors` by input."""
    roles = (Role.PARAMETER if index in parameters else Role.ACTIVATION for index in range(len(node.inputs)))
    inputs = (InputRule(role, floor=floors.get(index, -np.inf)) for index, role in enumerate(roles))
    return QuantRule(tuple(inputs), (output,) * len(node.outputs))


# --- prune ------------------------------------------------------------------------------------------------------------


def aligned_axis(axis: int, rank_from: int, rank_to: int) -> int:
    """Where `axis` of a value of rank `rank_from` lies in one of rank `rank_to` under broadcasting (negative: nowhere)."""
    return axis - rank_from + rank_to


def elementwise_coupling(node: ir.Node, skip: Container[int] = ()) -> Coupling:
    """Ties every axis behind the batch of all inputs and outputs; an input that is broadcast along an axis stays whole there.

    Axes in `skip` are left to the caller.
    """
    shape = output_shape(node)
    ties, blocked = [], []
    for axis in range(1, len(shape)):
        if axis in skip:
            continue
        runs = []
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            own = static_shape(value)
            at = aligned_axis(axis, len(shape), len(own))
            if at < 0:
                continue
            if own[at] == shape[axis]:
                runs.append(Channels("in", index, at, shape[axis]))
            elif not is_constant(value):
                blocked.append(Channels("in", index, at, own[at]))
        runs += [Channels("out", index, axis, shape[axis]) for index in range(len(node.outputs))]
        ties.append(tuple(runs))
    return Coupling(tuple(ties), blocked=tuple(blocked))


# --- cost -------------------------------------------------------------------------------------------------------------


def elementwise_cost(node: ir.Node, factor: int = 1) -> Cost:
    """`factor` operations an element of the first output."""
    return Cost(elementwise=factor * prod(output_shape(node)))


class Elementwise(Operator):
    """Base of the operators that work on each element, with broadcasting: how they couple, lie and cost. The rest is the subclass's."""

    def couple(self, node: ir.Node) -> Coupling:
        return elementwise_coupling(node)

    def layout(self, node: ir.Node) -> LayoutRule:
        return elementwise_layout(node)

    def cost(self, node: ir.Node) -> Cost:
        return elementwise_cost(node)
