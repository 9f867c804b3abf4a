"""Arm's own kernels, in qemu: what an artifact computes on NEON, beside the reference kernels here. The wheels are fetched once."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from calibration import open_samples
from exporter.cli.main import main
from exporter.pipeline import Options, build
from exporter.runtimes import available, open_session
from exporter.runtimes.emulation import CORES, emulator, how_to_get_emulator
from exporter.runtimes.install import add_environment
from exporter.runtimes.probe import probe_model
from exporter.verification.runner import ArtifactRunner
from targets.loader import load_target
from targets.precision import choose_io
from tests.conftest import zoo_source
from tests.runtimes.tiny_models import onnx_relu
from tools import zoo_data
from tools.floors import RELEASE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(emulator() is None, reason=f"there is no emulator of aarch64 programs: {how_to_get_emulator()}"),
]

DATA = {
    "digit_cnn": (zoo_data.calibration_digits, zoo_data.held_out_digits),
    "efficientnet_lite0": (zoo_data.calibration_photos, zoo_data.held_out_photos),
}


@pytest.fixture(scope="module", autouse=True)
def environment() -> None:
    for package in ("ai-edge-litert", "onnxruntime"):
        add_environment(f"{package}=={version(package)}", platform="aarch64")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, str]]]:
    """int8 artifacts, integers in and out, with the layouts of their inputs."""
    found = {}
    target = choose_io(load_target("android-arm64-cpu"), "int8")
    for name, (calibration, _) in DATA.items():
        source = zoo_source(name)
        samples = open_samples(calibration(), source.inputs, source.preprocess).take(16)
        made = build(source, target, samples, Options(effort="fast")).artifact
        path = tmp_path_factory.mktemp(name) / "model.tflite"
        made.write(path)
        found[name] = (path, dict(made.layouts))
    return found


def outputs(runtime: str, artifact: tuple[Path, dict[str, str]], name: str, count: int = 2) -> list[np.ndarray]:
    path, layouts = artifact
    source = zoo_source(name)
    samples = open_samples(DATA[name][1](), source.inputs, source.preprocess).take(count)
    with open_session(runtime, path) as session:
        encode = ArtifactRunner(session, layouts).encode
        return [next(iter(session.run(encode(sample)).values())) for sample in samples]


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76", "armv9"])
@pytest.mark.parametrize("name", list(DATA))
def test_neon_kernels_give_what_xnnpack_gives_here(name: str, core: str, artifacts: dict) -> None:
    """XNNPACK's integer kernels compute the same on every processor: its requantization is specified to the bit."""
    for found, wanted in zip(
        outputs(f"litert-xnnpack@{core}", artifacts[name], name), outputs("litert-xnnpack", artifacts[name], name), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_reference_kernels_give_the_same_bits_on_arm(artifacts: dict) -> None:
    name = "digit_cnn"
    for found, wanted in zip(
        outputs("litert-ref@cortex-a76", artifacts[name], name), outputs("litert-ref", artifacts[name], name), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_the_oldest_runtime_of_a_raspberry_pi_4_on_its_own_core(tmp_path: Path) -> None:
    """tflite-runtime 2.14 on a Cortex-A72: its XNNPACK rounds otherwise than the reference kernels, by one step at most a layer."""
    name, runtime = "efficientnet_lite0", f"tflite-runtime=={RELEASE}"
    add_environment(runtime, platform="aarch64")
    source, target = zoo_source(name), choose_io(load_target("raspberry-pi-4"), "int8")
    samples = open_samples(DATA[name][0](), source.inputs, source.preprocess).take(16)
    made = build(source, target, samples, Options(effort="fast")).artifact
    made.write(tmp_path / "model.tflite")
    artifact = (tmp_path / "model.tflite", dict(made.layouts))
    for found, wanted in zip(
        outputs(f"{runtime}@cortex-a72", artifact, name), outputs("litert-ref", artifact, name), strict=True
    ):
        one, other = found.astype(np.float64), wanted.astype(np.float64)
        assert np.square(one - other).sum() / np.square(other - other.mean()).sum() < 1e-3
        assert one.argmax() == other.argmax()


@pytest.mark.parametrize("core", list(CORES))
def test_both_runtimes_start_on_every_core(core: str, tmp_path: Path) -> None:
    x = np.array([-1.5, 2.5], np.float32)
    for runtime in ("onnxruntime", "litert-ref", "litert-xnnpack"):
        suffix, content = probe_model(runtime)
        (tmp_path / f"m{suffix}").write_bytes(content)
        with open_session(f"{runtime}@{core}", tmp_path / f"m{suffix}") as session:
            np.testing.assert_array_equal(session.run({"x": x})["y"], np.maximum(x, 0))
            assert CORES[core].title in session.machine.processor


def test_verify_on_a_core_says_no_latency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = str(onnx_relu(tmp_path / "relu.onnx")), tmp_path / "data.npy"
    np.save(data, np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32))
    shape = ("--shape", "x=1,4")
    assert main(["convert", model, str(tmp_path / "m.tflite"), *shape]) == 0
    capsys.readouterr()
    options = ["--against", model, "--data", str(data), *shape, "--on", "cortex-a76", "--json"]
    assert main(["verify", str(tmp_path / "m.tflite"), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["runtimes"])[:2] == ["litert-xnnpack@cortex-a76", "litert-xnnpack"]
    assert "litert-xnnpack@cortex-a76" not in found["latency"]
    assert found["agreement"]["mismatches"] == 0
    assert found["machines"]["litert-xnnpack@cortex-a76"]["version"] == version("ai-edge-litert")
    assert available("litert-xnnpack@cortex-a76").present
