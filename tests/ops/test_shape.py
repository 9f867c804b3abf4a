from itertools import pairwise
from math import prod

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from op_bench import assert_torch_computes_it, builtins, lowered, node_of, single, torch_outputs
from typed_bench import Fixed, everywhere, refusals, values

from exporter.ops.base import Cost, Port, operator_of


def ints(*values):
    return np.asarray(values, np.int64)


RESHAPES = [
    ((1, 3, 4, 5), (1, 60)),
    ((1, 3, 4, 5), (1, 3, 20)),
    ((1, 3, 20), (1, 3, 4, 5)),
    ((1, 6, 4, 5), (1, 2, 3, 4, 5)),
    ((1, 6, 1, 1), (1, 6)),
    ((1, 6), (1, 6, 1, 1)),
    ((1, 1, 4, 5), (1, 20)),
    ((1, 3, 4, 5), (3, 20)),
    ((1, 3, 4, 5), (1, 5, 4, 3)),
]

# op_type, inputs, attributes
OTHERS = [
    ("Flatten", [(1, 3, 4, 5)], {}),
    ("Flatten", [(1, 3, 4, 5)], {"axis": 2}),
    ("Squeeze", [(1, 3, 1, 5), ints(2)], {}),
    ("Squeeze", [(1, 3, 1, 1), ints(-1, 2)], {}),
    ("Squeeze", [(1, 3, 1, 5)], {}),
    ("Unsqueeze", [(1, 3, 5), ints(2)], {}),
    ("Unsqueeze", [(1, 3, 5), ints(0)], {}),
    ("Unsqueeze", [(3, 5), ints(0, -1)], {}),
]
MODELS = [single("Reshape", before, ints(*after), leaky=True) for before, after in RESHAPES]
MODELS += [single(op_type, *inputs, leaky=True, **attributes) for op_type, inputs, attributes in OTHERS]
PERMUTATIONS = [
    (1, 0),
    (0, 2, 1),
    (0, 1, 2),
    (2, 1, 0),
    (0, 2, 3, 1),
    (0, 3, 1, 2),
    (0, 1, 3, 2),
    (3, 2, 1, 0),
    (0, 2, 1, 3, 4),
    (0, 2, 3, 4, 1),
    (0, 5, 2, 3, 4, 1),
]


# Rounding of inputs in [-4, 4] and of what LeakyRelu leaves of them, [-0.04, 4]; moving adds nothing.
HALF_STEPS = (8 + 4.04) / 255 / 2 * 1.01


def last_node(model):
    return list(model.graph)[-1]


@pytest.mark.parametrize(("before", "after"), RESHAPES, ids=str)
def test_reshape_in_torch(before, after):
    assert_torch_computes_it(single("Reshape", before, ints(*after)), atol=0)


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), OTHERS, ids=str)
def test_the_others_in_torch(op_type, inputs, attributes):
    assert_torch_computes_it(single(op_type, *inputs, **attributes), atol=0)


def test_simulation_may_run_more_samples_than_the_graph_says():
    model = single("Reshape", (1, 3, 4, 5), ints(1, 60))
    feed = {"x0": np.arange(240, dtype=np.float32).reshape(4, 3, 4, 5)}
    np.testing.assert_array_equal(torch_outputs(model, feed)[0], feed["x0"].reshape(4, 60))


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{last_node(model).op_type}{last_node(model).inputs[0].shape}")
def test_the_kernel_only_moves_numbers(model, precision, last):
    found = lowered(model, precision, last=last)
    assert found.errors["y0"] < (1e-6 if precision == "float32" else HALF_STEPS)
    assert {name for name, _ in builtins(found)} <= {"RESHAPE", "TRANSPOSE"}


@pytest.mark.parametrize(
    ("before", "after", "ports"),
    [
        ((1, 3, 4, 5), (1, 60), (Port.FIRST, Port.ANY)),
        ((1, 3, 4, 5), (1, 3, 20), (Port.NODE, Port.NODE)),
        ((1, 3, 20), (1, 3, 4, 5), (Port.NODE, Port.NODE)),
        ((1, 6, 1, 1), (1, 6), (Port.ANY, Port.ANY)),
        ((1, 1, 4, 5), (1, 4, 5), (Port.ANY, Port.FIRST)),
        ((1, 6, 4, 5), (1, 2, 3, 4, 5), (Port.FIRST, Port.FIRST)),
    ],
    ids=str,
)
def test_where_the_order_of_axes_matters(before, after, ports):
    node = node_of(single("Reshape", before, ints(*after)))
    layout = operator_of(node).layout(node)
    assert (layout.inputs[0], layout.outputs[0]) == ports


