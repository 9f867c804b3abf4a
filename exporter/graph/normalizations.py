"""Normalizations that were written out are marked, so that what only float can hold stays in float.

::

    x --+--> ReduceMean --> Sub --+--> Mul(.,.) --> ReduceMean --> Add eps --> Sqrt --> Div --> Mul gamma --> Add beta
        +-----------------> /     +---------------------------------------------------> /

    x --+--> Mul(.,.) --> ReduceMean --> Add eps --> Sqrt --> Reciprocal --> Mul --> Mul gamma
        +------------------------------------------------------------------> /

The variance may also be the mean of the squares less the square of the mean; means may be sums times 1/n; over any axes, with shapes kept or
restored: layers, groups, instances, root mean squares, lengths. Nothing is rewritten: what frameworks fuse they still find.

Requires: constants are initializers. Ensures: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx_ir as ir

from exporter.graph.values import FLOAT, consumers, is_constant
from exporter.ops.common import scalar_of
from exporter.ops.standardize import PART_OF_NORMALIZATION

__all__ = ["mark_normalizations"]

_SHAPES: Final = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Expand", "Cast", "Identity"))
_STEPS: Final = _SHAPES | {"Mul", "Div", "Add", "Sub", "Max", "Clip", "Relu", "Reciprocal"}
_SUMS: Final = frozenset(("ReduceMean", "ReduceSum"))


def mark_normalizations(model: ir.Model) -> int:
    """Mark, in place, every node of a normalization with the metadata `FLOAT`; returns how many were found."""
    count = 0
    for node in model.graph:
        inside = [] if node.domain else _Normalization(node).nodes
        for part in inside:
            part.metadata_props.setdefault(FLOAT, PART_OF_NORMALIZATION)
        count += bool(inside)
    return count


class _Normalization:
    """What computes and uses the deviation that a node is the root of.

    Attributes:
        nodes: statistics, quotient, scale and shift; none where the node is no such root.
    """

    def __init__(self, root: ir.Node) -> None:
        self.nodes: list[ir.Node] = []
        self._x: ir.Value | None = None
        if root.op_type == "ReduceL2":
            self._x = root.inputs[0]
        elif root.op_type == "Sqrt" or (root.op_type == "Pow" and scalar_of(root.inputs[1]) in (0.5, -0.5)):
            self._x = self._moment(root.inputs[0])
        self._note(root)
        if self._x is None or not self._use(root.outputs[0]):
            self.nodes.clear()

    # --- in front of the root -----------------------------------------------------------------------------------------

    def _moment(self, value: ir.Value | None) -> ir.Value | None:
        """The x of which `value` is the mean square, about the mean or about zero, perhaps with an epsilon."""
        node = self._behind(value)
        if node is None:
            return None
        self._note(node)
        if node.op_type == "ReduceSumSquare":
            return self._uncentred(node.inputs[0])
        if node.op_type in _SUMS:
            return self._uncentred(self._squared(node.inputs[0]))
        if node.op_type != "Sub":
            return None
        squares, mean = self._behind(node.inputs[0]), self._behind(node.inputs[1])
        if squares is None or mean is None or squares.op_type not in _SUMS:
            return None
        self._note(squares)
        x = self._squared(squares.inputs[0])
        return x if x is not None and self._is_mean(self._squared(mean.outputs[0]), x) else None

    def _uncentred(self, value: ir.Value | None) -> ir.Value | None:
        """The x of which `value` is x less its mean; else `value`."""
        node = value.producer() if value is not None else None
        if node is None or not self._is_centred(value, node.inputs[0]):
            return value
        return node.inputs[0]

    def _is_centred(self, value: ir.Value | None, x: ir.Value | None) -> bool:
        node = value.producer() if value is not None else None
        if node is None or node.op_type != "Sub" or node.inputs[0] is not x or not self._is_mean(node.inputs[1], x):
            return False
        self._note(node)
        return True

    def _is_mean(self, value: ir.Value | None, x: ir.Value | None) -> bool:
        before = len(self.nodes)
        node = self._behind(value)
        if node is None or node.op_type not in _SUMS or node.inputs[0] is not x:
            del self.nodes[before:]
            return False
        self._note(node)
        return True

    def _squared(self, value: ir.Value | None) -> ir.Value | None:
        node = value.producer() if value is not None else None
        if node is None or not (
            (node.op_type == "Mul" and node.inputs[0] is node.inputs[1])
            or (node.op_type == "Pow" and scalar_of(node.inputs[1]) == 2)
        ):
            return None
        self._note(node)
        return node.inputs[0]

    def _behind(self, value: ir.Value | None) -> ir.Node | None:
        """The node that `value` comes from, through changes of shape and arithmetic with constants."""
        while (node := value.producer() if value is not None else None) is not None:
            computed = list(_computed(node))
            if node.op_type not in _STEPS or len(computed) != 1:
                return node
            self._note(node)
            value = computed[0]
        return None

    # --- behind it ----------------------------------------------------------------------------------------------------

    def _use(self, deviation: ir.Value) -> bool:
        """Follow the deviation, its inverse and what is made of them with constants to where x is scaled; False where it is not."""
        front, scaled = [deviation], []
        for value in front:
            for user in consumers(value):
                others = [entry for entry in _computed(user) if entry is not value]
                if not others and user.op_type in _STEPS:
                    self._note(user)
                    front += user.outputs
                elif len(others) == 1 and user.op_type in ("Mul", "Div"):
                    if self._is_mean(others[0], self._x):  # x * s + (beta - mean * s)
                        self._note(user)
                        front += user.outputs
                    elif others[0] is self._x or self._is_centred(others[0], self._x):
                        scaled.append(user)
        for node in scaled:
            self._note(node)
            self._affine(node.outputs[0], front)
        return bool(scaled)

    def _affine(self, value: ir.Value, front: list[ir.Value]) -> None:
        """The scale and the shift behind the scaled x, one of each at most."""
        wanted = {"Mul", "Add"}
        passed: list[ir.Node] = []
        while wanted and len(users := consumers(value)) == 1:
            (user,) = users
            others = [entry for entry in _computed(user) if entry is not value]
            if user.op_type in _SHAPES:
                passed.append(user)
            elif user.op_type in wanted and all(entry in front for entry in others):
                wanted -= {user.op_type} if user.op_type == "Mul" else wanted
                for node in (*passed, user):
                    self._note(node)
                passed.clear()
            else:
                return
            value = user.outputs[0]

    def _note(self, node: ir.Node) -> None:
        if node not in self.nodes:
            self.nodes.append(node)


def _computed(node: ir.Node) -> Iterator[ir.Value]:
    return (value for value in node.inputs if value is not None and not is_constant(value))
