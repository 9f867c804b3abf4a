"""Boxes and scores in one output: each keeps its own encoding where the output is float, and each is judged by itself."""

import numpy as np
import pytest

from calibration import collect, open_samples
from exporter.backends.onnx.writer import write_onnx
from exporter.frontends.source import Signature
from exporter.graph.columns import column_groups
from exporter.graph.observe import Observer
from exporter.quantization.joins import shared_scales
from exporter.quantization.mixing.sensitivity import Judge, decibels_of
from exporter.quantization.planner import make_plan
from exporter.verification.compare import compare
from exporter.verification.gates import Gate, check
from tests.quantization.planned import network, run, target

DECODED = "b = Relu (x)  p = Mul (b, far)  s = Sigmoid (x)  c = Concat <axis = 1> (p, s)  y = Transpose <perm = [0, 2, 1]> (c)"


def detector(body: str = DECODED, outputs: str = "float[1,50,8] y"):
    return network(body, inputs="float[1,4,50] x", outputs=outputs, far=np.float32([[[400.0]]]))


def samples(count: int = 4, seed: int = 0):
    random = np.random.default_rng(seed)
    given = [{"x": random.uniform(-4, 1.5, (1, 4, 50)).astype(np.float32)} for _ in range(count)]
    return open_samples(given, [Signature("x", (1, 4, 50), "float32")])


def planned(model, target):
    return make_plan(model, collect(Observer(model), samples()), target)


def exact(sample):
    x = sample["x"]
    return {"y": np.concatenate([400 * x.clip(0), 1 / (1 + np.exp(-x))], axis=1).transpose(0, 2, 1)}


def test_scores_beside_boxes_keep_their_accuracy():
    model = detector()
    plan = planned(model, target())
    content = write_onnx(model, plan, target())
    found = compare(exact, lambda sample: run(content, sample), samples(2, 1), ["y"], columns=column_groups(model))
    assert list(found.outputs) == ["y", "y[:, :, 0:4]", "y[:, :, 4:8]"]
    assert all(metrics.sqnr_db > 30 for metrics in found.outputs.values())
    assert set(plan.reasons) == {node.name for node in list(model.graph)[3:]}
    (result,) = check([Gate.parse("y[:, :, 4:8].sqnr_db>=30")], found)
    assert result.passed
    assert not shared_scales(model.graph, plan, collect(Observer(model), samples()).values)


def test_one_encoding_for_all_hides_nothing_from_the_judge():
    """With integers out there is one encoding; the whole looks fine, the scores are gone, and both are said."""
    model = detector()
    integers = target(io_dtype="uint8")
    plan = planned(model, integers)
    assert not plan.reasons
    (said,) = shared_scales(model.graph, plan, collect(Observer(model), samples()).values)
    assert "output y joins values whose ranges differ by a factor of 599" in said
    assert "lose 9.2 bits" in said
    content = write_onnx(model, plan, integers)
    encoding = plan.encodings["y"]

    def artifact(sample):
        given = plan.encodings["x"].quantize(sample["x"]).astype(np.int16) + 128
        raw = run(content, {"x": given.astype(np.uint8)})["y"]
        return {"y": encoding.dequantize(raw.astype(np.int16) - 128)}

    found = compare(exact, artifact, samples(2, 1), ["y"], columns=column_groups(model))
    assert found.outputs["y"].sqnr_db > 30
    name, value = found.worst("sqnr_db")
    assert name == "y[:, :, 4:8]"
    assert value < 3
    assert decibels_of(Judge(model, plan, samples(2, 1)).noise(lambda switch: True)) == pytest.approx(value, abs=0.5)


def test_like_ranges_are_joined_in_integers():
    model = detector("b = Tanh (x)  s = Sigmoid (x)  c = Concat <axis = 1> (b, s)  y = Transpose <perm = [0, 2, 1]> (c)")
    assert not planned(
        network(
            "b = LeakyRelu (x)  s = Relu (x)  y = Concat <axis = 1> (b, s)", inputs="float[1,4,50] x", outputs="float[1,8,50] y"
        ),
        target(),
    ).reasons
    assert planned(model, target()).reasons  # 2 beside 1


def test_what_is_read_elsewhere_stays_in_integers():
    body = DECODED.replace("y = T", "t = T") + "  z = Relu (c)  y = Identity (t)"
    model = detector(body, "float[1,50,8] y, float[1,8,50] z")
    precision = planned(model, target()).precision
    assert [precision[node.name] for node in model.graph if node.op_type == "Concat"] == ["int8"]