# --- couplings, checked by cutting ------------------------------------------------------------------------------------


def indices(run, stay):
    """Indices of a run's axis that belong to the channels in `stay`."""
    return [
        run.offset + (outer * run.count + channel) * run.repeat + place
        for outer in range(run.outer)
        for channel in stay
        for place in range(run.repeat)
    ]


def assert_ties_hold(node):
    """For each tie: the node of the cut input gives the cut output."""
    operator = operator_of(node)
    shape, after = list(node.inputs[0].shape), list(node.outputs[0].shape)
    data = np.arange(prod(shape)).reshape(shape)
    whole = data.transpose(node.attributes["perm"].as_ints()) if node.op_type == "Transpose" else data.reshape(after)
    for tie in operator.couple(node).ties:
        (source, target) = tie
        assert (source.side, target.side, source.count) == ("in", "out", target.count)
        for channel in range(source.count):
            taken = np.take(data, indices(source, [channel]), source.axis)
            kept = np.take(whole, indices(target, [channel]), target.axis)
            np.testing.assert_array_equal(np.sort(taken.ravel()), np.sort(kept.ravel()))


@pytest.mark.parametrize(("before", "after"), RESHAPES, ids=str)
def test_ties_of_a_reshape_hold_the_same_elements(before, after):
    assert_ties_hold(node_of(single("Reshape", before, ints(*after))))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ties_of_any_reshape_hold_the_same_elements(data):
    factors = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=6))

    def merged():
        cuts = data.draw(st.sets(st.integers(1, len(factors)), max_size=len(factors)))
        bounds = [0, *sorted(cuts | {len(factors)})]
        return [prod(factors[a:b]) for a, b in pairwise(bounds)]

    assert_ties_hold(node_of(single("Reshape", tuple(merged()), ints(*merged()))))


@pytest.mark.parametrize("perm", PERMUTATIONS, ids=str)
def test_ties_of_a_transpose_hold_the_same_elements(perm):
    assert_ties_hold(node_of(single("Transpose", tuple(range(2, 2 + len(perm))), perm=perm)))


def test_a_flatten_spreads_a_channel_over_its_pixels():
    node = node_of(single("Flatten", (1, 3, 4, 5)))
    tie = operator_of(node).couple(node).ties[0]
    assert [(run.side, run.axis, run.count, run.repeat, run.outer) for run in tie] == [("in", 1, 3, 1, 1), ("out", 1, 3, 20, 1)]


def test_a_cut_reshape_says_its_new_shape_in_a_constant_of_its_own():
    model = single("Reshape", (1, 3, 4, 5), ints(1, 60))
    node = node_of(model)
    coupling = operator_of(node).couple(node)
    node.inputs[0].shape, node.outputs[0].shape = ir.Shape((1, 2, 4, 5)), ir.Shape((1, 40))
    coupling.update(node, ((0, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4)))
    assert node.inputs[1].const_value.numpy().tolist() == [1, 40]
    assert node.inputs[1].name in model.graph.initializers
    assert model.graph.initializers["c1"].const_value.numpy().tolist() == [1, 60]


# --- Transpose, Identity, Cast ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("perm", PERMUTATIONS, ids=str)
def test_transpose_in_torch(perm):
    assert_torch_computes_it(single("Transpose", tuple(range(2, 2 + len(perm))), perm=perm), atol=0)


def test_transpose_reverses_by_default():
    assert_torch_computes_it(single("Transpose", (2, 3, 4)), atol=0)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("perm", PERMUTATIONS[:-1], ids=str)
def test_transpose_kernel(perm, last, precision):
    found = lowered(single("Transpose", tuple(range(2, 2 + len(perm))), perm=perm, leaky=True), precision, last=last)
    assert found.errors["y0"] < (1e-6 if precision == "float32" else HALF_STEPS)


@pytest.mark.parametrize("perm", [(0, 2, 1), (0, 2, 3, 1), (0, 2, 3, 4, 1)], ids=str)
def test_a_transpose_to_the_end_is_the_layout_itself(perm):
    assert builtins(lowered(single("Transpose", tuple(range(2, 2 + len(perm))), perm=perm, leaky=True), last=True)) == []


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_any_other_transpose_reads_either_layout_in_one_step(last):
    found = lowered(single("Transpose", (1, 3, 4, 5), perm=(0, 3, 2, 1), leaky=True), last=last)
    assert builtins(found) == [("TRANSPOSE", 1)]
    assert found.errors["y0"] == 0


