"""Precision auto through the command line: int8 where it holds the gate, something else where it would not, and the reasons said."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from exporter import Plan
from exporter.cli.main import main

OUTLIER = np.ones((8, 1, 1, 1), np.float32)
OUTLIER[3] = 1e4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Between two poolings one channel is 10,000 times as large as the others, then brought back; a classifier behind it."""
    folder = tmp_path_factory.mktemp("outlier")
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
        "w1": random.normal(size=(8, 3, 3, 3)) * OUTLIER,
        "losses": 1 / OUTLIER.reshape(1, 8, 1, 1),
        "w2": random.normal(size=(16, 8, 3, 3)) / 8,
        "w3": random.normal(size=(10, 1024)) / 32,
    }
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(proto, folder / "outlier.onnx")
    np.save(folder / "data.npy", random.normal(size=(24, 3, 16, 16)).astype(np.float32))
    return folder / "outlier.onnx"


def export(model: Path, out: Path, *arguments: str) -> int:
    data = ("--calib", str(model.with_name("data.npy")), "--samples", "16", "--test-samples", "8")
    return main(["export", str(model), *data, "--out", str(out), "--gate", "sqnr_db>=25", *arguments])


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


def test_an_auto_plan_replays_byte_for_byte(model: Path, tmp_path: Path) -> None:
    target = ("--target", "android-arm64-cpu")
    assert export(model, tmp_path / "first", *target, "--precision", "auto") == 0
    first = tmp_path / "first" / "android-arm64-cpu"
    assert export(model, tmp_path / "again", *target, "--plan", str(first / "plan.json")) == 0
    second = tmp_path / "again" / "android-arm64-cpu"
    [artifact] = first.glob("*.tflite")
    assert artifact.read_bytes() == (second / artifact.name).read_bytes()
