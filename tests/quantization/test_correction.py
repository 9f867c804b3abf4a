"""Bias correction: what it removes, what it leaves alone, what it does with rounding before it."""

import numpy as np
import pytest

from calibration import open_samples
from exporter.backends.onnx.writer import write_onnx
from exporter.frontends.source import Signature
from exporter.graph.run import FloatRunner
from exporter.graph.values import constant
from exporter.quantization.refinement.correction import correct_biases, ensure_biases
from exporter.quantization.refinement.refine import refine
from tests.quantization.planned import network, planned, residual_net, run, samples, sqnr, target


def outputs(model, plan, data):
    content = write_onnx(model, plan, target())
    return np.concatenate([run(content, sample)["y"] for sample in data])


def reference(model, data):
    return np.concatenate([FloatRunner(model)(sample)["y"] for sample in data])


def coarse_net():
    """A large weight on a small input makes the grid so coarse that the other weights round to zero: a shift, their inputs being positive."""
    weight = np.abs(np.random.default_rng(1).normal(0.2, 0.05, size=(8, 6, 1, 1))).astype(np.float32)
    weight[:, 0] = 60
    return network(
        "s = Relu (x)  a = Conv (s, w, b)  c = Relu (a)  y = Conv (c, v, d)",
        inputs="float[1,6,8,8] x",
        outputs="float[1,4,8,8] y",
        w=weight,
        b=(8,),
        v=(4, 8, 1, 1),
        d=(4,),
    )


def test_each_output_channel_has_its_float_mean_afterwards():
    model = coarse_net()
    data = [{"x": sample["x"] * np.float32([0.02, 1, 1, 1, 1, 1]).reshape(6, 1, 1)} for sample in samples(model, 8)]
    plan = planned(model, data=open_samples(data, [Signature("x", (1, 6, 8, 8), "float32")]))
    corrected = correct_biases(model, plan, target(), data)
    assert corrected.after > corrected.before
    wanted = reference(model, data).mean(axis=(0, 2, 3))
    shift = {
        name: np.abs(outputs(model, p, data).mean(axis=(0, 2, 3)) - wanted)
        for name, p in (("before", plan), ("after", corrected.plan))
    }
    assert shift["after"].sum() < shift["before"].sum() / 3


def test_only_biases_change_and_twice_gives_the_same():
    model = residual_net()
    plan = planned(model)
    first, second = (correct_biases(model, plan, target(), samples(model)) for _ in range(2))
    assert first == second
    assert first.plan.encodings == plan.encodings
    biases = {node.inputs[2].name for node in model.graph if node.op_type in ("Conv", "Gemm")}
    assert set(first.plan.corrections) in (biases, set())


def test_without_samples_or_integer_layers_the_plan_stays():
    model = residual_net()
    plan = planned(model)
    assert correct_biases(model, plan, target(), []).plan is plan
    assert refine(model, plan, target(), []).plan is plan


@pytest.mark.parametrize("net", [residual_net, coarse_net])
def test_refining_never_loses_on_the_samples_and_holds_on_others(net):
    model = net()
    plan = planned(model)
    refined = refine(model, plan, target(), samples(model, 16))
    assert refined.after >= refined.before
    fresh = samples(model, 16, seed=5)
    wanted = reference(model, fresh)
    assert sqnr(wanted, outputs(model, refined.plan, fresh)) > sqnr(wanted, outputs(model, plan, fresh)) - 0.5


def test_each_weight_gets_a_bias_of_its_own():
    body = "a = Conv (x, w)  c = Conv (a, w, b)  y = Conv (c, v, b)"
    model = network(body, inputs="float[1,2,4,4] x", outputs="float[1,2,4,4] y", w=(2, 2, 1, 1), v=(2, 2, 1, 1), b=(2,))
    biases = [node.inputs[2] for node in model.graph]
    assert len({value.name for value in biases}) == 3
    np.testing.assert_array_equal(constant(biases[0]), [0, 0])
    np.testing.assert_array_equal(constant(biases[1]), constant(biases[2]))
    before = [value.name for value in biases]
    ensure_biases(model)
    assert [node.inputs[2].name for node in model.graph] == before
