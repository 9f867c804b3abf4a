"""WHILE and IF, whose conditions, bodies and branches are subgraphs: Loop and If."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.frontends.tflite.builder import GraphBuilder
from exporter.frontends.tflite.collecting import Collector, collector
from exporter.frontends.tflite.counting import Counter, counters, unchanged
from exporter.frontends.tflite.file import Subgraph, Tensor
from exporter.frontends.tflite.reading import Reading
from exporter.frontends.tflite.registry import reads
from exporter.graph.opset import OPSET

__all__: list[str] = []

_BOOL: Final = ((), "bool")


@reads("IF")
def if_(to: Reading) -> None:
    """If; its branches read the operator's inputs from outside."""
    branches = to.subgraphs()
    for branch in branches:
        _check(to, branch.tensors, branch.inputs, [to.input_tensor(index) for index in range(1, len(to.inputs))])
        _check(to, branch.tensors, branch.outputs, [to.output_tensor(index) for index in range(len(to.outputs))])
    given = [to.stored(index) for index in range(1, len(to.inputs))]
    graphs = []
    for number in range(len(branches)):
        nodes: list[ir.Node] = []
        inner = to.within(number, given, nodes)
        graphs.append(_graph((), [_end(inner, value) for value in inner.results()], nodes, to.entering(f"{number}", *_BOOL)))
    found = to.ops("If", to.stored(0), outputs=len(to.outputs), then_branch=graphs[0], else_branch=graphs[1])
    for index, value in enumerate(found):
        to.give_stored(value, index)


@reads("WHILE")
def while_(to: Reading) -> None:
    """Loop. What the body gives as it got it is read from outside; a counter that the condition compares becomes the number of steps."""
    condition, body = to.subgraphs()
    carried = [to.input_tensor(index) for index in range(len(to.inputs))]
    for graph, ends in ((condition, condition.inputs), (body, body.inputs), (body, body.outputs)):
        _check(to, graph.tensors, ends, carried)
    _While(to, condition, body).read()


@dataclass(frozen=True)
class _Count:
    """What a loop counts. `starts`: the carried values that go up by one in each step, and what they start at.

    `steps`: how many there are, or None where `bound`, the place of the carried value at which the one counter stops, says it as it runs.
    """

    starts: dict[int, int]
    steps: int | None
    bound: int = -1


