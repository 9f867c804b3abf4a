"""Operators without rules become their definition: exactly, attributes' defaults and absent outputs included."""

from small_graphs import assert_same, graph, kinds

from exporter.graph.expand_functions import expand_functions
from exporter.graph.infer_shapes import infer_shapes


def _expanded(model, keep=()):
    model = model.clone()
    assert expand_functions(model, keep=lambda op_type: op_type in keep)
    infer_shapes(model)
    return model


def test_a_body_with_attributes_given_and_not():
    given = graph("y = Celu<alpha=2.0>(x)", inputs="float[2,3] x", outputs="float[2,3] y")
    left = graph("y = Celu(x)", inputs="float[2,3] x", outputs="float[2,3] y")
    for model in (given, left):
        after = _expanded(model)
        assert "Celu" not in kinds(after)
        assert_same(model, after)


def test_a_body_that_depends_on_the_node():
    model = graph(
        "y, m = LayerNormalization<axis=-1>(x, s)", inputs="float[2,3,4] x", outputs="float[2,3,4] y, float[2,3,1] m", s=(4,)
    )
    after = _expanded(model)
    assert "LayerNormalization" not in kinds(after)
    assert_same(model, after)


def test_what_is_kept_stays_and_what_has_no_body_too():
    model = graph("h = Mish(x) y = Conv(h, w)", inputs="float[1,2,4,4] x", outputs="float[1,3,4,4] y", w=(3, 2, 1, 1))
    assert not expand_functions(model, keep=lambda op_type: op_type == "Mish")
    assert kinds(model) == ["Mish", "Conv"]


def test_new_nodes_inherit_where_they_come_from():
    model = graph("y = Mish(x)", inputs="float[2] x", outputs="float[2] y")
    model.graph[0].metadata_props["namespace"] = "net.act"
    after = _expanded(model)
    assert {node.metadata_props.get("namespace") for node in after.graph} == {"net.act"}
