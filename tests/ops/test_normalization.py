import numpy as np
import pytest
from op_bench import assert_legalized, assert_torch_computes_it, builtins, lowered, node_of, sample, single

from exporter.ops.base import Cost, Refused, operator_of


def batch_norm(shape, **attributes):
    generator = np.random.default_rng(1)
    scale, bias, mean = generator.normal(size=(3, shape[1])).astype(np.float32)
    variance = generator.uniform(0.1, 2, shape[1]).astype(np.float32)
    return single("BatchNormalization", shape, scale, bias, mean, variance, **attributes)


@pytest.mark.parametrize("attributes", [{}, {"epsilon": 0.1}], ids=str)
@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 4), (1, 3, 4, 5)], ids=str)
def test_it_becomes_a_product_and_a_sum(shape, attributes):
    model = batch_norm(shape, **attributes)
    assert_torch_computes_it(model, atol=2e-6)
    assert assert_legalized(model, atol=2e-6) == ["Mul", "Add"]
    assert assert_legalized(model, "onnx", atol=2e-6) == ["Mul", "Add"]


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_int8_kernels_compute_it(last):
    found = lowered(batch_norm((1, 3, 4, 5)), "int8", last=last)
    assert builtins(found) == [("MUL", 2), ("ADD", 2)]
    assert found.steps["y0"] < 3.1  # two roundings before the last


def test_all_parameters_are_cut_with_the_channels():
    node = node_of(batch_norm((1, 3, 4, 5)))
    channels = operator_of(node).couple(node).ties[0]
    assert [(run.side, run.index, run.axis) for run in channels] == [
        ("in", 0, 1),
        *(("in", i, 0) for i in range(1, 5)),
        ("out", 0, 1),
    ]
    assert {run.count for run in channels} == {3}
    assert operator_of(node).cost(node) == Cost(elementwise=120)


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 4, 5)], ids=str)
def test_parameters_may_be_computed(shape):
    model = single("BatchNormalization", shape, (3,), (3,), (3,), (3,), epsilon=0.1)
    feed = sample(model, low=0.1)
    assert_torch_computes_it(model, feed, atol=1e-5)
    assert "Sqrt" in assert_legalized(model, feed=feed, atol=1e-5)
    assert assert_legalized(model, "onnx", feed=feed) == ["BatchNormalization"]
    for last in (False, True):
        assert lowered(model, feed=feed, last=last).errors["y0"] < 1e-5


def test_training_mode_is_refused():
    node = node_of(batch_norm((1, 3, 4)))
    import onnx_ir as ir

    node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
    with pytest.raises(Refused, match="training mode"):
        operator_of(node).legalize(node, None)
