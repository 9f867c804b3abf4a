"""Loops that stay loops get bodies that stand by themselves: canonical graphs of static shapes that read nothing of the outer graph.

::

    Loop(n, , v) {v' = Add(v, Mul(x, w))}          Loop(n, , v, x) {v' = Add(v, Mul(x, w)); x' = x}, w inside

Requires: shapes of what enters the loop. Ensures: the body of every Loop and Scan over tensors is canonical; outer values that it reads are
carried round, outer constants copied; every carried value keeps its shape and dtype, and so have the node's outputs theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError
from exporter.graph.values import attribute, constant, is_constant, original, source_line, static_shape

__all__ = ["body_models", "close_bodies", "own_constants"]

_COUNTER_AND_CONDITION = 2  # what the body of a Loop takes beside its state


def close_bodies(model: ir.Model, canonical: Callable[[ir.Model], ir.Model]) -> bool:
    """Close the first body that is open and whose inputs have shapes; whether there was one.

    `canonical` makes a model canonical. Raises what it raises, and ModelError EW-M006 where a carried value changes its shape or dtype.
    """
    for node in model.graph:
        if _is_open(node):
            _Loop(model, node).close(canonical)
            return True
    return False


def body_models(model: ir.Model, node: ir.Node) -> list[ir.Model]:
    """The closed body of a Loop or Scan of `model` as a model of its own, sharing nodes and weights; nothing for other operators.

    Constants that a pass over the whole model has moved out of the body move in again.
    """
    if node.domain or node.op_type not in ("Loop", "Scan"):
        return []
    body = node.attributes["body"].as_graph()
    body.opset_imports.update(model.opset_imports)
    own_constants(body)
    return [ir.Model(body, ir_version=model.ir_version)]


def own_constants(body: ir.Graph) -> None:
    """Let a body read copies inside of it instead of outer constants."""
    for value in _captured(body):
        if is_constant(value):
            name = f"{value.name}/inside"
            inner = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
            body.register_initializer(inner)
            _replace_inside(body, value, inner)


def _replace_inside(body: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    nodes = list(body.all_nodes())
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(index, new)
    for graph in (body, *(part for node in nodes for part in _parts(node))):
        for index, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[index] = new


def _is_open(node: ir.Node) -> bool:
    """Whether it is a loop over tensors of known shapes that has an output without one, or a body that reads outer values."""
    if node.domain or node.op_type not in ("Loop", "Scan"):
        return False
    values = [value for value in node.inputs if value is not None]
    tensors = all(value.type is None or isinstance(value.type, ir.TensorType) for value in (*values, *node.outputs))
    if not tensors or not all(_is_static(value) and value.dtype is not None for value in values):
        return False
    body = node.attributes["body"].as_graph()
    inside = [value for part in (*body, *body.outputs) for value in (part.outputs if isinstance(part, ir.Node) else [part])]
    open_ends = any(value.shape is None for value in node.outputs if value.name)
    return (
        open_ends or any(not is_constant(value) for value in _captured(body)) or not all(map(_is_static, filter(_named, inside)))
    )


def _named(value: ir.Value) -> bool:
    return bool(value.name)


def _is_static(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(dim, int) for dim in value.shape)


def _captured(body: ir.Graph) -> list[ir.Value]:
    """Outer values that a body, or a body inside of it, reads."""
    graphs = {body, *(part for node in body.all_nodes() for part in _parts(node))}
    own = {value for graph in graphs for value in (*graph.inputs, *graph.initializers.values())}
    own |= {value for node in body.all_nodes() for value in node.outputs}
    read = [value for node in body.all_nodes() for value in node.inputs] + [value for graph in graphs for value in graph.outputs]
    return [value for value in dict.fromkeys(read) if value is not None and value not in own]


def _parts(node: ir.Node) -> list[ir.Graph]:
    return [entry.as_graph() for entry in node.attributes.values() if entry.type == ir.AttributeType.GRAPH]


class _Loop:
    """A Loop or Scan whose body is being closed."""

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self.model, self.node = model, node
        self.body = node.attributes["body"].as_graph().clone(allow_outer_scope_values=True)
        self.is_scan = node.op_type == "Scan"
        self.scans = int(attribute(node, "num_scan_inputs", 0))
        self.before = 0 if self.is_scan else _COUNTER_AND_CONDITION  # of the body's inputs, and of the node's

    @property
    def states(self) -> int:
        return len(self.node.inputs) - self.scans - self.before

    def close(self, canonical: Callable[[ir.Model], ir.Model]) -> None:
        own_constants(self.body)
        self._carry(_captured(self.body))
        self._type_inputs()
        for node in self.body.all_nodes():
            for value in node.outputs:
                value.shape = None
        self.body.opset_imports.update(self.model.opset_imports)
        body = canonical(ir.Model(self.body, ir_version=self.model.ir_version)).graph
        self._check_state(body)
        self._name(body)
        self.node.attributes["body"] = ir.AttrGraph("body", body)
        self._type_outputs(body)

    def _carry(self, carried: Sequence[ir.Value]) -> None:
        """Let outer values go round unchanged, behind the state."""
        count = self.states
        for place, value in enumerate(carried):
            inner = ir.Value(name=f"{value.name}/inside")
            self.body.inputs.insert(self.before + count + place, inner)
            self.body.outputs.insert((0 if self.is_scan else 1) + count + place, inner)
            _replace_inside(self.body, value, inner)
        if carried:
            self._replace_node(carried, count)

    def _replace_node(self, carried: Sequence[ir.Value], count: int) -> None:
        """The node with further state."""
        old = self.node
        at = self.before + count
        inputs = [*old.inputs[:at], *carried, *old.inputs[at:]]
        new = ir.Node(
            "", old.op_type, inputs, old.attributes.values(), num_outputs=len(old.outputs) + len(carried), name=old.name
        )
        new.metadata_props.update(old.metadata_props)
        self.model.graph.insert_before(old, new)
        successors = [*new.outputs[:count], *new.outputs[count + len(carried) :]]
        for value, successor in zip(old.outputs, successors, strict=True):
            successor.type, successor.shape = value.type, value.shape
            title, value.name = value.name, None
            value.replace_all_uses_with(successor, replace_graph_outputs=True)
            successor.name = title
        for place, value in enumerate(carried):
            new.outputs[count + place].name = f"{old.name}/{value.name}"
        self.model.graph.remove(old, safe=True)
        self.node = new

    def _type_inputs(self) -> None:
        entering = list(self.node.inputs)
        axes = attribute(self.node, "scan_input_axes") or (0,) * self.scans
        if not self.is_scan:
            for value, dtype in zip(self.body.inputs, (ir.DataType.INT64, ir.DataType.BOOL), strict=False):
                value.type, value.shape = ir.TensorType(dtype), ir.Shape(())
        for place, inner in enumerate(self.body.inputs[self.before :]):
            outer = entering[self.before + place]
            assert outer is not None
            shape = list(static_shape(outer))
            if place >= self.states:
                del shape[axes[place - self.states]]
            inner.type, inner.shape = outer.type, ir.Shape(shape)

    def _check_state(self, body: ir.Graph) -> None:
        outputs = body.outputs if self.is_scan else body.outputs[1:]
        for before, after in zip(body.inputs[self.before : self.before + self.states], outputs, strict=False):
            if before.shape != after.shape or before.dtype != after.dtype:
                raise ModelError(
                    "EW-M006",
                    f"the shape of what a {self.node.op_type} carries round changes from step to step",
                    where=f"node {self.node.name} {source_line(self.node)}".rstrip(),
                    why=f"{before.name} is {before.dtype} {before.shape} before a step and {after.dtype} {after.shape} after it",
                    fix="carry a tensor of its greatest size, or make the number of steps a constant",
                )

    def _name(self, body: ir.Graph) -> None:
        """Plans and reports know values and nodes by name: those of bodies are told apart by the name of their loop."""
        prefix = f"{self.node.name}/body/"
        nodes = list(body.all_nodes())
        graphs = [body, *(part for node in nodes for part in _parts(node))]
        ends = [value for graph in graphs for value in (*graph.inputs, *list(graph.initializers.values()))]
        for value in (*ends, *(value for node in nodes for value in node.outputs)):
            if value.name and not value.name.startswith(prefix):
                value.name = prefix + value.name
        for node in nodes:
            if node.name and not node.name.startswith(prefix):
                node.name = prefix + node.name

    def _type_outputs(self, body: ir.Graph) -> None:
        results = list(body.outputs if self.is_scan else body.outputs[1:])
        axes = attribute(self.node, "scan_output_axes") or (0,) * len(results)
        for place, (inner, outer) in enumerate(zip(results, self.node.outputs, strict=True)):
            shape: list[int | None] = list(static_shape(inner))
            if place >= self.states:
                shape.insert(axes[place - self.states] % (len(shape) + 1) if self.is_scan else 0, self._trips(body))
            outer.type, outer.shape = inner.type, ir.Shape(shape)

    def _trips(self, body: ir.Graph) -> int | None:
        """How many steps are certain; None where data decides."""
        if self.is_scan:
            source, axes = self.node.inputs[self.states], attribute(self.node, "scan_input_axes")
            assert source is not None
            return static_shape(source)[axes[0] if axes else 0]
        count = constant(self.node.inputs[0])
        flags = (self.node.inputs[1], body.outputs[0])
        always = all(flag is None or original(flag) is body.inputs[1] or _is_true(flag) for flag in flags)
        return int(count.reshape(())) if count is not None and always else None


def _is_true(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and bool(np.all(array))
