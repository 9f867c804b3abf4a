"""The mobile kit: golden vectors that read back exactly, code with the model's own numbers, hostile names in comments only."""

import io
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import Preprocess
from exporter.bundle.firmware import GoldenSample
from exporter.bundle.manifest import TensorRecord
from exporter.bundle.mobile import class_name, metadata_json, mobile_kit

HOSTILE = '*/ fun evil() {} /* ${x} "\n\\('
OUTPUT = TensorRecord("scores", (1, 5), "int8", 0.25, 3)


def image_input(last, dtype="float32"):
    shape = (1, 4, 6, 3) if last else (1, 3, 4, 6)
    quantized = {} if dtype == "float32" else {"scale": 0.0186, "zero_point": -14}
    return TensorRecord(
        "image", shape, dtype, layout="channels_last" if last else "as_original", original_shape=(1, 3, 4, 6), **quantized
    )


def samples(record, count=2):
    rng = np.random.default_rng(0)
    return [
        GoldenSample(
            {record.name: rng.integers(-100, 100, record.shape).astype(record.dtype)},
            {OUTPUT.name: rng.integers(-128, 128, OUTPUT.shape).astype(np.int8)},
        )
        for _ in range(count)
    ]


def kit(record, name="digit net", preprocess=None, count=2):
    return mobile_kit(name, [record], [OUTPUT], golden=samples(record, count), preprocess=preprocess)


def recipe(**changes):
    fields = {"resize": 8, "crop": (4, 6), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), **changes}
    return Preprocess(**fields).to_dict()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_golden_vectors_read_back_exactly(dtype):
    record = image_input(True, dtype)
    files, golden = kit(record), samples(record)
    index, raw = json.loads(files["mobile/golden.json"]), files["mobile/golden.bin"]
    arrays = np.load(io.BytesIO(files["mobile/golden.npz"]), allow_pickle=False)
    for number, (sample, entry) in enumerate(zip(golden, index["samples"], strict=True)):
        for side, found in (("inputs", sample.inputs), ("outputs", sample.outputs)):
            for place in entry[side]:
                data = raw[place["offset"] : place["offset"] + place["bytes"]]
                array = np.frombuffer(data, np.dtype(place["dtype"]).newbyteorder("<")).reshape(place["shape"])
                np.testing.assert_array_equal(array, found[place["name"]])
                np.testing.assert_array_equal(arrays[f"{side[:-1]}/{number}/{place['name']}"], found[place["name"]])
                assert place["offset"] % 16 == 0


def test_the_same_facts_give_the_same_bytes():
    record = image_input(False)
    assert kit(record, preprocess=recipe()) == kit(record, preprocess=recipe())


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_the_code_converts_pixels_in_the_artifacts_layout_and_order(last, color):
    files = kit(image_input(last), preprocess=recipe(color=color))
    kotlin, swift = files["mobile/DigitNetModel.kt"].decode(), files["mobile/DigitNetModel.swift"].decode()
    assert "const val HEIGHT = 4" in kotlin
    assert "const val WIDTH = 6" in kotlin
    assert "floatArrayOf(0.485f, 0.456f, 0.406f)" in kotlin
    assert ("0 -> 16" in kotlin) is (color == "RGB")
    assert ("2 - channel" in swift) is (color == "BGR")
    assert ("for (channel in 0 until 3) for (pixel in pixels)" in kotlin) is not last
    assert "putFloat" in kotlin


def test_a_quantized_input_is_quantized_by_the_code():
    files = kit(image_input(True, "int8"), preprocess=recipe())
    kotlin, swift = files["mobile/DigitNetModel.kt"].decode(), files["mobile/DigitNetModel.swift"].decode()
    assert "const val INPUT0_SCALE = 0.0186f" in kotlin
    assert "coerceIn(-128, 127)" in kotlin
    assert "min(max(stored, -128), 127)" in swift
    assert "putFloat" not in kotlin


@pytest.mark.parametrize(
    ("record", "preprocess"),
    [
        (TensorRecord("frames", (1, 16), "float32"), recipe()),
        (TensorRecord("stack", (1, 12, 4, 6), "float32"), recipe()),
        (image_input(True), None),
    ],
)
def test_without_an_image_there_is_no_pixel_code(record, preprocess):
    files = kit(record, preprocess=preprocess)
    assert "imageToInput" not in files["mobile/DigitNetModel.kt"].decode()
    assert "imageToInput" not in files["mobile/DigitNetModel.swift"].decode()


def test_hostile_names_stay_in_comments():
    record = TensorRecord(HOSTILE, (1, 4), "float32")
    files = mobile_kit(HOSTILE, [record], [OUTPUT], golden=samples(record))
    for path in files:
        assert re.fullmatch(r"mobile/[A-Za-z0-9.]+", path)
    for suffix in (".kt", ".swift"):
        source = next(content.decode() for path, content in files.items() if path.endswith(suffix))
        code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
        assert not re.search(r"fun evil|\$\{x\}", code)
        for pair in ("()", "{}", "[]"):
            assert code.count(pair[0]) == code.count(pair[1])


@given(st.text())
def test_class_names_are_identifiers(name):
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", class_name(name))


def test_metadata_holds_what_an_app_needs_and_is_stable():
    data = metadata_json([image_input(True, "int8")], [OUTPUT], recipe())
    facts = json.loads(data)
    assert facts["inputs"][0]["zero_point"] == -14
    assert facts["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    assert data == metadata_json([image_input(True, "int8")], [OUTPUT], recipe())
