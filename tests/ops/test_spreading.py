import numpy as np
import pytest
from op_bench import builtins, lowered, single
from typed_bench import Fixed, everywhere, refusals, values

DTYPES = ["float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_expand(dtype):
    everywhere("Expand", values(dtype, 2, 1, 3), Fixed([4, 1, 5, 3]))
    everywhere("Expand", values(dtype, 3, 1), Fixed([1, 4]))


def test_expand_by_axes_of_length_1_is_a_reshape():
    assert everywhere("Expand", values("float32", 3), Fixed([1, 1, 3])) == ["Reshape"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tile(dtype):
    everywhere("Tile", values(dtype, 2, 1, 3), Fixed([2, 3, 1]))


@pytest.mark.parametrize("last", [False, True])
def test_repeating_runs_in_integers_in_either_layout(last):
    found = lowered(single("Tile", (1, 2, 3, 4), np.asarray([1, 3, 2, 1]), leaky=True), "int8", last=last)
    assert max(found.steps.values()) < 1.5
    assert builtins(found) == [("CONCATENATION", 2)] * 2
    found = lowered(single("Expand", (1, 2, 1, 4), np.asarray([1, 2, 5, 4]), leaky=True), "int8", last=last)
    assert max(found.steps.values()) < 1.5
    assert builtins(found) == [("BROADCAST_TO", 3)]


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("diagonal", [None, -5, -1, 0, 1, 7])
def test_triangles(upper, diagonal):
    x = values("float32", 2, 4, 5)
    x[0, 0] = np.inf  # a product with a mask would make NaN of it
    x[0, 3] = -np.inf
    constant = [] if diagonal is None else [Fixed(diagonal, np.int64)]
    everywhere("Trilu", x, *constant, upper=upper)


def test_a_triangle_of_integers():
    everywhere("Trilu", values("int64", 3, 3))


def test_a_triangle_with_a_computed_diagonal_is_refused():
    assert "its diagonal is computed" in refusals("Trilu", values("float32", 3, 3), np.asarray(1))[0]


@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
def test_one_hot_counts_from_both_ends_and_leaves_out_what_is_beyond(axis):
    indices = np.asarray([[0, 2, -1], [-3, 3, -4]])
    everywhere("OneHot", indices, Fixed([3]), Fixed([5, 7], np.float32), axis=axis)


def test_one_hot_of_float_indices():
    indices = np.asarray([1.0, -2.0, 9.0], np.float32)
    everywhere("OneHot", indices, Fixed([4], np.float32), Fixed([0, 1], np.float32))
