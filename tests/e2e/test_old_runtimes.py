"""Floors on the real thing: artifacts for old releases, run by these releases in environments of their own (pip fetches them once)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration import open_samples
from exporter import convert
from exporter.pipeline import Options, build
from exporter.runtimes import open_session
from exporter.runtimes.install import add_environment
from exporter.verification.runner import ArtifactRunner
from exporter.verifying import verify
from targets.floor import Floor, lower_floors
from targets.loader import load_target
from targets.releases.tflite import release_of
from tests.conftest import zoo_source
from tools.conformance import run_cases
from tools.conformance_cases import eligible_cases
from tools.floors import RELEASE, operators_of, run_at

pytestmark = pytest.mark.slow

TFLITE = f"tflite-runtime=={RELEASE}"
ORT = ("onnxruntime==1.17.3", "onnxruntime==1.15.1")
MODELS = ("efficientnet_lite0", "digit_cnn", "yolox_char")


@pytest.fixture(scope="module", autouse=True)
def environments() -> None:
    for pin in (TFLITE, *ORT):
        add_environment(pin)


def normal_samples(name: str) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    shapes = {signature.name: signature.shape for signature in zoo_source(name).inputs}
    return [{key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items()} for _ in range(4)]


def built(name: str, target: str, floor: str, precision: str):
    profile = load_target(target)
    profile = profile.model_copy(update={"artifact": profile.artifact.model_copy(update={"precision": precision})})
    [profile] = lower_floors([profile], floor)
    source = zoo_source(name)
    return build(source, profile, open_samples(normal_samples(name), source.inputs), Options(refine=False)).artifact


def outputs(runtime: str, path: Path, artifact, name: str, **options) -> dict[str, np.ndarray]:
    with open_session(runtime, path, options=options) as session:
        return ArtifactRunner(session, artifact.layouts, artifact.encodings)(normal_samples(name)[0])


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_the_last_tflite_runtime_computes_bit_for_bit_what_litert_does(name: str, precision: str, tmp_path: Path) -> None:
    artifact = built(name, "android-arm64-cpu", f"tflite>={RELEASE}", precision)
    assert Floor.parse(f"tflite>={RELEASE}").covers(artifact.release)
    path = tmp_path / "model.tflite"
    path.write_bytes(artifact.content)
    wanted = outputs("litert-ref", path, artifact, name)
    found = outputs(TFLITE, path, artifact, name, kernels="ref")
    delegated = outputs(TFLITE, path, artifact, name)
    for key, array in wanted.items():
        np.testing.assert_array_equal(found[key], array)
        noise = np.square(delegated[key] - array).sum() / np.square(array).sum()
        assert noise < (1e-11 if precision == "float32" else 1e-3)  # XNNPACK rounds otherwise, by one step at most a layer


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("runtime", ORT)
@pytest.mark.parametrize("name", MODELS)
def test_old_onnxruntimes_compute_bit_for_bit_what_the_newest_does(
    name: str, runtime: str, precision: str, tmp_path: Path
) -> None:
    artifact = built(name, "x86-64-cpu", runtime.replace("==", ">="), precision)
    path = tmp_path / "model.onnx"
    path.write_bytes(artifact.content)
    wanted = outputs("onnxruntime", path, artifact, name)
    for key, array in outputs(runtime, path, artifact, name).items():
        np.testing.assert_array_equal(array, wanted[key])


def test_verify_takes_a_release_by_name(tmp_path: Path) -> None:
    artifact = tmp_path / "model.tflite"
    convert("tools.zoo:digit_cnn", artifact, runtime=f"tflite>={RELEASE}")
    data = np.concatenate([next(iter(sample.values())) for sample in normal_samples("digit_cnn")])
    done = verify(artifact, "tools.zoo:digit_cnn", data, runtimes=[TFLITE], gates=["sqnr_db>=80"])
    assert done.passed
    assert list(done.evidence.comparisons) == [TFLITE]


def test_every_builtin_that_we_write_for_the_last_tflite_runtime_is_one_it_has() -> None:
    """The first case of every operator that the conformance suite has; `python -m tools.floors` runs them all."""
    first = {case.operator: case for case in reversed(eligible_cases()) if not case.multi}
    results = list(run_cases(first.values(), run=run_at(RELEASE)))
    assert [result for result in results if result.status in ("wrong", "crash")] == []
    written = operators_of(results)
    assert len(written) > 60
    assert all(Floor.parse(f"tflite>={RELEASE}").covers(release_of(op, version)) for op, version in written)
