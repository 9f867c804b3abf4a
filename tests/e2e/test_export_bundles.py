"""The whole path through the command line: a real digit classifier for three targets, its bundles, and what can be done with them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exporter import Plan, read_bundle
from exporter.cli.main import main
from exporter.graph.artifacts import read_tflite
from exporter.runtimes import open_session

TARGETS = ("cortex-m7", "android-arm64-cpu", "x86-64-cpu")
MODEL = "tools.zoo:digit_cnn"
CALIBRATION = ("--calib", "tools.zoo:calibration_digits", "--samples", "64")
TEST = ("--test", "tools.zoo:held_out_digits", "--test-samples", "40")


def export(out: Path, *arguments: str, targets: tuple[str, ...] = TARGETS) -> int:
    chosen = [part for target in targets for part in ("--target", target)]
    return main(["export", MODEL, *chosen, *CALIBRATION, *TEST, "--out", str(out), *arguments])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundles"
    assert export(out, "--gate", "top1_agreement>=0.97", "--gate", "sqnr_db>=20") == 0
    return out


def digests(bundle: Path) -> dict[str, str]:
    """sha256 of everything that the inputs determine."""
    return {record.name: record.sha256 for record in read_bundle(bundle).manifest.outputs}


@pytest.mark.parametrize("target", TARGETS)
def test_a_bundle_holds_artifact_plan_manifest_and_report(bundles: Path, target: str) -> None:
    bundle = read_bundle(bundles / target)  # compares every file with the manifest
    names = {str(path.relative_to(bundle.path)) for path in bundle.path.rglob("*") if path.is_file()}
    assert {bundle.manifest.artifact, "plan.json", "manifest.json", "report.html", "report.json"} <= names
    assert names == {record.name for record in bundle.manifest.outputs} | {*bundle.manifest.measured, "manifest.json"}
    assert bundle.manifest.target["name"] == target
    assert all(gate.holds for gate in bundle.manifest.gates)
    report = json.loads((bundle.path / "report.json").read_text())
    assert report["verdict"] is True
    assert report["layers"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_plan_replays_byte_for_byte(bundles: Path, tmp_path: Path, target: str) -> None:
    plan = bundles / target / "plan.json"
    assert Plan.load(plan).to_json() == plan.read_text()
    assert main(["export", MODEL, "--target", target, "--plan", str(plan), *TEST, "--out", str(tmp_path)]) == 0
    again, first = digests(tmp_path / target), digests(bundles / target)
    assert again["plan.json"] == first["plan.json"]
    assert again[read_bundle(bundles / target).manifest.artifact] == first[read_bundle(bundles / target).manifest.artifact]


def test_the_same_command_gives_the_same_bytes_whatever_the_thread_count(bundles: Path, tmp_path: Path) -> None:
    arguments = [part for target in TARGETS for part in ("--target", target)]
    for threads in ("1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-m", "exporter.cli.main", "export", MODEL, *arguments, *CALIBRATION, *TEST]
        subprocess.run([*command, "--out", str(tmp_path / threads)], env=environment, check=True, capture_output=True)
    for target in TARGETS:
        assert digests(tmp_path / "1" / target) == digests(tmp_path / "2" / target)
        assert digests(tmp_path / "1" / target) == digests(bundles / target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_bundle_verifies_against_its_original(bundles: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", str(bundles / target), "--against", MODEL, "--data", "tools.zoo:held_out_digits", "--samples", "20"]
    assert main([*arguments, "--gate", "top1_agreement>=0.95", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["gates"][0]["value"] >= 0.95
    assert main([*arguments, "--gate", "sqnr_db>=90"]) == 1


def test_tflite_micro_computes_what_the_reference_kernels_compute_bit_for_bit(bundles: Path) -> None:
    """On noise, which reaches more rounding ties than digits; the fully connected layers are convolutions (`AVOIDED`)."""
    artifact = bundles / "cortex-m7" / "model.tflite"
    random = np.random.default_rng(1)
    assert "FULLY_CONNECTED" not in {node.op_type for node in read_tflite(artifact.read_bytes()).nodes}
    compared = 0
    with (
        open_session("tflite-micro", artifact, keep_tensors=True) as micro,
        open_session("litert-ref", artifact, keep_tensors=True) as reference,
    ):
        (info,) = micro.inputs
        for _ in range(20):
            sample = {info.name: random.integers(-128, 128, info.shape, dtype=np.int8)}
            micro.run(sample)
            reference.run(sample)
            expected, found = reference.tensors(), micro.tensors()
            for name in expected.keys() & found.keys():
                np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
                compared += found[name].size
    assert compared > 20 * 10_000


def test_the_arena_was_told_before_it_was_measured(bundles: Path) -> None:
    report = json.loads((bundles / "cortex-m7" / "report.json").read_text())
    rows = {row["label"]: row for row in report["arena"]}
    told, seen = rows["told from the file, reference kernels"]["bytes"], rows["measured: arena total"]["bytes"]
    assert abs(told - seen) <= 0.05 * seen
    on_device = rows["measured, with the scratch of cmsis-nn-dsp"]
    assert on_device["bytes"] >= seen
    assert on_device["limit"] == 512 * 1024
    assert report["arena_operator"]
    assert sum(size for _, size in report["arena_peak"]) <= rows["told from the file, cmsis-nn-dsp kernels"]["bytes"]
    assert "What fills the arena" in (bundles / "cortex-m7" / "report.html").read_text()


def test_both_artifacts_of_a_plan_are_the_same_integer_model(bundles: Path) -> None:
    parity = json.loads((bundles / "android-arm64-cpu" / "report.json").read_text())["parity"]
    assert len(parity) >= 8
    assert max(layer["max_lsb"] for layer in parity) <= 1


def test_a_plain_convolution_network_has_no_transpose(bundles: Path) -> None:
    for target in ("cortex-m7", "android-arm64-cpu"):
        operators = {node.op_type for node in read_tflite((bundles / target / "model.tflite").read_bytes()).nodes}
        assert "TRANSPOSE" not in operators
        assert "CONV_2D" in operators


def test_a_damaged_bundle_is_refused(bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(bundles / "x86-64-cpu", copy)
    with (copy / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    assert main(["verify", str(copy), "--against", MODEL, "--data", "tools.zoo:held_out_digits"]) == 3
    assert "EW-G003" in capsys.readouterr().err


def test_a_failed_gate_sets_the_exit_status_and_the_bundle_says_so(tmp_path: Path) -> None:
    assert export(tmp_path, "--gate", "sqnr_db>=99", targets=("x86-64-cpu",)) == 1
    (gate,) = read_bundle(tmp_path / "x86-64-cpu").manifest.gates
    assert not gate.holds
    assert gate.value is not None
    assert gate.value < 99


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_the_firmware_kit_compiles_without_a_warning(bundles: Path, tmp_path: Path) -> None:
    kit = bundles / "cortex-m7" / "firmware"
    for source in sorted(kit.glob("*.c")):
        flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-c", str(source), "-o", str(tmp_path / f"{source.stem}.o")]
        subprocess.run(["gcc", *flags], check=True, cwd=kit)
    header = next(kit.glob("*_model.h")).read_text()
    assert "ARENA" in header


def test_pruning_reaches_its_goal_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path, "--prune", "macs=0.7", targets=("x86-64-cpu",)) == 0
    report = json.loads((tmp_path / "x86-64-cpu" / "report.json").read_text())
    (macs,) = (row for row in report["sizes"] if row["label"] == "multiply-accumulates")
    assert 0.5 < macs["after"] / macs["before"] <= 0.7
    plan = tmp_path / "x86-64-cpu" / "plan.json"
    replayed = tmp_path / "replayed"
    command = ["export", MODEL, "--target", "x86-64-cpu", "--plan", str(plan), *TEST, "--out", str(replayed)]
    assert main(command) == 0
    pair = [(folder / "x86-64-cpu" / "model.onnx").read_bytes() for folder in (tmp_path, replayed)]
    assert hashlib.sha256(pair[0]).digest() == hashlib.sha256(pair[1]).digest()


def test_integer_inputs_and_outputs_on_request(tmp_path: Path) -> None:
    for dtype in ("int8", "uint8"):
        out = tmp_path / dtype
        assert export(out, "--io-dtype", dtype, "--gate", "sqnr_db>=20", targets=("android-arm64-cpu", "x86-64-cpu")) == 0
        for target in ("android-arm64-cpu", "x86-64-cpu"):
            manifest = read_bundle(out / target).manifest
            assert {record.dtype for record in (*manifest.signature_inputs, *manifest.signature_outputs)} == {dtype}
