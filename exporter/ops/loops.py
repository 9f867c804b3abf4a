"""Loop and Scan that are not unrolled: WHILE, with the condition and the body as subgraphs of the file.

What goes round is a counter, what the body changes, what it only reads, and a tensor for all steps of each output that collects them,
into which every step writes its part. The body runs in float: calibration does not see its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, is_constant, original, static_shape
from exporter.ops.base import Cost, LayoutRule, Lowering, Operator, Port, Refused, Rewriter, Subgraph, operator_of, register
from exporter.ops.common import input_of, input_shape, uniform_layout
from exporter.ops.kernels import builtin_version, dtype_of
from exporter.ops.scan_blocks import in_blocks

__all__ = ["Loop", "Scan"]

_COLLECTED: Final = ("float32", "bool", "int8", "int32", "int64")  # what both FILL and DYNAMIC_UPDATE_SLICE take

Handles = Sequence[int]


@dataclass(frozen=True)
class _Carried:
    """One tensor that goes round: the handles outside that it starts from and ends in, shape and dtype."""

    start: int
    end: int
    shape: tuple[int, ...]
    dtype: str


class _While(Operator):
    """Base of the operators that repeat a body."""

    refuses: ClassVar[Mapping[str, str]] = {
        "couple": "what goes round in a loop is not cut",
        "quantize": "the body of a loop that is not unrolled runs in float",
        "torch": "a loop that is not unrolled is not simulated",
    }

    def layout(self, node: ir.Node) -> LayoutRule:
        return uniform_layout(node, Port.FIRST)

    def cost(self, node: ir.Node) -> Cost:
        """Of all steps where their number is a constant, else of one."""
        costs = [operator_of(inner).cost(inner) for inner in _body(node)]
        steps = _steps(node) or 1
        return Cost(steps * sum(cost.macs for cost in costs), steps * sum(cost.elementwise for cost in costs))


@register
class Loop(_While):
    """Repeats its body a number of times, or while a condition holds; WHILE where it is not unrolled."""

    op_type = "Loop"

    def lower(self, node: ir.Node, to: Lowering) -> None:
        body, limit, first = _body(node), node.inputs[0], node.inputs[1]
        known = constant(limit)
        conditional = not (_holds(first) and (original(body.outputs[0]) is body.inputs[1] or _holds(body.outputs[0])))
        if limit is None and not conditional:
            raise Refused(node, "a Loop without a number of steps and without a condition never ends")
        states = len(node.inputs) - 2
        outside = [_counter(to, "int64")]
        if limit is not None and known is None:
            outside.append(_unchanged(to, node, 0, ()))
        flag = len(outside)
        if conditional:
            start = to.constant(np.asarray(True)) if _holds(first) else to.input(1)
            outside.append(_Carried(start, to.tensor((), "bool"), (), "bool"))
        at = len(outside)
        outside += [_state(to, node, index + 2, index) for index in range(states)]
        outside += [_collector(to, node, index) for index in range(states, len(node.outputs))]

        def goes_on(graph: Subgraph, carried: Handles) -> int:
            checks = [carried[flag]] if conditional else []
            if limit is not None:
                most = carried[1] if known is None else graph.constant(known.reshape(()).astype(np.int64))
                checks.append(_computed(graph, "LESS", [carried[0], most], (), "bool"))
            return checks[0] if len(checks) == 1 else _computed(graph, "LOGICAL_AND", checks, (), "bool")

        def step(graph: Subgraph, carried: Handles) -> list[int]:
            entering = [carried[0], graph.constant(np.asarray(True)), *carried[at : at + states]]
            given = graph.graph(body, entering, body.outputs if conditional else body.outputs[1:])
            flags, results = given[: int(conditional)], given[int(conditional) :]
            place = _computed(graph, "CAST", [carried[0]], (), "int32") if len(results) > states else -1
            rows = zip(carried[at + states :], results[states:], node.outputs[states:], strict=True)
            written = [_with_row(graph, collector, row, value, 0, place) for collector, row, value in rows]
            return [_next(graph, carried[0], "int64"), *carried[1:flag], *flags, *results[:states], *written]

        _emit(to, outside, goes_on, step)


@register
class Scan(_While):
    """Runs its body over slices of its inputs; WHILE where it is not unrolled."""

    op_type = "Scan"

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Blocks of steps, where there are many: see `exporter.ops.scan_blocks`. ONNX runtimes loop over any number of them."""
        steps = _steps(node)
        if rewriter.runtime != "tflite" or steps is None:
            return None
        scans = int(attribute(node, "num_scan_inputs"))
        collected = len(node.outputs) - (len(node.inputs) - scans)
        return in_blocks(node, rewriter, steps, _ways(node, "input", scans), _ways(node, "output", collected))

    def lower(self, node: ir.Node, to: Lowering) -> None:
        body, steps = _body(node), _steps(node)
        if steps is None:
            raise Refused(node, "the number of steps of this Scan is not known")
        scans = int(attribute(node, "num_scan_inputs"))
        states, collected = len(node.inputs) - scans, len(body.outputs) - (len(node.inputs) - scans)
        ways = _ways(node, "input", scans), _ways(node, "output", collected)
        outside = [_counter(to, "int32")]
        outside += [_state(to, node, index, index) for index in range(states)]
        outside += [_unchanged(to, node, index, input_shape(node, index)) for index in range(states, len(node.inputs))]
        outside += [_collector(to, node, index) for index in range(states, len(node.outputs))]

        def goes_on(graph: Subgraph, carried: Handles) -> int:
            return _computed(graph, "LESS", [carried[0], graph.constant(np.asarray(steps, np.int32))], (), "bool")

        def step(graph: Subgraph, carried: Handles) -> list[int]:
            state, sources, collectors = carried[1 : 1 + states], carried[1 + states :][:scans], carried[1 + states + scans :]
            place = {False: carried[0], True: -1}
            if any(backward for way in ways for _, backward in way):
                place[True] = _computed(graph, "SUB", [graph.constant(np.asarray(steps - 1, np.int32)), carried[0]], (), "int32")
            rows = [
                _row(graph, source, value, axis, place[backward])
                for source, value, (axis, backward) in zip(sources, body.inputs[states:], ways[0], strict=True)
            ]
            results = graph.graph(body, [*state, *rows], body.outputs)
            ends = zip(collectors, results[states:], node.outputs[states:], ways[1], strict=True)
            written = [_with_row(graph, into, row, value, axis, place[backward]) for into, row, value, (axis, backward) in ends]
            return [_next(graph, carried[0], "int32"), *results[:states], *sources, *written]

        _emit(to, outside, goes_on, step)


