"""Builds the replacement of one node: the tape that operators' `legalize` facets and the rewrite rules write to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError
from exporter.graph.encoded import inherit_encoding
from exporter.graph.infer_shapes import shown_opset
from exporter.graph.values import FUSED, constant, name_of
from targets.floor import Floor
from targets.releases.tflite import release_of

__all__ = ["NOTHING", "GraphRewriter", "Names"]

NOTHING: Final[Mapping[str, int]] = MappingProxyType({})  # to avoid

# Constants up to this size are shown to shape inference by value (axes, shapes, paddings, sizes); larger ones by type alone.
_SHOWN = 64


class Names:
    """Hands out names that no node, value or initializer of a graph has; deterministic."""

    def __init__(self, graph: ir.Graph) -> None:
        self._taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
        for node in graph:
            self._taken.add(node.name)
            self._taken.update(value.name for value in node.outputs)

    def fresh(self, wanted: str) -> str:
        """`wanted`, with the least number behind it that makes it new."""
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}.{number}", number + 1
        self._taken.add(name)
        return name


class GraphRewriter:
    """Collects new nodes in the place of `origin`, names them after it and infers the shapes and dtypes of their values.

    New nodes inherit the metadata of `origin` (stack trace, module path). Nothing changes in the graph before `replace`.
    Implements the protocol `exporter.ops.base.Rewriter`.
    """

    def __init__(
        self,
        graph: ir.Graph,
        origin: ir.Node,
        runtime: str,
        names: Names,
        floor: Floor | None = None,
        loops: bool = True,
        avoid: Mapping[str, int] = NOTHING,
    ) -> None:
        self.runtime, self.loops, self._floor, self._avoid = runtime, loops, floor, avoid
        self._graph, self._origin, self._names = graph, origin, names
        self._nodes: list[ir.Node] = []
        self._constants: list[ir.Value] = []

    def runs(self, builtin: str, version: int = 1) -> bool:
        """Whether every allowed release of the runtime has a TFLite builtin at that version, and it is not one to avoid."""
        if version >= self._avoid.get(builtin, version + 1):
            return False
        return self._floor is None or self.runtime != "tflite" or self._floor.covers(release_of(builtin, version))

    def op(self, op_type: str, *inputs: ir.Value | None, outputs: int = 1, name: str = "", **attributes: Any) -> ir.Value:
        """Append a node and give its first output. Attributes that are None are left out.

        Raises ModelError EW-M007 where the node's output shapes cannot be inferred.
        """
        given = {
            key: list(value) if isinstance(value, tuple) else value for key, value in attributes.items() if value is not None
        }
        node = ir.node(op_type, list(inputs), given, num_outputs=outputs, name=self._name(name or op_type))
        return self._append(node)

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
        """Append a node of the same type and attributes as `node` on other inputs; give its first output."""
        twin = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs))
        twin.name = self._name(node.op_type)
        return self._append(twin)

    def body(
        self,
        inputs: Sequence[tuple[Sequence[int], ir.DataType]],
        build: Callable[[GraphRewriter, Sequence[ir.Value]], Sequence[ir.Value]],
    ) -> ir.Graph:
        """A graph for an attribute of a new node: on inputs of these shapes and dtypes, with the outputs that `build` gives."""
        inner = GraphRewriter(self._graph, self._origin, self.runtime, self._names, self._floor, self.loops, self._avoid)
        values = [
            ir.Value(name=self._name("entering"), shape=ir.Shape(shape), type=ir.TensorType(dtype)) for shape, dtype in inputs
        ]
        outputs = build(inner, values)
        return ir.Graph(
            values,
            outputs,
            nodes=inner._nodes,
            initializers=inner._constants,
            opset_imports=dict(self._graph.opset_imports),
            name=self._name("body"),
        )

    def const(self, array: np.ndarray[Any, Any], name: str = "") -> ir.Value:
        """A new initializer that holds `array`."""
        title = self._name(name or "constant")
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=title)
        value = ir.Value(name=title, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        inherit_encoding(value, (*self._origin.inputs, *self._constants))
        self._constants.append(value)
        return value

    def replace(self, values: Sequence[ir.Value]) -> None:
        """Put the new nodes into the graph in the place of `origin`; `values` take over its outputs, their users and names."""
        origin, graph = self._origin, self._graph
        if len(values) != len(origin.outputs):
            raise ValueError(f"{origin.op_type} has {len(origin.outputs)} outputs, {len(values)} values were given for them")
        values = [self._carrier(old, new) for old, new in zip(origin.outputs, values, strict=True)]
        made = {output for node in self._nodes for output in node.outputs}
        for value in self._constants:
            graph.register_initializer(value)
        graph.insert_before(origin, self._nodes)
        for old, new in zip(origin.outputs, values, strict=True):
            if not old.name and not old.uses():
                continue  # an optional output that is absent
            title, named = old.name, new in made or old.is_graph_output()
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            if named:
                old.name, new.name = None, title
        last = values[0].producer()
        title = origin.name
        graph.remove(origin, safe=True)
        if last is not None and last in self._nodes and title:
            last.name = title

    def _carrier(self, old: ir.Value, new: ir.Value) -> ir.Value:
        """The value that may take the name of `old`: `new`, or its copy where `old` is an output of the graph and `new` keeps its name."""
        named = new.producer() is None or new.is_graph_output()
        return self.op("Identity", new) if old.is_graph_output() and named else new

    def _append(self, node: ir.Node) -> ir.Value:
        node.metadata_props.update({k: v for k, v in self._origin.metadata_props.items() if k != FUSED})
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}:{index}" if index else node.name
        _infer(node, self._graph.opset_imports)
        self._nodes.append(node)
        return node.outputs[0]

    def _name(self, suffix: str) -> str:
        return self._names.fresh(f"{self._origin.name or name_of(self._origin.outputs[0])}/{suffix}")


def _infer(node: ir.Node, opsets: dict[str, int]) -> None:
    """Shapes and dtypes of a node's outputs by ONNX shape inference of the node alone."""
    import onnx

    proto = ir.serde.serialize_node(node)
    inputs, initializers = [], []
    for value in dict.fromkeys(value for value in node.inputs if value is not None):
        array = constant(value)
        if array is not None and array.size <= _SHOWN:
            initializers.append(onnx.numpy_helper.from_array(array, name_of(value)))
        else:
            inputs.append(ir.serde.serialize_value(value))
    outputs = [onnx.helper.make_empty_tensor_value_info(name_of(value)) for value in node.outputs]
    graph = onnx.helper.make_graph([proto], "one", inputs, outputs, initializers)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid(d, v if d else shown_opset([node], v)) for d, v in opsets.items()]
    )
    try:
        found = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))
    except onnx.shape_inference.InferenceError as error:
        raise ModelError("EW-M007", f"a rewrite made an invalid {node.op_type}", where=node.name or "", why=str(error)) from error
    for value, inferred in zip(node.outputs, found.graph.outputs, strict=True):
        value.type, value.shape = inferred.type, inferred.shape
