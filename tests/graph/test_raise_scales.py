"""Factors end in the weights that made what they scale; where something else reads or shares what lies between, nothing moves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import assert_same, graph, kinds

from exporter.graph.passes import canonicalize
from exporter.graph.raise_scales import raise_scales
from exporter.graph.values import constant

IMAGE = "float[1,4,6,6] x"
FACTORS = np.float32([0.3, 1.7, 0.0, 2.5, 0.01, 1]).reshape(6, 1, 1)


def raised(body: str, outputs: str = "float[1,6,?,?] y", inputs: str = IMAGE, relative: float = 1e-5, **weights):
    """The graph after the pass, checked to compute the same."""
    model = graph(body, inputs=inputs, outputs=outputs, **weights)
    after = model.clone()
    raise_scales(after)
    assert_same(model, after, relative=relative)
    return after


@pytest.mark.parametrize(
    "middle",
    [
        "Relu(a)",
        "LeakyRelu<alpha=0.2>(a)",
        "LeakyRelu<alpha=-0.2>(a)",
        "PRelu(a, slope)",
        "MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)",
        "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a)",
        "GlobalAveragePool(a)",
        "GlobalMaxPool(a)",
    ],
)
@pytest.mark.parametrize("operator", ["Mul", "Div"])
def test_factors_of_channels_go_through(operator: str, middle: str):
    factors = FACTORS if operator == "Mul" else np.abs(FACTORS) + 0.5
    slope = {"slope": (6, 1, 1)} if "slope" in middle else {}
    after = raised(f"a = Conv(x, w, b) c = {middle} y = {operator}(c, s)", w=(6, 4, 3, 3), b=(6,), s=factors, **slope)
    assert kinds(after) == ["Conv", middle.partition("(")[0].partition("<")[0]]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_convolutions_of_groups_take_them(operator: str, groups: int):
    shape = (6, 4 // groups, 3, 3) if operator == "Conv" else (4, 6 // groups, 3, 3)
    after = raised(f"a = {operator}<group={groups}>(x, w) c = Relu(a) y = Mul(s, c)", w=shape, s=FACTORS)
    assert kinds(after) == [operator, "Relu"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(6,), (1, 6), (1,)])
def test_matrix_products_take_them(bias, transposed: int):
    after = raised(
        f"a = Gemm<transB={transposed}>(x, w, b) c = Relu(a) y = Mul(c, s)",
        inputs="float[3,4] x",
        outputs="float[3,6] y",
        w=(6, 4) if transposed else (4, 6),
        b=bias,
        s=FACTORS.reshape(6),
    )
    assert kinds(after) == ["Gemm", "Relu"]


@pytest.mark.parametrize("operator", ["Mul", "Div"])
@pytest.mark.parametrize("number", [0.2, -3.0])
def test_the_scale_of_attention_ends_in_the_weights_of_the_queries(operator: str, number: float):
    after = raised(
        """q0 = MatMul(x, wq) q1 = Add(q0, bq) q2 = Reshape(q1, heads) q = Transpose<perm=[0,2,1,3]>(q2)
        k0 = MatMul(x, wk) k1 = Reshape(k0, heads) k = Transpose<perm=[0,2,3,1]>(k1)
        scores = MatMul(q, k) """
        f"scaled = {operator}(scores, s) y = Softmax(scaled)",
        inputs="float[1,5,8] x",
        outputs="float[1,2,5,5] y",
        wq=(8, 8),
        bq=(8,),
        wk=(8, 8),
        heads=np.int64([1, 5, 2, 4]),
        s=np.float32(number),
    )
    assert not {"Mul", "Div"} & set(kinds(after))
    assert [node.inputs[1].name for node in after.graph if node.op_type == "MatMul"][:2] == ["wq", "wk"]
    kept = graph("y = MatMul(x, wk)", inputs="float[1,8] x", outputs="float[1,8] y", wk=(8, 8)).graph.initializers["wk"]
    np.testing.assert_array_equal(constant(after.graph.initializers["wk"]), constant(kept))


def test_the_other_side_takes_what_the_first_cannot():
    body = "q = Sigmoid(x) k0 = MatMul(x, wk) k = Transpose<perm=[0,2,1]>(k0) p = MatMul(q, k) y = Mul(p, s)"
    after = raised(body, inputs="float[1,5,8] x", outputs="float[1,5,5] y", wk=(8, 8), s=np.float32(0.5))
    assert "Mul" not in kinds(after)


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        pytest.param("a = Conv(x, w) c = Sigmoid(a) y = Mul(c, s)", {}, id="not homogeneous"),
        pytest.param(
            "a = Conv(x, w) c = Clip(a, low, high) y = Mul(c, s)", {"low": np.float32(0), "high": np.float32(6)}, id="a clamp"
        ),
        pytest.param("a = Conv(x, w) c = Relu(a) y = Mul(c, m)", {"m": FACTORS - np.float32(0.5)}, id="a factor below 0"),
        pytest.param("a = Conv(x, w) c = Relu(a) d = Mul(c, s) y = Add(d, a)", {}, id="a second reader of the convolution"),
        pytest.param("a = Conv(x, w) c = Relu(a) d = Mul(c, s) e = Conv(x, w) y = Add(d, e)", {}, id="a weight of others"),
        pytest.param("a = Conv(x, w) c = Transpose<perm=[0,1,3,2]>(a) y = Mul(c, s)", {}, id="channels through another shape"),
        pytest.param("a = Conv(x, w) c = Relu(a) y = Mul(c, r)", {"r": (4,)}, id="a constant along another axis"),
        pytest.param(
            "a = Conv(x, w) c = Relu(a) d = Div(s, c) y = Clip(d, low, high)",
            {"low": np.float32(0), "high": np.float32(6)},
            id="a division by the value",
        ),
        pytest.param(
            "a = Conv(x, w) c = Relu(a) y = Mul(c, h)", {"h": np.float32([1e38] * 6).reshape(6, 1, 1)}, id="beyond floats"
        ),
    ],
)
def test_what_holds_a_factor(body: str, weights: dict):
    shared = {"w": np.full((6, 4, 3, 3), 100, np.float32)} | ({"s": FACTORS + 1} if "s)" in body or "(s" in body else {})
    model = graph(body, inputs=IMAGE, outputs="float[1,6,4,4] y", **shared, **weights)
    before = kinds(model)
    assert raise_scales(model) == 0
    assert kinds(model) == before


def test_a_graph_output_between_keeps_its_values():
    model = graph(
        "a = Conv(x, w) c = Relu(a) y = Mul(c, s)",
        inputs=IMAGE,
        outputs="float[1,6,4,4] y, float[1,6,4,4] c",
        w=(6, 4, 3, 3),
        s=FACTORS,
    )
    assert raise_scales(model) == 0


def test_the_output_keeps_its_name():
    after = raised("a = Conv(x, w) c = Relu(a) y = Mul(c, s)", w=(6, 4, 3, 3), s=FACTORS)
    assert after.graph.outputs[0].name == "y"


def test_a_normalization_behind_an_activation_disappears():
    """What Keras models are made of: convolution, Relu, batch normalization, pooling, and again; the last before a dense layer."""
    model = graph(
        """a = Conv(x, w, b) c = Relu(a) d = BatchNormalization(c, gamma, beta, mean, var) e = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)
        f = Conv(e, v) g = Relu(f) h = BatchNormalization(g, gamma, beta, mean, var) i = Transpose<perm=[0,2,3,1]>(h) j = Flatten(i)
        y = Gemm(j, u, t)""",
        inputs="float[2,4,8,8] x",
        outputs="float[2,5] y",
        w=(6, 4, 3, 3),
        b=(6,),
        v=(6, 6, 2, 2),
        gamma=np.float32([1, 2, 0.5, 0, 1.5, 0.1]),
        beta=(6,),
        mean=(6,),
        var=np.float32([1, 2, 0.5, 0.3, 1.5, 0.1]),
        u=(24, 5),
        t=(5,),
    )
    after = canonicalize(model)
    assert_same(model, after)
    assert kinds(after) == ["Conv", "Relu", "MaxPool", "Conv", "Relu", "Transpose", "Reshape", "Gemm"]
    assert kinds(canonicalize(after)) == kinds(after)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(["Relu", "LeakyRelu", "MaxPool<kernel_shape=[2,2]>", "Mul", "Div"]), min_size=1, max_size=5),
    st.integers(0, 2**32 - 1),
)
def test_any_chain_of_factors_behind_a_convolution_disappears(operators: list[str], seed: int):
    random = np.random.default_rng(seed)
    body, factors, last = "v0 = Conv(x, w, b)", {}, "v0"
    for place, operator in enumerate(operators, 1):
        second = ""
        if operator in ("Mul", "Div"):
            factors[f"s{place}"] = random.uniform(0.2, 3, (6, 1, 1) if random.random() < 0.5 else ()).astype(np.float32)
            second = f", s{place}"
        body += f" v{place} = {operator}({last}{second})"
        last = f"v{place}"
    after = raised(f"{body} y = Relu({last})", inputs="float[1,4,12,12] x", w=(6, 4, 3, 3), b=(6,), **factors)
    assert not {"Mul", "Div"} & set(kinds(after))
