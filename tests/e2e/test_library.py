"""The same path as a library: modules in memory, arrays in memory, every zoo model converted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from exporter import convert, export, load, read_bundle, verify
from exporter.graph.artifacts import read_tflite

CONVERTED = {"efficientnet_lite0": 0, "digit_cnn": 0, "mtcnn_onet": 1, "yolox_char": 0, "ocr_det": 0}  # TRANSPOSE operators


@pytest.mark.parametrize("name", CONVERTED)
def test_a_zoo_model_converts_to_float_tflite_and_is_the_same_model(name: str, tmp_path: Path) -> None:
    done = convert(f"tools.zoo:{name}", tmp_path / "m.tflite", io_layout="channels_last")
    # ocr_det's probabilities of noise are below 1e-3: the runtime's own error of the sigmoid is near them.
    assert done.sqnr_db is None or done.sqnr_db > (50 if name == "ocr_det" else 100)
    operators = [node.op_type for node in read_tflite(done.path.read_bytes()).nodes]
    assert operators.count("TRANSPOSE") == CONVERTED[name]


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_half_precision_halves_the_file(suffix: str, tmp_path: Path) -> None:
    full = convert("tools.zoo:digit_cnn", tmp_path / f"full.{suffix}")
    half = convert("tools.zoo:digit_cnn", tmp_path / f"half.{suffix}", precision="float16")
    assert half.path.stat().st_size < 0.55 * full.path.stat().st_size
    assert half.sqnr_db is not None
    assert half.sqnr_db > 50


def test_a_module_in_memory_with_one_spatial_axis(tmp_path: Path) -> None:
    """A 1-D convolution network (keyword spotting's shape), for a phone and for a microcontroller."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv1d(10, 16, 5, stride=2, padding=2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 16, 3, padding=1, groups=16),
        nn.ReLU(),
        nn.Conv1d(16, 24, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(24, 6),
    ).eval()
    random = np.random.default_rng(0)
    samples = [random.normal(size=(1, 10, 64)).astype(np.float32) for _ in range(40)]
    outcomes = export(
        net,
        targets=["android-arm64-cpu", "cortex-m7", "x86-64-cpu"],
        inputs=(torch.zeros(1, 10, 64),),
        calibration=samples,
        gates=["sqnr_db>=25"],
        out=tmp_path,
    )
    assert [outcome.passed for outcome in outcomes] == [True, True, True]
    tflite = read_tflite((tmp_path / "android-arm64-cpu" / "model.tflite").read_bytes())
    assert "TRANSPOSE" not in {node.op_type for node in tflite.nodes}


def test_residual_and_grouped_blocks_export_and_verify(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
            self.depthwise, self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 3, padding=1, groups=4)
            self.squeeze = nn.Conv2d(16, 16, 1)
            self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
            self.head = nn.Linear(8, 5)

        def forward(self, x):  # type: ignore[no-untyped-def]
            x = torch.relu(self.norm(self.stem(x)))
            x = x + torch.nn.functional.hardswish(self.depthwise(x))
            x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
            x = torch.cat([self.grouped(x), x], 1)[:, 8:24]
            x = torch.nn.functional.interpolate(self.up(x), scale_factor=2)
            return self.head(torch.nn.functional.max_pool2d(x, 2).mean((2, 3)))

    net = Block().eval()
    random = np.random.default_rng(0)
    samples = [random.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(30)]
    inputs = (torch.zeros(1, 3, 16, 16),)
    outcomes = export(net, targets=["android-arm64-cpu", "x86-64-cpu"], inputs=inputs, calibration=samples, out=tmp_path)
    for outcome in outcomes:
        assert outcome.error is None
        assert (outcome.worst("sqnr_db") or 0) > 20
        again = verify(tmp_path / outcome.target, net, samples[:4], inputs=inputs)
        assert again.evidence.deciding.samples == 4
        assert read_bundle(tmp_path / outcome.target).manifest.model


def test_loading_tells_the_signature(tmp_path: Path) -> None:
    source = load("tools.zoo:digit_cnn")
    assert [signature.shape for signature in source.inputs] == [(1, 1, 28, 28)]
    found = source.reference({source.inputs[0].name: np.zeros((1, 1, 28, 28), np.float32)})
    assert math.isfinite(float(found[source.outputs[0].name].sum()))
