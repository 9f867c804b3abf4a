import onnx_ir as ir
import pytest

from exporter.graph.fuse_activations import fuse_activations
from exporter.graph.values import FUSED, fused_activation, fused_into

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
WEIGHT = "float[2,3,1,1] w = {1,1,1,1,1,1}"


def marks(text):
    model = fuse_activations(ir.from_onnx_text(text))
    return {node.op_type: node.metadata_props.get(FUSED) for node in model.graph}


def test_the_kernel_of_a_convolution_clamps_for_free():
    model = fuse_activations(
        ir.from_onnx_text(f"{HEAD} g (float[1,3,4,4] x) => (float[1,2,4,4] y) <{WEIGHT}> {{ c = Conv(x, w) y = Relu(c) }}")
    )
    conv, relu = model.graph
    assert relu.metadata_props[FUSED] == "RELU"
    assert fused_activation(conv) is relu
    assert fused_into(relu) is conv


def test_clamps_to_six_have_their_own_name():
    text = f"{HEAD} g (float[1,3,4,4] x) => (float[1,2,4,4] y) <{WEIGHT}, float low = {{0}}, float high = {{6}}>"
    assert marks(f"{text} {{ c = Conv(x, w) y = Clip(c, low, high) }}")["Clip"] == "RELU6"


@pytest.mark.parametrize(
    "body",
    [
        "(float[1,2,4,4] y, float[1,2,4,4] c) <W> { c = Conv(x, w) y = Relu(c) }",
        "(float[1,2,4,4] y) <W> { c = Conv(x, w) r = Relu(c) y = Add(r, c) }",
        "(float[1,3,4,4] y) { c = Tanh(x) y = Relu(c) }",
        "(float[1,3,4,4] y) { y = Relu(x) }",
    ],
    ids=["an output of the graph", "used elsewhere", "a kernel that does not clamp", "an input of the graph"],
)
def test_an_activation_runs_by_itself_behind(body):
    assert marks(f"{HEAD} g (float[1,3,4,4] x) => {body.replace('W', WEIGHT)}")["Relu"] is None


def test_marks_that_no_longer_hold_are_removed():
    model = ir.from_onnx_text(f"{HEAD} g (float[1,3] x) => (float[1,3] y) {{ y = Relu(x) }}")
    (relu,) = model.graph
    relu.metadata_props[FUSED] = "RELU"
    fuse_activations(model)
    assert FUSED not in relu.metadata_props
