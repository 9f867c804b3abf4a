import numpy as np
import pytest
from op_bench import assert_legalized, assert_torch_computes_it, builtins, lowered, node_of, single
from typed_bench import Fixed, everywhere, refusals, typed, values

from exporter.graph.legalize import legalize
from exporter.graph.run import FloatRunner
from exporter.ops.base import Channels, Cost, Port, operator_of

REDUCTIONS = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"]
MADE = ["ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"]


def reduction(op_type, axes, shape=(2, 3, 4, 5), **attributes):
    return single(op_type, shape, *([] if axes is None else [np.array(axes, np.int64)]), **attributes)


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [1], [3], [0], [0, 2], None], ids=str)
def test_any_axes_in_any_layout(op_type, axes, keepdims):
    model = reduction(op_type, axes, keepdims=keepdims)
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)
    if keepdims or axes is not None:
        for last in (False, True):
            assert max(lowered(model, last=last).errors.values()) < 1e-5


def test_no_axes_is_the_input():
    model = reduction("ReduceMean", None, noop_with_empty_axes=1)
    assert_torch_computes_it(model)
    assert assert_legalized(model) == ["Identity"]


@pytest.mark.parametrize(
    ("op_type", "builtin", "shared"),
    [("ReduceMean", "MEAN", False), ("ReduceMax", "REDUCE_MAX", True), ("ReduceMin", "REDUCE_MIN", True)],
)
def test_versions_and_facets(op_type, builtin, shared):
    model = reduction(op_type, [2, 3], (1, 3, 4, 5))
    node = node_of(model)
    operator = operator_of(node)
    assert builtins(lowered(model)) == [(builtin, 1)]
    found = lowered(reduction(op_type, [2, 3], (1, 3, 4, 5), leaky=True), "int8", last=True)
    assert builtins(found) == [(builtin, 2)]
    assert found.steps["y0"] < 2
    assert operator.quantize(node).shared is shared
    assert operator.cost(node) == Cost(elementwise=60)
    coupling = operator.couple(node)
    assert (Channels("in", 0, 1, 3), Channels("out", 0, 1, 3)) in coupling.ties
    assert [run.axis for run in coupling.blocked] == [2, 3]


def test_a_sum_is_a_mean_times_its_count():
    model = reduction("ReduceSum", [2, 3], (1, 3, 4, 5))
    assert assert_legalized(model, atol=1e-5) == ["ReduceMean", "Mul"]
    assert assert_legalized(model, "onnx", atol=0) == ["ReduceSum"]
    assert lowered(model, "int8", last=True).steps["y0"] < 3


def test_channels_that_are_reduced_stay_whole_and_leave_the_canonical_order():
    node = node_of(reduction("ReduceMean", [1], keepdims=0))
    coupling, layout = operator_of(node).couple(node), operator_of(node).layout(node)
    assert coupling.blocked == (Channels("in", 0, 1, 3),)
    assert (Channels("in", 0, 2, 4), Channels("out", 0, 1, 4)) in coupling.ties
    assert (layout.inputs[0], layout.outputs[0]) == (Port.NODE, Port.FIRST)


@pytest.mark.parametrize(("op_type", "becomes"), [("GlobalAveragePool", "ReduceMean"), ("GlobalMaxPool", "ReduceMax")])
@pytest.mark.parametrize("shape", [(1, 3, 7), (2, 3, 4, 5)], ids=str)
def test_global_pools_are_reductions(op_type, becomes, shape):
    model = single(op_type, shape)
    assert_torch_computes_it(model)
    assert assert_legalized(model) == [becomes]
    assert assert_legalized(model, "onnx") == [op_type]
    assert max(lowered(model).errors.values()) < 1e-5
    node = node_of(model)
    assert operator_of(node).couple(node).ties == ((Channels("in", 0, 1, 3), Channels("out", 0, 1, 3)),)
    assert operator_of(node).quantize(node).shared is (op_type == "GlobalMaxPool")
    assert operator_of(node).cost(node) == Cost(elementwise=int(np.prod(shape)))


@pytest.mark.parametrize("op_type", [*REDUCTIONS, "ReduceProd", *MADE])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [0, -1], None, []], ids=str)
def test_every_reduction_of_floats(op_type, keepdims, axes):
    x = np.abs(values("float32", 2, 3, 4)) + 0.25
    given = [] if axes is None else [Fixed(axes, np.int64)]
    everywhere(op_type, x, *given, keepdims=keepdims, atol=1e-4)
    everywhere(op_type, x, *given, keepdims=keepdims, noop_with_empty_axes=1, atol=1e-4)


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceSumSquare"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_reductions_of_integers_are_exact(op_type, dtype):
    x, given = values(dtype, 2, 3, 4), Fixed([-1])
    wanted = {
        "ReduceMax": x.max(-1, keepdims=True),
        "ReduceMin": x.min(-1, keepdims=True),
        "ReduceSum": x.sum(-1, keepdims=True, dtype=dtype),
        "ReduceProd": x.prod(-1, keepdims=True, dtype=dtype),
        "ReduceSumSquare": (x * x).sum(-1, keepdims=True, dtype=dtype),
    }[op_type]
    everywhere(op_type, x, given, wanted=[wanted], torch=op_type in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd"))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool"])
@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin"])
def test_extremes_of_small_dtypes(op_type, dtype):
    everywhere(op_type, values(dtype, 3, 4), Fixed([1]), keepdims=0)


def test_the_mean_of_integers_is_refused():
    assert "ReduceMean has kernels for float32 alone" in refusals("ReduceMean", values("int32", 3, 4))[0]


def test_logarithms_of_sums_of_exponentials_neither_overflow_nor_lose_infinities():
    everywhere("ReduceLogSumExp", np.asarray([[1000, 1001], [-1000, -1001], [-np.inf, 3]], np.float32), Fixed([1]))
    # TFLite's own sums end at the greatest finite number, so infinite results are a matter of the legal form.
    model, feed = typed("ReduceLogSumExp", np.asarray([[-np.inf, -np.inf], [np.inf, 0]], np.float32), Fixed([1]), keepdims=0)
    (found,) = FloatRunner(legalize(model, "tflite"))(feed).values()
    assert found.tolist() == [-np.inf, np.inf]


@pytest.mark.parametrize(
    ("op_type", "value"),
    [("ReduceSum", 0), ("ReduceProd", 1), ("ReduceMax", -np.inf), ("ReduceMin", np.inf), ("ReduceLogSum", -np.inf)],
)
def test_a_reduction_over_nothing_is_a_constant(op_type, value):
    model, feed = typed(op_type, np.ones((2, 0, 4), np.float32), Fixed([1]), keepdims=0)
    (found,) = FloatRunner(legalize(model, "tflite"))(feed).values()
    assert found.shape == (2, 4)
    assert (found == value).all()
