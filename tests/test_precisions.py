"""Every precision through the public calls: what is written, what refused, and that a plan brings its precision with it."""

import numpy as np
import onnx
import pytest

from diagnostics import DataError, TargetError, UsageError
from exporter import convert, export
from tests.quantization.planned import network

WEIGHTS = ("weight_int8", "weight_int4", "dynamic_int8", "dynamic_int4")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    made = network(
        """
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        b = Relu (a)
        c = GlobalAveragePool (b)
        d = Flatten (c)
        y = Gemm <transB = 1> (d, w2)
        """,
        inputs="float[1,3,8,8] x",
        outputs="float[1,40] y",
        w1=(64, 3, 3, 3),
        w2=(40, 64),
    )
    import onnx_ir as ir

    onnx.save(ir.serde.serialize_model(made), path)
    return path


def data(count=6, seed=0):
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("precision", WEIGHTS)
def test_convert_writes_integer_weights(model, tmp_path, precision):
    whole, small = (
        convert(model, tmp_path / f"{name}.tflite", precision=name, isolate=False).path.stat().st_size
        for name in ("float32", precision)
    )
    bits = 4 if precision == "weight_int4" else 8
    saved = (64 * 27 + 40 * 64) * (32 - bits) // 8
    assert whole - small > 0.6 * saved  # the rest is scales and the operators that widen


@pytest.mark.parametrize("precision", ["weight_int8", "weight_int4", "int8"])
def test_convert_writes_onnx_too(model, tmp_path, precision):
    calibration = data() if precision == "int8" else None
    made = convert(model, tmp_path / "m.onnx", precision=precision, calibration=calibration, isolate=False)
    assert made.sqnr_db > 12


def test_convert_needs_data_for_integer_activations(model, tmp_path):
    with pytest.raises(DataError) as caught:
        convert(model, tmp_path / "m.tflite", precision="int8", isolate=False)
    assert caught.value.code == "EW-Q001"
    made = convert(model, tmp_path / "m.tflite", precision="int8", io_dtype="uint8", calibration=data(), isolate=False)
    assert made.sqnr_db > 25


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_int16_activations_lose_little_more_than_the_weights(model, tmp_path, suffix):
    calibration = data()
    found = {
        precision: convert(model, tmp_path / f"{precision}.{suffix}", precision=precision, calibration=calibration, isolate=False)
        for precision in ("int8", "int16x8")
    }
    assert found["int16x8"].sqnr_db > found["int8"].sqnr_db + 3
    whole = convert(
        model, tmp_path / f"io.{suffix}", precision="int16x8", io_dtype="int16", calibration=calibration, isolate=False
    )
    assert whole.sqnr_db > found["int8"].sqnr_db + 3


@pytest.mark.parametrize("precision", ["int16x8", "weight_int4", "dynamic_int8"])
def test_the_same_inputs_give_the_same_bytes(model, tmp_path, precision):
    calibration = data() if precision == "int16x8" else None
    first, second = (
        convert(model, tmp_path / f"{name}.tflite", precision=precision, calibration=calibration, isolate=False).path
        for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("out", "options", "code"),
    [
        ("m.onnx", {"precision": "dynamic_int8"}, "EW-T006"),
        ("m.tflite", {"precision": "weight_int8", "io_dtype": "int8"}, "EW-T006"),
        ("m.tflite", {"precision": "weight_int8", "calibration": data()}, "EW-U002"),
        ("m.tflite", {"precision": "int3"}, "EW-U001"),
        ("m.tflite", {"precision": "weight_int4", "runtime": "tflite>=2.17"}, "EW-T005"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(model, tmp_path, out, options, code):
    with pytest.raises((TargetError, UsageError)) as caught:
        convert(model, tmp_path / out, isolate=False, **options)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_a_replayed_plan_brings_its_precision(model, tmp_path):
    first, again = (
        export(model, ["android-arm64-cpu"], test=data(), out=tmp_path / name, **options)[0].bundle
        for name, options in (
            ("a", {"precision": "dynamic_int8"}),
            ("b", {"plan": tmp_path / "a" / "android-arm64-cpu" / "plan.json"}),
        )
    )
    assert again.artifact.read_bytes() == first.artifact.read_bytes()
    assert again.manifest.target["artifact"]["precision"] == "dynamic_int8"
    with pytest.raises(UsageError) as caught:
        export(model, ["android-arm64-cpu"], test=data(), out=tmp_path / "c", precision="int8", plan=first.path / "plan.json")
    assert caught.value.code == "EW-U002"
