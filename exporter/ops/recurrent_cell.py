"""What the recurrent operators share: the parameters of one direction, read off a node, and the pieces that a step is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, constant, static_shape
from exporter.ops.base import Refused, Rewriter
from exporter.ops.common import input_of

__all__ = [
    "Cell",
    "State",
    "all_insides",
    "concat",
    "initial_states",
    "insides",
    "pieces",
    "product",
    "read_cells",
    "recurrent",
    "reshaped",
]

Array = np.ndarray[Any, Any]
Apply = Callable[[ir.Value], ir.Value]
State = tuple[ir.Value | None, ...]  # hidden state first; None stands for zeros

# Activation -> (operator, the parameters that activation_alpha and activation_beta set, with their defaults).
# None where the standard gives no default; onnxruntime's is its own.
_ACTIVATIONS: Final[Mapping[str, tuple[str, Mapping[str, float | None]]]] = {
    "affine": ("", {"alpha": None, "beta": None}),
    "elu": ("Elu", {"alpha": 1.0}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    "leakyrelu": ("LeakyRelu", {"alpha": 0.01}),
    "relu": ("Relu", {}),
    "scaledtanh": ("Tanh", {"alpha": None, "beta": None}),
    "sigmoid": ("Sigmoid", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "tanh": ("Tanh", {}),
    "thresholdedrelu": ("ThresholdedRelu", {"alpha": None}),
}


@dataclass(frozen=True)
class Cell:
    """One direction of a recurrent node.

    Attributes:
        to: where the step's operators go.
        hidden: entries of the hidden state, H.
        weight: [gates * H, I]; recurrence: [gates * H, H]; bias, recurrent_bias: [gates * H].
        peephole: [3, H] (LSTM), or None.
        activations: in the operator's order; each clamps what it is given where the node has a `clip`.
        flag: the node's `linear_before_reset` (GRU) or `input_forget` (LSTM).
        backward: it starts at the last step.
    """

    to: Rewriter
    hidden: int
    weight: Array
    recurrence: Array
    bias: Array
    recurrent_bias: Array
    peephole: Array | None
    activations: tuple[Apply, ...]
    flag: bool
    backward: bool


def read_cells(node: ir.Node, to: Rewriter, gates: int, defaults: Sequence[str]) -> list[Cell]:
    """The directions of a node. Raises Refused where a parameter is computed or an activation is not known."""
    weight, recurrence = _parameter(node, 1), _parameter(node, 2)
    bias, peephole = _parameter(node, 3, optional=True), _parameter(node, 7, optional=True) if gates == 4 else None
    assert weight is not None
    assert recurrence is not None
    count, hidden = recurrence.shape[0], recurrence.shape[-1]
    if bias is None:
        bias = np.zeros((count, 2 * gates * hidden), np.float32)
    direction = attribute(node, "direction", "forward")
    activations = _activations(node, to, count, defaults)
    return [
        Cell(
            to,
            hidden,
            weight[index],
            recurrence[index],
            bias[index][: gates * hidden],
            bias[index][gates * hidden :],
            None if peephole is None else peephole[index].reshape(3, hidden),
            activations[index * len(defaults) : (index + 1) * len(defaults)],
            bool(attribute(node, "linear_before_reset", 0) or attribute(node, "input_forget", 0)),
            direction == "reverse" or index == 1,
        )
        for index in range(count)
    ]


def _parameter(node: ir.Node, index: int, optional: bool = False) -> Array | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None and optional:
        return None
    array = constant(input_of(node, index))
    if array is None:
        raise Refused(node, f"the weights of {node.op_type} (input {index}) are computed; only constants are supported")
    return array


def _activations(node: ir.Node, to: Rewriter, directions: int, defaults: Sequence[str]) -> tuple[Apply, ...]:
    """Each function in turn takes its entries of `activation_alpha` and `activation_beta`, where it has such a parameter.

    `clip` clamps what goes into the gates' functions, as in onnxruntime; the third function of an LSTM sees its state as it is.
    """
    given = {name: list(attribute(node, f"activation_{name}", ())) for name in ("alpha", "beta")}
    limit = float(attribute(node, "clip", 0.0))
    found = []
    for index, name in enumerate(attribute(node, "activations", tuple(defaults) * directions)):
        if name.lower() not in _ACTIVATIONS:
            raise Refused(node, f"the activation {name} of {node.op_type} is not known")
        op_type, parameters = _ACTIVATIONS[name.lower()]
        values = {key: given[key].pop(0) if given[key] else default for key, default in parameters.items()}
        if None in values.values():
            raise Refused(node, f"the activation {name} of {node.op_type} has no activation_alpha or activation_beta")
        given_or_default = {key: float(value) for key, value in values.items() if value is not None}
        found.append(_apply(to, op_type, given_or_default, limit if index % len(defaults) < 2 else 0.0))
    return tuple(found)


def _apply(to: Rewriter, op_type: str, parameters: Mapping[str, float], limit: float) -> Apply:
    def scaled(x: ir.Value, factor: float) -> ir.Value:
        return x if factor == 1.0 else to.op("Mul", x, _scalar(to, factor))

    def applied(x: ir.Value) -> ir.Value:
        if limit > 0:
            x = to.op("Clip", x, _scalar(to, -limit), _scalar(to, limit))
        if not op_type:  # Affine: alpha * x + beta
            y = scaled(x, parameters["alpha"])
            return y if parameters["beta"] == 0.0 else to.op("Add", y, _scalar(to, parameters["beta"]))
        if op_type == "Tanh" and parameters:  # ScaledTanh: alpha * tanh(beta * x)
            return scaled(to.op("Tanh", scaled(x, parameters["beta"])), parameters["alpha"])
        attributes: dict[str, Any] = dict(parameters)
        return to.op(op_type, x, **attributes)

    return applied


def _scalar(to: Rewriter, value: float) -> ir.Value:
    return to.const(np.asarray(value, np.float32))


# --- states and lengths -----------------------------------------------------------------------------------------------


def initial_states(node: ir.Node, to: Rewriter, directions: int, states: int, batch_first: bool) -> list[State]:
    """For every direction its first state, each [B, H], from the inputs 5 and 6."""
    found: list[list[ir.Value | None]] = [[] for _ in range(directions)]
    for index in (5, 6)[:states]:
        value = node.inputs[index] if index < len(node.inputs) else None
        array = constant(value)
        if value is None or (array is not None and not array.any()):
            for state in found:
                state.append(None)
            continue
        if batch_first:
            value = to.op("Transpose", value, perm=(1, 0, 2))
        shape = static_shape(value)
        for state, part in zip(found, pieces(to, value, directions), strict=True):
            state.append(reshaped(to, part, shape[1:]))
    return [tuple(state) for state in found]


def insides(node: ir.Node, to: Rewriter, steps: int, batch: int) -> list[ir.Value | None]:
    """For every step which sequences of the batch reach it, [B, 1] bool; None where all do."""
    lengths = node.inputs[4] if len(node.inputs) > 4 else None
    array = constant(lengths)
    if lengths is None:
        return [None] * steps
    if array is None:
        column = reshaped(to, lengths, (batch, 1))
        return [to.op("Less", to.const(np.asarray([[step]], np.int32), "step"), column) for step in range(steps)]
    return [None if (step < array).all() else to.const((step < array).reshape(batch, 1), "inside") for step in range(steps)]


def all_insides(node: ir.Node, to: Rewriter, steps: int, batch: int) -> ir.Value | None:
    """The same for all steps at once, [T, B, 1] bool."""
    lengths = node.inputs[4] if len(node.inputs) > 4 else None
    if lengths is None:
        return None
    order, array = np.arange(steps, dtype=np.int32).reshape(steps, 1, 1), constant(lengths)
    if array is None:
        return to.op("Less", to.const(order, "steps"), reshaped(to, lengths, (1, batch, 1)))
    return to.const(order < array.reshape(1, batch, 1), "inside")


# --- pieces of a step -------------------------------------------------------------------------------------------------


def product(to: Rewriter, x: ir.Value, weight: Array, bias: Array | None = None) -> ir.Value:
    """x @ weight.T + bias."""
    offset = np.zeros(len(weight), np.float32) if bias is None else bias
    return to.op("Gemm", x, to.const(weight, "weight"), to.const(offset, "bias"), transB=1)


def recurrent(to: Rewriter, x: ir.Value, h: ir.Value | None, weight: Array) -> ir.Value:
    """x + h @ weight.T."""
    return x if h is None else to.op("Add", x, product(to, h, weight))


def pieces(to: Rewriter, value: ir.Value, count: int, axis: int = 0) -> list[ir.Value]:
    """`count` equal parts along `axis`."""
    if count == 1:
        return [value]
    first = to.op("Split", value, outputs=count, axis=axis, num_outputs=count).producer()
    assert first is not None
    return list(first.outputs)


def concat(to: Rewriter, values: Sequence[ir.Value], axis: int) -> ir.Value:
    return values[0] if len(values) == 1 else to.op("Concat", *values, axis=axis)


def reshaped(to: Rewriter, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    if static_shape(value) == tuple(shape):
        return value
    return to.op("Reshape", value, to.const(np.asarray(shape, np.int64), "shape"))
