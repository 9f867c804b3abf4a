import numpy as np
import pytest
from exact_bench import computes, left
from hypothesis import given, settings
from hypothesis import strategies as st
from op_bench import node_of, single

from exporter.ops.base import Refused, operator_of

HALVES = np.array([-2.5, -1.5, -0.5, -0.4, 0.0, 0.5, 0.6, 1.5, 2.5, 1e9, -np.inf], np.float32)


@pytest.mark.parametrize(
    ("op_type", "compute"), [("Ceil", np.ceil), ("Floor", np.floor), ("Round", np.round)], ids=["Ceil", "Floor", "Round"]
)
def test_to_an_integer(op_type, compute):
    assert computes(op_type, HALVES, wanted=compute(HALVES)) == [op_type.upper()]
    node = node_of(single(op_type, (1, 3)))
    with pytest.raises(Refused, match="rounding stays in float"):
        operator_of(node).quantize(node)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_sign_of_every_dtype(dtype):
    low = 0 if dtype.startswith("u") else -3
    x = np.array([low, 0, 1, np.iinfo(dtype).max if dtype != "float32" else 1e-30], dtype)
    computes("Sign", x, wanted=np.sign(x))


# --- Mod --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_remainders_of_integers_of_either_sign(dtype, fmod):
    info = np.iinfo(dtype)
    numbers = np.array([info.min, info.min + 1, 1, 3, 7, 10, info.max // 2 + 2, info.max], dtype)
    if info.min < 0:
        numbers = np.append(numbers, np.array([-1, -3, -7], dtype))
    x, y = (grid.reshape(-1) for grid in np.meshgrid(numbers, numbers[numbers != 0]))
    both = ~((x == info.min) & (y.astype(object) == -1))  # numpy's own quotient overflows there
    x, y = x[both], y[both]
    computes("Mod", x, y, wanted=np.fmod(x, y) if fmod else np.mod(x, y), fmod=fmod)


def test_remainders_of_floats_are_exact_and_have_the_sign_of_the_dividend():
    x = np.array([-5.3, 5.3, -5.3, 5.3, 0, -0.1, 1e20, np.inf, 2.5, -2.5], np.float32)
    y = np.array([2.1, 2.1, -2.1, -2.1, 3, 7, 3, 2, np.inf, np.inf], np.float32)
    with np.errstate(invalid="ignore"):
        wanted = np.fmod(x, y)
    computes("Mod", x, y, wanted=wanted, fmod=1)
    assert left("Mod", x, y, fmod=1)[-1] == "Where"
    assert left("Mod", np.array([-7], np.int64), np.array([3], np.int64)) == ["Mod"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(0.125, 1e3, width=32)), min_size=1, max_size=8))
def test_remainders_of_any_floats(pairs):
    x, y = np.array(pairs, np.float32).T.copy()
    computes("Mod", x, y, wanted=np.fmod(x, y), fmod=1)
