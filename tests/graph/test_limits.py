"""What is counted of a node, and the sentence where a target's unit limits it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from pydantic import ValidationError

from exporter.graph.limits import exceeded, measured
from targets.schema import Limit


@pytest.fixture(scope="module")
def nodes() -> dict[str, ir.Node]:
    """A node of each kind, by its output: a strided and dilated convolution, a pooling, products of a constant and of two activations."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,8,9,10] x, float[1,8,9,10] z, float[3,4] m)
          => (float[2,6,4,2] c, float[2,8,1,1] p, float[2,8,9,10] s, float[3,5] k, float[3,3] q, float[4,6] r, float[4,6] f,
              float[2,16,9,10] g)
        <float[6,8,3,5] w, float[16,4,1,1] v, float[4,5] b, int64[4] around = {0, 1, 0, 2}> {
          c = Conv<strides = [2,3], dilations = [1,1]>(x, w)
          p = GlobalAveragePool(x)
          s = Add(x, z)
          k = MatMul(m, b)
          t = Transpose<perm = [1,0]>(m)
          q = MatMul(m, t)
          r = Pad<mode = "reflect">(t, around)
          f = Pad(t, around)
          g = Conv<group = 2>(x, v)
        }"""
    )
    for name, shape in (("w", (6, 8, 3, 5)), ("v", (16, 4, 1, 1)), ("b", (4, 5))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name))
    model = onnx.shape_inference.infer_shapes(proto)
    return {node.outputs[0].name or "": node for node in ir.serde.deserialize_model(model).graph}


@pytest.mark.parametrize(
    ("node", "measure", "numbers"),
    [
        ("c", "batch", (2, 2)),
        ("k", "batch", ()),
        ("c", "rank", (4, 4)),
        ("c", "kernel", (3, 5)),
        ("p", "kernel", (9, 10)),
        ("p", "kernel_axes", (2,)),
        ("s", "kernel_axes", ()),
        ("c", "stride", (2, 3)),
        ("s", "stride", ()),
        ("c", "dilation", (1, 1)),
        ("c", "input_channels", (8,)),
        ("c", "output_channels", (6,)),
        ("s", "elements", (1440, 720, 1440)),
        ("p", "size", (2, 8, 9, 10, 2, 8, 1, 1)),
        ("k", "operands", (1,)),
        ("q", "operands", (2,)),
        ("r", "mirrored", (1,)),
        ("f", "mirrored", ()),
        ("q", "mirrored", ()),
        ("g", "grouped", (4, 8)),
        ("c", "grouped", ()),
        ("s", "grouped", ()),
    ],
)
def test_what_is_counted(nodes, node, measure, numbers):
    assert measured(measure, nodes[node]) == numbers


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ({"most": 5}, ""),
        ({"most": 4}, "kernel is 5, at most 4: so it is"),
        ({"least": 4}, "kernel is 3, at least 4: so it is"),
        ({"multiple_of": 3}, "kernel is 5, no multiple of 3: so it is"),
        ({"most": 1, "operators": ("MaxPool",)}, ""),
        ({"most": 1, "operators": ("MaxPool", "Conv")}, "kernel is 3, at most 1: so it is"),
    ],
)
def test_a_broken_limit_is_a_sentence_with_the_number(nodes, bounds, sentence):
    assert exceeded(Limit(measure="kernel", why="so it is", **bounds), nodes["c"]) == sentence


@pytest.mark.parametrize("bounds", [{}, {"least": 2, "most": 1}, {"multiple_of": 0}, {"most": 1, "measure": "colour"}])
def test_a_limit_that_says_nothing_or_nonsense_is_refused(bounds):
    with pytest.raises(ValidationError):
        Limit(**{"measure": "kernel", "why": "so it is", **bounds})
