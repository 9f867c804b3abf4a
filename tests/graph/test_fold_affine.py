import numpy as np
import pytest
from small_graphs import assert_same, graph, kinds

from exporter.graph.fold_affine import fold_affine
from exporter.graph.values import constant

IMAGE = "float[1,4,5,5] x"


def folded(model):
    """The model after the pass, checked to compute the same."""
    after = model.clone()
    fold_affine(after)
    assert_same(model, after)
    return after


@pytest.mark.parametrize("operator", ["Mul", "Add", "Sub", "Div"])
@pytest.mark.parametrize("constant_shape", [(6, 1, 1), (1, 6, 1, 1), (1,), ()])
def test_one_constant_a_channel_behind_a_convolution_folds(operator, constant_shape):
    model = graph(
        f"a = Conv(x, w, b) y = {operator}(a, c)",
        inputs=IMAGE,
        outputs="float[1,6,3,3] y",
        w=(6, 4, 3, 3),
        b=(6,),
        c=np.random.default_rng(0).uniform(0.5, 2, constant_shape).astype(np.float32),
    )
    assert kinds(folded(model)) == ["Conv"]


def test_a_chain_folds_into_a_convolution_that_has_no_bias_yet():
    model = graph(
        "a = Conv(x, w) b = Mul(a, s) c = Add(t, b) y = Sub(u, c)",
        inputs=IMAGE,
        outputs="float[1,6,3,3] y",
        w=(6, 4, 3, 3),
        s=(6, 1, 1),
        t=(6, 1, 1),
        u=(6, 1, 1),
    )
    after = folded(model)
    assert kinds(after) == ["Conv"]
    assert constant(after.graph.node(0).inputs[2]).shape == (6,)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_transposed_convolutions_of_any_group_fold(groups):
    model = graph(
        f"a = ConvTranspose<group={groups}, strides=[2, 2]>(x, w, b) c = Mul(a, s) y = Add(c, t)",
        inputs=IMAGE,
        outputs=f"float[1,{3 * groups},11,11] y",
        w=(4, 3, 3, 3),
        b=(3 * groups,),
        s=(3 * groups, 1, 1),
        t=(3 * groups, 1, 1),
    )
    assert kinds(folded(model)) == ["ConvTranspose"]


@pytest.mark.parametrize("transposed", [0, 1])
def test_matrix_products_fold_on_both_sides(transposed):
    model = graph(
        f"a = Mul(x, s) b = Add(a, t) c = Gemm<transB={transposed}>(b, w, v) d = Mul(c, p) y = Add(d, q)",
        inputs="float[2,4] x",
        outputs="float[2,6] y",
        w=(6, 4) if transposed else (4, 6),
        v=(6,),
        s=(4,),
        t=(4,),
        p=(6,),
        q=(1, 6),
    )
    assert kinds(folded(model)) == ["Gemm"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_what_lies_before_a_convolution_without_padding_folds(groups):
    model = graph(
        f"a = Mul(x, s) b = Add(a, t) y = Conv<group={groups}>(b, w)",
        inputs=IMAGE,
        outputs="float[1,8,3,3] y",
        w=(8, 4 // groups, 3, 3),
        s=(4, 1, 1),
        t=(4, 1, 1),
    )
    assert kinds(folded(model)) == ["Conv"]


def test_an_addition_before_a_padded_convolution_stays():
    """The padding is of zeros behind the addition: at the border the shift would be counted where there is none."""
    model = graph(
        "a = Mul(x, s) b = Add(a, t) y = Conv<pads=[1, 1, 1, 1]>(b, w)",
        inputs=IMAGE,
        outputs="float[1,6,5,5] y",
        w=(6, 4, 3, 3),
        s=(4, 1, 1),
        t=(4, 1, 1),
    )
    assert kinds(folded(model)) == ["Mul", "Add", "Conv"]


def test_a_multiplication_before_a_padded_convolution_folds():
    model = graph(
        "a = Mul(x, s) y = Conv<pads=[1, 1, 1, 1]>(a, w)",
        inputs=IMAGE,
        outputs="float[1,6,5,5] y",
        w=(6, 4, 3, 3),
        s=(4, 1, 1),
    )
    assert kinds(folded(model)) == ["Conv"]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        pytest.param("a = Conv(x, w) y = Mul(a, s) z = Relu(a)", "float[1,6,3,3] y, float[1,6,3,3] z", id="a second consumer"),
        pytest.param("a = Conv(x, w) y = Mul(a, s)", "float[1,6,3,3] y, float[1,6,3,3] a", id="a graph output between"),
        pytest.param("a = Conv(x, w) y = Mul(a, a)", "float[1,6,3,3] y", id="no constant"),
        pytest.param("a = Conv(x, w) y = Div(s, a)", "float[1,6,3,3] y", id="a division by the value"),
        pytest.param("a = Conv(x, w) y = Add(a, row)", "float[1,6,3,3] y", id="a constant along another axis"),
        pytest.param("a = Conv(x, w) y = Add(a, grow)", "float[2,6,3,3] y", id="a constant that broadcasts the value"),
    ],
)
def test_what_does_not_fold(body, outputs):
    weights = {"w": (6, 4, 3, 3), "s": (6, 1, 1), "row": (3,), "grow": (2, 6, 1, 1)}
    used = {name: shape for name, shape in weights.items() if f"{name})" in body or f"({name}," in body}
    model = graph(body, inputs=IMAGE, outputs=outputs, **used)
    assert kinds(folded(model)) == kinds(model)


