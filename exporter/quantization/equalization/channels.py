"""Channels that a scale may be migrated along: from where it is divided out to where it is multiplied in, the function unchanged.

::

    Conv(w / s, b / s) -> Relu -> Conv(w * s)                       ... Div -> Mul(gamma / s) -> Add(beta / s) -> Gemm(w * s)

    Gemm(w / s, b / s) -> Add -> Mul(s) -> what runs in float       both addends of the Add have the same s
    Gemm(w / s, b / s) /

A group is all values that must have the same scale: those between nodes that pass positive factors on, channel by channel. At its ends stand
constants that take the scale up, or nodes that run in float, where a multiplication by it costs no rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.float_sums import runs_in_float
from exporter.graph.values import FLOAT, attribute, constant, is_constant, name_of, rank, static_shape
from exporter.ops.base import Channels, Refused, operator_of
from exporter.ops.common import axis_of, scalar_of
from exporter.pruning.groups import end_of

__all__ = ["Absorber", "Group", "Run", "channel_groups"]

Array = np.ndarray[Any, Any]

# f(s x) = s f(x) for s > 0, whatever the other channels are. Of those with several inputs `_Flood` says which.
_PASSING: Final = frozenset(
    (
        "Relu",
        "LeakyRelu",
        "PRelu",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Identity",
        "Resize",
        "SpaceToDepth",
        "DepthToSpace",
        "Slice",
        "Pad",
        "Add",
        "Sub",
        "Mul",
    )
)
_NORMALIZING: Final = frozenset(("LayerNormalization", "InstanceNormalization"))


@dataclass(frozen=True)
class Run:
    """Where the channels of a group lie in a value: index ``(o * count + c) * repeat + r`` of `axis` belongs to channel c."""

    axis: int
    count: int
    repeat: int = 1
    outer: int = 1

    def spread(self, scale: Array, axes: int) -> Array:
        """One number a channel, [count], laid out to broadcast against a value of so many axes."""
        return np.tile(np.repeat(scale, self.repeat), self.outer).reshape(-1, *(1,) * (axes - 1 - self.axis))

    def rows(self, array: Array) -> Array:
        """The value as [rows, count]."""
        shape = array.shape
        apart = array.reshape(*shape[: self.axis], self.outer, self.count, self.repeat, *shape[self.axis + 1 :])
        return np.moveaxis(apart, self.axis + 1, -1).reshape(-1, self.count)


@dataclass(frozen=True)
class Absorber:
    """A constant input of a node that takes the scale up.

    Attributes:
        factor: lays a scale [count] out to broadcast against the constant.
        rows: of a weight that is multiplied, lays one number an output out in the same way.
    """

    node: ir.Node
    index: int
    factor: Callable[[Array], Array]
    rows: Callable[[Array], Array] = np.asarray


@dataclass
class Group:
    """Values that must have the same scale a channel.

    Attributes:
        name: of the first value in graph order, and its axis: ``"value:1"``.
        count: channels.
        runs: where they lie in each value.
        divided: constants that the values are made with.
        multiplied: weights that the values are multiplied with.
        made: values that a node writes in float which cannot take the scale up.
        read: nodes that read a value in float, and at which input.
    """

    name: str
    count: int
    runs: dict[ir.Value, Run]
    divided: list[Absorber] = field(default_factory=list)
    multiplied: list[Absorber] = field(default_factory=list)
    made: list[ir.Value] = field(default_factory=list)
    read: list[tuple[ir.Node, int]] = field(default_factory=list)


def channel_groups(graph: ir.Graph) -> Iterator[Group]:
    """The groups of a legalized graph that have weights, in graph order. A value is in one of them at most."""
    tried: set[tuple[ir.Value, int]] = set()
    taken: set[ir.Value] = set()
    order = {node: number for number, node in enumerate(graph)}
    for node in graph:
        linear = _linear(node)
        if linear is None:
            continue
        for value, axis in ((node.inputs[0], linear.axis_in), (node.outputs[0], linear.axis_out)):
            if value is None or is_constant(value) or (value, axis) in tried:
                continue
            flood = _Flood(graph, order, value, Run(axis, static_shape(value)[axis]))
            tried.update((reached, run.axis) for reached, run in flood.runs.items())
            group = flood.group()
            if group is not None and taken.isdisjoint(group.runs):
                taken.update(group.runs)
                yield group


# --- nodes with weights -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Linear:
    """The channel axes of the activations that a node with a constant weight reads and writes, and how scales lie in its constants."""

    axis_in: int
    axis_out: int
    columns: Callable[[Array], Array]
    rows: Callable[[Array], Array]
    bias: bool


def _linear(node: ir.Node) -> _Linear | None:
    weight = constant(node.inputs[1]) if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and not node.domain else None
    if weight is None or weight.dtype != np.float32 or weight.ndim < 2 or (node.op_type == "MatMul" and weight.ndim > 2):
        return None
    groups, tail = int(attribute(node, "group", 1)), (1,) * (weight.ndim - 2)
    first, second = weight.shape[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None

    def outer(scale: Array) -> Array:
        return scale.reshape(-1, 1, *tail)

    def inner(scale: Array) -> Array:  # [first, second]: a block of rows shares the columns of its group
        return np.repeat(scale.reshape(groups, second), first // groups, axis=0).reshape(first, second, *tail)

    if node.op_type in ("Conv", "ConvTranspose"):
        if bias is not None and not is_constant(bias):
            return None
        across, along = (inner, outer) if node.op_type == "Conv" else (outer, inner)
        return _Linear(1, 1, across, along, bias is not None)
    if node.op_type == "Gemm":
        array = constant(bias)
        plain = all(attribute(node, name, default) == default for name, default in (("transA", 0), ("alpha", 1.0), ("beta", 1.0)))
        width = static_shape(node.outputs[0])[1]
        if not plain or (bias is not None and (array is None or array.size != width)):
            return None
        turned = bool(attribute(node, "transB", 0))
        return _Linear(1, 1, np.atleast_1d if turned else outer, outer if turned else np.atleast_1d, bias is not None)
    axes = rank(node.outputs[0])
    return _Linear(axes - 1, axes - 1, outer, np.atleast_1d, bias=False) if axes > 1 else None


# --- what lies between them -------------------------------------------------------------------------------------------


class _Stuck(Exception):
    """A scale cannot be migrated: a node in integers would have to compute something else."""


class _Flood:
    """Collects all that must have the scale of one value."""

    def __init__(self, graph: ir.Graph, order: Mapping[ir.Node, int], start: ir.Value, run: Run) -> None:
        self.runs = {start: run}
        self._group = Group("", run.count, self.runs)
        self._scaled: dict[ir.Node, int] = {}  # of a product of two computed values: which one has the scale
        self._done: set[ir.Node] = set()
        ends = {*graph.inputs, *graph.outputs}
        self._order = order
        self._stuck = False
        todo = [start]
        for value in todo:  # grows
            before = len(self.runs)
            try:
                if value in ends or value.producer() is None or value.producer() not in self._order:
                    raise _Stuck
                self._behind(value, value.producer())  # type: ignore[arg-type]
                for node, index in value.uses():
                    self._before(value, node, index)
            except _Stuck:
                self._stuck = True  # what it reaches is stuck alike: it need not be asked again
            todo += list(self.runs)[before:]

    def group(self) -> Group | None:
        """None where no scale can be migrated, or no weight would be multiplied by it."""
        group = self._group
        if (
            self._stuck
            or not (group.multiplied or (group.divided and group.read))
            or any(node in self._done for node, _ in group.read)
        ):
            return None
        first = min(self.runs, key=lambda value: self._order[value.producer()])  # type: ignore[index]
        group.name = f"{name_of(first)}:{self.runs[first].axis}"
        return group

    def _behind(self, value: ir.Value, node: ir.Node) -> None:
        """The node that makes a value."""
        run, linear, in_float = self.runs[value], _linear(node), runs_in_float(node)
        if linear is not None:
            if run.axis != linear.axis_out:
                raise _Stuck
            self._absorb(node, 1, lambda scale: linear.rows(run.spread(scale, 1)))
            if linear.bias:
                self._absorb(node, 2, lambda scale: run.spread(scale, 1))
        elif node.op_type in _NORMALIZING and run.axis == (rank(value) - 1 if node.op_type == "LayerNormalization" else 1):
            if node.op_type == "LayerNormalization" and axis_of(node, -1) != run.axis:
                raise _Stuck
            for index in (1, 2):
                if len(node.inputs) > index and node.inputs[index] is not None:
                    self._absorb(node, index, lambda scale: run.spread(scale, 1))
        elif node.op_type == "Mul" and in_float and (factor := _per_channel(node, run)) is not None:
            self._absorb(node, factor, lambda scale: run.spread(scale, rank(value)))
        elif node.op_type in _PASSING:
            self._pass(node, ("out", 0), run)
        elif in_float:
            self._group.made.append(value)
        else:
            raise _Stuck

    def _before(self, value: ir.Value, node: ir.Node, index: int) -> None:
        """A node that reads a value."""
        run, linear = self.runs[value], _linear(node)
        if linear is not None and index == 0:
            if run.axis != linear.axis_in:
                raise _Stuck
            self._group.multiplied.append(Absorber(node, 1, lambda scale: linear.columns(run.spread(scale, 1)), linear.rows))
        elif node.op_type in _PASSING and (FLOAT not in node.metadata_props or node.outputs[0] in self.runs):
            self._pass(node, ("in", index), run)
        elif node in self._order and runs_in_float(node):
            self._group.read.append((node, index))
        else:
            raise _Stuck

    def _pass(self, node: ir.Node, port: tuple[str, int], run: Run) -> None:
        if node not in self._order:
            raise _Stuck
        try:
            ties = operator_of(node).couple(node).ties
        except Refused as refused:
            raise _Stuck from refused
        found = [tie for tie in ties if any(_port(entry) == port and _run(entry) == run for entry in tie)]
        if not found:
            raise _Stuck
        wanted = self._inputs(node, port)
        joined = {_port(entry): entry for entry in found[0]}
        for side, index in (*(("in", index) for index in wanted), ("out", 0)):
            entry = joined.get((side, index))
            if entry is None or entry.offset:
                raise _Stuck
            value, theirs = end_of(node, entry), _run(entry)
            if self.runs.setdefault(value, theirs) != theirs:
                raise _Stuck
        if node.op_type in ("Add", "Sub") and len(wanted) == 1 and node not in self._done:
            out = joined["out", 0]
            self._absorb(node, 1 - wanted[0], lambda scale: _run(out).spread(scale, rank(node.outputs[0])))
        self._done.add(node)

    def _inputs(self, node: ir.Node, port: tuple[str, int]) -> Sequence[int]:
        """The inputs of a passing node that have the scale of its output. Raises _Stuck where they cannot have it."""
        computed = [index for index, value in enumerate(node.inputs) if value is not None and not is_constant(value)]
        if node.op_type in ("Add", "Sub"):
            return computed
        if node.op_type == "Mul" and len(computed) == 2:
            whole = [index for index in computed if static_shape(node.inputs[index]) == static_shape(node.outputs[0])]  # type: ignore[arg-type]
            mine = port[1] if port[0] == "in" else self._scaled.get(node, whole[0] if len(whole) == 1 else -1)
            if mine < 0 or self._scaled.setdefault(node, mine) != mine:
                raise _Stuck
            return [mine]
        if len(computed) != 1 or (node.op_type == "Pad" and not _pads_with_zero(node)):
            raise _Stuck
        return computed

    def _absorb(self, node: ir.Node, index: int, factor: Callable[[Array], Array]) -> None:
        array = constant(node.inputs[index])
        if array is None or array.dtype != np.float32:
            raise _Stuck
        self._group.divided.append(Absorber(node, index, factor))


def _per_channel(node: ir.Node, run: Run) -> int | None:
    """The constant input of a product that has an entry for every index of the run's axis, where there is one."""
    axes, length = rank(node.outputs[0]), run.count * run.repeat * run.outer
    for index, value in enumerate(node.inputs):
        array = constant(value)
        place = run.axis - axes
        if array is not None and array.ndim >= -place and array.shape[place] == length:
            return index
    return None


def _pads_with_zero(node: ir.Node) -> bool:
    filling = node.inputs[2] if len(node.inputs) > 2 else None
    return attribute(node, "mode", "constant") != "constant" or filling is None or scalar_of(filling) == 0


def _port(entry: Channels) -> tuple[str, int]:
    return entry.side, entry.index


def _run(entry: Channels) -> Run:
    return Run(entry.axis, entry.count, entry.repeat, entry.outer)
