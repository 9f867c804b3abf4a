"""The sequence operators of TFLite, LSTM and RNN in one direction or both: ONNX LSTM and RNN that start from zero.

TFLite keeps their state in variables, which start at zero and go on from one inference to the next unless the caller resets them. What is
read starts from zero in each inference: the layer that the operator was made from does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.frontends.tflite.reading import Reading
from exporter.frontends.tflite.registry import reads

__all__: list[str] = []

_ACTIVATIONS: Final = {1: "Relu", 4: "Tanh"}
_TO_ONNX: Final = (0, 3, 1, 2)  # gates input, forget, cell, output -> input, output, forget, cell


@dataclass(frozen=True)
class _Direction:
    """Where one direction's inputs are: the first of its weights, recurrent weights, peepholes and biases, one a gate; and its states."""

    weights: int
    recurrence: int
    biases: int
    states: tuple[int, ...]
    peepholes: int = 0
    projection: int = 0


_LSTM: Final = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (_Direction(1, 5, 12, (18, 19), 9, 16),),
    "BIDIRECTIONAL_SEQUENCE_LSTM": (_Direction(1, 5, 12, (35, 36), 9, 16), _Direction(18, 22, 29, (37, 38), 26, 33)),
}
_RNN: Final = {
    "UNIDIRECTIONAL_SEQUENCE_RNN": (_Direction(1, 2, 3, (4,)),),
    "BIDIRECTIONAL_SEQUENCE_RNN": (_Direction(1, 2, 3, (4,)), _Direction(5, 6, 7, (8,))),
}
_BEHIND: Final = {  # from here on: layer normalization, or a second input beside the first
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 20,
    "BIDIRECTIONAL_SEQUENCE_LSTM": 39,
    "UNIDIRECTIONAL_SEQUENCE_RNN": 5,
    "BIDIRECTIONAL_SEQUENCE_RNN": 9,
}


@reads(*_LSTM)
def lstm(to: Reading) -> None:
    """LSTM with tanh or relu; without a projection, clipping, coupled gates or normalization."""
    directions = _LSTM[to.kind]
    for direction in directions:
        _check(to, direction)
        absent = [index for start in (direction.weights, direction.recurrence) for index in range(start, start + 4)]
        if not all(to.present(index) for index in absent):
            raise to.refuse("its input gate is coupled to its forget gate")
        if to.present(direction.projection):
            raise to.refuse("its output is projected")
    if to.option("cellClip") or to.option("projClip"):
        raise to.refuse("its cell is clipped")
    hidden = to.shape(directions[0].recurrence)[1]
    peepholes = [[to.present(entry.peepholes + gate) for gate in range(3)] for entry in directions]
    if any(map(any, peepholes)) and not all(map(all, peepholes)):
        raise to.refuse("it has some peepholes, not all")
    gates = [[entry.peepholes + gate for gate in (0, 2, 1)] for entry in directions] if all(map(all, peepholes)) else []
    y = to.op(
        "LSTM",
        _steps_first(to, to.input(0)),
        _stacked(to, [[entry.weights + gate for gate in _TO_ONNX] for entry in directions]),
        _stacked(to, [[entry.recurrence + gate for gate in _TO_ONNX] for entry in directions]),
        _biases(to, [[entry.biases + gate for gate in _TO_ONNX] for entry in directions], hidden),
        None,
        None,
        None,
        _stacked(to, gates) if gates else None,
        hidden_size=hidden,
        direction="forward" if len(directions) == 1 else "bidirectional",
        activations=["Sigmoid", _activation(to), _activation(to)] * len(directions),
    )
    _give(to, y)


@reads(*_RNN)
def rnn(to: Reading) -> None:
    """RNN with tanh or relu."""
    directions = _RNN[to.kind]
    for direction in directions:
        _check(to, direction)
    hidden = to.shape(directions[0].recurrence)[1]
    y = to.op(
        "RNN",
        _steps_first(to, to.input(0)),
        _stacked(to, [[entry.weights] for entry in directions]),
        _stacked(to, [[entry.recurrence] for entry in directions]),
        _biases(to, [[entry.biases] for entry in directions], hidden),
        hidden_size=hidden,
        direction="forward" if len(directions) == 1 else "bidirectional",
        activations=[_activation(to)] * len(directions),
    )
    _give(to, y)


def _check(to: Reading, direction: _Direction) -> None:
    """That all is float, and the state begins at zero and is not meant to go on."""
    states = [to.input_tensor(index) for index in direction.states]
    if not all(state.variable and state.data is None for state in states):
        raise to.refuse("its state is no variable that starts at zero")
    if any(to.present(index) for index in range(_BEHIND[to.kind], len(to.inputs))) or to.option("diagonalRecurrentTensors"):
        raise to.refuse("it is normalized, has a second input, or a diagonal recurrence")
    if any(to.present(index) and to.dtype(index) != "float32" for index in range(len(to.inputs))):
        raise to.refuse("it does not compute in float32 alone")
    if len(to.shape()) != 3 or to.shape()[0 if to.option("timeMajor") else 1] < 2:
        raise to.refuse("it takes one step in each inference, so that its state must go on from one to the next")


def _activation(to: Reading) -> str:
    found = _ACTIVATIONS.get(int(to.option("fusedActivationFunction")))
    if found is None:
        raise to.refuse(f"its activation {to.option('fusedActivationFunction')} is not read")
    return found


def _stacked(to: Reading, inputs: Sequence[Sequence[int]]) -> ir.Value:
    """Gates joined along axis 0, directions along a new one before it."""
    joined = [to.op("Concat", *(to.input(index) for index in gates), axis=0) for gates in inputs]
    return to.op("Concat", *(to.op("Unsqueeze", value, to.int64([0])) for value in joined), axis=0)


def _biases(to: Reading, inputs: Sequence[Sequence[int]], hidden: int) -> ir.Value:
    """Those of the input, zero where absent, and zeros for those of the recurrence."""
    zeros = to.const(np.zeros(hidden, np.float32))
    rows = [[to.input(index) if to.present(index) else zeros for index in gates] for gates in inputs]
    joined = [to.op("Concat", *row, *[zeros] * len(row), axis=0) for row in rows]
    return to.op("Concat", *(to.op("Unsqueeze", value, to.int64([0])) for value in joined), axis=0)


def _steps_first(to: Reading, value: ir.Value) -> ir.Value:
    """Steps and batch in ONNX's order; the same turns the result back."""
    return value if to.option("timeMajor") else to.op("Transpose", value, perm=(1, 0, 2))


def _give(to: Reading, y: ir.Value) -> None:
    """From [T, directions, B, H]: directions beside each other, or an output each."""
    each = [to.op("Gather", y, to.int64(number), axis=1) for number in range(1 if to.kind.startswith("UNI") else 2)]
    merged = [to.op("Concat", *each, axis=2)] if to.option("mergeOutputs", False) and len(each) == 2 else each
    for index, value in enumerate(merged):
        to.give_stored(_steps_first(to, value), index)
