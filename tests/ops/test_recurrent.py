import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference
from op_bench import assert_legalized, assert_torch_computes_it, lowered, node_of, op_types

from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.graph.run import FloatRunner
from exporter.ops.base import operator_of

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
KINDS = pytest.mark.parametrize("kind", GATES)
DIRECTIONS = pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])


def recurrent(
    kind, steps=3, batch=2, direction="forward", bias=True, lengths=None, initial=False, peephole=False, outputs=3, **attributes
):
    """One recurrent node of 3 inputs and 4 hidden entries, and a sample for it; `lengths`: an array (a constant), or "input"."""
    generator = np.random.default_rng(7)
    count, hidden = 2 if direction == "bidirectional" else 1, 4
    rows = GATES[kind] * hidden

    def array(*shape):
        return generator.normal(size=shape).astype(np.float32)

    x_shape, h_shape = (steps, batch, 3), (count, batch, hidden)
    if attributes.get("layout"):
        x_shape, h_shape = (batch, steps, 3), (batch, count, hidden)
    constants = {"w": array(count, rows, 3), "r": array(count, rows, hidden)}
    feed = {"x": array(*x_shape)}
    names = ["x", "w", "r", "", "", "", "", ""]
    if bias:
        names[3], constants["b"] = "b", array(count, 2 * rows)
    if lengths is not None:
        names[4] = "n"
        (feed if isinstance(lengths, str) else constants)["n"] = np.array(
            [1, steps][:batch] if isinstance(lengths, str) else lengths, np.int32
        )
    for index, name in [(5, "h"), (6, "c")][: 2 if kind == "LSTM" else 1] if initial else ():
        names[index], feed[name] = name, array(*h_shape)
    if peephole:
        names[7], constants["p"] = "p", array(count, 3 * hidden)
    while not names[-1]:
        names.pop()
    results = ["y", "y_h", "y_c"][: min(outputs, 3 if kind == "LSTM" else 2)]
    node = helper.make_node(kind, names, results, name="node", hidden_size=hidden, direction=direction, **attributes)
    dtypes = {"n": TensorProto.INT32}
    infos = [
        helper.make_tensor_value_info(name, dtypes.get(name, TensorProto.FLOAT), value.shape) for name, value in feed.items()
    ]
    proto = helper.make_graph(
        [node],
        "bench",
        infos,
        [helper.make_empty_tensor_value_info(name) for name in results],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(shape_inference.infer_shapes(model, strict_mode=True)), feed


@KINDS
@DIRECTIONS
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "given"])
def test_the_unrolled_steps_compute_it(kind, direction, initial):
    model, feed = recurrent(kind, direction=direction, initial=initial, bias=not initial)
    assert kind not in assert_legalized(model, feed=feed)


@KINDS
@DIRECTIONS
def test_shorter_sequences_end_early(kind, direction):
    """Lengths 1 and 3 of 3 steps, as a constant and as an input."""
    for lengths in ([1, 3], "input"):
        model, feed = recurrent(kind, direction=direction, lengths=lengths, initial=True)
        assert ("Less" in assert_legalized(model, feed=feed)) == (lengths == "input")


@KINDS
@DIRECTIONS
def test_a_sequence_of_no_steps_ends_in_zeros(kind, direction):
    model, feed = recurrent(kind, direction=direction, lengths="input", initial=True)
    feed["n"] = np.array([0, 3], np.int32)
    assert_legalized(model, feed=feed)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("RNN", {"activations": ["Relu"], "clip": 0.5}),
        ("RNN", {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.2]}),
        ("RNN", {"activations": ["ThresholdedRelu"], "activation_alpha": [0.7]}),
        ("RNN", {"activations": ["Softsign"]}),
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"linear_before_reset": 1, "initial": True, "clip": 0.3}),
        ("GRU", {"activations": ["HardSigmoid", "ScaledTanh"], "activation_alpha": [0.3, 0.9], "activation_beta": [0.4, 1.1]}),
        ("LSTM", {"clip": 0.5, "initial": True}),
        ("LSTM", {"peephole": True, "initial": True}),
        ("LSTM", {"peephole": True, "initial": True, "clip": 0.3}),
        ("LSTM", {"input_forget": 1, "initial": True}),
        ("LSTM", {"activations": ["Sigmoid", "LeakyRelu", "Elu"], "activation_alpha": [0.2, 0.9]}),
        ("LSTM", {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "Tanh", "HardSigmoid", "Relu", "Softplus"]}),
    ],
    ids=str,
)
def test_every_form_is_computed(kind, attributes):
    model, feed = recurrent(kind, **attributes)
    assert kind not in assert_legalized(model, feed=feed)


