"""Layers fitted and rounded one after the other: better outputs, a plan that replays, the same bits on any number of threads."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration import open_samples
from exporter.backends.onnx.writer import write_onnx
from exporter.frontends.source import Signature
from exporter.graph.run import FloatRunner
from exporter.graph.values import constant
from exporter.quantization.apply import encode_constant
from exporter.quantization.plan import Plan
from exporter.quantization.refinement import sequential
from exporter.quantization.refinement.correction import correct_biases
from exporter.quantization.refinement.refine import refine
from exporter.quantization.refinement.segments import Runner, outputs_of
from exporter.quantization.refinement.sequential import CLOSE, Look, round_weights
from exporter.quantization.refinement.vectors import layer_of
from tests.quantization.planned import network, planned, residual_net, run, samples, sqnr, target

ROOT = Path(__file__).resolve().parents[2]


def wide_net():
    """Convolutions with strides, paddings, dilations and groups, wide enough that rounding errors can make up for one another."""
    return network(
        """
        a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
        b = Relu (a)
        c = Conv <pads = [2, 2, 2, 2], dilations = [2, 2], group = 4> (b, w2, b2)
        d = Relu (c)
        e = Conv (d, w3, b3)
        f = Relu (e)
        y = Conv (f, w4, b4)
        """,
        inputs="float[1,8,16,16] x",
        outputs="float[1,10,8,8] y",
        w1=(32, 8, 3, 3),
        b1=(32,),
        w2=(32, 8, 3, 3),
        b2=(32,),
        w3=(64, 32, 1, 1),
        b3=(64,),
        w4=(10, 64, 1, 1),
        b4=(10,),
    )


def outputs(model, plan, data, for_target=None):
    content = write_onnx(model, plan, for_target or target())
    return np.concatenate([run(content, sample)["y"] for sample in data])


def reference(model, data):
    return np.concatenate([FloatRunner(model)(sample)["y"] for sample in data])


# Few steps a weight, as weights of real networks have beside a large one: rounding them is then what costs most.
COARSE = 8


def coarse(plan, model):
    """The plan with scales `COARSE` times as large for the weights, and for the biases that go with them."""
    names = {value.name for node in model.graph if node.op_type in ("Conv", "Gemm") for value in node.inputs[1:]}
    wider = {
        name: replace(encoding, scale=tuple(float(np.float32(COARSE * s)) for s in encoding.scale)) if name in names else encoding
        for name, encoding in plan.encodings.items()
    }
    return replace(plan, encodings=wider)


def mixtures(model, count, seed=0):
    """Positive inputs whose channels are mixtures of two patterns, as neighbouring channels of real networks are correlated."""
    random, mix = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(1, 8, 2))
    patterns = random.normal(size=(count, 1, 2, 256))
    arrays = np.abs(mix @ patterns + 0.2 * random.normal(size=(count, 1, 8, 256))).reshape(count, 1, 8, 16, 16).astype(np.float32)
    return open_samples([{"x": array} for array in arrays], [Signature("x", (1, 8, 16, 16), "float32")])


def test_outputs_are_closer_on_samples_not_seen():
    model = wide_net()
    data, fresh = mixtures(model, 32), mixtures(model, 32, seed=7)
    plan = coarse(planned(model, data=data), model)
    rounded = round_weights(model, plan, target(), data)
    assert rounded.after > rounded.before
    wanted = reference(model, fresh)
    mean = wanted.mean(axis=0)
    corrected = correct_biases(model, plan, target(), data).plan
    before, after = (sqnr(wanted - mean, outputs(model, p, fresh) - mean) for p in (corrected, rounded.plan))
    assert after > before + 1.5


def test_a_short_look_leaves_wide_layers_at_the_nearest_and_corrects_the_biases_of_all():
    model = wide_net()
    data, fresh = mixtures(model, 32), mixtures(model, 32, seed=7)
    plan = coarse(planned(model, data=data), model)
    rounded = round_weights(model, plan, target(), data, look=Look(8, (256, 8, 1024), (0.2,), 64)).plan
    assert set(rounded.roundings) == {"w3", "w4"}  # 32 and 64 inputs; the others have 72
    assert set(rounded.corrections) == {"b1", "b2", "b3", "b4"}
    wanted = reference(model, fresh)
    corrected = correct_biases(model, plan, target(), list(data)[:8]).plan
    assert sqnr(wanted, outputs(model, rounded, fresh)) > sqnr(wanted, outputs(model, corrected, fresh)) + 0.5


@pytest.mark.parametrize("groups", [1, 4])
def test_no_factor_brings_outputs_behind_noise_nearer_to_what_is_wanted(groups, monkeypatch):
    """The least squares of one number: what is left of the error is not along the outputs."""
    random = np.random.default_rng(0)
    rows, inputs = random.normal(size=(groups, 16, 24)), random.normal(size=(groups, 24, 2000))
    wanted, fine = rows @ inputs, np.full((groups, 16, 1), 1e-4)
    noisy = 0.9 * inputs + 0.2 * random.normal(size=inputs.shape)

    def missing():
        outputs = (sequential._fit(rows, noisy, wanted.copy(), fine, 2**20, (0.2,)) * fine) @ noisy
        return float(((wanted - outputs) * outputs).sum() / np.square(outputs).sum())

    assert missing() == pytest.approx(0, abs=1e-3)
    monkeypatch.setattr(sequential, "_amplification", lambda *_: 1.0)
    assert missing() > 0.03


def test_samples_that_repeat_themselves_do_not_say_how_to_round():
    """64 samples of 8 kinds: with all dampings to choose from, what one half says of the other tells that they are 8."""
    model = network("y = Gemm <transB = 1> (x, w, b)", inputs="float[1,96] x", outputs="float[1,32] y", w=(32, 96), b=(32,))

    def kinds(seed):
        random = np.random.default_rng(seed)
        arrays = np.repeat(random.normal(size=(8, 1, 96)), 8, axis=0) + 0.1 * random.normal(size=(64, 1, 96))
        return open_samples([{"x": array.astype(np.float32)} for array in arrays], [Signature("x", (1, 96), "float32")])

    data, fresh = kinds(0), kinds(1)
    plan = coarse(planned(model, data=data), model)
    wanted = reference(model, fresh)
    looks = (replace(CLOSE, dampings=CLOSE.dampings[:1]), CLOSE)
    alone, chosen = (
        sqnr(wanted, outputs(model, round_weights(model, plan, target(), data, look=look).plan, fresh)) for look in looks
    )
    assert chosen > alone + 1.0


def test_what_is_left_of_a_walk_gives_the_outputs_of_the_whole_graph():
    """Also those that an earlier layer gives, and inputs that go through."""
    model = network(
        "y = Conv (x, w1, b1) r = Relu (y) z = Conv (r, w2, b2)",
        inputs="float[1,3,8,8] x",
        outputs="float[1,6,6,6] y, float[1,4,6,6] z, float[1,3,8,8] x",
        w1=(6, 3, 3, 3),
        b1=(6,),
        w2=(4, 6, 1, 1),
        b2=(4,),
    )
    data = list(samples(model, 3))
    walk = Runner(model, data)
    first, second = (node for node in model.graph if node.op_type == "Conv")
    walk.inputs_of(first.name, lambda index, array: None)
    walk.inputs_of(second.name, lambda index, array: None)
    for found, wanted in zip(walk.outputs(), outputs_of(model, data), strict=True):
        assert set(found) == {"x", "y", "z"}
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("improve", [round_weights, correct_biases])
def test_an_output_that_nobody_wants_needs_no_name(improve):
    """An LSTM of which only the states are used leaves its sequence without a name."""
    model = network(
        "a = Conv (x, w1, b1) b = MaxPool <kernel_shape = [2, 2]> (a) y = Conv (b, w2, b2)",
        inputs="float[1,3,8,8] x",
        outputs="float[1,4,5,5] y",
        w1=(6, 3, 3, 3),
        b1=(6,),
        w2=(4, 6, 1, 1),
        b2=(4,),
    )
    (pool,) = (node for node in model.graph if node.op_type == "MaxPool")
    pool.resize_outputs(2)
    pool.outputs[1].name = ""
    assert improve(model, planned(model), target(), samples(model)).plan.corrections


def test_only_roundings_and_corrections_change_and_the_plan_replays():
    model = residual_net()
    plan = planned(model)
    first = round_weights(model, plan, target(), samples(model)).plan
    assert first == round_weights(model, plan, target(), samples(model)).plan
    layers = [node for node in model.graph if node.op_type in ("Conv", "Gemm")]
    assert set(first.roundings) == {node.inputs[1].name for node in layers}
    assert set(first.corrections) == {node.inputs[2].name for node in layers}
    assert replace(first, roundings={}, corrections={}) == plan
    again = Plan.from_json(first.to_json())
    assert again == first
    assert write_onnx(model, again, target()) == write_onnx(model, first, target())


@pytest.mark.parametrize("scheme", [{"per_channel": False}, {"weights_range": "reduced"}, {"activations": "uint8"}])
def test_the_target_s_scheme_is_kept(scheme):
    model, device = wide_net(), target(**scheme)
    plan = planned(model, device)
    rounded = round_weights(model, plan, device, samples(model))
    assert rounded.plan.roundings
    limit = 63 if "weights_range" in scheme else 127
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm"):
            integers, encoding = encode_constant(node, 1, rounded.plan)
            assert np.abs(integers.astype(int)).max() <= limit
            assert encoding == plan.encodings[node.inputs[1].name]
    fresh = samples(model, 16, seed=3)
    wanted = reference(model, fresh)
    assert sqnr(wanted, outputs(model, rounded.plan, fresh, device)) > sqnr(wanted, outputs(model, plan, fresh, device)) - 0.5


def test_refining_corrects_the_biases_that_rounding_leaves_out():
    body = "a = Conv (x, v, d)  c = Relu (a)  y = ConvTranspose <strides = [2, 2]> (c, w, b)"
    model = network(body, inputs="float[1,4,6,6] x", outputs="float[1,3,12,12] y", v=(6, 4, 1, 1), d=(6,), w=(6, 3, 2, 2), b=(3,))
    plan = coarse(planned(model), model)
    data = [{"x": np.abs(sample["x"])} for sample in samples(model, 16)]
    refined = refine(model, plan, target(), data)
    assert set(refined.plan.roundings) == {"v"}
    assert set(refined.plan.corrections) == {"b", "d"}
    assert refined.after > refined.before


@pytest.mark.parametrize(("net", "index"), [(net, index) for net in (wide_net, residual_net) for index in range(4)])
def test_rows_times_vectors_are_the_layer_s_outputs(net, index):
    model = net()
    node = [node for node in model.graph if node.op_type in ("Conv", "Gemm")][index]
    layer = layer_of(node)
    sample = next(iter(samples(model)))
    names = (node.inputs[0].name, node.outputs[0].name)
    found = FloatRunner(model, names)(sample)
    for count in (5, 10_000):
        positions = layer.positions(4, count)
        assert positions.shape == (4, min(count, layer.places))
        product = layer.rows @ layer.looking(positions)(3, found[names[0]])
        bias = constant(node.inputs[2]).reshape(layer.rows.shape[0], -1, 1)
        np.testing.assert_allclose(product + bias, layer.outputs(found[names[1]], positions[3]), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(layer.weight(layer.rows), constant(node.inputs[1]))


def digest() -> str:
    model = wide_net()
    plan = round_weights(model, planned(model), target(), samples(model, 16)).plan
    return hashlib.sha256(plan.to_json().encode()).hexdigest()


def test_the_number_of_threads_changes_no_bit():
    code = "from tests.quantization.test_sequential import digest; print(digest())"
    found = set()
    for threads in ("1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    assert found == {digest()}


@pytest.mark.parametrize("judged", [2, 64])
def test_the_outputs_are_compared_on_as_many_samples_as_the_look_says(monkeypatch, judged):
    model, counts = wide_net(), []
    monkeypatch.setattr(
        sequential, "sqnr", lambda _, wanted, found: counts.append((len(wanted), len(found))) or float(len(counts))
    )
    rounded = round_weights(model, planned(model), target(), samples(model, 8), look=replace(CLOSE, judged=judged))
    assert counts == [(min(judged, 8),) * 2] * 2
    assert (rounded.before, rounded.after) == (1.0, 2.0)
