"""Every model of the zoo, from its own format to float TFLite, beside its original."""

import pytest

from exporter import convert
from tools import zoo

LARGE = ("facemesh_half", "minilm")  # packages of many megabytes


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in zoo.MODELS])
def test_float_tflite_is_the_same_model(tmp_path, name):
    """Above 80 dB on random inputs, or bit for bit (None).

    Noise holds no text: what ocr_det gives for it is below 0.001 everywhere, where onnxruntime's sigmoid, by which it is judged, is itself
    53 dB from the exact one (LiteRT's is 137 dB from it).
    """
    floor = 50 if name == "ocr_det" else 80
    found = convert(f"tools.zoo:{name}", tmp_path / "model.tflite").sqnr_db
    assert found is None or found > floor


@pytest.mark.parametrize("name", ["facemesh", "basic_pitch", "silero_vad"])
def test_convolution_networks_need_no_transposes_of_their_own(tmp_path, name):
    done = convert(f"tools.zoo:{name}", tmp_path / "model.tflite")
    assert [kind for kind, _ in done.operators].count("TRANSPOSE") <= {"basic_pitch": 2}.get(name, 0)