@KINDS
def test_batch_first_is_a_transposed_form(kind):
    """onnxruntime has no ``layout = 1``: the same numbers as with transposed input, for both runtimes."""
    model, feed = recurrent(kind, direction="bidirectional", initial=True)
    first, _ = recurrent(kind, direction="bidirectional", initial=True, layout=1)
    moved = {name: array.transpose(1, 0, 2) for name, array in feed.items()}
    wanted = FloatRunner(model)(feed)
    for runtime in ("tflite", "onnx"):
        found = FloatRunner(legalize(first, runtime))(moved)
        np.testing.assert_allclose(found["y"].transpose(1, 2, 0, 3), wanted["y"], atol=1e-6)
        np.testing.assert_allclose(found["y_h"].transpose(1, 0, 2), wanted["y_h"], atol=1e-6)


@KINDS
def test_kernels_compute_it(kind):
    model, feed = recurrent(kind, direction="bidirectional", initial=True)
    assert max(lowered(model, feed=feed).errors.values()) < 2e-6


@KINDS
def test_the_steps_run_in_integers(kind):
    """Hidden states lie in [-1, 1]: the error of a few steps of 1/127 each."""
    model, feed = recurrent(kind, outputs=1)
    found = lowered(model, "int8", feed=feed)
    assert "FULLY_CONNECTED" in dict(found.operators)
    assert found.errors["y"] < 0.06


@KINDS
@DIRECTIONS
def test_torch_computes_it(kind, direction):
    model, feed = recurrent(kind, direction=direction, initial=True)
    assert_torch_computes_it(model, feed)


def test_absent_outputs_stay_absent():
    model, feed = recurrent("LSTM")
    node = node_of(model)
    for value in list(model.graph.outputs)[:2]:
        model.graph.outputs.remove(value)
        value.name = ""
    assert set(FloatRunner(legalize(model, "tflite"))(feed)) == {"y_c"}
    assert operator_of(node).cost(node).macs == 3 * 2 * 16 * (3 + 4)


def test_onnx_keeps_the_operator():
    model, _ = recurrent("LSTM")
    assert op_types(legalize(model, "onnx")) == ["LSTM"]


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"activations": ["Sigmoid", "Affine", "Tanh"]}, "activation Affine"),
    ],
    ids=str,
)
def test_what_is_not_unrolled_is_refused_with_its_reason(form, reason):
    model, _ = recurrent("LSTM", **form)
    after = legalize(model, "tflite")
    (refused,) = unsupported(after, "lower")
    assert reason in refused.reason


@KINDS
@DIRECTIONS
@pytest.mark.parametrize("lengths", [None, [1, 70], "input"], ids=["whole", "constant", "computed"])
def test_many_steps_become_a_loop_that_computes_the_same(kind, direction, lengths, monkeypatch):
    """What onnxruntime makes of the Scans, and LiteRT of the WHILEs, beside the operator itself."""
    monkeypatch.setattr("exporter.ops.recurrent._MOST_STEPS", 60)
    given = {"peephole": kind == "LSTM"} if lengths is None else {"initial": True}
    model, feed = recurrent(kind, steps=70, direction=direction, lengths=lengths, **given)
    rounding = 70 * 2**-23  # one a step
    left = assert_legalized(model, feed=feed, atol=rounding)
    assert left.count("Scan") == 2 * (
        2 if direction == "bidirectional" else 1
    )  # three blocks of 23 steps, and the one behind them
    found = lowered(model, feed=feed)
    assert ("WHILE", 1) in found.operators
    assert max(found.errors.values()) < rounding


def test_a_sequence_of_no_steps_ends_in_zeros_in_a_loop_too(monkeypatch):
    monkeypatch.setattr("exporter.ops.recurrent._MOST_STEPS", 2)
    model, feed = recurrent("LSTM", steps=5, direction="bidirectional", lengths="input", initial=True)
    feed["n"] = np.array([0, 3], np.int32)
    assert "Scan" in assert_legalized(model, feed=feed)
    assert max(lowered(model, feed=feed).errors.values()) < 2e-6


def test_without_float_many_steps_are_unrolled_and_too_many_refused(monkeypatch):
    """The body of a loop runs in float: a device that has none gets the steps."""
    monkeypatch.setattr("exporter.ops.recurrent._MOST_STEPS", 2)
    monkeypatch.setattr("exporter.ops.recurrent._MOST_STEPS_WITHOUT_LOOPS", 4)
    for steps, wanted in [(4, []), (5, ["RNN"])]:
        model, _ = recurrent("RNN", steps=steps)
        left = op_types(legalize(model, "tflite", None, False))
        assert [kind for kind in left if kind in ("RNN", "Scan")] == wanted
    (refused,) = unsupported(legalize(model, "tflite", None, False), "lower")
    assert "5 steps, of which at most 4 are unrolled" in refused.reason
