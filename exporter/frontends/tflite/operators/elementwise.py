"""One element at a time, of one input or of several that are broadcast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.frontends.tflite.reading import Reading
from exporter.frontends.tflite.registry import reads

__all__: list[str] = []

_UNARY: Final[Mapping[str, str]] = {
    "ABS": "Abs",
    "CEIL": "Ceil",
    "COS": "Cos",
    "ELU": "Elu",
    "EXP": "Exp",
    "FLOOR": "Floor",
    "HARD_SWISH": "HardSwish",
    "LOG": "Log",
    "LOGICAL_NOT": "Not",
    "LOGISTIC": "Sigmoid",
    "NEG": "Neg",
    "RELU": "Relu",
    "ROUND": "Round",
    "SIGN": "Sign",
    "SIN": "Sin",
    "SQRT": "Sqrt",
    "TANH": "Tanh",
}
_BINARY: Final[Mapping[str, str]] = {
    "ADD": "Add",
    "BITWISE_XOR": "BitwiseXor",
    "DIV": "Div",
    "EQUAL": "Equal",
    "GREATER": "Greater",
    "GREATER_EQUAL": "GreaterOrEqual",
    "LESS": "Less",
    "LESS_EQUAL": "LessOrEqual",
    "LOGICAL_AND": "And",
    "LOGICAL_OR": "Or",
    "MAXIMUM": "Max",
    "MINIMUM": "Min",
    "MUL": "Mul",
    "POW": "Pow",
    "SUB": "Sub",
}
_FLOAT: Final = ("float16", "float32", "float64")


@reads(*_UNARY)
def unary(to: Reading) -> None:
    """The ONNX operator of the same meaning."""
    x, first = to.loose()
    to.give(to.op(_UNARY[to.kind], x), first=first)


@reads(*_BINARY)
def binary(to: Reading) -> None:
    """The ONNX operator of the same meaning; both broadcast alike."""
    inputs, first = to.aligned(0, 1)
    to.give(to.op(_BINARY[to.kind], *inputs), first=first)


@reads("NOT_EQUAL")
def not_equal(to: Reading) -> None:
    inputs, first = to.aligned(0, 1)
    to.give(to.op("Not", to.op("Equal", *inputs)), first=first)


@reads("ADD_N")
def add_n(to: Reading) -> None:
    inputs, first = to.aligned(*range(len(to.inputs)))
    to.give(to.op("Sum", *inputs), first=first)


@reads("SQUARED_DIFFERENCE")
def squared_difference(to: Reading) -> None:
    inputs, first = to.aligned(0, 1)
    difference = to.op("Sub", *inputs)
    to.give(to.op("Mul", difference, difference), first=first)


@reads("FLOOR_DIV", "FLOOR_MOD")
def floor_division(to: Reading) -> None:
    """Floor of the quotient, and the remainder with the sign of the divisor: of integers that is ONNX's Mod.

    Of floats, the remainder of the truncated quotient is exact, and one divisor short where the signs differ.
    """
    (x, y), first = to.aligned(0, 1)
    if to.kind == "FLOOR_DIV":
        whole = to.op("Sub", x, to.op("Mod", x, y)) if to.dtype() not in _FLOAT else x
        quotient = to.op("Div", whole, y)
        to.give(to.op("Floor", quotient) if to.dtype() in _FLOAT else quotient, first=first)
        return
    if to.dtype() not in _FLOAT:
        to.give(to.op("Mod", x, y), first=first)
        return
    zero, rest = to.const(np.zeros((), to.dtype())), to.op("Mod", x, y, fmod=1)
    opposite = to.op("Xor", to.op("Less", rest, zero), to.op("Less", y, zero))
    short = to.op("And", opposite, to.op("Not", to.op("Equal", rest, zero)))
    to.give(to.op("Where", short, to.op("Add", rest, y), rest), first=first)


@reads("RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")
def clamp(to: Reading) -> None:
    x, first = to.loose()
    to.give(to.activated(x, to.kind), first=first)


@reads("LEAKY_RELU")
def leaky_relu(to: Reading) -> None:
    x, first = to.loose()
    to.give(to.op("LeakyRelu", x, alpha=float(to.option("alpha"))), first=first)


@reads("GELU")
def gelu(to: Reading) -> None:
    x, first = to.loose()
    to.give(to.op("Gelu", x, approximate="tanh" if to.option("approximate", False) else "none"), first=first)


@reads("PRELU")
def prelu(to: Reading) -> None:
    """PRelu; its slopes broadcast to the input, those of one a channel without the batch axis."""
    (x, slope), first = to.aligned(0, 1)
    if first and slope.shape is not None and len(slope.shape) == len(to.shape()) and slope.shape[0] == 1:
        slope = to.op("Squeeze", slope, to.int64([0]))
    to.give(to.op("PRelu", x, slope), first=first)


@reads("SQUARE")
def square(to: Reading) -> None:
    x, first = to.loose()
    to.give(to.op("Mul", x, x), first=first)


@reads("RSQRT")
def rsqrt(to: Reading) -> None:
    x, first = to.loose()
    to.give(to.op("Reciprocal", to.op("Sqrt", x)), first=first)


@reads("ATAN2")
def atan2(to: Reading) -> None:
    """The angle from the quotient, in the half-plane of x: atan(y / x), pi further where x is negative, and of 0 / 0 it is 0."""
    (y, x), first = to.aligned(0, 1)
    zero, pi, half = (to.const(np.asarray(value, np.float32)) for value in (0.0, np.pi, np.pi / 2))
    signed = to.op("Where", to.op("Less", y, zero), to.op("Neg", pi), pi)
    angle = to.op("Atan", to.op("Div", y, x))
    beyond = to.op("Where", to.op("Less", x, zero), to.op("Add", angle, signed), angle)
    upright = to.op("Mul", to.op("Sign", y), half)
    to.give(to.op("Where", to.op("Equal", x, zero), upright, beyond), first=first)


@reads("CAST")
def cast(to: Reading) -> None:
    x, first = to.loose()
    to.give(to.op("Cast", x, to=ir.DataType.from_numpy(np.dtype(to.output_tensor().dtype))), first=first)


@reads("SELECT", "SELECT_V2")
def select(to: Reading) -> None:
    """Where; SELECT's condition of one axis chooses whole rows."""
    if to.kind == "SELECT" and len(to.shape(0)) == 1 and len(to.shape(1)) > 1:
        rows = to.op("Reshape", to.input(0), to.int64((-1, *(1,) * (len(to.shape(1)) - 1))))
        to.give(to.op("Where", rows, to.input(1), to.input(2)))
        return
    inputs, first = to.aligned(0, 1, 2)
    to.give(to.op("Where", *inputs), first=first)


@reads("ZEROS_LIKE")
def zeros_like(to: Reading) -> None:
    to.give(to.const(np.zeros(to.shape(), to.dtype())))


@reads("RIGHT_SHIFT")
def right_shift(to: Reading) -> None:
    if not to.dtype().startswith("u"):
        raise to.refuse("ONNX shifts unsigned integers alone")
    inputs, first = to.aligned(0, 1)
    to.give(to.op("BitShift", *inputs, direction="RIGHT"), first=first)


@reads("STABLEHLO_AND")
def stablehlo_and(to: Reading) -> None:
    """Of booleans, or bit by bit of integers."""
    inputs, first = to.aligned(0, 1)
    to.give(to.op("And" if to.dtype() == "bool" else "BitwiseAnd", *inputs), first=first)
