"""A state that is fed back: what its roundings do must not add up along the way."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration import open_samples
from exporter.frontends.source import Signature
from exporter.graph.passes import canonicalize, legalize
from exporter.graph.run import FloatRunner
from exporter.pipeline import Options, calibrate, decide, write
from exporter.progress import SILENT
from exporter.quantization.mixing.aiming import Goal
from exporter.quantization.refinement.correction import ensure_biases
from targets.loader import load_target
from targets.precision import choose_precision
from tests.quantization.planned import run
from tools.zoo_cases import CASES
from tools.zoo_rows import FORMS, measured

STEPS, SIZE = 600, 16


def loop() -> ir.Model:
    """A leaky memory, half of it slow: h' = keep * h + tanh(W x + U h), y = v h'."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[1,8] x, float[1,16] h) => (float[1,1] y, float[1,16] next) {
        a = Gemm (x, w)
        b = Gemm (h, u)
        c = Add (a, b)
        t = Tanh (c)
        k = Mul (h, keep)
        next = Add (k, t)
        y = Gemm (next, v)
        }"""
    )
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(8, SIZE)) / 3,
        "u": random.normal(size=(SIZE, SIZE)) / 40,
        "keep": np.linspace(0.5, 0.97, SIZE),
        "v": random.normal(size=(SIZE, 1)) / 4,
    }
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return ensure_biases(legalize(canonicalize(ir.from_proto(proto)), "onnx"))


def along(step, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs of every step along a sequence, the state carried on by `step`, and what it gave."""
    random = np.random.default_rng(seed)
    state, found = np.zeros((1, SIZE), np.float32), []
    for _ in range(STEPS):
        sample = {"x": random.normal(size=(1, 8)).astype(np.float32), "h": state}
        outputs = step(sample)
        found.append({**sample, "y": outputs["y"]})
        state = outputs["next"]
    return found


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_the_error_of_a_loop_does_not_grow_with_time(precision: str) -> None:
    model, target = loop(), choose_precision(load_target("x86-64-cpu"), precision)
    heard = [{"x": sample["x"], "h": sample["h"]} for sample in along(FloatRunner(model), seed=1)[::10]]
    samples = open_samples(heard, [Signature("x", (1, 8), "float32"), Signature("h", (1, SIZE), "float32")])
    plan = decide(model, target, calibrate(model, target, samples, SILENT), Options(goal=Goal.parse(["sqnr_db>=25"])), SILENT)
    content = write(model, plan, target).content
    wanted, given = (
        np.ravel([entry["y"] for entry in along(step, seed=2)]) for step in (FloatRunner(model), lambda feed: run(content, feed))
    )
    error = np.square(wanted - given, dtype=np.float64)
    assert error[-STEPS // 4 :].mean() < 3 * error[STEPS // 4 : STEPS // 2].mean()
    assert np.square(wanted).sum() > 100 * error.sum()  # 20 dB over the whole of it, its own state carried on


@pytest.mark.slow
@pytest.mark.parametrize("form", ["int8", "int8-onnx", "auto"])
def test_a_voice_detector_hears_as_well_to_the_end_of_a_dialogue(form: str) -> None:
    row = measured(CASES["silero_vad"], FORMS[form])  # the metric carries the artifact's own state along
    score = row["task"]["speech_auc"]
    assert score["drop"] < 0.002
