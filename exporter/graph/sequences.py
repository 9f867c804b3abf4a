"""Sequences of tensors are taken apart where their structure is known: a tensor that goes in comes out at a known position.

::

    SplitToSequence(x) -> SequenceAt(., 1) -> y          x -> Split -> y

Requires: shapes where inference can know them. Ensures: no operator uses a sequence whose length and positions follow from constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.edit import add_constant, bypass
from exporter.graph.values import attribute, constant, static_shape

__all__ = ["resolve_sequences"]


def resolve_sequences(model: ir.Model) -> bool:
    """Resolve in place; whether anything was."""
    return _Resolver(model.graph).run()


class _Resolver:
    """Follows what every sequence holds, in graph order."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._held: dict[ir.Value, list[ir.Value]] = {}
        self._made: set[ir.Node] = set()  # by this resolver: what turns out not to be needed goes again
        self._node: ir.Node

    def run(self) -> bool:
        changed = False
        for node in list(self._graph):
            self._node = node
            tensor = None if node.domain else self._visit(node)
            if tensor is not None:
                changed |= bypass(node, tensor) or bypass(node, self._op("Identity", tensor)[0])
        for node in reversed([node for node in self._graph if node.outputs[0] in self._held or node in self._made]):
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                self._graph.remove(node, safe=True)
                changed |= node not in self._made
        return changed

    def _visit(self, node: ir.Node) -> ir.Value | None:
        """Note what the node's sequence holds; the tensor that its output is, for those that give one back."""
        inputs = list(node.inputs)
        first = self._held.get(inputs[0]) if inputs and inputs[0] is not None else None
        if node.op_type == "SequenceEmpty":
            self._held[node.outputs[0]] = []
        elif node.op_type == "SequenceConstruct":
            self._held[node.outputs[0]] = [value for value in inputs if value is not None]
        elif node.op_type == "SplitToSequence":
            self._split(node)
        elif node.op_type == "OptionalGetElement" and inputs[0] is not None and isinstance(inputs[0].type, ir.TensorType):
            return inputs[0]
        elif first is not None:
            return self._derived(node, first, inputs[1:])
        return None

    def _derived(self, node: ir.Node, held: list[ir.Value], rest: Sequence[ir.Value | None]) -> ir.Value | None:
        kind, output = node.op_type, node.outputs[0]
        if kind == "SequenceLength":
            return self._const(np.asarray(len(held), np.int64))
        if kind == "ConcatFromSequence" and held:
            return self._concat(node, held)
        if kind == "Identity":
            self._held[output] = held
            return None
        if kind not in ("SequenceAt", "SequenceErase", "SequenceInsert"):
            return None
        position = self._position(rest[-1] if kind != "SequenceInsert" else (rest[1] if len(rest) > 1 else None), kind, len(held))
        if position is None:
            return None
        if kind == "SequenceAt":
            return held[position]
        if kind == "SequenceErase":
            self._held[output] = held[:position] + held[position + 1 :]
        elif rest[0] is not None:
            self._held[output] = [*held[:position], rest[0], *held[position:]]
        return None

    @staticmethod
    def _position(value: ir.Value | None, kind: str, length: int) -> int | None:
        """The index that a constant (or its absence) stands for, from the front; None where it is computed or out of range."""
        last = length if kind == "SequenceInsert" else length - 1
        if value is None:
            return last
        array = constant(value)
        if array is None:
            return None
        position = int(array.reshape(()))
        position += length if position < 0 else 0
        return position if 0 <= position <= last else None

    def _split(self, node: ir.Node) -> None:
        x, sizes = node.inputs[0], constant(node.inputs[1]) if len(node.inputs) > 1 else None
        assert x is not None
        axis, given = int(attribute(node, "axis", 0)), len(node.inputs) > 1 and node.inputs[1] is not None
        try:
            length = static_shape(x)[axis]
        except (ValueError, IndexError):
            return
        if given and sizes is None:
            return
        if sizes is None:
            parts = [1] * length
        elif sizes.ndim == 0:
            step = int(sizes)
            parts = [min(step, length - start) for start in range(0, length, step)]
        else:
            parts = [int(size) for size in sizes]
        if not parts or sum(parts) != length:
            return
        outputs = self._op("Split", x, self._const(np.asarray(parts, np.int64)), outputs=len(parts), axis=axis)
        if not given and not attribute(node, "keepdims", 1):
            axes = self._const(np.asarray([axis], np.int64))
            outputs = [self._op("Squeeze", part, axes)[0] for part in outputs]
        self._held[node.outputs[0]] = outputs

    def _concat(self, node: ir.Node, held: Sequence[ir.Value]) -> ir.Value:
        axis = int(attribute(node, "axis"))
        if attribute(node, "new_axis", 0):
            axes = self._const(np.asarray([axis], np.int64))
            held = [self._op("Unsqueeze", part, axes)[0] for part in held]
        return self._op("Concat", *held, axis=axis)[0]

    def _op(self, op_type: str, *inputs: ir.Value, outputs: int = 1, **attributes: Any) -> list[ir.Value]:
        made = ir.node(op_type, list(inputs), attributes, num_outputs=outputs)
        made.metadata_props.update(self._node.metadata_props)
        self._graph.insert_before(self._node, made)
        self._made.add(made)
        return list(made.outputs)

    def _const(self, array: np.ndarray[Any, Any]) -> ir.Value:
        return add_constant(self._graph, f"{self._node.name}/constant", array)
