import numpy as np
import pytest
from onnx import helper
from op_bench import assert_legalized, assert_torch_computes_it, builtins, graph, lowered, node_of, single

from exporter.ops.base import Cost, operator_of

# Steps of its scale that a moved number is off behind the bench's LeakyRelu: 0.5 for its rounding, 1 for the input's, twice as coarse.
MOVED = 1.51


@pytest.mark.parametrize(
    ("op_type", "shape", "builtin"),
    [("DepthToSpace", (1, 12, 3, 4), ("DEPTH_TO_SPACE", 1)), ("SpaceToDepth", (1, 3, 4, 6), ("SPACE_TO_DEPTH", 2))],
)
def test_blocks(op_type, shape, builtin):
    model = single(op_type, shape, blocksize=2)
    assert_torch_computes_it(model, atol=0)
    assert builtins(lowered(model)) == [(builtin[0], 1)]
    assert lowered(model).errors["y0"] == 0
    found = lowered(single(op_type, shape, blocksize=2, leaky=True), "int8", last=True)
    assert builtins(found) == [builtin]
    assert found.steps["y0"] < MOVED
    assert operator_of(node_of(model)).cost(node_of(model)) == Cost()


def test_columns_rows_depth():
    model = single("DepthToSpace", (2, 12, 3, 4), blocksize=2, mode="CRD")
    assert_torch_computes_it(model, atol=0)
    assert assert_legalized(model, atol=0) == ["Reshape", "Transpose", "Reshape", "DepthToSpace"]
    assert assert_legalized(model, "onnx", atol=0) == ["DepthToSpace"]
    assert lowered(model).errors["y0"] == 0


@pytest.mark.parametrize("bias", [[], ["b"]], ids=["plain", "bias"])
def test_a_convolution_in_front_takes_the_reordering(bias):
    generator = np.random.default_rng(0)
    model = graph(
        [
            helper.make_node("Conv", ["x", "w", *bias], ["c"], name="conv"),
            helper.make_node("DepthToSpace", ["c"], ["y"], name="shuffle", blocksize=2, mode="CRD"),
        ],
        {"x": (1, 3, 4, 4)},
        ["y"],
        w=generator.normal(size=(12, 3, 1, 1)).astype(np.float32),
        **({"b": generator.normal(size=12).astype(np.float32)} if bias else {}),
    )
    assert assert_legalized(model) == ["Conv", "DepthToSpace"]
    assert lowered(model).errors["y"] < 1e-5


@pytest.mark.parametrize(
    ("op_type", "shape", "mode"),
    [("DepthToSpace", (1, 12, 2, 2), "DCR"), ("DepthToSpace", (1, 12, 2, 2), "CRD"), ("SpaceToDepth", (1, 3, 4, 4), "")],
)
def test_cutting_a_channel_as_coupled_cuts_its_blocks(op_type, shape, mode):
    """Marks one channel: exactly the indices that the coupling names on the other side may be marked."""
    import torch

    model = single(op_type, shape, blocksize=2, **({"mode": mode} if mode else {}))
    node = node_of(model)
    ((first, second),) = operator_of(node).couple(node).ties

    def owned(run, channel):
        return {run.offset + (o * run.count + channel) * run.repeat + r for o in range(run.outer) for r in range(run.repeat)}

    for channel in range(first.count):
        x = torch.zeros(shape)
        x[:, sorted(owned(first, channel))] = 1
        (y,) = operator_of(node).torch(node, [x])
        assert set(torch.nonzero(y.amax(dim=(0, 2, 3))).reshape(-1).tolist()) == owned(second, channel)
