import numpy as np
import pytest
from exact_bench import computes, left
from hypothesis import given, settings
from hypothesis import strategies as st
from typed_bench import Fixed

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum, "Min": np.minimum}


def pairs(dtype):
    """Every pair of some numbers over the whole range of a dtype."""
    info = np.iinfo(dtype)
    numbers = np.array([info.min, info.min + 1, 0, 1, 2, 7, 100, info.max // 2, info.max // 2 + 3, info.max], dtype)
    x, y = np.meshgrid(numbers, numbers)
    return x.reshape(-1), y.reshape(-1)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op_type", ARITHMETIC)
def test_arithmetic_of_integers_overflows_as_numpys_does(op_type, dtype):
    x, y = pairs(dtype)
    with np.errstate(over="ignore"):
        wanted = ARITHMETIC[op_type](x, y)
    computes(op_type, x, y, wanted=wanted)


def truncated(x, y):
    """Exact quotients, towards zero, by Python's integers."""
    signs = np.sign(x.astype(object)) * np.sign(y.astype(object))
    return (signs * (abs(x.astype(object)) // abs(y.astype(object)))).astype(x.dtype)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_quotients_are_truncated_over_the_whole_range(dtype):
    x, y = pairs(dtype)
    x, y = (np.concatenate([array, -array]) if np.iinfo(dtype).min < 0 else array for array in (x, y))
    keep = (y != 0) & ~((x == np.iinfo(dtype).min) & (y.astype(object) == -1))
    computes("Div", x[keep], y[keep], wanted=truncated(x[keep], y[keep]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(1, 63), st.integers(0, 2**62)), min_size=1, max_size=32))
def test_quotients_of_any_64_bit_integers(triples):
    x = np.array([number for number, _, _ in triples], np.int64)
    y = np.array([(divisor >> places) + 1 for _, places, divisor in triples], np.int64)
    y[::2] *= -1
    x[(x == -(2**63)) & (y == -1)] = 5
    computes("Div", x, y, wanted=truncated(x, y))


def test_int32_is_divided_by_its_kernel():
    x = np.array([-7, 7], np.int32)
    assert computes("Div", x, np.array([2, -2], np.int32), wanted=np.array([-3, -3], np.int32)) == ["DIV"]


# --- Pow --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("other", ["int32", "int64"])
def test_powers_of_integers_are_exact(dtype, other):
    base = np.array([0, 0, 1, -1, -1, 2, 2, -2, 3, 3, 7, 5, 2, -1, 1, -1, 0, -1], dtype)
    exponent = np.array([0, 5, 40, 63, 64, 30, 0, 13, 19, 1, 4, 3, -3, -5, -2, 201, 64, 2**30], other)
    wanted = [
        int(x) ** int(y) if y >= 0 else {1: 1, -1: -1 if y % 2 else 1}.get(int(x), 0) for x, y in zip(base, exponent, strict=True)
    ]
    computes("Pow", base, exponent, wanted=np.array(wanted, dtype), torch=False)  # torch has no negative powers of integers


def test_a_constant_power_of_int32_is_one_kernel():
    x = np.array([-3, 0, 7], np.int32)
    assert computes("Pow", x, Fixed(np.int32(3)), wanted=x**3) == ["POW"]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
def test_floats_are_raised_to_integers(dtype):
    x = np.array([1.5, 2.0, -0.5], np.float32)
    exponent = np.array([3, 10, 2], dtype)
    computes("Pow", x, exponent, wanted=(x.astype(np.float64) ** exponent).astype(np.float32), rtol=2e-7)


# --- signs and clamps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
def test_absolute_values(dtype):
    info = np.iinfo(dtype)
    x = np.array([info.min + (info.min < 0), 0, 5, info.max], dtype)
    computes("Abs", x, wanted=np.abs(x))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_negation(dtype):
    x = np.array([np.iinfo(dtype).min + 1, -3, 0, 5], dtype)
    computes("Neg", x, wanted=-x)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_clamps_of_integers_are_no_quantized_ones(dtype):
    x = np.array([np.iinfo(dtype).min, 0, 3, 100], dtype)
    computes("Clip", x, Fixed(0, dtype), wanted=np.maximum(x, np.asarray(0, dtype)))
    computes("Clip", x, np.asarray(1, dtype), np.asarray(50, dtype), wanted=np.clip(x, 1, 50).astype(dtype))


def test_relu_of_integers_is_a_maximum():
    x = np.array([-3, 0, 5], np.int32)
    assert computes("Relu", x, wanted=np.maximum(x, 0)) == ["MAXIMUM"]
    assert left("Relu", x.astype(np.int8)) == ["Max"]


# --- Cast of uint64 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint32", "int64"])
def test_unsigned_64_bits_keep_their_bits(dtype):
    from onnx import helper

    x = np.array([0, 5, 2**63 + 9, 2**64 - 1], np.uint64)
    computes("Cast", x, wanted=x.astype(dtype), to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    y = np.array([0, 5, np.iinfo(dtype).max], dtype)
    computes("Cast", y, wanted=y.astype(np.uint64), to=helper.np_dtype_to_tensor_dtype(np.dtype("uint64")))