def _emit(
    to: Lowering,
    outside: Sequence[_Carried],
    goes_on: Callable[[Subgraph, Handles], int],
    step: Callable[[Subgraph, Handles], list[int]],
) -> None:
    """The WHILE. `goes_on` gives the condition and `step` what goes round after a step, from what goes round before it."""

    def carried(graph: Subgraph) -> list[int]:
        return [graph.tensor(entry.shape, entry.dtype) for entry in outside]

    condition, body = to.subgraph("condition"), to.subgraph("body")
    checked, changed = carried(condition), carried(body)
    indices = condition.close(checked, [goes_on(condition, checked)]), body.close(changed, step(body, changed))
    starts, ends = [entry.start for entry in outside], [entry.end for entry in outside]
    to.emit("WHILE", starts, ends, cond_subgraph_index=indices[0], body_subgraph_index=indices[1])


# --- reading a node ---------------------------------------------------------------------------------------------------


def _body(node: ir.Node) -> ir.Graph:
    return node.attributes["body"].as_graph()


def _steps(node: ir.Node) -> int | None:
    """How many there are, at most for a Loop; None where data decides."""
    if node.op_type == "Loop":
        count = constant(node.inputs[0])
        return None if count is None else int(count.reshape(()))
    scans = int(attribute(node, "num_scan_inputs"))
    axis, _ = _ways(node, "input", scans)[0]
    return input_shape(node, len(node.inputs) - scans)[axis]


