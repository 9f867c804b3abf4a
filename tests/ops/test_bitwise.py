import numpy as np
import pytest
from exact_bench import computes, left
from typed_bench import Fixed

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
LOGIC = {"BitwiseAnd": np.bitwise_and, "BitwiseOr": np.bitwise_or, "BitwiseXor": np.bitwise_xor}


def bits(dtype, *shape, seed=0):
    """Random bits, all of them."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.random.default_rng(seed).integers(0, 256, count, np.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op_type", LOGIC)
def test_logic_of_bits(op_type, dtype):
    x, y = bits(dtype, 2, 5), bits(dtype, 5, seed=1)
    computes(op_type, x, y, wanted=LOGIC[op_type](x, y))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_opposite_of_bits(dtype):
    x = bits(dtype, 7)
    computes("BitwiseNot", x, wanted=~x)


def test_and_of_one_shape_is_one_kernel():
    x = bits("int32", 4)
    assert computes("BitwiseAnd", x, bits("int32", 4, seed=1), wanted=x & bits("int32", 4, seed=1)) == ["STABLEHLO_AND"]


# --- BitShift ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", [name for name in INTEGERS if name.startswith("u")])
def test_shifts_by_every_number_of_places(dtype, direction):
    width = 8 * np.dtype(dtype).itemsize
    x, places = bits(dtype, 3, 1), np.arange(width, dtype=dtype)[None]
    wanted = (x << places if direction == "LEFT" else x >> places).astype(dtype)
    computes("BitShift", x, places, wanted=wanted, direction=direction)


@pytest.mark.parametrize("dtype", [name for name in INTEGERS if name.startswith("u")])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_nothing_is_left_of_a_shift_by_the_width_or_more(dtype, direction):
    width = 8 * np.dtype(dtype).itemsize
    places = np.array([width, width + 1, np.iinfo(dtype).max], dtype)
    computes("BitShift", np.full(3, np.iinfo(dtype).max, dtype), places, wanted=np.zeros(3, dtype), direction=direction)


def test_a_constant_number_of_places_is_one_kernel():
    x = bits("uint8", 4)
    assert computes("BitShift", x, Fixed(np.uint8(3)), wanted=x >> np.uint8(3), direction="RIGHT") == ["RIGHT_SHIFT"]
    assert left("BitShift", x, Fixed(np.uint8(9)), direction="RIGHT")[-1] == "Where"
