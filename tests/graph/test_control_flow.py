"""If, Loop, Scan and sequences become straight lines of nodes that compute the same."""

import numpy as np
import pytest
from small_graphs import assert_same, graph, kinds, run

from diagnostics import ModelError
from exporter.graph.control_flow import inline_control_flow
from exporter.graph.coverage import unsupported
from exporter.graph.passes import canonicalize, legalize

FLOW = {"If", "Loop", "Scan", "SequenceAt", "SequenceConstruct", "SequenceInsert", "SplitToSequence", "ConcatFromSequence"}


def straight(body, **given):
    """The canonical form of a graph, which gives what the graph gives and has no control flow."""
    model = graph(body, infer=False, **given)
    after = canonicalize(model)
    assert not FLOW & set(kinds(after))
    return model, after


BRANCHES = "<then_branch = t () => (float[2,3] a) {{ {} }}, else_branch = e () => (float[2,3] b) {{ {} }}>"


def loop(carried, outputs, body):
    return f"<body = l (int64 i, bool c, {carried}) => (bool go, {outputs}) {{ {body} }}>"


# --- If ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [True, False])
def test_a_constant_condition_leaves_its_branch(condition):
    flow = BRANCHES.format("a = Relu(x)", "b = Neg(x)")
    model, after = straight(f"y = If(c) {flow}", inputs="float[2,3] x", outputs="float[2,3] y", c=np.array(condition))
    assert kinds(after) == ["Relu" if condition else "Neg"]
    assert_same(model, after)


@pytest.mark.parametrize("shape", ["", "[1]"], ids=["scalar", "vector"])
def test_a_computed_condition_chooses_between_both_branches(shape):
    flow = BRANCHES.format("r = Relu(x) a = Mul(r, w)", "b = Neg(x)")
    model, after = straight(f"y = If(c) {flow}", inputs=f"bool{shape} c, float[2,3] x", outputs="float[2,3] y", w=(2, 3))
    assert kinds(after)[-1] == "Where"
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    for condition in (True, False):
        feed = {"c": np.full([1] if shape else [], condition), "x": x}
        assert_same(model, after, feed)


def test_branches_of_different_shapes_are_refused():
    flow = "<then_branch = t () => (a) { a = Relu(x) }, else_branch = e () => (b) { b = ReduceSum<keepdims=1>(x) }>"
    model = graph(f"r = If(c) {flow} y = Add(r, x)", inputs="bool c, float[2,3] x", outputs="float[2,3] y", infer=False)
    with pytest.raises(ModelError, match="different shapes") as error:
        canonicalize(model)
    assert error.value.code == "EW-M007"


def test_an_if_inside_of_a_branch_is_inlined_as_well():
    inner = BRANCHES.format("a = Relu(x)", "b = Neg(x)").replace("(float[2,3] a)", "(float[2,3] a2)").replace("a =", "a2 =")
    inner = inner.replace("(float[2,3] b)", "(float[2,3] b2)").replace("b =", "b2 =")
    flow = BRANCHES.format(f"a = If(d) {inner}", "b = Identity(x)")
    model, after = straight(f"y = If(c) {flow}", inputs="bool c, bool d, float[2,3] x", outputs="float[2,3] y")
    assert kinds(after).count("Where") == 2
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    for c, d in [(True, True), (True, False), (False, True)]:
        assert_same(model, after, {"c": np.array(c), "d": np.array(d), "x": x})


# --- Loop -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trips", [1, 2, 5])
def test_a_known_number_of_trips_is_unrolled(trips):
    flow = loop("float[2,3] v", "float[2,3] w, float[2,3] s", "go = Identity(c) w = Mul(v, x) s = Neg(w)")
    outputs = f"float[2,3] y, float[{trips},2,3] all"
    model, after = straight(
        f"y, all = Loop(n, t, x) {flow}", inputs="float[2,3] x", outputs=outputs, n=np.array(trips), t=np.array(True)
    )
    assert kinds(after).count("Mul") == trips
    assert_same(model, after)


