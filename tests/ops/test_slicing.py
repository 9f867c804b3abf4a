import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_bench import assert_legalized, assert_torch_computes_it, builtins, lowered, node_of, op_types, single, torch_outputs

from exporter.graph.legalize import legalize
from exporter.graph.run import FloatRunner
from exporter.ops.base import Cost, operator_of
from exporter.ops.slicing import slice_ranges

LAYOUTS = pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "int8"])

# Rounding of inputs in [-4, 4] and of what LeakyRelu leaves of them, [-0.04, 4]; moving adds nothing.
HALF_STEPS = (8 + 4.04) / 255 / 2 * 1.01


def ints(*values):
    return np.asarray(values, np.int64)


def check(model, precision, last):
    found = lowered(model, precision, last=last)
    assert max(found.errors.values()) < (1e-6 if precision == "float32" else HALF_STEPS)
    return builtins(found)


def version(precision):
    return 1 if precision == "float32" else 2


# --- Concat -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_concat_in_torch(axis):
    shapes = [[1, 3, 4, 5] for _ in range(3)]
    for number, shape in enumerate(shapes):
        shape[axis] = number + 1
    assert_torch_computes_it(single("Concat", *map(tuple, shapes), axis=axis), atol=0)


@LAYOUTS
@PRECISIONS
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_concat_kernel(axis, precision, last):
    model = single("Concat", (1, 3, 4, 5), (1, 3, 4, 5), axis=axis, leaky=True)
    assert check(model, precision, last) == [("CONCATENATION", version(precision))]


@LAYOUTS
@PRECISIONS
def test_concat_with_a_constant(precision, last):
    constant = np.linspace(-1, 1, 40, dtype=np.float32).reshape(1, 2, 4, 5)
    assert check(single("Concat", (1, 3, 4, 5), constant, axis=1, leaky=True), precision, last) == [
        ("CONCATENATION", version(precision))
    ]


def test_concat_of_one_is_none():
    assert "Concat" not in assert_legalized(single("Concat", (1, 3), axis=1))


def test_concat_ties_each_input_behind_those_before_it():
    node = node_of(single("Concat", (1, 3, 4), (1, 2, 4), axis=1))
    ties = operator_of(node).couple(node).ties
    channels = [[(run.side, run.index, run.count, run.offset) for run in tie] for tie in ties if tie[0].axis == 1]
    assert channels == [[("in", 0, 3, 0), ("out", 0, 3, 0)], [("in", 1, 2, 0), ("out", 0, 2, 3)]]
    assert [len(tie) for tie in ties if tie[0].axis == 2] == [3]


# --- Split ------------------------------------------------------------------------------------------------------------

SPLITS = {
    "equal": single("Split", (1, 6, 4, 5), outputs=3, axis=1, num_outputs=3, leaky=True),
    "uneven": single("Split", (1, 7, 4, 5), outputs=3, axis=1, num_outputs=3, leaky=True),
    "sizes": single("Split", (1, 6, 4, 5), ints(1, 5), outputs=2, axis=1, leaky=True),
    "rows": single("Split", (1, 6, 4, 5), ints(1, 3), outputs=2, axis=-2, leaky=True),
}


@pytest.mark.parametrize(
    "model",
    [
        single("Split", (1, 6, 4), outputs=3, axis=1, num_outputs=3),
        single("Split", (1, 7, 4), outputs=3, axis=1, num_outputs=3),
        single("Split", (1, 6, 4), ints(1, 3), outputs=2, axis=-1),
    ],
)
def test_split_in_torch(model):
    assert_torch_computes_it(model, atol=0)


@LAYOUTS
@PRECISIONS
@pytest.mark.parametrize("name", SPLITS)
def test_split_kernel(name, precision, last):
    expected = "SPLIT" if name == "equal" else "SPLIT_V"
    assert check(SPLITS[name], precision, last) == [(expected, version(precision))]


def test_a_cut_split_says_the_sizes_of_its_parts():
    model = single("Split", (1, 6, 4), outputs=2, axis=1, num_outputs=2)
    node = node_of(model)
    coupling = operator_of(node).couple(node)
    assert [(tie[0].offset, tie[0].count, tie[1].index) for tie in coupling.ties[:2]] == [(0, 3, 0), (3, 3, 1)]
    node.inputs[0].shape = ir.Shape((1, 4, 4))
    for output, count in zip(node.outputs, (3, 1), strict=True):
        output.shape = ir.Shape((1, count, 4))
    coupling.update(node, ((0, 1, 2), (1,), (0, 1, 2, 3)))
    assert_torch_computes_it(model, {"x0": np.arange(16, dtype=np.float32).reshape(1, 4, 4)}, atol=0)


# --- Slice ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([-3, -2, -1, 1, 2, 3]), st.booleans())
def test_any_slice_in_torch(length, start, end, step, behind_all):
    """ONNX clamps starts and ends as Python does, for either sign of the step."""
    if behind_all:
        end = 2**63 - 1 if step > 0 else -(2**63)
    picked = range(length)[slice(start, None if step < 0 and end < -length else end, step)]
    assume(len(picked) > 0)
    model = single("Slice", (2, length, 3), ints(start), ints(end), ints(1), ints(step))
    assert_torch_computes_it(model, atol=0)
    assert slice_ranges(node_of(model))[1] == (picked.start, len(picked), step)


