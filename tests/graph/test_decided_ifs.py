"""Ifs that shapes decide, one after another: none has a rank before the one before it is decided."""

import numpy as np
import onnx
import onnx_ir as ir

from exporter.graph.passes import canonicalize
from exporter.graph.run import FloatRunner

TEXT = """
<ir_version: 8, opset_import: ["" : 15]>
g (float[1, 6, 3] x) => (float[N, 4, L] y)
<int64 zero = {0}, int64 one = {1}, int64 three = {3}, int64[1] front = {0}>
{
    before = Shape(x)
    rank = Shape(before)
    none = ConstantOfShape <value = int64[1] {0}> (rank)
    pads = Concat <axis = 0> (none, none)
    padded = Pad(x, pads)
    shape = Shape(padded)
    batch = Gather(shape, zero)
    alone = Equal(batch, one)
    maybe = If (alone) <
        then_branch = a () => (float[] squeezed) { squeezed = Squeeze(padded, front) },
        else_branch = b () => (float[] same) { same = Identity(padded) }
    >
    again = Shape(maybe)
    axes = Size(again)
    whole = Equal(axes, three)
    volume = If (whole) <
        then_branch = c () => (float[] kept) { kept = Identity(maybe) },
        else_branch = d () => (float[] lifted) { lifted = Unsqueeze(maybe, front) }
    >
    y = Conv(volume, w)
}
"""


def test_each_if_that_is_decided_decides_the_next():
    proto = onnx.parser.parse_model(TEXT)
    weight = np.random.default_rng(0).normal(size=(4, 6, 1)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = canonicalize(ir.from_proto(proto))
    assert "If" not in {node.op_type for node in model.graph}
    assert list(model.graph.outputs[0].shape) == [1, 4, 3]
    x = np.random.default_rng(1).normal(size=(1, 6, 3)).astype(np.float32)
    wanted = np.einsum("oc,ncl->nol", weight[:, :, 0], x)
    np.testing.assert_allclose(FloatRunner(model)({"x": x})["y"], wanted, rtol=1e-5, atol=1e-6)
