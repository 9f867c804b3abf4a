"""The switchboard against the float graph, the quantized graph and what lies between."""

import numpy as np
import pytest

from exporter.backends.onnx.qdq import insert_qdq
from exporter.graph.run import FloatRunner
from exporter.quantization.mixing.switches import Switchboard
from tests.quantization.planned import network, planned, residual_net, samples

RESIDUAL = residual_net
REQUANTIZED = lambda: network(  # noqa: E731
    "a = Conv (x, w, b)  s = Sigmoid (x)  c = Concat <axis = 1> (a, s)  y = MaxPool <kernel_shape = [2, 2]> (c)",
    inputs="float[1,3,4,4] x",
    outputs="float[1,5,3,3] y",
    w=(2, 3, 1, 1),
    b=(2,),
)


@pytest.mark.parametrize("net", [RESIDUAL, REQUANTIZED], ids=["residual", "requantized"])
def test_all_switches_off_is_the_float_graph_and_all_on_the_planned_one(net):
    model = net()
    plan = planned(model)
    board, float_graph, quantized = Switchboard(model, plan), FloatRunner(model), model.clone()
    insert_qdq(quantized, plan, "int8")
    quantized_graph = FloatRunner(quantized)
    for sample in samples(model, 4, seed=3):
        np.testing.assert_allclose(board.with_nodes(sample, ())["y"], float_graph(sample)["y"], rtol=1e-4, atol=1e-5)
        step = plan.encodings["y"].scale[0]
        apart = np.abs(board.with_nodes(sample, board.nodes)["y"] - quantized_graph(sample)["y"]) / step
        assert apart.max() <= 1  # onnxruntime fuses the quantized graph into integer kernels, this one not
        assert np.mean(apart < 1e-3) > 0.95


def test_one_node_alone_rounds_what_it_reads_and_writes():
    model = residual_net()
    plan = planned(model)
    board = Switchboard(model, plan)
    last = board.nodes[-1]
    mine = [switch for switch in board.switches if switch.node == last]
    assert {(switch.value, switch.kind) for switch in mine} == {
        ("i", "activation"),
        ("w4", "constant"),
        ("b4", "constant"),
        ("y", "activation"),
    }
    [sample] = samples(model, 1)
    outputs = board.with_nodes(sample, [last])["y"]
    np.testing.assert_array_equal(outputs, plan.encodings["y"].dequantize(plan.encodings["y"].quantize(outputs)))
    assert not np.array_equal(outputs, board.with_nodes(sample, ())["y"])


def test_rows_are_rounded_each_by_itself():
    model = network("y = MatMul (x, w)", inputs="float[4,8] x", outputs="float[4,3] y", w=np.eye(8, 3, dtype=np.float32))
    plan = planned(model)
    [node] = model.graph
    board = Switchboard(model, plan, {node.name})
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32) * np.float32([[1], [10], [100], [1000]])
    found = board({"x": x}, lambda switch: switch.kind == "rows")["y"]
    steps = (np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)) / 255
    errors = np.abs(found - x[:, :3]).max(1)
    assert (errors <= steps * 0.51).all()
    assert (errors > steps * 0.05).all()
