"""Loops that are not unrolled: onnxruntime on the source, LiteRT's reference and XNNPACK kernels on the WHILE."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from op_bench import TARGET

from diagnostics import ModelError
from exporter.backends.tflite.layout import assign
from exporter.backends.tflite.writer import write_tflite
from exporter.graph.passes import canonicalize, legalize
from exporter.quantization.planner import float_plan
from tests.graph.small_graphs import graph, kinds, run

KERNELS = (OpResolverType.BUILTIN_REF, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.AUTO)


def loop(carried, outputs, body):
    return f"<body = l (int64 i, bool c, {carried}) => (bool go, {outputs}) {{ {body} }}>"


def assert_loops(body, feeds, *, inputs, outputs, left=("Loop",), **weights):
    """The canonical graph holds `left`; for every feed LiteRT gives what onnxruntime gives, one interpreter after the other feed."""
    model = graph(body, inputs=inputs, outputs=outputs, infer=False, **weights)
    canonical = canonicalize(model)
    assert [kind for kind in kinds(canonical) if kind in ("Loop", "Scan")] == list(left)
    assert kinds(canonicalize(canonical)) == kinds(canonical)
    legal = legalize(canonical, "tflite")
    artifact = write_tflite(legal, assign(legal, float_plan(legal, TARGET), "keep"))
    assert ("WHILE", 1) in artifact.operators
    for kernels in KERNELS:
        interpreter = Interpreter(model_content=artifact.content, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
        for feed in feeds:
            wanted = run(model, feed)
            for source in (canonical, legal):
                for name, array in run(source, feed).items():
                    np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-6)
            for name, array in runner(**feed).items():
                np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-6)


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def test_a_computed_number_of_steps_and_an_outer_value():
    body = loop("float[2] v", "float[2] w", "go = Identity(c) w = Sub(x, v)")
    feeds = [{"x": normal(2), "n": np.array(count)} for count in (5, 0, 1)]
    assert_loops(f"y = Loop(n, , x) {body}", feeds, inputs="float[2] x, int64 n", outputs="float[2] y")


def test_a_computed_condition_ends_it_and_what_follows_has_a_shape():
    body = loop("float[2] v", "float[2] w", "m = ReduceMax<keepdims=0>(v) go = Less(m, most) w = Add(v, step)")
    feeds = [{"x": np.float32([start, 0])} for start in (0, 1, 3)]
    weights = {"n": np.array(20), "step": np.float32([0.25, 0.5]), "most": np.float32(1.5)}
    assert_loops(f"s = Loop(n, , x) {body} y = Neg(s)", feeds, inputs="float[2] x", outputs="float[2] y", **weights)


def test_a_condition_alone_that_does_not_hold_before_the_first_step():
    body = loop("float[2] v", "float[2] w", "m = ReduceMax<keepdims=0>(v) go = Less(m, most) w = Add(v, v)")
    feeds = [{"x": np.float32([1, 0.5]), "t": np.array(start)} for start in (True, False)]
    assert_loops(f"y = Loop(, t, x) {body}", feeds, inputs="float[2] x, bool t", outputs="float[2] y", most=np.float32(9))


def test_many_known_steps_collect_their_outputs_and_see_the_counter():
    body = loop("float[2,3] v", "float[2,3] w, float[2,3] s", "go = Identity(c) f = Cast<to=1>(i) w = Mul(v, h) s = Add(w, f)")
    assert_loops(
        f"y, all = Loop(n, t, x) {body}",
        [{"x": normal(2, 3)}],
        inputs="float[2,3] x",
        outputs="float[2,3] y, float[1500,2,3] all",
        n=np.array(1500),
        t=np.array(True),
        h=np.full((2, 3), 0.999, np.float32),
    )


def test_a_convolution_inside_of_a_loop():
    body = loop("float[1,2,4,4] v", "float[1,2,4,4] w", "go = Identity(c) a = Conv<pads=[1,1,1,1]>(v, k) w = Tanh(a)")
    feeds = [{"x": normal(1, 2, 4, 4), "n": np.array(3)}]
    assert_loops(
        f"y = Loop(n, , x) {body}", feeds, inputs="float[1,2,4,4] x, int64 n", outputs="float[1,2,4,4] y", k=(2, 2, 3, 3)
    )


def test_a_loop_inside_of_a_loop():
    inner = "<body = k (int64 j, bool d, float[2] a) => (bool more, float[2] b) { more = Identity(d) b = Add(a, x) }>"
    body = loop("float[2] v", "float[2] w", f"go = Identity(c) u = Loop(m, , v) {inner} w = Mul(u, half)")
    feeds = [{"x": normal(2), "n": np.array(3), "m": np.array(count)} for count in (0, 2)]
    inputs = "float[2] x, int64 n, int64 m"
    assert_loops(f"y = Loop(n, , x) {body}", feeds, inputs=inputs, outputs="float[2] y", half=np.float32([0.5, 0.25]))


@pytest.mark.parametrize("backward", [0, 1])
@pytest.mark.parametrize(("axis", "steps"), [(0, 1500), (1, 1500), (-1, 1500), (-1, 1511)])
def test_a_long_scan_in_either_direction_along_any_axis(axis, steps, backward):
    shape, rows = ([steps, 2] if axis == 0 else [2, steps]), "float[2] s, float[2] r"
    scan = (
        f"<num_scan_inputs=1, scan_input_axes=[{axis}], scan_output_axes=[{axis}], scan_input_directions=[{backward}],"
        f" scan_output_directions=[{1 - backward}],"
        f" body = b ({rows}) => (float[2] t, float[2] o) {{ a = Mul(s, h) t = Add(a, r) u = Neg(t) o = Add(u, k) }}>"
    )
    text = ",".join(map(str, shape))
    assert_loops(
        f"y, all = Scan(x, z) {scan}",
        [{"x": normal(2), "z": normal(*shape)}],
        inputs=f"float[2] x, float[{text}] z",
        outputs=f"float[2] y, float[{text}] all",
        left=("Scan",),
        h=np.float32(0.9),
        k=normal(2),
    )


def test_outputs_collected_over_a_computed_number_of_steps_are_refused():
    body = loop("float[2] v", "float[2] w, float[2] s", "go = Identity(c) w = Neg(v) s = Abs(v)")
    model = graph(
        f"y, all = Loop(n, , x) {body}", inputs="float[2] x, int64 n", outputs="float[2] y, float[N,2] all", infer=False
    )
    with pytest.raises(ModelError, match="'all' depends on data") as error:
        canonicalize(model)
    assert error.value.code == "EW-M006"


def test_a_carried_value_that_grows_is_refused():
    body = loop("float[N] v", "float[M] w", "go = Identity(c) w = Concat<axis=0>(v, v)")
    model = graph(f"y = Loop(n, , x) {body}", inputs="float[2] x, int64 n", outputs="float[K] y", infer=False)
    with pytest.raises(ModelError, match="changes from step to step") as error:
        canonicalize(model)
    assert error.value.code == "EW-M006"
