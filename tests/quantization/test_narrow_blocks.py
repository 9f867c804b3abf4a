"""Blocks: all nodes once, in order, cut where the graph is narrow."""

from exporter.quantization.refinement.blocks import blocks_of
from tests.quantization.planned import network, residual_net


def layers(graph):
    return [node for node in graph if node.op_type in ("Conv", "Gemm")]


def test_a_residual_is_not_cut_and_a_mean_begins_a_block():
    graph = residual_net().graph
    blocks = blocks_of(graph, layers(graph))
    assert [node for block in blocks for node in block.nodes] == list(graph)
    assert [block.writes for block in blocks] == [("f",), ("y",)]


def test_what_goes_on_is_what_the_next_blocks_read():
    body = "a0 = Conv (x, w0) " + " ".join(f"a{i} = Conv (a{i - 1}, w{i})" for i in range(1, 6)) + " y = Relu (a5)"
    graph = network(
        body, inputs="float[1,4,5,5] x", outputs="float[1,4,5,5] y", **{f"w{i}": (4, 4, 1, 1) for i in range(6)}
    ).graph
    blocks = blocks_of(graph, layers(graph))
    assert [sum(node.op_type == "Conv" for node in block.nodes) for block in blocks] == [4, 2]
    assert blocks[1].reads == blocks[0].writes == ("a3",)


def test_a_fused_activation_stays_with_its_layer():
    graph = network(
        "a = Conv (x, v) b = Relu (a) c = Conv (b, w) y = Relu (c)",
        inputs="float[1,4,5,5] x",
        outputs="float[1,4,5,5] y",
        v=(4, 4, 1, 1),
        w=(4, 4, 1, 1),
    ).graph
    for block in blocks_of(graph, layers(graph)):
        assert [node.op_type for node in block.nodes][-1] == "Relu"


def test_where_the_graph_stays_wide_each_layer_is_a_block():
    """A long branch beside the input of the sum keeps two activations going over ten layers."""
    body = "a0 = Conv (x, w0) " + " ".join(f"a{i} = Conv (a{i - 1}, w{i})" for i in range(1, 11)) + " y = Add (a0, a10)"
    graph = network(
        body, inputs="float[1,4,5,5] x", outputs="float[1,4,5,5] y", **{f"w{i}": (4, 4, 1, 1) for i in range(11)}
    ).graph
    blocks = blocks_of(graph, layers(graph))
    assert max(sum(node.op_type == "Conv" for node in block.nodes) for block in blocks) == 1
    assert "a0" in blocks[3].reads or "a0" not in blocks[3].writes