def test_a_condition_that_follows_from_the_counter_ends_the_loop():
    """Four of at most ten trips: i + 1 < 4 goes on."""
    flow = loop("float[2] v", "float[2] w", "one = Constant<value_int=1>() j = Add(i, one) go = Less(j, end) w = Add(v, x)")
    model, after = straight(
        f"y = Loop(n, , x) {flow}", inputs="float[2] x", outputs="float[2] y", n=np.array(10), end=np.array(4)
    )
    assert kinds(after) == ["Add"] * 4
    assert_same(model, after)


def test_the_counter_is_a_constant_of_every_trip():
    flow = loop("float[2] v", "float[2] w", "go = Identity(c) f = Cast<to=1>(i) w = Add(v, f)")
    model, after = straight(f"y = Loop(n, , x) {flow}", inputs="float[2] x", outputs="float[2] y", n=np.array(4))
    assert_same(model, after)


def test_no_trip_passes_the_start_on():
    flow = loop("float[2] v", "float[2] w", "go = Identity(c) w = Neg(v)")
    _, after = straight(f"r = Loop(n, , x) {flow} y = Relu(r)", inputs="float[2] x", outputs="float[2] y", n=np.array(0))
    assert kinds(after) == ["Relu"]


@pytest.mark.parametrize(
    ("inputs", "weights", "body"),
    [
        ("float[2] x, int64 n", {}, "go = Identity(c) w = Neg(v)"),
        ("float[2] x", {"n": np.array(1 << 40)}, "go = Identity(c) w = Neg(v)"),
        ("float[2] x", {"n": np.array(4)}, "m = ReduceMax<keepdims=0>(v) go = Less(m, m) w = Neg(v)"),
    ],
    ids=["computed count", "too many", "computed condition"],
)
def test_what_depends_on_data_or_is_too_long_stays_a_loop(inputs, weights, body):
    model = graph(
        f"y = Loop(n, , x) {loop('float[2] v', 'float[2] w', body)}", inputs=inputs, outputs="float[2] y", infer=False, **weights
    )
    assert kinds(canonicalize(model)) == ["Loop"]


def test_a_long_loop_is_unrolled_where_no_loop_can_run():
    body = loop("float[2] v", "float[2] w", "go = Identity(c) a = Neg(v) w = Add(a, x)")
    model = graph(f"y = Loop(n, , x) {body}", inputs="float[2] x", outputs="float[2] y", n=np.array(5), infer=False)
    long = model.clone()
    assert inline_control_flow(long, canonicalize, most=5)  # of the nodes that all trips have: the loop is closed and stays
    assert kinds(legalize(long, "tflite")) == ["Loop"]
    unrolled = legalize(long, "tflite", loops=False)
    assert not FLOW & set(kinds(unrolled))
    assert_same(model, unrolled)


# --- Scan -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_scan_visits_every_slice(axis, backward):
    shape = [4, 3, 4]
    del shape[axis]
    row = "float[" + ",".join(map(str, shape)) + "]"
    length = [4, 3, 4][axis]
    flow = f"body = l ({row} v, {row} r) => ({row} w, {row} s) {{ w = Add(v, r) s = Tanh(w) }}"
    attributes = (
        f"num_scan_inputs=1, scan_input_axes=[{axis}], scan_input_directions=[{backward}], scan_output_directions=[{backward}]"
    )
    rows = ",".join(map(str, [length, *shape]))
    model, after = straight(
        f"y, all = Scan(z, x) <{attributes}, {flow}>", inputs=f"{row} z, float[4,3,4] x", outputs=f"{row} y, float[{rows}] all"
    )
    assert_same(model, after)


def test_what_a_scan_gives_is_stacked_along_its_axis():
    flow = "body = l (float[3] r) => (float[3] s) { s = Relu(r) }"
    for axis, shape in ((1, "3,2"), (-1, "3,2"), (0, "2,3")):
        model, after = straight(
            f"y = Scan <num_scan_inputs=1, scan_output_axes=[{axis}], {flow}> (x)",
            inputs="float[2,3] x",
            outputs=f"float[{shape}] y",
        )
        assert_same(model, after)


