"""The spine's promise on a real ImageNet classifier, on photos that calibration did not see."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from diagnostics import TargetError
from exporter import Exported, export
from exporter.graph.artifacts import read_tflite
from tools import zoo


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    (outcome,) = export(
        "tools.zoo:efficientnet_lite0",
        targets=["android-arm64-cpu"],
        calibration=zoo.calibration_photos(),
        test=zoo.unseen_photos(),
        samples=64,
        test_samples=246,
        out=tmp_path_factory.mktemp("efficientnet"),
    )
    assert outcome.bundle is not None
    return outcome


def test_int8_agrees_with_the_float_original(exported: Exported) -> None:
    agreement, sqnr = exported.worst("top1_agreement"), exported.worst("sqnr_db")
    assert agreement is not None
    assert sqnr is not None
    assert sqnr >= 24
    assert agreement >= 0.95


def test_nothing_is_transposed(exported: Exported) -> None:
    assert exported.bundle is not None
    operators = [node.op_type for node in read_tflite(exported.bundle.artifact.read_bytes()).nodes]
    assert operators.count("CONV_2D") == 33
    assert operators.count("DEPTHWISE_CONV_2D") == 16
    assert "TRANSPOSE" not in operators
    assert operators.count("DEQUANTIZE") == operators.count("QUANTIZE") == 1  # the float boundary, nothing inside


def test_every_layer_of_the_two_artifacts_is_within_one_step(exported: Exported) -> None:
    assert exported.evidence is not None
    assert exported.evidence.parity is not None
    assert len(exported.evidence.parity.layers) > 55
    assert exported.evidence.parity.max_lsb <= 1
    assert not exported.evidence.parity.uncompared


def test_the_report_shows_every_layer(exported: Exported) -> None:
    assert exported.bundle is not None
    report = json.loads((exported.bundle.path / "report.json").read_text())
    assert all(layer["precision"] == "int8" for layer in report["layers"])
    assert min(layer["sqnr_db"] for layer in report["layers"] if layer["sqnr_db"] is not None) > 10


def test_a_microcontroller_refuses_it_by_number(tmp_path: Path) -> None:
    (outcome,) = export(
        "tools.zoo:efficientnet_lite0",
        targets=["cortex-m7"],
        calibration=zoo.calibration_photos(),
        samples=2,
        refine=False,
        out=tmp_path,
    )
    assert isinstance(outcome.error, TargetError)
    assert outcome.error.code == "EW-T003"
    assert "2,097,152 bytes" in outcome.error.what
    assert not list(tmp_path.iterdir())


MEASURE = """
import resource, sys
import numpy as np
from calibration import open_samples
from exporter.frontends import load
from exporter.pipeline import Options, build
from targets.loader import load_target

count = int(sys.argv[1])
source = load("tools.zoo:mtcnn_onet")
def samples():
    random = np.random.default_rng(0)
    return (random.normal(size=source.inputs[0].shape).astype(np.float32) for _ in range(count))
build(source, load_target("x86-64-cpu"), open_samples(samples, source.inputs), Options())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_calibration_memory_does_not_grow_with_the_number_of_samples() -> None:
    """Peak resident memory of calibrating, planning and writing with 32 and with 512 samples, each in a process of its own."""
    assert resource.getpagesize() > 0  # a POSIX system
    peaks = [
        int(subprocess.run([sys.executable, "-c", MEASURE, str(count)], check=True, capture_output=True, text=True).stdout)
        for count in (32, 512)
    ]
    assert peaks[1] <= 1.05 * peaks[0]
