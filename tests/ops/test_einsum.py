import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typed_bench import everywhere, typed, values

from exporter.graph.legalize import legalize
from exporter.graph.run import FloatRunner

EQUATIONS = {
    "ij->ji": [(3, 4)],
    "ij->": [(3, 4)],
    "ij->i": [(3, 4)],
    "ii->i": [(4, 4)],
    "ii": [(4, 4)],
    "bii->b": [(2, 3, 3)],
    "...ii->...i": [(2, 3, 4, 4)],
    "i,i": [(5,), (5,)],
    "i,j->ij": [(3,), (4,)],
    "ij,jk": [(3, 4), (4, 5)],
    "bij,bjk->bik": [(2, 3, 4), (2, 4, 5)],
    "bij,jk->bik": [(2, 3, 4), (4, 5)],
    "bhqd,bhkd->bhqk": [(2, 3, 4, 5), (2, 3, 6, 5)],
    "bqhd,bkhd->bhqk": [(2, 4, 3, 5), (2, 6, 3, 5)],
    "...ij,...jk->...ik": [(2, 3, 4), (2, 4, 5)],
    "ijk,jil->kl": [(2, 3, 4), (3, 2, 5)],
    "ijk,ljk->lij": [(2, 3, 4), (5, 3, 4)],
    "ij,ij->ij": [(2, 3), (2, 3)],
    "ij,jk,kl->il": [(2, 3), (3, 4), (4, 5)],
    "a,b,c->cba": [(2,), (3,), (4,)],
    "ij,kl->j": [(2, 3), (4, 5)],
    "bi , bj -> bij": [(2, 3), (2, 4)],
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_equations(equation):
    inputs = [values("float32", *shape, seed=seed) for seed, shape in enumerate(EQUATIONS[equation])]
    everywhere("Einsum", *inputs, equation=equation, atol=1e-4)


def test_batched_products_of_matrices_stay_one():
    a, b = values("float32", 2, 3, 4, 5), values("float32", 2, 3, 6, 5)
    types = everywhere("Einsum", a, b, equation="bhqd,bhkd->bhqk", atol=1e-4)
    assert types.count("MatMul") == 1


@st.composite
def _equations(draw):
    lengths = {"a": 2, "b": 3, "c": 4, "d": 1}
    operands = draw(st.lists(st.text("abcd", min_size=1, max_size=4), min_size=1, max_size=3))
    letters = sorted(set("".join(operands)))
    output = "".join(draw(st.permutations(draw(st.lists(st.sampled_from(letters), unique=True)))))
    return ",".join(operands) + "->" + output, [tuple(lengths[letter] for letter in operand) for operand in operands]


@settings(max_examples=60, deadline=None)
@given(_equations())
def test_any_equation_gives_what_numpy_gives(case):
    equation, shapes = case
    inputs = [values("float32", *shape, seed=seed) for seed, shape in enumerate(shapes)]
    model, feed = typed("Einsum", *inputs, equation=equation)
    (found,) = FloatRunner(legalize(model, "tflite"))(feed).values()
    wanted = np.einsum(equation, *inputs)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