class _While:
    """One WHILE while it is read."""

    def __init__(self, to: Reading, condition: Subgraph, body: Subgraph) -> None:
        self.to, self.body = to, body
        self.kept = unchanged(body)
        self.count = self._count(counters(condition, body))
        self.collectors = self._collectors()
        counted = {} if self.count is None else self.count.starts
        self.states = [
            place for place, kept in enumerate(self.kept) if not kept and place not in counted and place not in self.collectors
        ]

    def read(self) -> None:
        to, start = self.to, [self.to.stored(place) for place in self.states]
        if self.count is None:
            limit: ir.Value | None = None
            flag = to.within(0, [to.stored(place) for place in range(len(self.kept))]).results()[0]
            flag = to.op("Reshape", flag, to.int64([]))
        else:
            limit, flag = self._limit(self.count), to.const(np.asarray(True))
        found = to.ops("Loop", limit, flag, *start, outputs=len(start) + len(self.collectors), body=self._body())
        for place, value in zip((*self.states, *self.collectors), found, strict=True):
            to.give_stored(self._whole(self.collectors[place], value) if place in self.collectors else value, place)
        for place, kept in enumerate(self.kept):
            if kept:
                to.give_stored(to.stored(place), place)
        if self.count is not None:
            for place in self.count.starts:
                to.give_stored(self._end(self.count, place), place)

    def _count(self, found: Sequence[Counter]) -> _Count | None:
        starts = {counter.place: self.to.constant(counter.place) for counter in found}
        known = {place: int(start.item()) for place, start in starts.items() if start is not None}
        if not found or len(known) < len(starts):
            return None
        bounds = [self._known_bound(counter) for counter in found]
        limits = [bound - known[counter.place] for counter, bound in zip(found, bounds, strict=True) if bound is not None]
        if len(limits) == len(found):
            return _Count(known, max(min(limits), 0))
        return _Count(known, None, found[0].bound_place) if len(found) == 1 else None

    def _known_bound(self, counter: Counter) -> int | None:
        array = self.to.constant(counter.bound_place) if counter.bound is None else None
        return counter.bound if array is None else int(array.item())

    def _collectors(self) -> dict[int, Collector]:
        if self.count is None or not self.count.steps:
            return {}
        steps, places = self.count.steps, range(len(self.kept))
        from_zero = [place for place, start in self.count.starts.items() if start == 0]
        found = {(place, by): collector(self.body, place, by, steps) for place in places for by in from_zero}
        return {place: entry for (place, _), entry in found.items() if entry is not None}

    def _bound(self, count: _Count) -> ir.Value:
        """Where the one counter stops, as it is stored."""
        return self.to.op("Reshape", self.to.stored(count.bound), self.to.int64([]))

    def _limit(self, count: _Count) -> ir.Value:
        if count.steps is not None:
            return self.to.int64(count.steps)
        (start,) = count.starts.values()
        bound = self.to.op("Cast", self._bound(count), to=ir.DataType.INT64)
        return self.to.op("Max", self.to.op("Sub", bound, self.to.int64(start)), self.to.int64(0))

    def _end(self, count: _Count, place: int) -> ir.Value:
        """What a counter ends as."""
        tensor, start, to = self.to.input_tensor(place), count.starts[place], self.to
        if count.steps is not None:
            return to.const(np.full(tensor.shape, start + count.steps, tensor.dtype))
        end = to.op("Max", self._bound(count), to.const(np.asarray(start, tensor.dtype)))
        return to.op("Reshape", end, to.int64(tensor.shape))

    def _body(self) -> ir.Graph:
        to, nodes = self.to, list[ir.Node]()
        step, flag = to.entering("step", (), "int64"), to.entering("flag", *_BOOL)
        entering = [to.entering(f"carried_{place}", *_kind(to.input_tensor(place))) for place in self.states]
        inside = dict(zip(self.states, entering, strict=True))
        if self.count is not None:
            inside |= {place: self._counted(place, start, step, nodes) for place, start in self.count.starts.items()}
        given = [inside.get(place) or to.stored(place) for place in range(len(self.kept))]
        rows = [entry.row for entry in self.collectors.values()]
        ends = None if self.count is None else [*(self.body.outputs[place] for place in self.states), *rows]
        inner = to.within(1, given, nodes, ends)
        goes_on = flag
        if self.count is None:
            goes_on = to.within(0, inner.results(), nodes).results()[0]
            goes_on = inner.node("Reshape", [goes_on, to.int64([])], {}, "goes_on", 1)[0]
        results = [goes_on, *(inner.value(self.body.outputs[place]) for place in self.states)]
        results += [self._row(inner, entry) for entry in self.collectors.values()]
        return _graph((step, flag, *entering), [_end(inner, value) for value in results], nodes, step)

    def _counted(self, place: int, start: int, step: ir.Value, nodes: list[ir.Node]) -> ir.Value:
        """A counter inside of a step."""
        tensor, to = self.to.input_tensor(place), self.to
        cast = ir.node("Cast", [step], {"to": ir.DataType.from_numpy(np.dtype(tensor.dtype))})
        added = ir.node("Add", [cast.outputs[0], to.const(np.asarray(start, tensor.dtype))])
        shaped = ir.node("Reshape", [added.outputs[0], to.int64(tensor.shape)])
        nodes += [cast, added, shaped]
        return shaped.outputs[0]

    @staticmethod
    def _row(inner: GraphBuilder, entry: Collector) -> ir.Value:
        """What a step writes into a collector, without the axis of the steps."""
        axes = inner.constant(np.asarray([entry.axis], np.int64), "axis")
        return inner.node("Squeeze", [inner.value(entry.row), axes], {}, "row", 1)[0]

    def _whole(self, entry: Collector, rows: ir.Value) -> ir.Value:
        """The collected tensor, from the rows of all steps along axis 0."""
        to, rank = self.to, len(self.body.tensors[entry.row].shape)
        if entry.backward:
            rows = to.op("Slice", rows, to.int64([-1]), to.int64([np.iinfo(np.int64).min]), to.int64([0]), to.int64([-1]))
        if entry.axis == 0:
            return rows
        return to.op("Transpose", rows, perm=(*range(1, entry.axis + 1), 0, *range(entry.axis + 1, rank)))


def _end(inner: GraphBuilder, value: ir.Value) -> ir.Value:
    """A value of its own for an output of a graph: one may be no input, no constant and no two outputs."""
    return inner.node("Identity", [value], {}, "end", 1)[0]


def _graph(inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], nodes: Sequence[ir.Node], named: ir.Value) -> ir.Graph:
    return ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": OPSET}, name=f"{named.name}_graph")


def _kind(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    return tensor.shape, tensor.dtype


def _check(to: Reading, tensors: Sequence[Tensor], ends: Sequence[int], wanted: Sequence[Tensor]) -> None:
    """What a subgraph takes or gives has the shapes and dtypes that the operator has there. Raises ModelError EW-M009."""
    found = [_kind(tensors[index]) for index in ends]
    if found != [_kind(tensor) for tensor in wanted]:
        raise to.refuse(
            f"its subgraphs take or give tensors of other shapes: {found}, not {[_kind(tensor) for tensor in wanted]}"
        )
