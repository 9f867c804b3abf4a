"""What `convert` calls the same model: floats by SQNR, everything else exactly, NaN by place."""

import numpy as np
import onnx
import pytest

from diagnostics import RuntimeFailure
from exporter import convert
from exporter.converting import agreement
from exporter.frontends import Signature


def _judge(wanted, found, floor_db=60.0):
    return agreement(Signature("y", wanted.shape, wanted.dtype.name), wanted, {"y": found}, floor_db)


def test_equal_outputs_have_no_error():
    assert _judge(np.array([1.0, np.nan, np.inf]), np.array([1.0, np.nan, np.inf])) is None
    assert _judge(np.array([3, -4]), np.array([3, -4])) is None
    assert _judge(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)) is None


def test_a_small_error_is_measured():
    assert _judge(np.array([1.0, 1.0]), np.array([1.0, 1.0001])) == pytest.approx(83.01, abs=0.01)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.1])),
        (np.array([1.0, np.nan]), np.array([1.0, 0.0])),
        (np.array([1.0, 0.0]), np.array([1.0, np.nan])),
        (np.array([np.inf]), np.array([-np.inf])),
        (np.array([3, 4]), np.array([3, 5])),
        (np.array([3, 4]), np.array([3.0, 4.0])),
        (np.array([True]), np.array([False])),
        (np.array([1.0, 2.0]), np.array([[1.0, 2.0]])),
    ],
)
def test_another_output_is_refused(wanted, found):
    with pytest.raises(RuntimeFailure) as error:
        _judge(wanted, found)
    assert error.value.code == "EW-R005"


def test_an_output_that_is_missing_is_refused():
    with pytest.raises(RuntimeFailure, match="missing"):
        agreement(Signature("y", (1,), "float32"), np.zeros(1, np.float32), {"z": np.zeros(1, np.float32)}, 60.0)


@pytest.mark.parametrize("isolate", [True, False])
def test_a_constant_output_without_any_input(tmp_path, isolate):
    text = '<ir_version: 10, opset_import: ["" : 21]> g () => (float[2] y) { y = Constant<value_floats=[1.0, 2.0]>() }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    made = convert(tmp_path / "model.onnx", tmp_path / "model.tflite", isolate=isolate)
    assert made.path.is_file()
    assert made.sqnr_db is None


def test_a_double_model_is_told_what_it_is_computed_in(tmp_path):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [1, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, [1, 4])],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    (note,) = convert(tmp_path / "m.onnx", tmp_path / "m.tflite").notes
    assert "computed in float32" in note
