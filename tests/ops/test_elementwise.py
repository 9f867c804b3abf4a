import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from onnx import helper
from op_bench import (
    assert_legalized,
    assert_torch_computes_it,
    builtins,
    graph,
    lowered,
    node_of,
    op_types,
    sample,
    single,
)

from exporter.graph.legalize import legalize
from exporter.ops.base import Cost, Port, operator_of

BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min"]
TFLITE = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV", "Max": "MAXIMUM", "Min": "MINIMUM"}


def channels(*values):
    return np.array(values, np.float32).reshape(-1, 1, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(BINARY), mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=4, max_side=4), st.integers(0, 99)
)
def test_torch_broadcasts_as_onnx_does(op_type, shapes, seed):
    model = single(op_type, *shapes.input_shapes)
    assert_torch_computes_it(model, sample(model, seed, low=0.5))


@pytest.mark.parametrize("op_type", ["Max", "Min", "Sum"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_inputs_becomes_pairs(op_type, count):
    model = single(op_type, *[(1, 3, 4), (1, 1, 4), (4,), (1, 3, 1)][:count])
    assert_torch_computes_it(model)
    assert assert_legalized(model) == (["Add" if op_type == "Sum" else op_type] * (count - 1) or ["Identity"])


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("op_type", BINARY)
@pytest.mark.parametrize(
    "other",
    [
        (1, 3, 4, 5),
        (1, 3, 1, 1),
        (1, 1, 4, 5),
        channels(0.5, 1.5, 2.5),
        np.asarray(1.5, np.float32),
        np.ones((5,), np.float32) * 2,
    ],
    ids=lambda other: str(other.shape if isinstance(other, np.ndarray) else other),
)
def test_float_kernel_computes_it(op_type, other, last):
    model = single(op_type, (1, 3, 4, 5), other)
    found = lowered(model, last=last, feed=sample(model, low=0.5))
    expected = "MUL" if op_type == "Div" and isinstance(other, np.ndarray) else TFLITE[op_type]
    assert found.operators == [(expected, 1)]
    assert found.errors["y0"] < 2e-6


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Max", "Min"])
@pytest.mark.parametrize("other", [(1, 3, 4, 5), (1, 3, 1, 1), channels(-0.5, 1.5, 2.5)], ids=["same", "pooled", "constant"])
def test_int8_kernel_computes_it(op_type, other, last):
    found = lowered(single(op_type, (1, 3, 4, 5), other, leaky=op_type in ("Max", "Min")), "int8", last=last)
    assert builtins(found) == [(TFLITE[op_type], 2)]
    # A product's error is that of either input times the other: half a step each, in steps of the product at most 1, and its own half.
    assert found.steps["y0"] < 2.1


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_computed_input_of_lower_rank_broadcasts_channels_first(precision):
    node = node_of(single("Add", (1, 3, 4, 5), (4, 5)))
    assert set(operator_of(node).layout(node).inputs) == {Port.FIRST}
    assert lowered(single("Add", (1, 3, 4, 5), (4, 5)), precision, last=True).errors["y0"] < 0.1


def test_one_computed_element_broadcasts_in_any_layout():
    node = node_of(single("Mul", (1, 3, 4, 5), (1,)))
    assert operator_of(node).layout(node).inputs == (Port.NODE, Port.ANY)
    assert lowered(single("Mul", (1, 3, 4, 5), (1,)), last=True).errors["y0"] < 1e-6


def test_a_product_with_a_scale_above_one_needs_version_3():
    """scale(a) * scale(b) / scale(y) >= 1 where y is much smaller than a * b could be."""
    model = single("Mul", (1, 3, 4, 5), (1, 3, 4, 5))
    one, other = np.zeros((2, 1, 3, 4, 5), np.float32)
    one[0, 0, 0, 0], other[0, 0, 0, 1] = 500.0, 500.0
    one[0, 1], other[0, 1] = 1.0, 0.5
    assert builtins(lowered(model, "int8", feed={"x0": one, "x1": other})) == [("MUL", 3)]


@pytest.mark.parametrize(("op_type", "version"), [("Add", 1), ("Mul", 1), ("Sub", 3), ("Max", 3), ("Min", 3), ("Div", 2)])
def test_broadcasting_in_five_axes_needs_younger_kernels(op_type, version):
    model = single(op_type, (1, 2, 3, 2, 2), (1, 2, 1, 1, 2))
    found = lowered(model, feed=sample(model, low=0.5))
    assert found.operators == [(TFLITE[op_type], version)]
    assert found.errors["y0"] < 1e-5


def test_more_than_five_axes_are_rejected():
    node = node_of(single("Add", (1, 1, 2, 3, 2, 2), (1, 2, 1, 1, 2)))
    sentences = [rule.sentence for rule in operator_of(node).constraints if not rule.holds(node)]
    assert sentences == ["Inputs that are broadcast have at most 5 axes."]


def test_an_activation_behind_arithmetic_is_fused():
    nodes = [helper.make_node("Add", ["a", "b"], ["s"], name="add"), helper.make_node("Relu", ["s"], ["y"], name="relu")]
    model = graph(nodes, {"a": [1, 3, 4, 5], "b": [1, 3, 4, 5]}, ["y"])
    for precision, version in (("float32", 1), ("int8", 2)):
        found = lowered(model, precision)
        assert builtins(found) == [("ADD", version)]
        assert found.errors["y"] < 0.1


# --- Div --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divisor", [2.0, -0.25, 3.0, 255.0])
def test_a_constant_divisor_becomes_a_factor(divisor):
    model = single("Div", (1, 3, 4, 5), np.asarray(divisor, np.float32))
    assert assert_legalized(model, atol=0) == ["Mul"]
    assert assert_legalized(model, "onnx", atol=0) == ["Mul"]
    assert builtins(lowered(model, "int8")) == [("MUL", 2)]


@pytest.mark.parametrize("divisor", [0.0, 1e-40, 3e38, np.inf])
def test_a_divisor_whose_reciprocal_is_no_normal_number_stays(divisor):
    with np.errstate(over="ignore"):
        model = single("Div", (1, 3), np.asarray(divisor, np.float32))
    assert op_types(legalize(model, "tflite")) == ["Div"]


def test_a_quotient_by_fewer_numbers_stays_where_those_are_no_deviations():
    """A reciprocal of any number may overflow or vanish."""
    model = single("Div", (3, 8), (3, 1))
    assert assert_legalized(model, atol=1e-5) == ["Div"]


def test_division_of_computed_values_stays_float():
    assert "DIV" in dict(lowered(single("Div", (1, 3, 4), (1, 3, 4)), "int8").operators)


# --- facets -----------------------------------------------------------------------------------------------------------


def runs(coupling):
    return [[(run.side, run.index, run.axis, run.count) for run in tie] for tie in coupling.ties]


def test_channels_of_all_inputs_and_the_output_are_tied():
    node = node_of(single("Add", (1, 3, 4, 5), channels(1, 2, 3)))
    assert runs(operator_of(node).couple(node))[0] == [("in", 0, 1, 3), ("in", 1, 0, 3), ("out", 0, 1, 3)]


def test_what_is_broadcast_over_the_channels_stays_whole():
    node = node_of(single("Mul", (1, 3, 4, 5), (1, 1, 4, 5)))
    coupling = operator_of(node).couple(node)
    assert runs(coupling)[0] == [("in", 0, 1, 3), ("out", 0, 1, 3)]
    assert [(run.index, run.axis, run.count) for run in coupling.blocked] == [(1, 1, 1)]


def test_a_constant_that_is_broadcast_over_the_channels_is_not_touched():
    node = node_of(single("Mul", (1, 3, 4, 5), np.ones((5,), np.float32)))
    coupling = operator_of(node).couple(node)
    assert runs(coupling)[0] == [("in", 0, 1, 3), ("out", 0, 1, 3)]
    assert coupling.blocked == ()


def test_max_and_min_share_one_encoding_and_arithmetic_requantizes():
    kinds = {}
    for op_type in ("Add", "Sub", "Mul", "Max", "Min"):
        node = node_of(single(op_type, (1, 3), (1, 3)))
        kinds[op_type] = operator_of(node).quantize(node).outputs[0].kind
    assert kinds == {"Add": "own", "Sub": "own", "Mul": "own", "Max": "shared", "Min": "shared"}


def test_cost_counts_the_outputs_elements():
    node = node_of(single("Add", (1, 3, 4, 5), (1, 3, 1, 1)))
    assert operator_of(node).cost(node) == Cost(elementwise=60)


@pytest.mark.parametrize("op_type", BINARY)
@settings(max_examples=15, deadline=None)
@given(mutually_broadcastable_shapes(num_shapes=2, min_dims=6, max_dims=8, max_side=3), st.integers(0, 99))
def test_many_axes_are_merged_where_neighbours_are_broadcast_alike(op_type, shapes, seed):
    """Exact, and no broadcast of more than five axes is left where there are at most five groups of axes."""
    model = single(op_type, *shapes.input_shapes)
    assert_legalized(model, feed=sample(model, seed, low=0.5))
    legal = legalize(model, "tflite")
    left = [node for node in legal.graph if node.op_type == op_type]
    out = shapes.result_shape
    patterns = []
    for axis, length in enumerate(out):
        own = [((1,) * (len(out) - len(shape)) + shape)[axis] != 1 for shape in shapes.input_shapes]
        if length != 1 and (not patterns or patterns[-1] != own):
            patterns.append(own)
    if len(patterns) <= 5 and len(set(shapes.input_shapes)) > 1:
        assert all(len(node.outputs[0].shape) <= 5 for node in left)


def test_an_attention_bias_over_height_and_width_runs_on_tflite():
    """[B, heads, h, w, h, w] + [B, heads, h, w, h, 1]: relative positions in a pooled vision transformer."""
    found = lowered(single("Add", (1, 2, 3, 4, 3, 4), (1, 2, 3, 4, 3, 1)))
    assert builtins(found) == [("RESHAPE", 1), ("RESHAPE", 1), ("ADD", 1), ("RESHAPE", 1)]
    assert found.errors == {"y0": 0.0}