@st.composite
def transposes(draw):
    """Shape and permutation, with axes of length 1 as often as others."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=3, max_size=5)))
    return shape, tuple(draw(st.permutations(range(len(shape)))))


@settings(max_examples=60, deadline=None)
@given(transposes(), st.booleans())
def test_a_transpose_is_at_most_one_step_in_any_layout(transpose, last):
    shape, perm = transpose
    found = lowered(single("Transpose", shape, perm=perm, leaky=True), last=last)
    assert found.errors["y0"] == 0
    assert [name for name, _ in builtins(found) if name != "RESHAPE"] in ([], ["TRANSPOSE"])


@pytest.mark.parametrize(("shape", "perm"), [((1, 5, 4, 1), (0, 2, 1, 3)), ((1, 1, 4, 5), (0, 2, 1, 3))], ids=str)
def test_a_transpose_that_a_layout_undoes_moves_nothing(shape, perm):
    """[1, 5, 4, 1] with two axes exchanged is [1, 5, 1, 4] channels-last: the same elements in the same order."""
    for last in (False, True):
        found = lowered(single("Transpose", shape, perm=perm, leaky=True), last=last)
        assert {name for name, _ in builtins(found)} <= {"RESHAPE"}


@pytest.mark.parametrize(("perm", "version"), [((0, 1, 3, 2), 1), ((0, 1, 3, 2, 4), 4), ((0, 1, 3, 2, 4, 5), 6)], ids=str)
def test_transpose_versions_follow_the_rank(perm, version):
    assert lowered(single("Transpose", tuple(range(1, 1 + len(perm))), perm=perm)).operators == [("TRANSPOSE", version)]


def test_transpose_above_six_axes_is_rejected():
    node = node_of(single("Transpose", (1, 1, 1, 1, 1, 2, 2), perm=(0, 1, 2, 3, 4, 6, 5)))
    assert [(rule.runtime, rule.sentence) for rule in operator_of(node).constraints if not rule.holds(node)] == [
        ("tflite", "Transpose has at most 6 axes."),
        ("tflite-micro", "TensorFlow Lite Micro moves five axes at most, those that stay together counted as one."),
    ]


def test_identity_writes_nothing():
    model = single("Identity", (1, 3, 4, 5), leaky=True)
    assert_torch_computes_it(single("Identity", (1, 3)), atol=0)
    assert builtins(lowered(model)) == builtins(lowered(model, "int8", last=True)) == []


@pytest.mark.parametrize(
    ("to", "name"),
    [(TensorProto.FLOAT, "FLOAT"), (TensorProto.INT32, "INT32"), (TensorProto.INT64, "INT64"), (TensorProto.BOOL, "BOOL")],
)
def test_cast_in_torch_and_its_kernel(to, name):
    model = single("Cast", (1, 3, 4), to=to)
    assert_torch_computes_it(model, atol=0)
    found = lowered(model)
    assert found.operators in ([("CAST", 1)], [("RESHAPE", 1)])  # the same dtype: a copy, as input and output are two tensors
    assert found.errors["y0"] == 0


def test_cast_to_strings_is_rejected():
    node = node_of(single("Cast", (1, 3), to=TensorProto.STRING))
    assert any("Cast goes between" in rule.sentence and not rule.holds(node) for rule in operator_of(node).constraints)


@pytest.mark.parametrize("op_type", ["Reshape", "Transpose", "Identity"])
def test_moving_costs_no_arithmetic_and_shares_its_encoding(op_type):
    node = node_of(single(op_type, (1, 4), *([ints(4, 1)] if op_type == "Reshape" else [])))
    assert operator_of(node).cost(node) == Cost()
    assert operator_of(node).quantize(node).outputs[0].kind == "shared"


@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ((2, 1, 3, 1, 2, 1, 2), (6, 5, 4, 3, 2, 1, 0)),
        ((2, 2, 2, 2, 2, 2, 2), (0, 3, 4, 1, 2, 5, 6)),
        ((1, 2, 1, 2, 1, 3, 1, 2), (5, 4, 7, 0, 3, 1, 2, 6)),
    ],
    ids=str,
)
def test_transposes_of_many_axes_move_runs_of_them(shape, perm):
    assert everywhere("Transpose", values("float32", *shape), perm=perm) == ["Reshape", "Transpose", "Reshape"]


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int16", "int32", "int64", "bool"])
def test_transposes_of_every_dtype(dtype):
    everywhere("Transpose", values(dtype, 2, 3, 4), perm=(2, 0, 1))
    everywhere("Reshape", values(dtype, 2, 3, 4), Fixed([4, -1]))


def test_a_transpose_of_seven_axes_that_all_part_is_refused():
    assert refusals("Transpose", values("float32", *(2,) * 7), perm=(6, 5, 4, 3, 2, 1, 0)) == [
        "Transpose: Transpose has at most 6 axes."
    ]
