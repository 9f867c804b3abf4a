"""A graph with a switch at every place where its plan rounds: one session answers what any choice of roundings costs in accuracy.

::

    x -> If(switch) { Q -> DQ } else { x } -> node -> y -> If(switch) { Q -> DQ } else { y } -> ...

All off is the float graph, all on the planned one (up to a runtime's own rounding of accumulators). With all switches of a node on and
those of another off, the one runs in integers and the other in float on what its neighbours hand it. What is off costs a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnx_ir as ir

from exporter.graph.run import FloatRunner
from exporter.graph.values import fused_into, is_constant, name_of, static_shape
from exporter.quantization.apply import (
    encode_constant,
    node_name,
    precision_of,
    read_encoding,
    runs_in_integers,
    stores_integers,
)
from exporter.quantization.plan import Encoding, Plan
from targets.schema import Form

__all__ = ["IN_FORCE", "Kind", "Switch", "Switchboard"]

_SWITCHES = "edgewright_switches"
_ROW_CONSTANTS = (([-1], "int64"), (0.0, "float32"), (255.0, "float32"), (1e-30, "float32"))
_TYPES = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8, "int16": ir.DataType.INT16, "uint16": ir.DataType.UINT16}
Sample = Mapping[str, np.ndarray[Any, Any]]
Kind = Literal["activation", "constant", "rows", "wide"]
# What is rounded where a node runs in each form.
IN_FORCE: Final[Mapping[Form, frozenset[Kind]]] = {
    "float32": frozenset(),
    "int8": frozenset(("activation", "constant")),
    "int16x8": frozenset(("wide", "constant")),
    "dynamic_int8": frozenset(("rows", "constant")),
}


@dataclass(frozen=True)
class Switch:
    """One place where a node rounds a value.

    Attributes:
        kind: "activation": an input as it reads it or an output as it stores it, in the plan's encoding; "constant": a constant of its
            own; "rows": its first input, each row in an encoding of its own, as kernels do that quantize floats as they run; "wide": as
            "activation", in the encoding that the node has with int16 activations.
        writes: whether an activation is an output.
    """

    node: str
    value: str
    kind: Kind = "activation"
    writes: bool = False


class Switchboard:
    """Runs a graph with any of a plan's roundings in force.

    Attributes:
        switches: every place where the plan rounds, in the order of the wiring.
        nodes: names of the integer nodes, in graph order.

    Args:
        dynamic: names of the nodes that have a switch of kind "rows".
        wide: the plan with the nodes in int16x8 that have switches of kind "wide".
    """

    def __init__(self, model: ir.Model, plan: Plan, dynamic: Collection[str] = (), wide: Plan | None = None) -> None:
        self.nodes = tuple(node_name(node) for node in model.graph if runs_in_integers(node, plan))
        clone = model.clone()
        self.switches = tuple(_Wiring(clone.graph, plan, frozenset(dynamic), wide).switches)
        self._runner = FloatRunner(clone)

    def __call__(self, sample: Sample, on: Callable[[Switch], bool]) -> dict[str, np.ndarray[Any, Any]]:
        """The graph's outputs for one sample, with the switches for which `on` holds."""
        return self._runner({**sample, _SWITCHES: np.array([*map(on, self.switches), False])})

    def with_nodes(self, sample: Sample, nodes: Collection[str]) -> dict[str, np.ndarray[Any, Any]]:
        """The graph's outputs for one sample, with `nodes` in integers and all others in float."""
        return self(sample, lambda switch: switch.node in nodes and switch.kind in IN_FORCE["int8"])


