import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from op_bench import assert_legalized, assert_torch_computes_it, builtins, graph, lowered, node_of, op_types, sample, single

from exporter.graph.legalize import legalize
from exporter.graph.run import FloatRunner
from exporter.graph.values import attribute
from exporter.ops.base import Channels, Cost, Refused, Role, operator_of


def weights(*shape, seed=1):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from([1.0, 2.0, 0.0]),
    st.sampled_from(["none", "scalar", "columns", "row", "rows", "full", "computed"]),
)
def test_every_gemm_is_simulated_and_brought_to_one_form(m, k, n, trans_a, trans_b, alpha, beta, kind):
    shapes = {"scalar": (), "columns": (n,), "row": (1, n), "rows": (m, 1), "full": (m, n), "computed": (m, n)}
    c = [] if kind == "none" else [shapes[kind]] if kind == "computed" else [weights(*shapes[kind], seed=3)]
    model = single(
        "Gemm",
        (k, m) if trans_a else (m, k),
        weights(n, k) if trans_b else weights(k, n),
        *c,
        transA=int(trans_a),
        transB=int(trans_b),
        alpha=alpha,
        beta=beta,
    )
    assert_torch_computes_it(model, atol=1e-5)
    assert_legalized(model, atol=1e-5)
    for node in legalize(model, "tflite").graph:
        if node.op_type == "Gemm":
            assert (attribute(node, "transA", 0), attribute(node, "transB", 0)) == (0, 1)
            assert (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)) == (1.0, 1.0)
            assert len(node.inputs) < 3 or tuple(node.inputs[2].shape) == (n,)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((2, 5, 2, 3), (2, 5, 3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((3,), (3, 4)),
        ((2, 2, 3), (3,)),
    ],
    ids=str,
)
def test_matmul_in_torch(left, right):
    assert_torch_computes_it(single("MatMul", left, right), atol=1e-5)
    assert_torch_computes_it(single("MatMul", left, weights(*right)), atol=1e-5)


def test_matmul_with_a_constant_is_a_gemm():
    assert assert_legalized(single("MatMul", (2, 3), weights(3, 4)), "onnx", atol=1e-5) == ["Gemm"]
    assert assert_legalized(single("MatMul", (5, 2, 3), weights(3, 4)), atol=1e-5) == ["Reshape", "Gemm", "Reshape"]
    assert assert_legalized(single("MatMul", (5, 2, 3), weights(3, 4)), "onnx", atol=1e-5) == ["MatMul"]
    assert assert_legalized(single("MatMul", (2, 3), (3, 4)), atol=1e-5) == ["MatMul"]


@pytest.mark.parametrize("shape", [(2, 3), (1, 5, 3), (2, 2, 5, 3)], ids=str)
@pytest.mark.parametrize("swap", [False, True])
def test_an_addition_behind_becomes_the_bias(shape, swap):
    model = graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
            helper.make_node("Add", ["b", "p"] if swap else ["p", "b"], ["y"], name="add"),
        ],
        {"x": shape},
        ["y"],
        w=weights(3, 4),
        b=weights(4),
    )
    types = assert_legalized(model, atol=1e-5)
    assert types == (["Gemm"] if len(shape) == 2 else ["Reshape", "Gemm", "Reshape"])
    assert max(lowered(model, "int8").steps.values()) < 5


def test_an_addition_that_differs_between_rows_stays():
    model = graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
            helper.make_node("Add", ["p", "b"], ["y"], name="add"),
        ],
        {"x": (2, 3)},
        ["y"],
        w=weights(3, 4),
        b=weights(2, 4),
    )
    assert assert_legalized(model, atol=1e-5) == ["Gemm", "Add"]


FLATTENS = {
    "Flatten": (helper.make_node("Flatten", ["c"], ["f"], name="flatten"), {}),
    "Reshape": (helper.make_node("Reshape", ["c", "s"], ["f"], name="flatten"), {"s": np.array([1, -1], np.int64)}),
    "Reshape 0": (helper.make_node("Reshape", ["c", "s"], ["f"], name="flatten"), {"s": np.array([0, -1], np.int64)}),
}


