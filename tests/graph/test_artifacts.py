"""What is read from artifacts is what was written into them, and damage is one clear error."""

from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnostics import ModelError
from exporter.backends.tflite.container import Container
from exporter.graph.artifacts import is_tflite, read_onnx, read_tflite
from exporter.quantization.plan import Encoding


def artifact():
    """y = FC(x): int8, weights per channel, one metadata entry."""
    container = Container("test")
    x = container.tensor("x", [1, 3], "int8", Encoding("int8", (0.5,), (-3,)))
    w = container.tensor("w", [2, 3], "int8", Encoding("int8", (0.25, 0.125), (0, 0), 0), np.zeros((2, 3), np.int8))
    b = container.tensor("b", [2], "int32", Encoding("int32", (0.125, 0.0625), (0, 0), 0), np.zeros(2, np.int32))
    y = container.tensor("y", [1, 2], "int8", Encoding("int8", (1.0,), (4,)))
    container.operator("FULLY_CONNECTED", [x, w, b], [y], 4, {"fused_activation_function": "NONE"})
    return container.finish({"in": x}, {"out": y}, {"NOTE": b'{"a": 1}', "BINARY": b"\xff\xfe"})


def test_a_tflite_artifact():
    data = artifact()
    facts = read_tflite(data)
    assert is_tflite(data)
    assert facts.operators == {("FULLY_CONNECTED", 4): 1}
    assert facts.file_bytes == len(data)
    assert facts.buffer_bytes == 6 + 8
    assert facts.signatures == ("serving_default",)
    assert facts.metadata["NOTE"] == '{"a": 1}'
    assert facts.metadata["BINARY"] == "2 bytes"
    assert facts.metadata["min_runtime_version"]
    x, w = facts.tensor("x"), facts.tensor("w")
    assert (x.shape, x.dtype, x.scale, x.zero_point, x.axis) == ((1, 3), "int8", (0.5,), (-3,), None)
    assert (w.scale, w.axis, w.bytes) == ((0.25, 0.125), 0, 6)
    assert facts.nodes[0].inputs == ("x", "w", "b")


@given(st.data())
def test_damage_is_one_clear_error_or_harmless(data):
    """Cut or overwritten files: nothing but ModelError ever leaves the reader."""
    content = bytearray(artifact())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ModelError):
        read_tflite(bytes(content))


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x00" * 64, b"\x18\x00\x00\x00TFL3"])
def test_what_is_no_tflite(content):
    with pytest.raises(ModelError) as caught:
        read_tflite(content)
    assert (caught.value.code, caught.value.fix) == ("EW-M002", "is the file complete?")


def test_an_onnx_artifact(tmp_path):
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,4] x) => (float[1,4] y) <float s = {0.5}, uint8 z = {128}> {
          q = QuantizeLinear(x, s, z)
          y = DequantizeLinear(q, s, z)
        }"""
    )
    onnx.save(proto, tmp_path / "m.onnx")
    facts = read_onnx(tmp_path / "m.onnx")
    assert facts.operators == {("DequantizeLinear", 21): 1, ("QuantizeLinear", 21): 1}
    assert facts.inputs == ("x",)
    assert facts.outputs == ("y",)
    assert facts.tensor("q").scale == (0.5,)
    assert facts.tensor("q").zero_point == (128,)
    assert facts.buffer_bytes == 4 + 1


def test_an_onnx_file_that_is_none(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\x80nonsense")
    with pytest.raises(ModelError) as caught:
        read_onnx(tmp_path / "m.onnx")
    assert (caught.value.code, caught.value.fix) == ("EW-M002", "is the file complete?")
    with pytest.raises(ModelError) as caught:
        read_onnx(tmp_path / "none.onnx")
    assert caught.value.code == "EW-M001"
