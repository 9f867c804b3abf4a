"""`edgewright inspect` on a model, on artifacts and on a bundle: the same facts as text and as JSON."""

import json

import numpy as np
import onnx
import pytest

from exporter.backends.tflite.container import Container
from exporter.bundle.bundle import write_bundle
from exporter.bundle.manifest import Manifest
from exporter.cli.main import main


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.onnx"
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        net (float[N,4,8,8] x) => (float[N,6,8,8] y) {
          c = Conv<pads = [1,1,1,1]>(x, w)
          y = Relu(c)
        }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 4, 3, 3), np.float32), "w"))
    onnx.save(proto, path)
    return path


def tflite():
    container = Container("test")
    x, y = (container.tensor(name, [1, 3], "float32") for name in "xy")
    container.operator("RELU", [x], [y], 1, {})
    return container.finish({"x": x}, {"y": y}, {})


def inspect(capsys, *arguments):
    status = main(["inspect", *map(str, arguments)])
    return status, capsys.readouterr()


def test_a_model_as_text(model, capsys):
    status, captured = inspect(capsys, model)
    assert status == 0
    assert "float32 [1, 4, 8, 8]" in captured.out
    assert "Conv+Relu" in captured.out
    assert "13.8 k" in captured.out  # 64 * 6 * 4 * 9 multiply-accumulates
    assert captured.err == ""


def test_a_model_as_json(model, capsys):
    status, captured = inspect(capsys, model, "--json", "--target", "android-arm64-cpu")
    data = json.loads(captured.out)
    assert status == 0
    assert (data["kind"], data["macs"], data["parameters"]) == ("model", 13_824, 216)
    assert (data["peak_float32"], data["peak_int8"]) == (2560, 640)
    assert [entry["op_type"] for entry in data["placement"]] == ["Conv"]
    assert data["placement"][0]["unit"]


@pytest.mark.parametrize("bundled", [False, True])
def test_a_tflite_artifact_alone_and_in_a_bundle(tmp_path, capsys, bundled):
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite())
    if bundled:
        path = tmp_path / "bundle"
        write_bundle(path, {"model.tflite": tflite()}, Manifest(model="m", artifact="model.tflite", target={"name": "t"}))
    _, captured = inspect(capsys, path, "--json")
    data = json.loads(captured.out)
    assert data["kind"] == "artifact"
    assert data["operators"] == [{"operator": "RELU", "version": 1, "count": 1}]
    assert data["arena"]["total"] == data["arena"]["head"] + data["arena"]["tail"]
    status, captured = inspect(capsys, path)
    assert status == 0
    assert "metadata  min_runtime_version" in captured.out
    assert f"arena on tflite-micro {data['arena']['total']:,} bytes" in captured.out
    assert f"full at {data['arena']['operator']}" in captured.out


def test_a_quantized_onnx_file_is_an_artifact(tmp_path, capsys):
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,4] x) => (float[1,4] y) <float s = {0.5}, int8 z = {3}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    )
    onnx.save(proto, tmp_path / "q.onnx")
    status, captured = inspect(capsys, tmp_path / "q.onnx")
    assert status == 0
    assert "QuantizeLinear" in captured.out


@pytest.mark.parametrize(
    ("make", "code", "status"),
    [
        (lambda path: None, "EW-M001", 3),
        (lambda path: path.write_bytes(b"\x80nonsense"), "EW-M002", 3),
    ],
)
def test_a_model_that_cannot_be_read(tmp_path, capsys, make, code, status):
    make(tmp_path / "m.onnx")
    found, captured = inspect(capsys, tmp_path / "m.onnx")
    assert found == status
    assert captured.err.startswith(code)
    assert captured.out == ""


def test_an_unknown_target(model, capsys):
    status, captured = inspect(capsys, model, "--target", "no-such-device")
    assert status == 4
    assert captured.err.startswith("EW-T001")


def test_a_shape_that_cannot_be_parsed(model, capsys):
    status, captured = inspect(capsys, model, "--shape", "x:1,2")
    assert status == 2
    assert "EW-U001" in captured.err


def test_an_artifact_has_no_placement(tmp_path, capsys):
    (tmp_path / "m.tflite").write_bytes(tflite())
    status, captured = inspect(capsys, tmp_path / "m.tflite", "--target", "cortex-m7")
    assert status == 2
    assert captured.err.startswith("EW-U002")


def test_a_placement_as_text_as_json_and_as_a_page(model, tmp_path, capsys):
    page = tmp_path / "placement.html"
    status, captured = inspect(capsys, model, "--target", "android-arm64-cpu", "--precision", "float32", "--html", page)
    assert status == 0
    assert "on android-arm64-cpu, float32: 1 of 1 nodes run (cpu 1)" in captured.out
    assert "estimated, not measured" in captured.out
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    _, captured = inspect(capsys, model, "--target", "android-arm64-cpu", "--json")
    data = json.loads(captured.out)
    assert [part["unit"] for part in data["partitions"]] == ["cpu"]
    assert (data["crossing_bytes"], data["remedies"], data["compilers"]) == (0, [], [])


@pytest.mark.parametrize("option", [("--html", "x.html"), ("--compile",), ("--precision", "int8")])
def test_what_is_about_a_target_needs_one(model, capsys, option):
    status, captured = inspect(capsys, model, *option)
    assert status == 2
    assert "add --target TARGET" in captured.err


def test_a_target_without_a_compiler_cannot_be_asked_for_its_answer(model, capsys):
    status, captured = inspect(capsys, model, "--target", "android-arm64-cpu", "--compile")
    assert status == 2
    assert "names no compiler" in captured.err
