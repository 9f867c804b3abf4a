import numpy as np
import pytest
from op_bench import assert_legalized, assert_torch_computes_it, lowered, node_of, single

from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.ops.base import operator_of


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layer(shape, axis=-1, outputs=1, bias=True, **attributes):
    inside = shape[axis % len(shape) :]
    addend = (weights(*inside, seed=1),) if bias else ()
    return single("LayerNormalization", shape, weights(*inside), *addend, outputs=outputs, axis=axis, **attributes)


FORMS = {
    "layer": layer((2, 5, 8)),
    "layer without bias": layer((2, 5, 8), bias=False),
    "layer over all": layer((3, 4), axis=0),
    "layer over two axes": layer((2, 3, 4, 5), axis=2, epsilon=0.1),
    "layer with statistics": layer((2, 3, 4), axis=1, outputs=3),
    "computed scale": single("LayerNormalization", (2, 5, 8), (8,), (8,)),
    "instance": single("InstanceNormalization", (2, 3, 4, 5), weights(3), weights(3, seed=1), epsilon=0.1),
    "instance of a signal": single("InstanceNormalization", (2, 3, 9), weights(3), weights(3, seed=1)),
    "instance of a volume": single("InstanceNormalization", (1, 3, 2, 4, 3), weights(3), weights(3, seed=1)),
    "computed channels": single("InstanceNormalization", (2, 3, 4, 5), (3,), (3,)),
    "groups": single("GroupNormalization", (2, 6, 4, 5), weights(6), weights(6, seed=1), num_groups=3),
    "one group": single("GroupNormalization", (2, 6, 7), weights(6), weights(6, seed=1), num_groups=1),
    "groups of one": single("GroupNormalization", (2, 6, 4, 5), weights(6), weights(6, seed=1), num_groups=6, epsilon=0.1),
}


@pytest.mark.parametrize("name", FORMS)
def test_it_is_made_of_means_and_a_quotient(name):
    model = FORMS[name]
    assert_torch_computes_it(model, atol=1e-5)
    assert {"ReduceMean", "Sqrt", "Div"} <= set(assert_legalized(model, atol=1e-5))
    assert assert_legalized(model, "onnx") == [node_of(model).op_type]
    for last in (False, True):
        assert max(lowered(model, last=last).errors.values()) < 1e-5


@pytest.mark.parametrize("name", FORMS)
def test_only_the_deviations_are_divided_by(name):
    """A quotient takes several times as long as a product: one for each deviation, none for each element."""
    after = legalize(FORMS[name], "tflite").graph
    deviations = {tuple(node.outputs[0].shape) for node in after if node.op_type == "Sqrt"}
    assert {tuple(node.outputs[0].shape) for node in after if node.op_type == "Div"} == deviations


def test_it_stays_in_float_beside_integers():
    found = lowered(layer((2, 5, 8)), "int8")
    assert {name for name, _ in found.operators} == {"MEAN", "SUB", "MUL", "ADD", "SQRT", "DIV"}
    assert found.errors["y0"] < 1e-5


def test_other_dtypes_are_refused_by_name():
    import onnx_ir as ir

    model = layer((2, 5, 8))
    model.graph.inputs[0].dtype = ir.DataType.BFLOAT16
    (refused,) = unsupported(legalize(model, "tflite"), "lower")
    assert refused.reason == "LayerNormalization of float32 alone is supported"


def test_what_may_be_cut():
    coupling = operator_of(node_of(layer((2, 5, 8)))).couple(node_of(layer((2, 5, 8))))
    assert {run.axis for run in coupling.blocked} == {2}
    groups = node_of(FORMS["groups"])
    assert operator_of(groups).couple(groups).ties == ()
    instance = node_of(FORMS["instance"])
    assert [(run.side, run.index, run.axis) for run in operator_of(instance).couple(instance).ties[0]] == [
        ("in", 0, 1),
        ("in", 1, 0),
        ("in", 2, 0),
        ("out", 0, 1),
    ]
