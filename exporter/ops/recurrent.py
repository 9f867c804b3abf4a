"""LSTM, GRU and RNN: a few steps are unrolled into products and activations, many become a Scan over one step.

TFLite's UNIDIRECTIONAL_SEQUENCE_LSTM keeps its state in variables that outlive an invocation, so that a second sample would start from
the first one's last state; steps compute what ONNX says. Unrolled, they run in integers and calibration sees every one; a Scan's run in
float.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, static_shape
from exporter.ops.base import Cost, Refused, Rewriter, register
from exporter.ops.common import input_of, input_shape
from exporter.ops.composite import Composite
from exporter.ops.recurrent_cell import (
    Cell,
    State,
    all_insides,
    concat,
    initial_states,
    insides,
    pieces,
    product,
    read_cells,
    recurrent,
    reshaped,
)

__all__ = ["GRU", "LSTM", "RNN"]

# Unrolled steps of all directions together, about ten operators each: where a loop can run them instead, and where it cannot.
_MOST_STEPS: Final = 128
_MOST_STEPS_WITHOUT_LOOPS: Final = 2048


class Recurrent(Composite):
    """Base: reads the node, unrolls `step` in each direction and joins the outputs."""

    gates: ClassVar[int]
    states: ClassVar[int] = 1
    defaults: ClassVar[tuple[str, ...]]
    refuses: ClassVar[Mapping[str, str]] = {
        "couple": "the gates of a recurrent layer are not cut",
        "quantize": "a recurrent layer runs in integers only as its unrolled steps",
        "lower": "a recurrent layer becomes its unrolled steps before it is written",
    }

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """The unrolled steps. ONNX runtimes have the operators themselves, except for ``layout = 1``."""
        batch_first = bool(attribute(node, "layout", 0))
        if rewriter.runtime != "tflite" and not batch_first:
            return None
        cells = read_cells(node, rewriter, self.gates, self.defaults)
        shape = input_shape(node)
        steps, batch, width = (shape[1], shape[0], shape[2]) if batch_first else shape
        x = rewriter.op("Transpose", input_of(node, 0), perm=(1, 0, 2)) if batch_first else input_of(node, 0)
        rows = reshaped(rewriter, x, (steps * batch, width))
        loops = rewriter.loops and rewriter.runs("DYNAMIC_UPDATE_SLICE")
        unrolled = steps * len(cells) <= (_MOST_STEPS if loops else _MOST_STEPS_WITHOUT_LOOPS)
        if not (loops or unrolled):
            count = f"{steps * len(cells)} steps, of which at most {_MOST_STEPS_WITHOUT_LOOPS} are unrolled"
            raise Refused(node, f"{node.op_type} has {count} where no loop can run them; give it a shorter sequence")
        reached = insides(node, rewriter, steps, batch) if unrolled else []
        inside = None if unrolled else all_insides(node, rewriter, steps, batch)
        sequences, ends = [], []
        starts = initial_states(node, rewriter, len(cells), self.states, batch_first)
        for index, (cell, start) in enumerate(zip(cells, starts, strict=True)):
            inputs = self.project(cell, rows)
            if unrolled:
                each = [pieces(rewriter, projected, steps) for projected in inputs]
                sequence, end = self._run(cell, list(zip(*each, strict=True)), start, reached)
                sequences.append(reshaped(rewriter, concat(rewriter, sequence, 0), (steps, 1, batch, cell.hidden)))
            else:
                whole = [reshaped(rewriter, projected, (steps, batch, static_shape(projected)[-1])) for projected in inputs]
                y, end = self._scan(node, index, cell, whole, start, inside)
                sequences.append(reshaped(rewriter, y, (steps, 1, batch, cell.hidden)))
            ends.append([reshaped(rewriter, value, (1, batch, cell.hidden)) for value in end])
        y = concat(rewriter, sequences, 1)
        last = [concat(rewriter, [end[index] for end in ends], 0) for index in range(self.states)]
        if batch_first:
            y = rewriter.op("Transpose", y, perm=(2, 0, 1, 3))
            last = [rewriter.op("Transpose", value, perm=(1, 0, 2)) for value in last]
        return [y, *last][: len(node.outputs)]

    def cost(self, node: ir.Node) -> Cost:
        first, second, width = input_shape(node)
        directions, rows, hidden = input_shape(node, 2)
        each = first * second * directions * rows
        return Cost(macs=each * (width + hidden), elementwise=4 * each)

    def project(self, cell: Cell, rows: ir.Value) -> list[ir.Value]:
        """The input's share of the gates, all steps at once: rows [T * B, I] to one or more [T * B, .]."""
        return [product(cell.to, rows, cell.weight, cell.bias + cell.recurrent_bias)]

    @abstractmethod
    def step(self, cell: Cell, x: Sequence[ir.Value], state: State) -> tuple[ir.Value, ...]:
        """The state after a step. `x`: the step's rows of what `project` gave."""

    def _run(
        self, cell: Cell, inputs: Sequence[Sequence[ir.Value]], state: State, reached: Sequence[ir.Value | None]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        """Hidden states of all steps, in the input's order, and the last state.

        Where a sequence is shorter than the input, its state stays as it is outside of its own steps and its output is zero there:
        a backward one so starts at its own end.
        """
        order = range(len(inputs))
        found: dict[int, ir.Value] = {}
        start = state
        for at in reversed(order) if cell.backward else order:
            found[at], state = self._advance(cell, inputs[at], state, reached[at])
        return [found[at] for at in order], self._ends(cell, start, state, reached[0])

    def _scan(
        self,
        node: ir.Node,
        index: int,
        cell: Cell,
        inputs: Sequence[ir.Value],
        start: State,
        inside: ir.Value | None,
    ) -> tuple[ir.Value, list[ir.Value]]:
        """The same as a Scan over `inputs`, each [T, B, .], and `inside`, [T, B, 1] bool; hidden states [T, B, H] and the last state."""
        to, batch = cell.to, static_shape(inputs[0])[1]
        zeros = np.zeros((batch, cell.hidden), np.float32)
        states = [to.const(zeros, "zeros") if value is None else value for value in start]
        scanned = [*inputs, *([] if inside is None else [inside])]
        entering = [(static_shape(value), ir.DataType.FLOAT) for value in states]
        entering += [(static_shape(value)[1:], value.dtype or ir.DataType.FLOAT) for value in scanned]

        def step(within: Rewriter, values: Sequence[ir.Value]) -> list[ir.Value]:
            inner = read_cells(node, within, self.gates, self.defaults)[index]
            state, rows = tuple(values[: self.states]), values[self.states :]
            reaches = rows[-1] if inside is not None else None
            y, ended = self._advance(inner, rows[: len(inputs)], state, reaches)
            # onnxruntime (seen in 1.31.1) computes garbage where one value is two outputs of a body
            return [*(value for value in ended if value is not None), within.op("Identity", y)]

        ways = (int(cell.backward),)
        first = to.op(
            "Scan",
            *states,
            *scanned,
            outputs=self.states + 1,
            body=to.body(entering, step),
            num_scan_inputs=len(scanned),
            scan_input_directions=ways * len(scanned),
            scan_output_directions=ways,
        ).producer()
        assert first is not None
        some = insides(node, to, 1, batch)[0]
        return first.outputs[-1], self._ends(cell, start, tuple(first.outputs[: self.states]), some)

    def _advance(self, cell: Cell, x: Sequence[ir.Value], state: State, inside: ir.Value | None) -> tuple[ir.Value, State]:
        """What a step gives, and the state after it; where a sequence has ended, zero and the state as it was."""
        new = self.step(cell, x, state)
        if inside is None:
            return new[0], new
        to = cell.to
        zeros = to.const(np.zeros((static_shape(x[0])[0], cell.hidden), np.float32), "zeros")
        kept = tuple(to.op("Where", inside, value, old or zeros) for value, old in zip(new, state, strict=True))
        return to.op("Where", inside, new[0], zeros), kept

    @staticmethod
    def _ends(cell: Cell, start: State, state: State, some: ir.Value | None) -> list[ir.Value]:
        """The last state; zeros for a sequence of no steps (not `some`), wherever it started."""
        ends = [value for value in state if value is not None]
        if some is None:
            return ends
        zeros = cell.to.const(np.zeros(static_shape(ends[0]), np.float32), "zeros")
        return [value if old is None else cell.to.op("Where", some, value, zeros) for value, old in zip(ends, start, strict=True)]


@register
class RNN(Recurrent):
    """Simple recurrent layer: h' = f(W x + R h + b)."""

    op_type, gates = "RNN", 1
    defaults = ("Tanh",)

    def step(self, cell: Cell, x: Sequence[ir.Value], state: State) -> tuple[ir.Value, ...]:
        return (cell.activations[0](recurrent(cell.to, x[0], state[0], cell.recurrence)),)


@register
class GRU(Recurrent):
    """Gated recurrent unit, gates z, r, h; ``linear_before_reset`` applies r behind the recurrent product instead of before it."""

    op_type, gates = "GRU", 3
    defaults = ("Sigmoid", "Tanh")

    def project(self, cell: Cell, rows: ir.Value) -> list[ir.Value]:
        two = 2 * cell.hidden
        bias, inner = cell.bias + cell.recurrent_bias, cell.bias if cell.flag else cell.bias + cell.recurrent_bias
        return [
            product(cell.to, rows, cell.weight[:two], bias[:two]),
            product(cell.to, rows, cell.weight[two:], inner[two:]),
        ]

    def step(self, cell: Cell, x: Sequence[ir.Value], state: State) -> tuple[ir.Value, ...]:
        to, (h,), two = cell.to, state, 2 * cell.hidden
        gates, new = cell.activations
        update, reset = pieces(to, gates(recurrent(to, x[0], h, cell.recurrence[:two])), 2, axis=1)
        if cell.flag:
            candidate = new(to.op("Add", x[1], to.op("Mul", reset, self._linear(cell, h, static_shape(update)))))
        else:
            candidate = new(recurrent(to, x[1], None if h is None else to.op("Mul", reset, h), cell.recurrence[two:]))
        if h is None:
            return (to.op("Sub", candidate, to.op("Mul", update, candidate)),)
        return (to.op("Add", candidate, to.op("Mul", update, to.op("Sub", h, candidate))),)

    @staticmethod
    def _linear(cell: Cell, h: ir.Value | None, shape: Sequence[int]) -> ir.Value:
        """R h + b of the candidate."""
        two = 2 * cell.hidden
        if h is None:
            return cell.to.const(np.broadcast_to(cell.recurrent_bias[two:], shape), "bias")
        return product(cell.to, h, cell.recurrence[two:], cell.recurrent_bias[two:])


@register
class LSTM(Recurrent):
    """Long short-term memory, gates i, o, f, c, with peepholes; ``input_forget`` couples f = 1 - i."""

    op_type, gates, states = "LSTM", 4, 2
    defaults = ("Sigmoid", "Tanh", "Tanh")

    def step(self, cell: Cell, x: Sequence[ir.Value], state: State) -> tuple[ir.Value, ...]:
        to, (h, c), hidden = cell.to, state, cell.hidden
        sizes = to.const(np.asarray((3 * hidden, hidden), np.int64), "sizes")
        split = to.op("Split", recurrent(to, x[0], h, cell.recurrence), sizes, outputs=2, axis=1).producer()
        assert split is not None
        gates, inner = split.outputs
        f, g, squash = cell.activations
        if cell.peephole is None:
            i, o, forget = pieces(to, f(gates), 3, axis=1)
        else:
            i, o, forget = pieces(to, gates, 3, axis=1)
            i, forget = f(_peeped(cell, i, c, 0)), f(_peeped(cell, forget, c, 2))
        if cell.flag:
            forget = to.op("Sub", to.const(np.asarray(1, np.float32)), i)
        new = to.op("Mul", i, g(inner))
        if c is not None:
            new = to.op("Add", new, to.op("Mul", forget, c))
        if cell.peephole is not None:
            o = f(_peeped(cell, o, new, 1))
        return to.op("Mul", o, squash(new)), new


def _peeped(cell: Cell, gate: ir.Value, c: ir.Value | None, index: int) -> ir.Value:
    """The gate's input with the cell's state seen through the peephole `index`."""
    if c is None or cell.peephole is None:
        return gate
    return cell.to.op("Add", gate, cell.to.op("Mul", c, cell.to.const(cell.peephole[index : index + 1], "peephole")))