def test_a_constant_that_broadcasts_the_input_of_a_convolution_stays():
    model = graph(
        "a = Mul(x, s) y = Conv(a, w)", inputs="float[1,1,5,5] x", outputs="float[1,6,3,3] y", s=(4, 1, 1), w=(6, 4, 3, 3)
    )
    assert kinds(folded(model)) == ["Mul", "Conv"]


def test_a_shared_weight_is_copied_and_not_edited():
    model = graph(
        "a = Conv(x, w) y = Mul(a, s) z = Conv(x, w)",
        inputs=IMAGE,
        outputs="float[1,6,3,3] y, float[1,6,3,3] z",
        w=(6, 4, 3, 3),
        s=(6, 1, 1),
    )
    after = folded(model)
    first, second = (node for node in after.graph)
    assert first.inputs[1] is not second.inputs[1]
    assert second.inputs[1].name == "w"


def test_the_output_keeps_its_name():
    model = graph("a = Conv(x, w) y = Mul(a, s)", inputs=IMAGE, outputs="float[1,6,3,3] y", w=(6, 4, 3, 3), s=(6, 1, 1))
    assert folded(model).graph.outputs[0].name == "y"


@pytest.mark.parametrize("between", ["Flatten(b)", "Reshape(b, flat)", "Reshape(c, flat)"])
def test_what_lies_before_samples_that_become_rows_folds(between):
    """The order of elements is that of the rows, whatever axes were moved on the way."""
    turned = " c = Transpose<perm=[0,2,3,1]>(b)" if "(c" in between else ""
    model = graph(
        f"a = Mul(x, s) b = Add(a, t){turned} d = {between} y = Gemm<transB=1>(d, w, v)",
        inputs="float[2,3,4,5] x",
        outputs="float[2,7] y",
        s=(3, 1, 1),
        t=(3, 1, 1),
        w=(7, 60),
        v=(7,),
        **({"flat": np.int64([2, 60])} if "flat" in between else {}),
    )
    after = folded(model)
    assert not {"Mul", "Add"} & set(kinds(after))


@pytest.mark.parametrize(
    ("body", "columns"),
    [
        pytest.param("a = Add(x, t) b = Reshape(a, shape) y = Gemm(b, w, v)", 30, id="a sample becomes two rows"),
        pytest.param(
            "a = Add(x, t) b = Transpose<perm=[1,0,2,3]>(a) c = Reshape(b, shape) y = Gemm(c, w, v)", 30, id="samples mix"
        ),
        pytest.param(
            "a = Add(x, t) b = Flatten(a) c = Reshape(a, shape) d = Gemm(c, w, v) y = Concat<axis=0>(d, d)",
            30,
            id="rows that are cut again",
        ),
    ],
)
def test_rows_that_are_not_samples_keep_what_lies_before(body, columns):
    weights = {"t": (3, 1, 1), "w": (columns, 7), "v": (7,), "shape": np.int64([4, columns])}
    model = graph(body, inputs="float[2,3,4,5] x", outputs="float[?,7] y", **weights)
    assert "Add" in kinds(folded(model))
