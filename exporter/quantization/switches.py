"""A graph with a switch at every place where its plan rounds: one session answers what any choice of roundings costs in accuracy.

::

    x ---------------> Where(switch, rounded x, x) -> node -> y -> Where(switch, rounded y, y) -> ...
      \\-> Q -> DQ --^

All off is the float graph, all on the planned one (up to a runtime's own rounding of accumulators). With all switches of a node on and
those of another off, the one runs in integers and the other in float on what its neighbours hand it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from exporter.graph.run import FloatRunner
from exporter.graph.values import constant, fused_into, is_constant, name_of, static_shape
from exporter.quantization.apply import encode_constant, node_name, read_encoding, runs_in_integers, stores_integers
from exporter.quantization.plan import Encoding, Plan

__all__ = ["Switch", "Switchboard"]

_SWITCHES = "edgewright_switches"
_ROW_CONSTANTS = (([-1], "int64"), (0.0, "float32"), (255.0, "float32"), (1e-30, "float32"))
_TYPES = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8, "int16": ir.DataType.INT16, "uint16": ir.DataType.UINT16}
Sample = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Switch:
    """One place where a node rounds a value.

    Attributes:
        kind: "activation": an input as it reads it or an output as it stores it, in the plan's encoding; "constant": a constant of its
            own; "rows": its first input, each row in an encoding of its own, as kernels do that quantize floats as they run.
        writes: whether an activation is an output.
    """

    node: str
    value: str
    kind: Literal["activation", "constant", "rows"] = "activation"
    writes: bool = False


class Switchboard:
    """Runs a graph with any of a plan's roundings in force.

    Attributes:
        switches: every place where the plan rounds, in the order of the wiring.
        nodes: names of the integer nodes, in graph order.

    Args:
        dynamic: names of the nodes that have a switch of kind "rows".
    """

    def __init__(self, model: ir.Model, plan: Plan, dynamic: Collection[str] = ()) -> None:
        self.nodes = tuple(node_name(node) for node in model.graph if runs_in_integers(node, plan))
        clone = model.clone()
        self.switches = tuple(_Wiring(clone.graph, plan, frozenset(dynamic)).switches)
        self._runner = FloatRunner(clone)

    def __call__(self, sample: Sample, on: Callable[[Switch], bool]) -> dict[str, np.ndarray[Any, Any]]:
        """The graph's outputs for one sample, with the switches for which `on` holds."""
        return self._runner({**sample, _SWITCHES: np.array([*map(on, self.switches), False])})

    def with_nodes(self, sample: Sample, nodes: Collection[str]) -> dict[str, np.ndarray[Any, Any]]:
        """The graph's outputs for one sample, with `nodes` in integers and all others in float."""
        return self(sample, lambda switch: switch.node in nodes and switch.kind != "rows")