def _ways(node: ir.Node, side: str, count: int) -> list[tuple[int, bool]]:
    """Axis and whether it is run through backwards, of each slice that a Scan takes ("input") or gives ("output")."""
    axes = attribute(node, f"scan_{side}_axes") or (0,) * count
    backward = attribute(node, f"scan_{side}_directions") or (0,) * count
    values = node.inputs[-count:] if side == "input" else node.outputs[len(node.outputs) - count :]
    ranks = [len(static_shape(value)) for value in values if value is not None]
    return [(int(axis) % rank, bool(flag)) for axis, rank, flag in zip(axes, ranks, backward, strict=True)]


def _holds(value: ir.Value | None) -> bool:
    """Whether a condition is absent or always true."""
    return value is None or (is_constant(value) and bool(np.all(constant(value))))


# --- what goes round --------------------------------------------------------------------------------------------------


def _counter(to: Lowering, dtype: str) -> _Carried:
    return _Carried(to.constant(np.zeros((), dtype)), to.tensor((), dtype), (), dtype)


def _unchanged(to: Lowering, node: ir.Node, index: int, shape: tuple[int, ...]) -> _Carried:
    """An input that comes out as it went in."""
    dtype = dtype_of(input_of(node, index))
    return _Carried(to.input(index), to.tensor(shape, dtype), shape, dtype)


def _state(to: Lowering, node: ir.Node, index: int, output: int) -> _Carried:
    return _Carried(to.input(index), to.output(output), input_shape(node, index), dtype_of(input_of(node, index)))


def _collector(to: Lowering, node: ir.Node, output: int) -> _Carried:
    """The tensor for all steps of an output that collects them."""
    shape, dtype = static_shape(node.outputs[output]), dtype_of(node.outputs[output])
    if dtype not in _COLLECTED:
        raise Refused(node, f"its output {output} collects {dtype}, and DYNAMIC_UPDATE_SLICE takes {', '.join(_COLLECTED)} alone")
    start = to.tensor(shape, dtype)
    to.emit("FILL", [to.ints(shape), to.constant(np.zeros((), dtype))], [start])
    return _Carried(start, to.output(output), shape, dtype)


# --- pieces of the subgraphs ------------------------------------------------------------------------------------------


def _row(graph: Subgraph, source: int, value: ir.Value, axis: int, place: int) -> int:
    """The slice of `source` that the body's input `value` is."""
    row, dtype = graph.tensor(static_shape(value), dtype_of(value)), dtype_of(value)
    graph.emit("GATHER", [source, place], [row], builtin_version("GATHER", dtype), axis=axis, batch_dims=0)
    return row


def _with_row(graph: Subgraph, collector: int, row: int, value: ir.Value, axis: int, place: int) -> int:
    """`collector`, in shape and dtype like `value`, with `row` (which lacks `axis`) at `place` of that axis."""
    shape, dtype = static_shape(value), dtype_of(value)
    part = [*shape[:axis], 1, *shape[axis + 1 :]]
    update = graph.tensor(part, dtype)
    graph.emit("RESHAPE", [row, graph.constant(np.asarray(part, np.int32))], [update], new_shape=part)
    mask = np.asarray([index == axis for index in range(len(shape))], np.int32)
    start = _computed(graph, "MUL", [graph.constant(mask), place], mask.shape, "int32")
    return _computed(graph, "DYNAMIC_UPDATE_SLICE", [collector, update, start], shape, dtype)


def _next(graph: Subgraph, counter: int, dtype: str) -> int:
    return _computed(graph, "ADD", [counter, graph.constant(np.ones((), dtype))], (), dtype)


def _computed(graph: Subgraph, op: str, inputs: Handles, shape: Sequence[int], dtype: str) -> int:
    made = graph.tensor(shape, dtype)
    graph.emit(op, inputs, [made])
    return made
