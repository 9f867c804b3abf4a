"""One net in two formats, or at two precisions, comes out as one."""

import numpy as np
import pytest
from conftest import zoo_source

from calibration import open_samples
from exporter import convert
from exporter.runtimes import open_session
from exporter.verification.compare import compare
from exporter.verification.runner import ArtifactRunner
from tools.zoo_cases import CASES


def held_out(name, count):
    source = zoo_source(name)
    return list(open_samples(CASES[name].held_out, source.inputs, source.preprocess).take(count))


def test_basic_pitch_from_onnx_and_from_tflite_is_one_net(tmp_path):
    """The two files hold the same weights in other graphs; both artifacts are compared on chords."""
    for name in ("basic_pitch", "basic_pitch_tflite"):
        convert(f"tools.zoo:{name}", tmp_path / f"{name}.tflite")
    outputs = [signature.name for signature in zoo_source("basic_pitch").outputs]
    with (
        open_session("litert-xnnpack", tmp_path / "basic_pitch.tflite") as one,
        open_session("litert-xnnpack", tmp_path / "basic_pitch_tflite.tflite") as other,
    ):
        found = compare(ArtifactRunner(one), ArtifactRunner(other), held_out("basic_pitch", 4), outputs)
    assert all(metrics.sqnr_db >= 80 for metrics in found.outputs.values()), found


@pytest.mark.parametrize("name", ["facemesh", pytest.param("facemesh_half", marks=pytest.mark.slow)])
def test_facemesh_in_float16_is_the_net_in_float32(tmp_path, name):
    """Landmarks, in pixels of 192, of our float16 file beside our float32 file.

    Their error is that of the weights' 11 bits, 2^-11 of a value at most, or 66 dB of each; `facemesh_half` has them already.
    """
    files = {precision: tmp_path / f"{precision}.tflite" for precision in ("float32", "float16")}
    for precision, path in files.items():
        convert(f"tools.zoo:{name}", path, precision=precision)
    assert files["float16"].stat().st_size < 0.6 * files["float32"].stat().st_size
    samples, worst = held_out(name, 66)[-20:], 0.0
    with open_session("litert-xnnpack", files["float32"]) as one, open_session("litert-xnnpack", files["float16"]) as other:
        wide, half = ArtifactRunner(one), ArtifactRunner(other)
        outputs = [signature.name for signature in zoo_source(name).outputs]
        found = compare(wide, half, samples, outputs)
        for sample in samples:
            worst = max(worst, float(np.abs(wide(sample)[outputs[0]] - half(sample)[outputs[0]]).max()))
    assert found.outputs[outputs[0]].sqnr_db >= 60, found
    assert worst < 0.5
