"""Precision auto through the command line: int8 where it holds the gate, something else where it would not, and the reasons said."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from exporter import Plan
from exporter.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return outlier(tmp_path_factory.mktemp("outlier"), 1e4)


def outlier(folder: Path, times: float) -> Path:
    """Between two poolings one channel is so many times as large as the others, then brought back; a classifier behind it."""
    gains = np.ones((8, 1, 1, 1), np.float32)
    gains[3] = times
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[1,3,16,16] x) => (float[1,10] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        k = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)
        s = Mul (k, losses)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s)
        c = Conv <pads = [1, 1, 1, 1]> (m, w2)
        r = Relu (c)
        f = Flatten (r)
        y = Gemm <transB = 1> (f, w3)
        }"""
    )
    random = np.random.default_rng(0)
    weights = {
        "w1": random.normal(size=(8, 3, 3, 3)) * gains,
        "losses": -1 / gains.reshape(1, 8, 1, 1),  # below zero: no pooling lets such a factor through
        "w2": random.normal(size=(16, 8, 3, 3)) / 8,
        "w3": random.normal(size=(10, 1024)) / 32,
    }
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(proto, folder / "outlier.onnx")
    np.save(folder / "data.npy", random.normal(size=(24, 3, 16, 16)).astype(np.float32))
    return folder / "outlier.onnx"


def export(model: Path, out: Path, *arguments: str, gate: str = "sqnr_db>=25") -> int:
    data = ("--calib", str(model.with_name("data.npy")), "--samples", "16", "--test-samples", "8")
    return main(["export", str(model), *data, "--out", str(out), "--gate", gate, *arguments])


@pytest.mark.parametrize("target", ["android-arm64-cpu", "x86-64-cpu"])
def test_auto_holds_a_gate_that_int8_does_not(model: Path, tmp_path: Path, target: str) -> None:
    assert export(model, tmp_path / "int8", "--target", target) == 1
    assert export(model, tmp_path / "auto", "--target", target, "--precision", "auto") == 0
    plan = Plan.load(tmp_path / "auto" / target / "plan.json")
    counted = Counter(plan.precision.values())
    assert counted["int8"] >= 2  # the classifier and the convolution before it
    assert plan.reasons
    report = json.loads((tmp_path / "auto" / target / "report.json").read_text())
    said = {layer["node"]: layer["reason"] for layer in report["layers"]}
    assert any("8 bits for value" in said[name] for name in plan.reasons)


METRIC = """
def distance(run, samples, original):
    pairs = [(run(sample)["y"], original(sample)["y"]) for sample in samples]
    return sum(abs(one - two).sum() for one, two in pairs) / sum(abs(two).sum() for _, two in pairs)

def blind(run, samples):
    return 1.0
"""


@pytest.fixture
def metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "auto_metric.py").write_text(METRIC)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "auto_metric", raising=False)
    return "auto_metric"


INT8 = ("--target", "android-arm64-cpu", "--effort", "fast")
AUTO = (*INT8, "--precision", "auto")


