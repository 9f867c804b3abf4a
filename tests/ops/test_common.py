import numpy as np
import pytest
from op_bench import node_of, single

from exporter.ops.base import FACETS, Refused, all_operators, operator_of
from exporter.ops.common import aligned_axis, axis_of, input_of, ints_of, replace_ints, scalar_of


@pytest.mark.parametrize("facet", FACETS)
def test_every_operator_has_each_facet_or_says_why_not(facet):
    """An operator without a facet owes its user a sentence; one that has it must not refuse it as well."""
    operators = all_operators().values()
    assert [operator.op_type for operator in operators if operator.has(facet) == (facet in operator.refuses)] == []


def test_sentences_of_constraints_end_as_sentences_do():
    sentences = [rule.sentence for operator in all_operators().values() for rule in operator.constraints]
    assert [sentence for sentence in sentences if not (sentence[0].isupper() and sentence.endswith("."))] == []


def test_an_absent_input_is_refused_by_number():
    with pytest.raises(Refused, match="Clip lacks its input 1"):
        input_of(node_of(single("Clip", (1, 3))), 1)


def test_computed_places_are_refused_by_name():
    with pytest.raises(Refused, match=r"input 1 of Mul \(x1\) is computed"):
        ints_of(node_of(single("Mul", (1, 3), (1, 3))), 1)


def test_constants_are_read():
    node = node_of(single("Clip", (1, 3), None, np.asarray(2.5, np.float32)))
    assert scalar_of(node.inputs[2]) == 2.5
    assert scalar_of(node.inputs[0]) is None
    assert ints_of(node, 1) is None


@pytest.mark.parametrize(("axis", "expected"), [(1, 1), (-1, 3), (-3, 1)])
def test_axes_count_from_the_front(axis, expected):
    assert axis_of(node_of(single("Softmax", (1, 3, 4, 5), axis=axis)), -1) == expected


@pytest.mark.parametrize(("axis", "rank_from", "rank_to", "expected"), [(1, 4, 4, 1), (1, 4, 3, 0), (1, 4, 1, -2), (3, 4, 1, 0)])
def test_broadcasting_aligns_axes_from_the_end(axis, rank_from, rank_to, expected):
    assert aligned_axis(axis, rank_from, rank_to) == expected


def test_a_replaced_constant_is_the_nodes_own():
    model = single("Split", (1, 6), outputs=2, axis=1, num_outputs=2)
    node = node_of(model)
    replace_ints(node, 1, (2, 4))
    assert node.inputs[1].const_value.numpy().tolist() == [2, 4]
    assert [value.name for value in model.graph.initializers.values()] == [node.inputs[1].name]


def test_an_operator_that_nobody_knows_is_refused_by_name():
    import onnx_ir as ir

    with pytest.raises(Refused, match="Cumulate is not an operator that edgewright knows"):
        operator_of(ir.node("Cumulate", []))
