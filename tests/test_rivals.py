"""Whether a precision pays is measured beside the float form on the target's runtime, and said where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration import open_samples
from exporter.built import Built
from exporter.exporting import export
from exporter.frontends import load
from exporter.pipeline import Options, build
from exporter.rivals import race, rivals_of
from exporter.verification.prove import Rival, advice
from targets.loader import load_target
from targets.precision import choose_precision

SHAPE = (1, 64, 40, 40)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weight = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32) / 24
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def _bends(path: Path) -> Path:
    """Eight depthwise convolutions, each with a PRelu behind it: conversions on both sides of every one on onnxruntime."""
    random = np.random.default_rng(0)
    nodes, stored, last = [], [], "x"
    for number in range(8):
        stored.append(numpy_helper.from_array(random.standard_normal((128, 1, 3, 3)).astype(np.float32), f"w{number}"))
        stored.append(numpy_helper.from_array(random.uniform(0.1, 0.9, (128, 1, 1)).astype(np.float32), f"s{number}"))
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], pads=[1] * 4, group=128))
        last = "y" if number == 7 else f"p{number}"
        nodes.append(helper.make_node("PRelu", [f"c{number}", f"s{number}"], [last]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 128, 24, 24)) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def _data() -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)} for seed in range(3)]


def _built(model: Path, target: str, precision: str) -> Built:
    source = load(model)
    return build(
        source,
        choose_precision(load_target(target), precision),
        open_samples(_data(), source.inputs, None),
        Options(refine=False),
    )


def test_advice_names_the_times_and_what_to_ask_for() -> None:
    slow = Rival("float32", "onnxruntime", seconds=2.2e-3, artifact_s=3.1e-3, size=3120, artifact_size=1000)
    (sentence,) = advice("int8", [slow, Rival("weight_int8", "onnxruntime", 2.0e-3, 3.1e-3, 904, 1000)])
    assert sentence == (
        "int8 does not pay on onnxruntime here, where it takes 3.1 ms: "
        "--precision weight_int8 takes 2 ms, 0.9 of its bytes; --precision float32 takes 2.2 ms, 3.1 of its bytes"
    )


def test_no_advice_where_the_artifact_is_as_fast() -> None:
    assert advice("int8", [Rival("float32", "onnxruntime", 3.0e-3, 3.1e-3, 4000, 1000)]) == ()
    assert advice("int8", []) == ()


def test_a_convolution_pays_in_int8(model: Path) -> None:
    built = _built(model, "android-arm64-cpu", "int8")
    (rival,) = rivals_of(built, Options(), open_samples(_data(), built.source.inputs, None))
    assert (rival.precision, rival.runtime) == ("float32", "litert-xnnpack")
    assert 0 < rival.artifact_s < rival.seconds


def test_weights_in_integers_are_offered_where_activations_had_better_be_floats(tmp_path: Path) -> None:
    """Of a runtime that has no integer kernel worth its name, what pays is as small as int8 and as fast as float."""
    source, target = load(_bends(tmp_path / "bends.onnx")), load_target("x86-64-cpu")
    samples = open_samples(
        [{"x": np.random.default_rng(0).standard_normal((1, 128, 24, 24)).astype(np.float32)}], source.inputs, None
    )
    built = build(source, target, samples, Options(refine=False))
    found = {rival.precision: rival for rival in rivals_of(built, Options(), samples)}
    assert found["float32"].faster
    assert found["weight_int8"].faster
    assert found["weight_int8"].size < found["float32"].size
    (sentence,) = advice("int8", list(found.values()))
    assert "--precision weight_int8 takes" in sentence


def test_the_slower_of_two_artifacts_is_told(model: Path) -> None:
    slow, fast = _built(model, "android-arm64-cpu", "int16x8"), _built(model, "android-arm64-cpu", "int8")
    rival = race(slow, fast, "litert-xnnpack", _data()[0])
    assert rival.faster
    assert advice("int16x8", [rival])


@pytest.mark.parametrize(("target", "precision"), [("cortex-m7", "int8"), ("x86-64-cpu", "float32")])
def test_nothing_is_timed_where_it_says_nothing(model: Path, target: str, precision: str) -> None:
    built = _built(model, target, precision)
    assert rivals_of(built, Options(), open_samples(_data(), built.source.inputs, None)) == ()


def test_an_export_that_does_not_pay_says_so(model: Path, tmp_path: Path) -> None:
    target = choose_precision(load_target("android-arm64-cpu"), "int16x8")
    (outcome,) = export(model, [target], calibration=_data(), test=_data(), out=tmp_path)
    assert "int16x8 does not pay on litert-xnnpack here" in outcome.advice[0]
    assert outcome.to_dict()["advice"] == list(outcome.advice)
    report = (tmp_path / "android-arm64-cpu" / "report.json").read_text(encoding="utf-8")
    assert "does not pay" in report
    assert replace(outcome, advice=()).passed
