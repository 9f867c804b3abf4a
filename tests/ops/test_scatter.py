import numpy as np
import onnx_ir as ir
import pytest
from typed_bench import Fixed, everywhere, refusals, typed, values

from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.graph.values import FLOAT

REDUCTIONS = ["none", "add", "mul", "max", "min"]
# Two of these meet at one place, where there is a reduction.
APART, MEETING = [[2, 0], [-1, 1]], [[2, 0], [-2, 0]]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("fixed", [False, True])
def test_scatter_nd(reduction, dtype, fixed):
    indices = np.asarray(APART if reduction == "none" else MEETING)
    data, elements, rows = values(dtype, 4, 3), values(dtype, 2, seed=1), values(dtype, 2, 2, 3, seed=2)
    everywhere("ScatterND", data, Fixed(indices) if fixed else indices, elements, reduction=reduction)
    whole = indices[..., None]
    everywhere("ScatterND", data, Fixed(whole) if fixed else whole, rows, reduction=reduction, torch=reduction != "none")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_elements(reduction, axis):
    indices = np.asarray([[0, 1, -1], [2, -1, 0]]) if reduction == "none" else np.asarray([[0, 1, -1], [0, -2, 2]])
    if reduction == "none" and axis == 0:
        indices = np.asarray([[0, 1, -1], [2, 0, 0]])
    data, updates = values("float32", 3, 3), values("float32", 2, 3, seed=1)
    everywhere("ScatterElements", data, indices, updates, axis=axis, reduction=reduction)
    everywhere("ScatterElements", data, Fixed(indices), updates, axis=axis, reduction=reduction)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int64", "bool", "float16"])
def test_scatter_moves_every_dtype(dtype):
    everywhere("ScatterElements", values(dtype, 5), np.asarray([4, -4]), values(dtype, 2, seed=1), torch=dtype != "float16")


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8"])
def test_scatter_adds_other_integers(dtype):
    everywhere("ScatterND", values(dtype, 5), np.asarray([[4], [-1]]), values(dtype, 2, seed=1), reduction="add")


def test_int64_has_no_kernel_that_multiplies_what_meets():
    (reason,) = refusals("ScatterND", values("int64", 5), np.asarray([[4]]), values("int64", 1), reduction="mul")
    assert reason.startswith("ScatterND: ScatterND combines float32 and int32, and adds int64")


@pytest.mark.parametrize("fixed", [False, True])
def test_of_the_updates_that_meet_the_last_stays_as_in_onnxruntime(fixed):
    indices = np.asarray([3, 1, 3, -1, 1])
    everywhere(
        "ScatterElements", values("float32", 4), Fixed(indices) if fixed else indices, values("float32", 5, seed=1), torch=False
    )


@pytest.mark.parametrize("reduction", ["max", "min"])
def test_infinities_that_no_update_reaches_stay(reduction):
    data = np.asarray([-np.inf, np.inf, 1, -np.inf], np.float32)
    everywhere("ScatterElements", data, np.asarray([3, 2]), np.asarray([2, 5], np.float32), reduction=reduction)


def test_max_unpool():
    x, places = np.asarray([[[[1, 2], [3, 4]]]], np.float32), np.asarray([[[[5, 7], [13, 15]]]])
    everywhere("MaxUnpool", x, places, kernel_shape=[2, 2], strides=[2, 2], torch=False)


def test_max_unpool_to_a_larger_shape_is_refused():
    x, places = np.ones((1, 1, 2, 2), np.float32), np.asarray([[[[5, 7], [13, 15]]]])
    model, _ = typed("MaxUnpool", x, places, Fixed([1, 1, 5, 5]), kernel_shape=[2, 2], strides=[2, 2])
    model.graph.outputs[0].shape = ir.Shape((1, 1, 5, 5))
    (refused,) = unsupported(legalize(model, "tflite"), "lower")
    assert "larger output_shape" in refused.reason


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter_writes_each_entry_from_its_own_start(mode):
    cache, update = values("float32", 2, 1, 4, 3), values("float32", 2, 1, 2, 3, seed=1)
    starts = np.asarray([1, 3 if mode == "circular" else 2])
    wanted = cache.copy()
    for entry, start in enumerate(starts):
        for step in range(2):
            wanted[entry, :, (start + step) % 4] = update[entry, :, step]
    everywhere("TensorScatter", cache, update, starts, mode=mode, axis=2, opset=24, torch=False, wanted=[wanted])


@pytest.mark.parametrize("reduction", ["max", "min"])
def test_the_extreme_where_no_update_falls_never_gets_an_encoding(reduction):
    """It is the least or greatest float: a range that would leave the data one step."""
    data, indices, updates = values("float32", 4, 3), np.asarray(MEETING)[..., None], values("float32", 2, 2, 3, seed=2)
    legal = legalize(typed("ScatterND", data, indices, updates, reduction=reduction)[0], "tflite")
    combining = [
        node for node in legal.graph if node.op_type in ("Max", "Min", "Where", "ScatterND") and node.inputs[0] is not None
    ]
    assert any(node.op_type == "Where" for node in combining)
    for node in combining:
        if node.outputs[0].dtype == ir.DataType.FLOAT:
            assert node.op_type == "ScatterND" or FLOAT in node.metadata_props
