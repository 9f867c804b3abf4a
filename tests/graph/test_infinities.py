"""Masks of minus infinity through TFLite, whose sums clamp to finite numbers."""

import numpy as np
import pytest
from small_graphs import graph, kinds, run

from exporter.backends.tflite.writer import write_tflite
from exporter.graph.passes import canonicalize, legalize
from exporter.quantization.planner import float_plan
from targets import load_target

INF = np.float32(np.inf)


def compiled(model, feed):
    """What LiteRT makes of a graph, by output name, and the operators of the legalized graph."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    legal = legalize(canonicalize(model), "tflite")
    content = write_tflite(legal, float_plan(legal, load_target("android-arm64-cpu"))).content
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return interpreter.get_signature_runner()(**feed), kinds(legal)


def check(body, feed, **given):
    model = graph(body, **given)
    found, operators = compiled(model, feed)
    for name, array in run(model, feed).items():
        np.testing.assert_array_equal(found[name], array)
    return operators


X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
MASK = np.array([[0, -INF, 0], [-INF, -INF, -INF]], np.float32)
CHOICE = np.array([[True, False, True], [False, False, False]])


def test_a_constant_mask_is_chosen():
    operators = check("y = Add(m, x)", {"x": X}, inputs="float[2,3] x", outputs="float[2,3] y", m=MASK)
    assert operators == ["Where"]


def test_a_mask_with_finite_biases_keeps_them():
    biased = np.where(np.isinf(MASK), MASK, np.float32(0.5))
    operators = check("y = Add(x, m)", {"x": X}, inputs="float[2,3] x", outputs="float[2,3] y", m=biased)
    assert operators == ["Add", "Where"]


def test_infinities_of_both_signs_stay():
    both = np.array([[INF, -INF, 0]], np.float32)
    check("y = Add(x, m)", {"x": X}, inputs="float[2,3] x", outputs="float[2,3] y", m=both)


@pytest.mark.parametrize("body", ["b = Where(c, z, i) y = Add(x, b)", "b = Where(c, i, z) y = Add(b, x)"])
def test_a_computed_mask_passes_the_sum(body):
    given = {"inputs": "float[2,3] x, bool[2,3] c", "outputs": "float[2,3] y", "z": np.float32([0]), "i": np.float32([-INF])}
    assert check(body, {"x": X, "c": CHOICE}, **given) == ["Where"]


def test_masks_are_added_up():
    body = "a = Where(c, z, i) b = Add(a, m) u = Unsqueeze(b, k) s = Unsqueeze(x, k) y = Add(s, u)"
    given = {"z": np.float32([0]), "i": np.float32([-INF]), "m": MASK[::-1].copy(), "k": np.array([0])}
    check(body, {"x": X, "c": CHOICE}, inputs="float[2,3] x, bool[2,3] c", outputs="float[1,2,3] y", **given)


def test_a_reshaped_mask_passes_the_sum():
    body = "b = Where(c, z, i) u = Unsqueeze(b, k) y = Add(x, u)"
    given = {"z": np.float32([0]), "i": np.float32([-INF]), "k": np.array([0])}
    check(body, {"x": X, "c": CHOICE[0]}, inputs="float[2,3] x, bool[3] c", outputs="float[2,3] y", **given)


@pytest.mark.parametrize(("reduce", "sign"), [("ReduceMax", -1), ("ReduceMin", 1)])
def test_rows_that_are_masked_wholly_are_found(reduce, sign):
    """Attention's function body asks for them, to give zeros where softmax gives NaN."""
    body = f"b = Where(c, x, i) r = {reduce}<keepdims=1>(b, k) y = Equal(r, i)"
    given = {"i": np.float32([sign * INF]), "k": np.array([-1])}
    operators = check(body, {"x": X, "c": CHOICE}, inputs="float[2,3] x, bool[2,3] c", outputs="bool[2,1] y", **given)
    assert operators == ["Where", "Equal", "ReduceMin"]


def test_onnx_keeps_sums():
    model = canonicalize(graph("y = Add(x, m)", inputs="float[2,3] x", outputs="float[2,3] y", m=MASK))
    assert kinds(legalize(model, "onnx")) == ["Add"]