class _Wiring:
    """Puts the switches into a graph."""

    def __init__(self, graph: ir.Graph, plan: Plan, dynamic: frozenset[str]) -> None:
        self.switches: list[Switch] = []
        self._dynamic = dynamic
        self._graph, self._plan, self._made = graph, plan, 0
        self._flags = ir.Value(name=_SWITCHES, shape=ir.Shape(("switches",)), type=ir.TensorType(ir.DataType.BOOL))
        nodes, inputs = list(graph), list(graph.inputs)
        graph.inputs.append(self._flags)
        for value in inputs:
            self._value(value, None)
        for node in nodes:
            self._rows(node)
            self._constants(node)
            for value in list(node.outputs):
                self._value(value, fused_into(node) or node)
        graph.sort()

    def _value(self, value: ir.Value, owner: ir.Node | None) -> None:
        encoding = self._plan.encodings.get(name_of(value)) if value.name else None
        if encoding is None:
            return
        name, readers = name_of(value), list(value.uses())
        stored = rounded = self._rounded(value, encoding)
        if owner is None or not runs_in_integers(owner, self._plan):
            stored = value
        else:
            stored = self._chosen(Switch(node_name(owner), name, writes=True), rounded, value)
            if value.is_graph_output():
                self._replace_output(value, stored)
        for node, index in readers:
            given = stored
            if runs_in_integers(node, self._plan) and (wanted := read_encoding(node, index, self._plan)) is not None:
                read = rounded if wanted == encoding else self._rounded(stored, wanted)
                given = self._chosen(Switch(node_name(node), name), read, stored)
            node.replace_input_with(index, given)

    def _rows(self, node: ir.Node) -> None:
        """In front of all other switches of the input: with this one on, theirs are off."""
        x = node.inputs[0]
        if node_name(node) not in self._dynamic or x is None or is_constant(x):
            return
        shape = static_shape(x)
        last, zero, steps, tiny = (self._constant(np.asarray(number, dtype)) for number, dtype in _ROW_CONSTANTS)

        def add(op_type: str, *inputs: ir.Value, rows: bool = True) -> ir.Value:
            return self._add(op_type, inputs, ir.DataType.FLOAT, (*shape[:-1], 1) if rows else shape)

        low = add("Min", add("ReduceMin", x, last), zero)
        scale = add("Max", add("Div", add("Sub", add("Max", add("ReduceMax", x, last), zero), low), steps), tiny)
        integers = add("Round", add("Div", add("Sub", x, low, rows=False), scale, rows=False), rows=False)
        rounded = add("Add", add("Mul", integers, scale, rows=False), low, rows=False)
        node.replace_input_with(0, self._chosen(Switch(node_name(node), name_of(x), "rows"), rounded, x))

    def _constants(self, node: ir.Node) -> None:
        if not stores_integers(node, self._plan):
            return
        for index, value in enumerate(node.inputs):
            if value is not None and is_constant(value) and read_encoding(node, index, self._plan) is not None:
                integers, encoding = encode_constant(node, index, self._plan)
                switch = Switch(node_name(node), name_of(value), "constant")
                node.replace_input_with(index, self._chosen(switch, self._constant(encoding.dequantize(integers)), value))

    def _rounded(self, value: ir.Value, encoding: Encoding) -> ir.Value:
        scale = self._constant(np.float32(encoding.scale[0]))
        zero_point = self._constant(np.asarray(encoding.zero_point[0], encoding.dtype))
        shape = static_shape(value)
        quantized = self._add("QuantizeLinear", [value, scale, zero_point], _TYPES[encoding.dtype], shape)
        return self._add("DequantizeLinear", [quantized, scale, zero_point], ir.DataType.FLOAT, shape)

    def _chosen(self, switch: Switch, on: ir.Value, off: ir.Value) -> ir.Value:
        place = self._constant(np.int64(len(self.switches)))
        self.switches.append(switch)
        flag = self._add("Gather", [self._flags, place], ir.DataType.BOOL, ())
        shape = np.shape(array) if (array := constant(off)) is not None else static_shape(off)
        return self._add("Where", [flag, on, off], ir.DataType.FLOAT, shape)

    def _replace_output(self, old: ir.Value, new: ir.Value) -> None:
        old.name, new.name = f"{old.name}_before_switch", old.name
        for index, value in enumerate(self._graph.outputs):
            if value is old:
                self._graph.outputs[index] = new

    def _constant(self, array: np.ndarray[Any, Any] | np.generic) -> ir.Value:
        name = self._name()
        value = ir.val(name, const_value=ir.tensor(np.asarray(array), name=name))
        self._graph.register_initializer(value)
        return value

    def _add(self, op_type: str, inputs: Sequence[ir.Value], dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
        result = ir.Value(name=self._name(), shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self._graph.append(ir.node(op_type, list(inputs), outputs=[result], name=result.name))
        return result

    def _name(self) -> str:
        self._made += 1
        return f"edgewright_switch_{self._made}"
