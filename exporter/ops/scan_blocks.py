"""Long Scans in blocks: an outer Scan over blocks of steps, each of them run by an inner one.

::

    Scan(state, x [4000, ...])          Scan(state, x [32, 125, ...]) { Scan(state, block [125, ...]) }

A WHILE copies what it carries at every step, the tensors of all steps among it, so that the time of a long one grows with the square of its
steps. An inner loop carries the steps of its block alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.graph.close_bodies import own_constants
from exporter.graph.values import static_shape
from exporter.ops.base import Rewriter

__all__ = ["in_blocks"]

_MOST_STEPS: Final = 32  # of a block: of 32 and 128 the faster, for an LSTM of 128 units on LiteRT
_LEAST_STEPS: Final = 16

Ways = Sequence[tuple[int, bool]]  # axis and whether it is run through backwards, of each tensor that is scanned or collected


def in_blocks(node: ir.Node, to: Rewriter, steps: int, inputs: Ways, outputs: Ways) -> list[ir.Value] | None:
    """The outputs of a Scan of `steps` steps, computed block by block; None where there are too few steps for several blocks.

    Where no size of a block divides `steps`, a further Scan runs the few steps that are left behind the blocks.
    """
    if steps <= 2 * _MOST_STEPS:
        return None
    size = min(range(_MOST_STEPS, _LEAST_STEPS - 1, -1), key=lambda size: steps % size)
    whole, body = steps // size * size, node.attributes["body"].as_graph()
    own_constants(body)
    rest = body.clone() if whole < steps else None
    values = [value for value in node.inputs if value is not None]
    state, sources = values[: len(values) - len(inputs)], values[len(values) - len(inputs) :]

    def scan(within: Rewriter, graph: ir.Graph, given: Sequence[ir.Value]) -> Sequence[ir.Value]:
        return _scan(within, graph, given, len(node.outputs), inputs, outputs)

    parts = [_steps(to, source, way, steps, 0, whole) for source, way in zip(sources, inputs, strict=True)]
    blocks = [_split(to, part, axis, size) for part, (axis, _) in zip(parts, inputs, strict=True)]
    shapes = [static_shape(value) for value in state]
    shapes += [_without(static_shape(block), axis) for block, (axis, _) in zip(blocks, inputs, strict=True)]
    entering = [(shape, value.dtype or ir.DataType.FLOAT) for shape, value in zip(shapes, values, strict=True)]
    found = scan(to, to.body(entering, lambda within, given: scan(within, body, given)), [*state, *blocks])
    state = list(found[: len(state)])
    early = [_merged(to, value, axis) for value, (axis, _) in zip(found[len(state) :], outputs, strict=True)]
    if rest is None:
        return [*state, *early]
    last = scan(to, rest, [*state, *(_steps(to, *pair, steps, whole, steps) for pair in zip(sources, inputs, strict=True))])
    joined = [
        to.op("Concat", *((behind, front) if backward else (front, behind)), axis=axis)
        for front, behind, (axis, backward) in zip(early, last[len(state) :], outputs, strict=True)
    ]
    return [*last[: len(state)], *joined]


def _scan(
    to: Rewriter, body: ir.Graph, values: Sequence[ir.Value], count: int, inputs: Ways, outputs: Ways
) -> Sequence[ir.Value]:
    """The `count` outputs of a new Scan of `values`."""
    made = to.op(
        "Scan",
        *values,
        outputs=count,
        body=body,
        num_scan_inputs=len(inputs),
        scan_input_axes=[axis for axis, _ in inputs],
        scan_input_directions=[int(backward) for _, backward in inputs],
        scan_output_axes=[axis for axis, _ in outputs],
        scan_output_directions=[int(backward) for _, backward in outputs],
    ).producer()
    assert made is not None
    return made.outputs


def _steps(to: Rewriter, source: ir.Value, way: tuple[int, bool], steps: int, first: int, end: int) -> ir.Value:
    """What the steps from `first` to before `end` read of `source`, which has all `steps`."""
    axis, backward = way
    if (first, end) == (0, steps):
        return source
    if backward:
        first, end = steps - end, steps - first
    bounds = (to.const(np.asarray([number], np.int64)) for number in (first, end, axis))
    return to.op("Slice", source, *bounds)


def _split(to: Rewriter, value: ir.Value, axis: int, size: int) -> ir.Value:
    """`axis` as two: blocks, and `size` steps of each."""
    shape = static_shape(value)
    return _reshaped(to, value, (*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :]))


def _merged(to: Rewriter, value: ir.Value, axis: int) -> ir.Value:
    """`axis` and the one behind it as one."""
    shape = static_shape(value)
    return _reshaped(to, value, (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]))


def _reshaped(to: Rewriter, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    return to.op("Reshape", value, to.const(np.asarray(shape, np.int64)))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]
