"""The goal that this package is judged by: efficientnet-lite0 in int8 on photos that calibration did not see."""

import numpy as np
import pytest

from calibration import collect, open_samples
from exporter.backends.onnx.writer import write_onnx
from exporter.graph.passes import canonicalize, legalize
from exporter.graph.run import FloatRunner, observed_values
from exporter.quantization.planner import make_plan
from exporter.quantization.refinement.correction import ensure_biases
from exporter.quantization.refinement.refine import refine
from targets import load_target
from tests.quantization.planned import run, sqnr
from tools import zoo


@pytest.mark.slow
def test_int8_agrees_with_float_on_held_out_photos(efficientnet_lite0):
    source, target = efficientnet_lite0, load_target("x86-64-cpu")
    model = ensure_biases(legalize(canonicalize(source.model), "onnx"))
    seen = open_samples(zoo.calibration_photos(), source.inputs, source.preprocess, limit=32)
    plan = make_plan(model, collect(FloatRunner(model, observed_values(model)), seen), target)
    refined = refine(model, plan, target, seen)
    content = write_onnx(model, refined.plan, target)
    wanted, found = [], []
    for sample in open_samples(zoo.held_out_photos(), source.inputs, source.preprocess):
        wanted.append(next(iter(source.reference(sample).values())))
        found.append(next(iter(run(content, sample).values())))
    agreement = np.mean([a.argmax() == b.argmax() for a, b in zip(wanted, found, strict=True)])
    assert sqnr(np.asarray(wanted), np.asarray(found)) >= 24
    assert agreement >= 0.95
    assert refined.after - refined.before > 8
