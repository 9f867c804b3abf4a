"""Learned rounding: nearer to the float network on samples not seen, a plan that replays without torch, the same bits every time."""

import builtins
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diagnostics import UsageError
from exporter.backends.onnx.writer import write_onnx
from exporter.graph.run import FloatRunner
from exporter.quantization.apply import encode_constant
from exporter.quantization.plan import Plan
from exporter.quantization.refinement import reconstruct
from exporter.quantization.refinement.reconstruct import learn_roundings
from exporter.quantization.refinement.refine import refine
from tests.quantization.planned import network, planned, residual_net, run, samples, sqnr, target

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]


def outputs(model, plan, data):
    content = write_onnx(model, plan, target())
    return np.concatenate([run(content, sample)["y"] for sample in data])


def reference(model, data):
    return np.concatenate([FloatRunner(model)(sample)["y"] for sample in data])


def coarse(plan, model, factor=8):
    """The plan with scales several times as large for weights and biases: few steps a weight."""
    names = {value.name for node in model.graph if node.op_type in ("Conv", "Gemm") for value in node.inputs[1:]}
    wider = {
        name: replace(encoding, scale=tuple(float(np.float32(factor * s)) for s in encoding.scale)) if name in names else encoding
        for name, encoding in plan.encodings.items()
    }
    return replace(plan, encodings=wider)


def test_outputs_are_closer_on_samples_not_seen():
    model = residual_net()
    plan = coarse(planned(model, data=samples(model, 32)), model)
    found = learn_roundings(model, plan, target(), samples(model, 32))
    assert found.after > found.before + 0.5
    fresh = samples(model, 32, seed=7)
    wanted = reference(model, fresh)
    assert sqnr(wanted, outputs(model, found.plan, fresh)) > sqnr(wanted, outputs(model, plan, fresh)) + 0.5


def test_the_plan_replays_and_only_its_numbers_change():
    model = residual_net()
    plan = planned(model)
    found = learn_roundings(model, coarse(plan, model), target(), samples(model)).plan
    assert found.roundings
    assert found.encodings.keys() == plan.encodings.keys()
    assert found.precision == plan.precision
    again = Plan.from_json(found.to_json())
    assert write_onnx(model, again, target()) == write_onnx(model, found, target())
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm"):
            first, second = (found.encodings[value.name] for value in node.inputs[:2])
            product = np.float32(first.scale[0]) * np.asarray(second.scale, np.float32)
            np.testing.assert_array_equal(np.asarray(encode_constant(node, 2, found)[1].scale, np.float32), product)


def test_a_part_without_gradient_is_run_all_the_same():
    """NonZero has no torch function: it runs in onnxruntime, and what stands around it is learned."""
    model = network(
        "a = Conv (x, w1, b1)  t = Tile (one, reps)  i = NonZero (t)  j = Gather <axis = 0> (i, zero)  k = Cast <to = 1> (j)"
        "  s = Mul (k, none)  c = Add (a, s)  y = Conv (c, w2, b2)",
        inputs="float[1,4,6,6] x",
        outputs="float[1,3,6,6] y",
        w1=(4, 4, 1, 1),
        b1=(4,),
        w2=(3, 4, 1, 1),
        b2=(3,),
        one=np.float32([1]),
        reps=np.int64([6]),
        zero=np.int64(0),
        none=np.float32(0),
    )
    plan = coarse(planned(model), model)
    found = learn_roundings(model, plan, target(), samples(model, 16))
    assert found.after > found.before


def test_one_sample_is_too_few_to_learn_from():
    model = residual_net()
    plan = planned(model)
    assert learn_roundings(model, plan, target(), samples(model, 1)).plan == plan


def test_best_begins_where_balanced_ends():
    model = residual_net()
    plan, data = coarse(planned(model), model), samples(model, 24)
    fresh = samples(model, 24, seed=5)
    wanted = reference(model, fresh)
    reached = [
        sqnr(wanted, outputs(model, refine(model, plan, target(), data, effort=effort).plan, fresh))
        for effort in ("fast", "balanced", "best")
    ]
    assert reached[2] > max(reached) - 0.5  # every layer is narrow here, so all three round by the error that it causes


def test_without_torch_the_error_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UsageError, match=r"EW-U005[\s\S]*edgewright\[torch\]"):
        reconstruct.require_torch()


def digest() -> str:
    model = residual_net()
    plan = learn_roundings(model, coarse(planned(model), model), target(), samples(model)).plan
    return hashlib.sha256(plan.to_json().encode()).hexdigest()


def test_the_number_of_threads_changes_no_bit():
    code = "from tests.quantization.test_reconstruct import digest; print(digest())"
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()
