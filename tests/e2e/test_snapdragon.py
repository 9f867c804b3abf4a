"""Artifacts for Snapdragon's NPU: wholly on it, in the emulator of Qualcomm's own libraries, for each generation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration import open_samples
from exporter import export, verify
from exporter.built import Built
from exporter.frontends import Source
from exporter.pipeline import Options, build
from exporter.quantization.mixing.aiming import Goal
from exporter.runtimes import open_session
from exporter.verification.metrics import decibels
from exporter.verification.onnx_parity import emulated_parity
from targets.loader import load_target
from targets.precision import choose_precision
from tests.conftest import zoo_source
from tools.zoo_cases import CASES

NPUS = ("snapdragon-8gen2-npu", "snapdragon-8gen3-npu", "snapdragon-8elite-npu")


def built_for(source: Source, target: str, samples: int = 16) -> Built:
    data = open_samples("tools.zoo:calibration_digits", source.inputs, source.preprocess).take(samples)
    return build(source, load_target(target), data, Options(refine=False))


@pytest.mark.parametrize("target", NPUS)
def test_digits_run_wholly_on_the_npu_as_on_the_cpu(target: str, digit_cnn: Source, tmp_path: Path) -> None:
    built = built_for(digit_cnn, target)
    path = tmp_path / "model.onnx"
    built.artifact.write(path)
    (output,) = digit_cnn.outputs
    step = built.plan.encodings[output.name].scale[0]
    with (
        open_session("qnn-htp", path, options=built.target.verification.options["qnn-htp"]) as npu,
        open_session("onnxruntime", path, options={"optimize": False}) as cpu,
    ):
        assert npu.report()["cpu"] == []
        assert npu.report()["partitions"] == 1
        for sample in open_samples("tools.zoo:held_out_digits", digit_cnn.inputs, digit_cnn.preprocess).take(16):
            apart = np.abs(npu.run(sample)[output.name] - cpu.run(sample)[output.name]).max() / step
            assert apart < 1.01  # whole steps, but for a rounding of float32


def test_a_bundle_is_verified_in_the_emulator_and_no_time_of_it_is_reported(tmp_path: Path) -> None:
    (outcome,) = export(
        "tools.zoo:digit_cnn",
        targets=["snapdragon-8gen3-npu"],
        calibration="tools.zoo:calibration_digits",
        test="tools.zoo:held_out_digits",
        samples=16,
        test_samples=8,
        refine=False,
        out=tmp_path,
    )
    assert outcome.bundle is not None
    assert outcome.evidence is not None
    assert list(outcome.evidence.comparisons) == ["qnn-htp", "onnxruntime"]
    assert [entry.runtime for entry in outcome.evidence.latency] == ["original", "onnxruntime"]
    assert outcome.evidence.agreement is not None
    assert outcome.evidence.agreement.max_lsb < 1.01
    assert outcome.evidence.parity is not None
    assert outcome.evidence.parity.max_lsb <= 1
    assert "Parity of qnn-htp and onnxruntime" in (outcome.bundle.path / "report.html").read_text()
    again = verify(outcome.bundle.path, "tools.zoo:digit_cnn", "tools.zoo:held_out_digits", samples=8)
    assert again.evidence.deciding.to_dict()["outputs"] == outcome.evidence.deciding.to_dict()["outputs"]


def test_a_mix_of_8_and_16_bits_runs_wholly_on_the_npu(digit_cnn: Source, tmp_path: Path) -> None:
    data = open_samples("tools.zoo:calibration_digits", digit_cnn.inputs, digit_cnn.preprocess).take(16)
    target = choose_precision(load_target("snapdragon-8gen3-npu"), "auto")
    built = build(digit_cnn, target, data, Options(goal=Goal.parse(["sqnr_db>=45"])))
    assert set(built.plan.precision.values()) == {"int8", "int16x8"}
    path = tmp_path / "model.onnx"
    built.artifact.write(path)
    assert {entry.data_type for entry in onnx.load(path).graph.initializer if entry.name.endswith("_zero_point")} == {
        onnx.TensorProto.UINT8,
        onnx.TensorProto.UINT16,
        onnx.TensorProto.INT8,
    }
    (output,) = digit_cnn.outputs
    with (
        open_session("qnn-htp", path, options=target.verification.options["qnn-htp"]) as npu,
        open_session("onnxruntime", path, options={"optimize": False}) as cpu,
    ):
        assert npu.report()["cpu"] == []
        samples = list(open_samples("tools.zoo:held_out_digits", digit_cnn.inputs, digit_cnn.preprocess).take(8))
        wanted = np.concatenate([digit_cnn.reference(sample)[output.name] for sample in samples])
        on_npu, on_cpu = (np.concatenate([found.run(sample)[output.name] for sample in samples]) for found in (npu, cpu))
        assert decibels_of(wanted, on_npu) >= decibels_of(wanted, on_cpu) - 1
        assert decibels_of(on_cpu, on_npu) > 40


@pytest.mark.slow
@pytest.mark.parametrize("model", ["efficientnet_lite0", "yolox_char", "ocr_det"])
def test_a_large_model_runs_wholly_on_the_npu_each_layer_within_a_step_of_the_cpu(model: str, tmp_path: Path) -> None:
    """Steps of single layers add up on the way to the outputs; they cost them no accuracy beside the original."""
    case = CASES[model]
    source = zoo_source(model)
    calibration, held_out = (open_samples(data, source.inputs, source.preprocess) for data in (case.calibration, case.held_out))
    built = build(source, load_target("snapdragon-8gen3-npu"), calibration.take(8), Options(refine=False))
    assert set(built.plan.precision.values()) == {"int8"}
    path = tmp_path / "model.onnx"
    built.artifact.write(path)
    options = built.target.verification.options["qnn-htp"]
    (sample,) = held_out.take(1)
    wanted = source.reference(sample)
    with (
        open_session("qnn-htp", path, options=options) as npu,
        open_session("onnxruntime", path, options={"optimize": False}) as cpu,
    ):
        assert npu.report()["cpu"] == []
        assert npu.report()["partitions"] == 1
        on_npu, on_cpu = npu.run(sample), cpu.run(sample)
    for name, original in wanted.items():
        assert decibels_of(original, on_npu[name]) >= decibels_of(original, on_cpu[name]) - 1
    parity = emulated_parity(path, [sample], "qnn-htp", options)
    assert parity.max_lsb <= 1
    assert not parity.uncompared


def decibels_of(wanted: np.ndarray, found: np.ndarray) -> float:
    signal, noise = np.square(wanted.astype(np.float64)).sum(), np.square(found.astype(np.float64) - wanted).sum()
    return decibels(float(signal), float(noise))
