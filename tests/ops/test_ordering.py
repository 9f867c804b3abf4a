import numpy as np
import pytest
from typed_bench import Fixed, everywhere, refusals, values


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int16", "int32", "int64"])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_of_every_dtype_keeps_the_first_of_equal_ones(dtype, largest):
    if dtype in ("int16", "uint8", "int8"):  # onnxruntime has no kernel
        x = values(dtype, 3, 8)
        order = np.argsort(-x.astype(int) if largest else x.astype(int), axis=-1, kind="stable")[:, :3]
        everywhere("TopK", x, Fixed([3]), outputs=2, largest=largest, wanted=[np.take_along_axis(x, order, -1), order], opset=24)
    else:
        everywhere("TopK", values(dtype, 3, 8), Fixed([3]), outputs=2, largest=largest)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_top_k_along_any_axis(axis):
    everywhere("TopK", values("float32", 4, 5, 6), Fixed([2]), outputs=2, axis=axis)
    everywhere("TopK", values("int32", 4, 5, 6), Fixed([4]), outputs=2, axis=axis, largest=0)


def test_top_k_of_the_least_integer_has_an_opposite():
    x = np.asarray([5, np.iinfo(np.int32).min, 0, np.iinfo(np.int32).max], np.int32)
    everywhere("TopK", x, Fixed([4]), outputs=2, largest=0)


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("select_last_index", [0, 1])
def test_places_of_extremes(op_type, axis, keepdims, select_last_index):
    x = values("int32", 3, 9, 4)  # many are equal
    everywhere(op_type, x, axis=axis, keepdims=keepdims, select_last_index=select_last_index)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_places_of_extremes_in_every_dtype(dtype):
    everywhere("ArgMax", values(dtype, 4, 20), axis=1)


def test_arg_max_of_int64_is_refused():
    assert "ArgMax has kernels for float32" in refusals("ArgMax", values("int64", 4))[0]


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_sums(dtype, exclusive, reverse):
    for axis in (0, -1):
        everywhere("CumSum", values(dtype, 3, 5), Fixed(axis, np.int64), exclusive=exclusive, reverse=reverse, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 11])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_running_products(length, exclusive, reverse):
    x = values("float32", 2, length)
    turned = x[:, ::-1] if reverse else x
    product = np.cumprod(turned, 1)
    product = np.concatenate([np.ones((2, 1), np.float32), product[:, :-1]], 1) if exclusive else product
    wanted = np.ascontiguousarray(product[:, ::-1] if reverse else product)
    everywhere("CumProd", x, Fixed(1, np.int64), exclusive=exclusive, reverse=reverse, opset=26, wanted=[wanted], atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int32", "int64", "bool"])
@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
def test_sequences_are_reversed_up_to_their_lengths(dtype, axes):
    time, batch = axes
    everywhere("ReverseSequence", values(dtype, 4, 4, 2), np.asarray([0, 1, 3, 4]), time_axis=time, batch_axis=batch)
