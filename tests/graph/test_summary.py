"""Counts and memory of graphs small enough to check by hand, and liveness against its own definition."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.graph.fuse_activations import fuse_activations
from exporter.graph.passes import canonicalize, legalize
from exporter.graph.summary import live_bytes, placements, summarize
from exporter.graph.values import consumers
from targets.loader import load_target
from targets.schema import Limit, Unit


def graph_of(text, weights=None):
    """A canonical model from ONNX text; `weights` become initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return canonicalize(ir.serde.deserialize_model(proto))


@pytest.fixture
def residual():
    """x -> Conv -> Relu -> Add(x'), where x' is x after a 1x1 convolution: 4 channels of 8 x 8."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.standard_normal((4, 4, 3, 3)).astype(np.float32),
        "b": rng.standard_normal((4, 4, 1, 1)).astype(np.float32),
    }
    return graph_of(
        """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
          c = Conv<pads = [1,1,1,1]>(x, a)
          r = Relu(c)
          s = Conv(x, b)
          y = Add(r, s)
        }""",
        weights,
    )


def test_counts_by_hand(residual):
    summary = summarize(residual)
    assert summary.parameters == 4 * 4 * 9 + 4 * 4
    assert summary.parameter_bytes == 4 * summary.parameters
    assert summary.macs == 64 * 4 * 4 * 9 + 64 * 4 * 4
    assert dict(summary.operators) == {"Conv": 2, "Add": 1, "Relu": 1}
    assert [tensor.shape for tensor in (*summary.inputs, *summary.outputs)] == [(1, 4, 8, 8)] * 2
    assert summary.unknown_cost == {}


def test_memory_by_hand(residual):
    """256 elements a value. While the second Conv runs: x, r and s; x is not needed later, y joins r and s."""
    assert [node.live_int8 for node in summarize(residual).nodes] == [512, 768, 768, 768]
    assert [node.live_float32 for node in summarize(residual).nodes] == [2048, 3072, 3072, 3072]


def test_the_peak_names_its_tensors(residual):
    """The first of three nodes that need as much: Relu's, while x waits for the second Conv."""
    summary = summarize(residual)
    assert summary.peak is summary.nodes[1]
    assert {tensor.name for tensor in summary.peak_tensors} == {"x", "c", "r"}


def test_a_fused_activation_needs_no_memory_of_its_own(residual):
    summary = summarize(fuse_activations(residual.clone()))
    assert [(node.op_type, node.fused, node.live_int8) for node in summary.nodes] == [
        ("Conv", "Relu", 512),
        ("Conv", "", 768),
        ("Add", "", 768),
    ]


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(1, 9)), min_size=1, max_size=12))
def test_liveness_is_its_definition(choices):
    """Random graphs of Adds over earlier values: each node sees every value that is born before it ends and still read after."""
    values = [ir.Value(name="x", shape=ir.Shape([7]), type=ir.TensorType(ir.DataType.FLOAT))]
    nodes = []
    for index, (first, second, size) in enumerate(choices):
        inputs = [values[first % len(values)], values[second % len(values)]]
        out = ir.Value(name=f"v{index}", shape=ir.Shape([size]), type=ir.TensorType(ir.DataType.FLOAT))
        nodes.append(ir.Node("", "Add", inputs, outputs=[out], name=f"n{index}"))
        values.append(out)
    graph = ir.Graph([values[0]], [values[-1]], nodes=nodes, opset_imports={"": 21}, name="g")
    live = live_bytes(graph, 4)
    for now, node in enumerate(nodes):
        expected = 0
        for value in values:
            birth = 0 if value.producer() is None else nodes.index(value.producer())
            death = max([birth, *(nodes.index(user) for user in consumers(value))])
            death = len(nodes) - 1 if value.is_graph_output() else death
            expected += 4 * value.shape[0] if birth <= now <= death else 0
        assert live[node] == expected


def test_an_operator_without_a_cost_is_named_and_not_counted(residual):
    residual.graph.node(1).op_type = "Nonsense"
    summary = summarize(residual)
    assert list(summary.unknown_cost) == ["Nonsense"]
    assert summary.nodes[1].macs is None
    assert summary.macs > 0


def test_placement_names_the_unit_of_every_node(residual):
    placed = placements(legalize(residual, "tflite"), load_target("cortex-m7"))
    assert {entry.op_type for entry in placed} == {"Conv", "Add"}
    assert all((entry.unit, entry.precision, entry.reasons) == ("cpu", "int8", ()) for entry in placed)


def test_placement_gives_the_reasons_where_no_unit_fits(residual):
    target = load_target("cortex-m7").model_copy(
        update={"units": (Unit(name="npu", kind="npu", operators=("Conv",), dtypes=("int8",)),)}
    )
    placed = {entry.op_type: entry for entry in placements(legalize(residual, "tflite"), target)}
    assert placed["Conv"].unit == "npu"
    assert placed["Add"].unit == ""
    assert placed["Add"].reasons == ("no unit of cortex-m7 runs Add",)


def test_a_node_beyond_a_limit_goes_to_the_next_unit_and_says_why(residual):
    small = Limit(measure="kernel", operators=("Conv",), most=2, why="windows of the array")
    npu = Unit(name="npu", kind="npu", operators=("Conv",), dtypes=("int8",), limits=(small,))
    target = load_target("cortex-m7")
    target = target.model_copy(update={"units": (npu, *target.units)})
    wide, narrow, add = placements(legalize(residual, "tflite"), target)
    assert (wide.unit, wide.reasons) == ("cpu", ("npu: kernel is 3, at most 2: windows of the array",))
    assert (narrow.unit, narrow.reasons) == ("npu", ())
    assert (add.unit, add.reasons) == ("cpu", ("npu does not run Add",))
    alone = target.model_copy(update={"units": (npu,)})
    wide = placements(legalize(residual, "tflite"), alone)[0]
    assert wide.unit == ""
    assert wide.reasons == ("npu: kernel is 3, at most 2: windows of the array", "no unit of cortex-m7 runs Conv in int8")


def test_placing_leaves_the_model_as_it_was(residual):
    before = ir.serde.serialize_model(residual).SerializeToString(deterministic=True)
    placements(legalize(residual, "tflite"), load_target("android-arm64-cpu"))
    assert ir.serde.serialize_model(residual).SerializeToString(deterministic=True) == before
