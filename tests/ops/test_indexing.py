import numpy as np
import pytest
from op_bench import builtins, lowered, single
from typed_bench import Fixed, everywhere, refusals, typed, values

from exporter.graph.legalize import legalize
from exporter.ops.base import operator_of

INDICES = [[0, 2], [-1, -3]]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_takes_computed_indices_from_both_ends(dtype, axis):
    data = values(dtype, 3, 4, 5)
    assert everywhere("Gather", data, np.asarray(INDICES), axis=axis) == ["Mod", "Gather"]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_gather_of_a_dtype_without_kernel_goes_through_a_wider_one(dtype):
    types = everywhere("Gather", values(dtype, 5, 2), np.asarray([4, -5]), torch=False)
    assert sorted(types) == ["Cast", "Cast", "Gather", "Mod"]


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_gather_of_a_constant_table(index_dtype):
    everywhere("Gather", Fixed(values("float32", 7, 3)), np.asarray([[6, 0, -7]], index_dtype))


@pytest.mark.parametrize("indices", [0, -1, [1, 2], [2, 0, 2], [[0, -1], [1, 1]], [[[-4]]]])
def test_gather_at_constant_indices(indices):
    everywhere("Gather", values("float32", 3, 4, 2), Fixed(indices, np.int64), axis=1)


def test_an_index_that_a_mod_keeps_in_range_gets_no_second_one():
    model, _ = typed("Gather", values("float32", 3, 4), np.asarray([1]))
    once = legalize(model, "tflite")
    assert [node.op_type for node in legalize(once, "tflite").graph] == ["Mod", "Gather"]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_gather_elements(axis, index_dtype):
    indices = values(index_dtype, 2, 3, 3) % 7 - 3
    everywhere("GatherElements", values("float32", 3, 4, 5), indices.clip(-3, 2), axis=axis)
    everywhere("GatherElements", values("int64", 3, 4, 5), Fixed(indices.clip(-3, 2)), axis=axis)


@pytest.mark.parametrize("batch_dims", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_gather_nd_with_batch_axes(batch_dims, depth):
    data = values("float32", 2, 3, 4, 5)
    indices = np.random.default_rng(1).integers(-2, 2, (2, 3, 4, depth))
    everywhere("GatherND", data, indices, batch_dims=batch_dims)
    everywhere("GatherND", data, Fixed(indices), batch_dims=batch_dims)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "bool"])
def test_gather_nd_of_other_dtypes(dtype):
    everywhere("GatherND", values(dtype, 3, 4), np.asarray([[0, 1], [-1, -4]]))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress_with_a_constant_condition(axis):
    attributes = {} if axis is None else {"axis": axis}
    everywhere("Compress", values("float32", 3, 4), Fixed([True, False, True]), torch=False, **attributes)


def test_compress_with_a_computed_condition_is_refused():
    assert "its shape depends on data" in refusals("Compress", values("float32", 3), np.asarray([True, False, True]))[0]


@pytest.mark.parametrize("last", [False, True])
def test_a_gather_at_constant_indices_runs_in_integers_in_either_layout(last):
    model = single("Gather", (1, 6, 4, 5), np.asarray([3, 0, 5]), axis=1, leaky=True)
    found = lowered(model, "int8", last=last)
    assert max(found.steps.values()) < 1.5  # half a step each of the input, the LeakyRelu and the float it is compared with
    assert builtins(found) == [("GATHER", 2)]


def test_axes_behind_the_gathered_one_are_tied_where_they_go():
    model, _ = typed("Gather", values("float32", 2, 3, 4), Fixed([[0, 1], [2, 0]]), axis=1)
    (node,) = model.graph
    (tie,) = operator_of(node).couple(node).ties
    assert [(run.side, run.axis, run.count) for run in tie] == [("in", 2, 4), ("out", 3, 4)]