SLICES = {
    "channels": ((1, 6, 4, 5), ints(2), ints(5), ints(1), None),
    "rows and columns": ((1, 6, 4, 5), ints(1, -4), ints(4, -1), ints(2, 3), None),
    "no axes": ((1, 6, 4, 5), ints(0, 1), ints(1, 3), None, None),
    "every other": ((1, 6, 4, 5), ints(0, 1), ints(4, 5), ints(2, 3), ints(2, 2)),
    "backwards": ((1, 6, 4, 5), ints(-1), ints(-(2**31)), ints(1), ints(-1)),
    "backwards in part": ((1, 6, 4, 5), ints(4), ints(0), ints(1), ints(-2)),
    "five axes": ((1, 6, 2, 4, 5), ints(2), ints(5), ints(1), None),
}


@LAYOUTS
@PRECISIONS
@pytest.mark.parametrize("name", SLICES)
def test_slice_kernel(name, precision, last):
    builtin = "STRIDED_SLICE" if SLICES[name][4] is not None else "SLICE"
    at = 5 if name == "five axes" else version(precision)
    assert check(single("Slice", *SLICES[name], leaky=True), precision, last) == [(builtin, at)]


def test_slices_of_many_axes_or_computed_places_are_rejected():
    node = node_of(single("Slice", (1,) * 7 + (2, 2), ints(0), ints(1), ints(1)))
    assert [rule.sentence for rule in operator_of(node).constraints if not rule.holds(node)] == ["Slice has at most 8 axes."]


def test_slice_ties_what_it_takes_and_lets_the_rest_go():
    node = node_of(single("Slice", (1, 6, 4), ints(2), ints(5), ints(1)))
    ties = [tie for tie in operator_of(node).couple(node).ties if tie[0].axis == 1]
    assert [[(run.side, run.count, run.offset) for run in tie] for tie in ties] == [
        [("in", 3, 2), ("out", 3, 0)],
        [("in", 2, 0)],
        [("in", 1, 5)],
    ]


def test_slice_with_steps_keeps_its_channels_whole():
    node = node_of(single("Slice", (1, 6, 4), ints(0), ints(6), ints(1), ints(2)))
    coupling = operator_of(node).couple(node)
    assert [(run.side, run.axis, run.count) for run in coupling.blocked] == [("in", 1, 6), ("out", 1, 3)]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_cut_slice_takes_what_stayed_of_what_it_took(data):
    start = data.draw(st.integers(0, 4))
    end = data.draw(st.integers(start + 1, 6))
    model = single("Slice", (1, 6, 4), ints(start, 3), ints(end, 0), ints(1, 2), ints(1, -1))
    node = node_of(model)
    whole = np.arange(24, dtype=np.float32).reshape(1, 6, 4)
    before = FloatRunner(model)({"x0": whole})["y0"]
    coupling = operator_of(node).couple(node)
    kept = tuple(tuple(sorted(data.draw(st.sets(st.integers(0, tie[0].count - 1), min_size=1)))) for tie in coupling.ties)
    stay = sorted(tie[0].offset + channel for tie, stayed in zip(coupling.ties, kept, strict=True) for channel in stayed)
    node.inputs[0].shape = ir.Shape((1, len(stay), 4))
    node.outputs[0].shape = ir.Shape((1, len(kept[0]), 3))
    coupling.update(node, kept)
    (found,) = torch_outputs(model, {"x0": whole[:, stay]})
    np.testing.assert_array_equal(found, before[:, list(kept[0])])


# --- Gather -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "indices", [np.asarray(1), ints(2), ints(0, 2, 1), ints(-1, 0), np.array([[0, 1], [2, 2]])], ids=lambda i: str(i.tolist())
)
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_gather_in_torch_and_legalized(indices, axis):
    model = single("Gather", (2, 3, 4, 5), indices.astype(np.int64), axis=axis)
    assert_torch_computes_it(model, atol=0)
    assert_legalized(model, atol=0)


def test_a_run_of_indices_is_a_slice():
    assert op_types(legalize(single("Gather", (1, 3, 4), ints(1, 2), axis=1), "tflite")) == ["Slice"]
    assert op_types(legalize(single("Gather", (1, 3, 4), np.asarray(-1, np.int64), axis=1), "tflite")) == ["Slice", "Squeeze"]


@LAYOUTS
@PRECISIONS
@pytest.mark.parametrize("axis", [1, 2])
def test_gather_kernel(axis, precision, last):
    assert check(single("Gather", (1, 3, 4, 5), ints(2, 0, -1), axis=axis, leaky=True), precision, last) == [
        ("GATHER", version(precision))
    ]


@LAYOUTS
@PRECISIONS
def test_one_index_drops_its_axis(precision, last):
    names = [
        name for name, _ in check(single("Gather", (1, 3, 4, 5), np.asarray(2, np.int64), axis=1, leaky=True), precision, last)
    ]
    assert names[0] == "SLICE"


@pytest.mark.parametrize(("indices", "place"), [(np.asarray(1), 1), (ints(0, 2), 2)], ids=["one", "several"])
def test_axes_behind_the_gathered_one_move(indices, place):
    node = node_of(single("Gather", (1, 3, 4), indices.astype(np.int64), axis=1))
    coupling = operator_of(node).couple(node)
    assert [[(run.side, run.axis, run.count) for run in tie] for tie in coupling.ties] == [[("in", 2, 4), ("out", place, 4)]]
    assert [(run.axis, run.count) for run in coupling.blocked] == [(1, 3)]


@pytest.mark.parametrize(
    "model", [single("Concat", (1, 3), (1, 3), axis=1), single("Split", (1, 6), outputs=2, axis=1, num_outputs=2)]
)
def test_cutting_and_joining_cost_no_arithmetic_and_share_one_encoding(model):
    node = node_of(model)
    assert operator_of(node).cost(node) == Cost()
    assert {rule.kind for rule in operator_of(node).quantize(node).outputs} == {"shared"}