# --- sequences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("s = SplitToSequence<axis=1>(x, k) y = SequenceAt(s, p)", "4,1"),
        ("s = SplitToSequence<axis=0, keepdims=0>(x) y = SequenceAt(s, p)", "3"),
        ("a = Neg(x) s = SequenceConstruct(x, a) y = ConcatFromSequence<axis=1>(s)", "4,6"),
        ("a = Neg(x) s = SequenceConstruct(x, a) y = ConcatFromSequence<axis=0, new_axis=1>(s)", "2,4,3"),
        ("a = Neg(x) e = SequenceEmpty() s = SequenceInsert(e, x) r = SequenceInsert(s, a, z) y = SequenceAt(r, z)", "4,3"),
        ("a = Neg(x) s = SequenceConstruct(x, a, x) r = SequenceErase(s, p) y = ConcatFromSequence<axis=0>(r)", "8,3"),
        ("a = Neg(x) s = SequenceConstruct(x, a) n = SequenceLength(s) f = Cast<to=1>(n) y = Mul(x, f)", "4,3"),
    ],
    ids=["split", "split rows", "concat", "stack", "insert", "erase", "length"],
)
def test_a_sequence_of_known_structure_is_taken_apart(body, shape):
    model, after = straight(
        body, inputs="float[4,3] x", outputs=f"float[{shape}] y", k=np.array([2, 1]), p=np.array(-1), z=np.array(0)
    )
    assert_same(model, after)


def test_a_loop_that_collects_a_sequence_is_unrolled():
    body = "go = Identity(c) f = Cast<to=1>(i) r = Add(x, f) w = SequenceInsert(v, r)"
    flow = loop("seq(float[2]) v", "seq(float[2]) w", body)
    model, after = straight(
        f"e = SequenceEmpty() s = Loop(n, , e) {flow} y = ConcatFromSequence<axis=0>(s)",
        inputs="float[2] x",
        outputs="float[6] y",
        n=np.array(3),
    )
    x = np.array([1.0, 2.0], np.float32)
    np.testing.assert_array_equal(run(after, {"x": x})["y"], [1, 2, 2, 3, 3, 4])
    assert_same(model, after, {"x": x})


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_sequence_whose_positions_depend_on_data_is_named():
    body = "s = SplitToSequence<axis=0>(x) y = SequenceAt(s, p)"
    model = graph(body, inputs="float[4,3] x, int64 p", outputs="float[1,3] y", infer=False)
    after = canonicalize(model)
    assert kinds(after) == ["SplitToSequence", "SequenceAt"]
    assert all("sequence whose length or positions depend on data" in refused.reason for refused in unsupported(after, "lower"))


def test_a_sequence_of_tensors_of_different_shapes_is_named():
    body = "s = SequenceConstruct(x, h) y = SequenceAt(s, p)"
    model = graph(body, inputs="float[4,3] x, float[2,3] h, int64 p", outputs="float[4,3] y", infer=False)
    with pytest.raises(ModelError, match="is no tensor") as error:
        canonicalize(model)
    assert (error.value.code, error.value.why) == ("EW-M006", "it is a sequence")


def test_a_scan_over_batches_is_refused():
    flow = "body = l (float[3] v, float[3] r) => (float[3] w) { w = Add(v, r) }"
    model = graph(
        f"y = Scan<num_scan_inputs=1, {flow}>(, z, x)",
        inputs="float[1,3] z, float[1,4,3] x",
        outputs="float[1,3] y",
        opset=8,
        infer=False,
    )
    with pytest.raises(ModelError, match="opset 8") as error:
        canonicalize(model)
    assert error.value.code == "EW-M003"


def test_an_optional_that_is_there_is_its_value():
    _, after = straight("e = OptionalGetElement(x) y = Relu(e)", inputs="float[2] x", outputs="float[2] y")
    assert kinds(after) == ["Relu"]
