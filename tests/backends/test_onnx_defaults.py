"""Attributes at their defaults are written for readers that do not know them, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from exporter.backends.onnx.defaults import write_defaults
from exporter.backends.onnx.writer import write_onnx
from exporter.quantization.planner import float_plan
from targets import load_target
from targets.schema import Target
from tests.quantization.planned import run, target


def normalizing() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 19]> g (float[2,3] x, float[3] s) => (float[2,3] y) '
        "{ a = LayerNormalization <epsilon = 0.5> (x, s)  y = Softmax (a) }"
    )


def test_what_is_left_out_is_written_for_these_types_alone() -> None:
    proto = normalizing()
    before = onnx.ModelProto.FromString(proto.SerializeToString())
    write_defaults(proto, ["LayerNormalization"])
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in proto.graph.node[0].attribute}
    assert attributes == {"axis": -1, "epsilon": 0.5, "stash_type": 1}
    assert not proto.graph.node[1].attribute
    onnx.checker.check_model(proto, full_check=True)
    feed = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.ones(3, np.float32)}
    contents = [entry.SerializeToString() for entry in (before, proto)]
    np.testing.assert_array_equal(*(run(content, feed)["y"] for content in contents))
    write_defaults(before, [])
    assert before.SerializeToString() == contents[0]


def test_an_attribute_without_a_default_stays_out() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 19]> g (float[2,3] x) => (float[?,?] y) { y = Transpose (x) }'
    )
    write_defaults(proto, ["Transpose"])
    assert not proto.graph.node[0].attribute


@pytest.mark.parametrize("name", ["rk3588-npu", "rk3566-npu"])
def test_profiles_of_rknn_say_the_axis_of_a_layer_normalization(name: str) -> None:
    import onnx_ir as ir

    proto = onnx.version_converter.convert_version(normalizing(), 21)
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    written = onnx.load_from_string(write_onnx(model, float_plan(model, load_target(name)), load_target(name)))
    assert {entry.name for entry in written.graph.node[0].attribute} == {"axis", "epsilon", "stash_type"}
    other = onnx.load_from_string(write_onnx(model, float_plan(model, target()), target()))
    assert {entry.name for entry in other.graph.node[0].attribute} == {"epsilon"}


def test_defaults_are_written_into_onnx_alone() -> None:
    data = load_target("cortex-m7").model_dump()
    with pytest.raises(ValueError, match=r"artifact\.explicit_defaults"):
        Target.model_validate({**data, "artifact": {**data["artifact"], "explicit_defaults": ("LayerNormalization",)}})
