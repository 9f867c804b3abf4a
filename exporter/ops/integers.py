"""Quotients and powers of 64-bit integers, for which TFLite has no kernels: exact, by operators that it has."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from exporter.ops.formulas import Formula

__all__ = ["integer_power", "long_quotient", "unsigned_quotient"]

_SHRINK: Final = 1 - 2**-20  # keeps each partial quotient below the true one, so that nothing overflows
_STEPS: Final = 4  # 2**63, then at most 2**44, 2**25, 2**6 are left to divide
_BITS: Final = 6  # of an exponent: 63 is the largest whose power of 2 fits


def long_quotient(f: Formula, x: ir.Value, y: ir.Value) -> ir.Value:
    """x / y of int64 tensors, truncated; y is not 0.

    Each step divides what is left in float32 and subtracts that multiple of y; the last may be one off, which the sign of what is left and
    its size against y show.
    """
    divisor = f.cast(y, "float32")
    total: ir.Value | None = None
    rest = x
    for step in range(_STEPS):
        part = f("Div", f.cast(rest, "float32"), divisor)
        if step < _STEPS - 1:
            part = f("Mul", part, f.number(_SHRINK, "float32"))
        part = f.cast(part, "int64")
        total = part if total is None else f("Add", total, part)
        rest = f("Sub", rest, f("Mul", part, y))
    assert total is not None
    differ = f("Xor", f("Less", x, 0), f("Less", y, 0))
    unit = f.chosen(differ, -1, 1)
    beyond = f("And", f("Not", f("Equal", rest, 0)), f("Xor", f("Less", rest, 0), f("Less", x, 0)))
    # By values below 0, as the least integer has no absolute value.
    short = f("LessOrEqual", f("Min", rest, f("Neg", rest)), f("Min", y, f("Neg", y)))
    return f("Add", total, f.chosen(beyond, f("Neg", unit), f.chosen(short, unit, 0)))


def unsigned_quotient(f: Formula, x: ir.Value, y: ir.Value) -> ir.Value:
    """x / y of uint64 tensors; y is not 0.

    Twice the quotient of half of x is one short at most. A y with the highest bit is in x once or not at all.
    """
    signed = f.cast(y, "int64")
    large = f("Less", signed, f.number(0, "int64"))
    half = f.cast(f("BitShift", x, 1, direction="RIGHT"), "int64")
    one, zero = f.number(1, "int64"), f.number(0, "int64")
    part = f("Div", half, f.chosen(large, one, signed))
    twice = f.cast(f.chosen(large, zero, f("Add", part, part)), "uint64")
    rest = f("Sub", x, f("Mul", twice, y))
    return f("Add", twice, f.cast(f("GreaterOrEqual", rest, y), "uint64"))


def integer_power(f: Formula, base: ir.Value, exponent: ir.Value) -> ir.Value:
    """base ** exponent of int64 tensors, by squaring. What overflows is cut off; with a negative exponent only 1 and -1 have a power but 0.

    Exponents from 64 on have a result that fits for the bases 0, 1 and -1 alone, whose power is that of 62 or 63.
    """
    parity = f("Mod", exponent, 2)
    negative = f("Less", exponent, 0)
    small = f.chosen(negative, parity, exponent)
    places = f.chosen(f("Greater", exponent, 63), f("Add", parity, 62), small)
    square, result = base, f.chosen(f("Equal", parity, 1), base, 1)
    for bit in range(1, _BITS):
        square = f("Mul", square, square)
        has = f("GreaterOrEqual", f("Mod", places, 2 << bit), 1 << bit)
        result = f("Mul", result, f.chosen(has, square, 1))
    unit = f("Equal", f("Mul", base, base), 1)
    return f.chosen(f("And", negative, f("Not", unit)), 0, result)
