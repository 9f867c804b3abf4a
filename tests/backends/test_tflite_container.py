"""The flatbuffer container: what goes in comes out of the runtime, aligned, shared and the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exporter.backends.tflite.container import Container
from exporter.quantization.plan import Encoding
from targets.releases.tflite import first_release, release_key, release_of


def _adder(constant: np.ndarray[Any, Any]) -> bytes:
    """y = x + constant, float32."""
    container = Container("test")
    x = container.tensor("x", constant.shape, "float32")
    c = container.tensor("c", constant.shape, "float32", None, constant)
    y = container.tensor("y", constant.shape, "float32")
    container.operator("ADD", [x, c], [y], 1, {"fused_activation_function": "RELU"})
    return container.finish({"x": x}, {"y": y}, {"note": b"hello"})


def _schema(content: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAsModel(bytearray(content), 0)


def test_the_runtime_computes_what_was_written() -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=_adder(np.float32([[1, -5, 2]])))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("serving_default")
    np.testing.assert_array_equal(runner(x=np.float32([[1, 2, 3]]))["y"], np.float32([[2, 0, 5]]))


def test_constant_data_is_aligned_to_16_bytes() -> None:
    content = _adder(np.arange(7, dtype=np.float32)[None])
    model = _schema(content)
    for index in range(model.BuffersLength()):
        data = model.Buffers(index).DataAsNumpy()
        if isinstance(data, np.ndarray):
            offset = (
                data.__array_interface__["data"][0] - np.frombuffer(model._tab.Bytes, np.uint8).__array_interface__["data"][0]
            )
            assert offset % 16 == 0


def test_the_same_calls_give_the_same_bytes() -> None:
    constant = np.float32([[3, 4]])
    assert _adder(constant) == _adder(constant)


def test_equal_bytes_share_a_buffer_and_equal_constants_are_one_tensor() -> None:
    container = Container("")
    data = np.arange(4, dtype=np.float32)
    first = container.tensor("a", [4], "float32", None, data)
    assert container.tensor("a", [4], "float32", None, data.copy()) == first
    other = container.tensor("b", [2, 2], "float32", None, data.reshape(2, 2))
    assert other != first
    model = _schema(container.finish({}, {}, {}))
    graph = model.Subgraphs(0)
    assert graph.Tensors(first).Buffer() == graph.Tensors(other).Buffer()


def test_a_name_given_twice_gets_a_suffix() -> None:
    container = Container("")
    handles = [container.tensor("x", [1], "float32") for _ in range(3)]
    assert [container.tensors[handle].name for handle in handles] == ["x", "x_1", "x_2"]


def test_encodings_are_written_per_channel() -> None:
    container = Container("")
    encoding = Encoding("int8", (0.5, 0.25), (0, 0), axis=1)
    handle = container.tensor("w", [3, 2], "int8", encoding, np.zeros((3, 2), np.int8))
    stored = _schema(container.finish({}, {}, {})).Subgraphs(0).Tensors(handle).Quantization()
    assert list(stored.ScaleAsNumpy()) == [0.5, 0.25]
    assert stored.QuantizedDimension() == 1


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="no field stride"):
        Container("").operator("ADD", [0, 0], [0], 1, {"stride": 2})
    with pytest.raises(ValueError, match="LOGISTIC has no options"):
        Container("").operator("LOGISTIC", [0], [0], 1, {"beta": 2.0})


def test_the_least_runtime_is_that_of_the_newest_operator_version() -> None:
    assert release_of("CONV_2D", 5) == "2.4.0"
    assert first_release([("CONV_2D", 1), ("RELU_0_TO_1", 1), ("ADD", 2)]) == "2.10.0"
    assert release_key("2.10.0") > release_key("2.9.0")


def test_releases_of_an_operator_never_go_back() -> None:
    from targets.releases.tflite import _RELEASES

    for row in _RELEASES.values():
        assert list(row) == sorted(row, key=release_key)
