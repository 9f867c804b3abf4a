import pytest
from small_graphs import graph

from diagnostics import ModelError
from exporter.graph.fix_shapes import fix_shapes


def model(inputs):
    names = [entry.split()[-1] for entry in inputs.split("], ")]
    body = "y = Relu(x)" if len(names) == 1 else "y = Add(x, x2)"
    return graph(body, inputs=inputs, outputs="float[A,B,C] y", infer=False)


def shapes(found):
    return [tuple(value.shape) for value in found.graph.inputs]


def test_a_dynamic_batch_is_one():
    found = model("float[N,3,8] x")
    assert fix_shapes(found) == 1
    assert shapes(found) == [(1, 3, 8)]
    assert found.graph.outputs[0].shape is None


def test_static_shapes_stay_as_they_are():
    found = model("float[2,3,8] x")
    assert fix_shapes(found) == 0
    assert found.graph.outputs[0].shape is not None


def test_a_symbol_that_one_input_binds_is_bound_everywhere():
    found = model("float[N,3,W] x, float[N,3,W] x2")
    fix_shapes(found, {"x": (4, 3, 16)})
    assert shapes(found) == [(4, 3, 16)] * 2


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, "EW-M006"),
        ({"x": (1, 4, 8)}, "EW-M011"),
        ({"x": (1, 3)}, "EW-M011"),
        ({"x": (1, 3, 0)}, "EW-M011"),
        ({"z": (1,)}, "EW-M011"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(given, code):
    with pytest.raises(ModelError) as error:
        fix_shapes(model("float[N,3,W] x"), given)
    assert error.value.code == code
    assert ("--shape x=1,3,224" in error.value.fix) == (code == "EW-M006")