class _Wiring:
    """Puts the switches into a graph."""

    def __init__(self, graph: ir.Graph, plan: Plan, dynamic: frozenset[str], wide: Plan | None) -> None:
        self.switches: list[Switch] = []
        self._dynamic, self._wide = dynamic, wide
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
        name, readers, stored = name_of(value), list(value.uses()), value
        written = owner is not None and runs_in_integers(owner, self._plan)
        if owner is not None and written:
            stored = self._chosen(Switch(node_name(owner), name, writes=True), stored, encoding)
            finer = self._wide.encodings.get(name) if self._wide is not None and _is_wide(owner, self._wide) else None
            if finer is not None:
                stored = self._chosen(Switch(node_name(owner), name, "wide", writes=True), stored, finer)
            if value.is_graph_output():
                self._replace_output(value, stored)
        for node, index in readers:
            given = stored
            wanted = read_encoding(node, index, self._plan) if runs_in_integers(node, self._plan) else None
            if wanted is not None:
                given = self._chosen(Switch(node_name(node), name), given, wanted)
            # The rounding of what was rounded before, to 8 bits or to 16, is too small to count.
            if not written and self._wide is not None and _is_wide(node, self._wide):
                finer = read_encoding(node, index, self._wide)
                given = given if finer is None else self._chosen(Switch(node_name(node), name, "wide"), given, finer)
            node.replace_input_with(index, given)

    def _rows(self, node: ir.Node) -> None:
        """In front of all other switches of the input: with this one on, theirs are off."""
        x = node.inputs[0]
        if node_name(node) not in self._dynamic or x is None or is_constant(x):
            return
        shape = static_shape(x)
        last, zero, steps, tiny = (self._constant(np.asarray(number, dtype)) for number, dtype in _ROW_CONSTANTS)
        made: list[ir.Node] = []

        def add(op_type: str, *inputs: ir.Value, rows: bool = True) -> ir.Value:
            made.append(self._node(op_type, inputs, ir.DataType.FLOAT, (*shape[:-1], 1) if rows else shape))
            return made[-1].outputs[0]

        low = add("Min", add("ReduceMin", x, last), zero)
        scale = add("Max", add("Div", add("Sub", add("Max", add("ReduceMax", x, last), zero), low), steps), tiny)
        integers = add("Round", add("Div", add("Sub", x, low, rows=False), scale, rows=False), rows=False)
        add("Add", add("Mul", integers, scale, rows=False), low, rows=False)
        node.replace_input_with(0, self._switch(Switch(node_name(node), name_of(x), "rows"), x, made))

    def _constants(self, node: ir.Node) -> None:
        if not stores_integers(node, self._plan):
            return
        for index, value in enumerate(node.inputs):
            if value is not None and is_constant(value) and read_encoding(node, index, self._plan) is not None:
                integers, encoding = encode_constant(node, index, self._plan)
                rounded = self._constant(encoding.dequantize(integers))
                copy = self._node("Identity", [rounded], ir.DataType.FLOAT, integers.shape)
                node.replace_input_with(index, self._switch(Switch(node_name(node), name_of(value), "constant"), value, [copy]))

    def _chosen(self, switch: Switch, value: ir.Value, encoding: Encoding) -> ir.Value:
        """`value`, rounded to an encoding where the switch is on."""
        scale = self._constant(np.float32(encoding.scale[0]))
        zero_point = self._constant(np.asarray(encoding.zero_point[0], encoding.dtype))
        shape = static_shape(value)
        quantize = self._node("QuantizeLinear", [value, scale, zero_point], _TYPES[encoding.dtype], shape)
        back = self._node("DequantizeLinear", [quantize.outputs[0], scale, zero_point], ir.DataType.FLOAT, shape)
        return self._switch(switch, value, [quantize, back])

    def _switch(self, switch: Switch, off: ir.Value, on: list[ir.Node]) -> ir.Value:
        """`off`, or what the last of the nodes `on` gives where the switch is on."""
        shape = static_shape(on[-1].outputs[0])
        flag = self._node("Gather", [self._flags, self._constant(np.int64(len(self.switches)))], ir.DataType.BOOL, ())
        copy = self._node("Identity", [off], ir.DataType.FLOAT, shape)
        branches = {"then_branch": self._branch(on), "else_branch": self._branch([copy])}
        chosen = self._node("If", flag.outputs, ir.DataType.FLOAT, shape, branches)
        self.switches.append(switch)
        self._graph.extend([flag, chosen])
        return chosen.outputs[0]

    def _branch(self, nodes: list[ir.Node]) -> ir.Graph:
        return ir.Graph([], nodes[-1].outputs, nodes=nodes, opset_imports=self._graph.opset_imports, name=self._name())

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

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType,
        shape: Sequence[int],
        attributes: Mapping[str, ir.Graph] | None = None,
    ) -> ir.Node:
        result = ir.Value(name=self._name(), shape=ir.Shape(shape), type=ir.TensorType(dtype))
        return ir.node(op_type, list(inputs), attributes, outputs=[result], name=result.name)

    def _name(self) -> str:
        self._made += 1
        return f"edgewright_switch_{self._made}"


def _is_wide(node: ir.Node, plan: Plan) -> bool:
    return precision_of(node, plan) == "int16x8"
