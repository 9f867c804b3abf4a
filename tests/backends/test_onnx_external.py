"""Weights beside an ONNX file: what a model over 2 GB needs, tried on a small one by lowering the limit."""

import numpy as np
import onnx
import pytest

from exporter.backends.onnx.writer import onnx_artifact, write_onnx
from exporter.built import Written
from exporter.content import Content
from exporter.graph.passes import canonicalize, legalize
from exporter.quantization.planner import float_plan
from tests.quantization.planned import run
from tests.quantization.test_weights import net, normal, planned, target


def built(precision, limit):
    model, profile = legalize(canonicalize(net()), "onnx"), target(precision, "onnx")
    plan = float_plan(model, profile) if precision == "float32" else planned(model, profile)
    return model, onnx_artifact(model, plan, profile, limit), write_onnx(model, plan, profile)


@pytest.mark.parametrize("precision", ["float32", "weight_int8", "weight_int4"])
def test_outside_and_inside_give_the_same_bits(tmp_path, precision):
    model, artifact, whole = built(precision, 0)
    Written(Content((artifact.content,)), ".onnx", beside=dict(artifact.beside)).write(tmp_path / "model.onnx")
    feed = normal(model)
    found, wanted = run(str(tmp_path / "model.onnx"), feed), run(whole, feed)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_file_of_weights_is_named_after_its_content():
    (name,) = built("float32", 0)[1].beside
    assert built("float32", 0)[1].beside.keys() == {name}
    assert built("weight_int8", 0)[1].beside.keys() != {name}


def test_small_tensors_stay_and_large_ones_start_on_pages():
    model = onnx.load_from_string(built("float32", 0)[1].content)
    outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
    assert len(outside) >= 5
    assert all(int(entry.value) % 4096 == 0 for tensor in outside for entry in tensor.external_data if entry.key == "offset")
    assert all(np.prod(tensor.dims) * 4 <= 1024 for tensor in model.graph.initializer if not tensor.external_data)


def test_a_model_that_fits_is_one_file():
    model, artifact, whole = built("float32", 1 << 30)
    assert artifact.beside == {}
    assert artifact.content == whole
    assert all(value.const_value.nbytes for value in model.graph.initializers.values())
