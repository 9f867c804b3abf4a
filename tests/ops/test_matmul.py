import numpy as np
import pytest
from typed_bench import Fixed, everywhere, refusals, values

SHAPES = [
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((2, 1, 2, 3), (5, 3, 4)),
    ((2, 2, 1, 2, 3), (1, 2, 2, 3, 4)),
    ((2, 2, 1, 2, 2, 3), (1, 2, 3, 2, 3, 4)),
    ((2, 2, 3, 2, 2, 3), (3, 4)),
]


@pytest.mark.parametrize("fixed", [(), (0,), (1,)])
@pytest.mark.parametrize("shapes", SHAPES)
def test_products_of_any_ranks(shapes, fixed):
    sides = [values("float32", *shape, seed=seed) for seed, shape in enumerate(shapes)]
    everywhere("MatMul", *(Fixed(side) if index in fixed else side for index, side in enumerate(sides)), atol=1e-4)


def test_a_product_of_int32_is_refused():
    assert "MatMul has kernels for float32 alone" in refusals("MatMul", values("int32", 2, 3), values("int32", 3, 4))[0]


@pytest.mark.parametrize("transposed", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm_of_computed_matrices(transposed):
    a = values("float32", *((3, 2) if transposed[0] else (2, 3)))
    b = values("float32", *((4, 3) if transposed[1] else (3, 4)), seed=1)
    flags = {"transA": transposed[0], "transB": transposed[1]}
    everywhere("Gemm", a, b, **flags, atol=1e-5)
    everywhere("Gemm", a, b, values("float32", 4, seed=2), alpha=0.5, beta=2.0, **flags, atol=1e-5)
    everywhere("Gemm", a, Fixed(b), values("float32", 2, 1, seed=2), beta=0.5, **flags, atol=1e-5)


@pytest.mark.parametrize("dtypes", [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")])
@pytest.mark.parametrize("depth", [5, 700])
def test_products_of_integers_are_exact_at_any_depth(dtypes, depth):
    a, b = (_extreme(dtype, shape) for dtype, shape in zip(dtypes, ((3, depth), (depth, 2)), strict=True))
    points = [Fixed(np.asarray(7, dtypes[0])), Fixed(np.asarray(1, dtypes[1]))]
    wanted = (a.astype(np.int64) - 7) @ (b.astype(np.int64) - 1)
    for right in (b, Fixed(b)):
        types = everywhere("MatMulInteger", a, right, *points, wanted=[wanted.astype(np.int32)])
        # 2**24 holds 266 products of 248 * 254, 524 of 248 * 129, 963 of 135 * 129.
        stretches = {("uint8", "uint8"): 3, ("uint8", "int8"): 2, ("int8", "int8"): 1}[dtypes] if depth == 700 else 1
        assert types.count("MatMul") + types.count("Gemm") == stretches


def _extreme(dtype, shape):
    """Numbers at the ends of the range, so that sums are as great as they get."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(0).choice(np.asarray([limits.min, limits.max, limits.max], dtype), shape)


def test_zero_points_by_row_and_column():
    a, b = values("uint8", 3, 4), values("int8", 4, 2)
    rows, columns = np.asarray([1, 2, 3], np.uint8), np.asarray([-1, 1], np.int8)
    wanted = (a.astype(np.int32) - rows[:, None]) @ (b.astype(np.int32) - columns)
    everywhere("MatMulInteger", a, b, Fixed(rows), Fixed(columns), wanted=[wanted])
