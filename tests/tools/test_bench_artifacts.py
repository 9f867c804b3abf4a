"""The conversion benchmark judges any converter's file fairly: whatever it named its tensors, in whichever order of axes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from diagnostics import DataError
from exporter import convert
from tools.bench.artifacts import agreement, facts


@pytest.fixture
def turned(tmp_path):
    """Relu of [1, 4, 6, 8], and that with its axes turned, [1, 8, 6, 4], as ONNX; with what NumPy says of it."""
    nodes = [
        helper.make_node("Relu", ["x"], ["scope/y:0"]),
        helper.make_node("Transpose", ["scope/y:0"], ["z"], perm=[0, 3, 2, 1]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4, 6, 8)) for name in ("x", "scope/y:0")]
    values.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 8, 6, 4)))
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(model, tmp_path / "model.onnx")
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 8)).astype(np.float32)
    y = np.maximum(x, 0)
    return tmp_path / "model.onnx", {"x": x}, {"scope/y:0": y, "z": y.transpose(0, 3, 2, 1)}


@pytest.mark.parametrize("io_layout", ["keep", "channels_last"])
def test_an_artifact_is_run_in_its_own_order_of_axes(turned, tmp_path, io_layout):
    model, sample, wanted = turned
    convert(model, tmp_path / "model.tflite", io_layout=io_layout)
    found = agreement(tmp_path / "model.tflite", sample, wanted)
    assert found.sqnr_db == np.inf


def test_outputs_are_paired_by_name_before_position(turned, tmp_path):
    model, sample, wanted = turned
    convert(model, tmp_path / "model.tflite")
    renamed = {"scope_y_0": wanted["scope/y:0"], "z": wanted["z"]}
    backwards = dict(reversed(renamed.items()))
    assert agreement(tmp_path / "model.tflite", sample, backwards).sqnr_db == np.inf


def test_a_wrong_artifact_is_seen(turned, tmp_path):
    model, sample, wanted = turned
    convert(model, tmp_path / "model.tflite")
    assert agreement(tmp_path / "model.tflite", sample, {name: 1 + array for name, array in wanted.items()}).sqnr_db < 10
    with pytest.raises(DataError, match="EW-D003"):
        agreement(tmp_path / "model.tflite", sample, {"z": wanted["z"]})


def test_the_bytes_that_transposes_move_are_counted(turned, tmp_path):
    model, _, _ = turned
    convert(model, tmp_path / "model.tflite")
    found = facts((tmp_path / "model.tflite").read_bytes())
    assert (found.transposes, found.transposed_bytes) == (1, 4 * 4 * 6 * 8)
    assert found.operators["TRANSPOSE"] == 1