@pytest.mark.parametrize("name", FLATTENS)
def test_a_flatten_reads_channels_last(name):
    flatten, shape = FLATTENS[name]
    model = graph(
        [
            helper.make_node("Conv", ["x", "k"], ["c"], name="conv"),
            flatten,
            helper.make_node("Gemm", ["f", "w", "b"], ["y"], name="dense", transB=1),
        ],
        {"x": (1, 3, 5, 6)},
        ["y"],
        k=weights(4, 3, 3, 3),
        w=weights(2, 4 * 3 * 4),
        b=weights(2),
        **shape,
    )
    assert assert_legalized(model, atol=1e-5) == ["Conv", "Transpose", "Reshape", "Gemm"]
    assert "Transpose" not in assert_legalized(model, "onnx", atol=1e-5)
    assert lowered(model).errors["y"] < 1e-5


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (1, 1, 4, 5)], ids=str)
def test_a_flatten_that_moves_nothing_stays(shape):
    count = int(np.prod(shape))
    model = graph(
        [
            helper.make_node("Flatten", ["x"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "w"], ["y"], name="dense", transB=1),
        ],
        {"x": shape},
        ["y"],
        w=weights(2, count),
    )
    assert assert_legalized(model, atol=1e-5) == ["Flatten", "Gemm"]


def test_tflite_computes_it_at_the_lowest_version():
    model = single("Gemm", (2, 6), weights(4, 6), weights(4), transB=1)
    assert builtins(lowered(model)) == [("FULLY_CONNECTED", 1)]
    assert lowered(model).errors["y0"] < 1e-5
    found = lowered(model, "int8")
    assert builtins(found) == [("FULLY_CONNECTED", 4)]
    assert found.steps["y0"] < 4
    product = single("MatMul", (2, 3, 4), (2, 4, 5))
    assert builtins(lowered(product)) == [("BATCH_MATMUL", 1)]
    assert lowered(product).errors["y0"] < 1e-5
    found = lowered(product, "int8")
    assert builtins(found) == [("BATCH_MATMUL", 2)]
    assert found.steps["y0"] < 4


def test_encodings_and_cost():
    rows = node_of(single("Gemm", (2, 6), weights(4, 6), weights(4), transB=1))
    assert [entry.role for entry in operator_of(rows).quantize(rows).inputs] == [Role.ACTIVATION, Role.WEIGHT, Role.BIAS]
    assert operator_of(rows).quantize(rows).inputs[1].axis == 0
    columns = node_of(single("Gemm", (2, 6), weights(6, 4)))
    assert operator_of(columns).quantize(columns).inputs[1].axis == 1
    assert operator_of(rows).cost(rows) == Cost(macs=2 * 6 * 4)
    product = node_of(single("MatMul", (5, 2, 3), weights(3, 4)))
    assert operator_of(product).cost(product) == Cost(macs=5 * 2 * 3 * 4)


def test_columns_are_free_and_depth_follows():
    node = node_of(single("Gemm", (2, 6), weights(4, 6), weights(4), transB=1))
    coupling = operator_of(node).couple(node)
    assert coupling.ties[:2] == (
        (Channels("in", 0, 1, 6), Channels("in", 1, 1, 6)),
        (Channels("in", 1, 0, 4), Channels("in", 2, 0, 4), Channels("out", 0, 1, 4)),
    )
    assert coupling.free_outputs == (1,)


def test_cutting_matmul_depth_as_coupled_is_a_sum_over_what_is_left():
    node = node_of(single("MatMul", (5, 2, 3), weights(3, 4)))
    first, second = operator_of(node).couple(node).ties[0]
    assert (first.axis, second.axis, first.count) == (2, 0, 3)


def test_a_computed_matrix_has_no_integer_form_of_its_own():
    model = single("Gemm", (2, 3), (3, 4))
    with pytest.raises(Refused, match="computed matrix B"):
        operator_of(node_of(model)).quantize(node_of(model))
    assert op_types(legalize(model, "tflite")) == ["MatMul"]


def test_a_flatten_with_another_user_is_not_taken_away_from_it():
    model = graph(
        [
            helper.make_node("Flatten", ["x"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "w"], ["y"], name="dense", transB=1),
            helper.make_node("Relu", ["f"], ["z"], name="relu"),
        ],
        {"x": (1, 3, 2, 2)},
        ["y", "z"],
        w=weights(2, 12),
    )
    assert sorted(assert_legalized(model, atol=1e-5)) == ["Flatten", "Gemm", "Relu", "Reshape", "Transpose"]
    feed = sample(model)
    assert FloatRunner(legalize(model, "tflite"))(feed)["z"].tolist() == FloatRunner(model)(feed)["z"].tolist()