def made(out: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan of a bundle, and its report."""
    bundle = out / "android-arm64-cpu"
    return Plan.load(bundle / "plan.json"), json.loads((bundle / "report.json").read_text())


@pytest.mark.parametrize("gate", ["y.cosine>=0.99", "distance<=0.1"])
def test_a_gate_on_anything_is_aimed_at(model: Path, tmp_path: Path, metric: str, gate: str) -> None:
    task = ("--metric", f"{metric}:distance")
    assert export(model, tmp_path / "int8", *INT8, *task, gate=gate) == 1
    assert export(model, tmp_path / "auto", *AUTO, *task, gate=gate) == 0
    plan, report = made(tmp_path / "auto")
    assert "float32" in plan.precision.values()
    assert list(plan.aims) == list(report["aims"]) == [gate]
    assert gate in (tmp_path / "auto" / "android-arm64-cpu" / "report.html").read_text().replace("&gt;", ">").replace("&lt;", "<")


def test_a_gate_that_int8_holds_leaves_all_in_8_bits(tmp_path: Path) -> None:
    mild = outlier(tmp_path, 30)
    assert export(mild, tmp_path / "none", *AUTO, gate="sqnr_db>=0.5") == 0
    assert export(mild, tmp_path / "auto", *AUTO, gate="top1_agreement>=0.6") == 0
    plan, _ = made(tmp_path / "auto")
    assert plan.precision == made(tmp_path / "none")[0].precision
    assert plan.aims["top1_agreement>=0.6"] >= 0.6


@pytest.mark.parametrize(("gate", "above"), [("top1_agreement>=0.98", False), ("cosine>=0.999999", True)])
def test_a_digit_classifier_leaves_the_8_bits_only_for_what_they_do_not_hold(tmp_path: Path, gate: str, above: bool) -> None:
    data = ("--calib", "tools.zoo:calibration_digits", "--samples", "48", "--test", "tools.zoo:held_out_digits")
    assert main(["export", "tools.zoo:digit_cnn", *AUTO, *data, "--gate", gate, "--out", str(tmp_path)]) == 0
    plan, report = made(tmp_path)
    macs = {row["node"]: row["macs"] for row in report["layers"]}
    left = sum(macs[name] for name, precision in plan.precision.items() if precision != "int8")
    assert (left / sum(macs.values()) > 0.01) is above  # without any gate a softmax pays as well


def test_a_metric_of_labelled_data_alone_is_not_aimed_at(
    model: Path, tmp_path: Path, metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(model, tmp_path, *AUTO, "--metric", f"{metric}:blind", gate="blind>=1") == 0
    assert "does not aim at the gate blind>=1: auto_metric:blind has no parameter `original`" in " ".join(
        capsys.readouterr().err.split()
    )
    plan, _ = made(tmp_path)
    assert list(plan.aims) == ["sqnr_db>=20"]


def test_a_gate_on_no_output_stops_before_anything_is_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(model, tmp_path / "out", *AUTO, gate="scores.cosine>=0.9") == 2
    assert "EW-G002" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_auto_plan_replays_byte_for_byte(model: Path, tmp_path: Path) -> None:
    target = ("--target", "android-arm64-cpu")
    assert export(model, tmp_path / "first", *target, "--precision", "auto") == 0
    first = tmp_path / "first" / "android-arm64-cpu"
    assert export(model, tmp_path / "again", *target, "--plan", str(first / "plan.json")) == 0
    second = tmp_path / "again" / "android-arm64-cpu"
    [artifact] = first.glob("*.tflite")
    assert artifact.read_bytes() == (second / artifact.name).read_bytes()


def test_auto_takes_16_bits_where_there_is_no_float(tmp_path: Path) -> None:
    """An MCU: proved by tflite-micro and by LiteRT's reference kernels; the report says of each node why."""
    model, target = outlier(tmp_path, 100), ("--target", "cortex-m7")
    assert export(model, tmp_path / "int8", *target) == 1
    assert export(model, tmp_path / "auto", *target, "--precision", "auto") == 0
    bundle = tmp_path / "auto" / "cortex-m7"
    plan = Plan.load(bundle / "plan.json")
    wide = {name for name, precision in plan.precision.items() if precision == "int16x8"}
    assert set(plan.precision.values()) == {"int8", "int16x8"}
    assert set(plan.reasons) == wide
    report = json.loads((bundle / "report.json").read_text())
    said = {layer["node"]: layer["reason"] for layer in report["layers"]}
    assert all("int16 activations because" in said[name] for name in wide)
    proved = {row["runtime"]: row["metrics"]["sqnr_db"] for row in report["outputs"]}
    assert set(proved) == {"tflite-micro", "litert-ref"}
    assert min(proved.values()) >= 25
    manifest = json.loads((bundle / "manifest.json").read_text())
    for record in (*manifest["signature_inputs"], *manifest["signature_outputs"]):
        assert record["dtype"] == plan.encodings[record["name"]].dtype
    again = [*target, "--plan", str(bundle / "plan.json")]
    assert export(model, tmp_path / "again", *again) == 0
    assert (tmp_path / "again" / "cortex-m7" / "model.tflite").read_bytes() == (bundle / "model.tflite").read_bytes()


@pytest.mark.slow
def test_one_node_of_a_digit_classifier_on_an_mcu_takes_16_bits(tmp_path: Path) -> None:
    """8 bits give 42 dB, and what the last node writes in them alone 45."""
    data = ("--calib", "tools.zoo:calibration_digits", "--test", "tools.zoo:held_out_digits")
    arguments = ["export", "tools.zoo:digit_cnn", "--target", "cortex-m7", *data, "--out", str(tmp_path)]
    assert main([*arguments, "--gate", "sqnr_db>=45"]) == 1
    assert main([*arguments, "--gate", "sqnr_db>=45", "--precision", "auto", "--force"]) == 0
    plan = Plan.load(tmp_path / "cortex-m7" / "plan.json")
    wide = [name for name, precision in plan.precision.items() if precision == "int16x8"]
    assert {name.partition("/")[0] for name in wide} == {"node_linear_1"}  # a convolution there, and what gives it its shape
    assert set(plan.reasons) == set(wide)
