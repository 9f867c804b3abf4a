import pytest

from exporter.ops.base import FACETS, Operator, all_operators, register
from targets.schema import FORMATS

OPERATORS = all_operators()


def by_name(key):
    return "::".join(part for part in key if part)


@pytest.mark.parametrize("key", OPERATORS, ids=by_name)
def test_every_facet_is_there_or_refused_with_a_reason(key):
    operator = OPERATORS[key]
    for facet in FACETS:
        if operator.has(facet):
            assert facet not in operator.refuses, f"{facet} is provided and refused"
        else:
            assert len(operator.refuses.get(facet, "").split()) > 3, f"{facet} is neither provided nor refused with a reason"
    assert set(operator.refuses) <= set(FACETS)


@pytest.mark.parametrize("key", OPERATORS, ids=by_name)
def test_every_operator_and_every_constraint_says_in_words_what_it_is(key):
    operator = OPERATORS[key]
    assert type(operator).__doc__
    assert (operator.domain, operator.op_type) == key
    for rule in operator.constraints:
        assert rule.runtime in ("tflite", "onnx", *FORMATS)
        assert rule.holds.__doc__
        assert rule.sentence.endswith(".")
        assert rule.sentence[0].isupper()


def test_the_operators_of_convolution_networks_are_known():
    needed = """Add AveragePool BatchNormalization Clip Concat Conv ConvTranspose Flatten Gemm GlobalAveragePool HardSigmoid HardSwish
    LeakyRelu MatMul MaxPool Mul Pad PRelu ReduceMean Relu Reshape Resize Sigmoid Slice Softmax Squeeze Transpose Unsqueeze"""
    assert set(needed.split()) <= {op_type for domain, op_type in OPERATORS if not domain}


def test_a_type_is_registered_once():
    with pytest.raises(ValueError, match="Conv is registered twice"):

        @register
        class Another(Operator):
            op_type = "Conv"
