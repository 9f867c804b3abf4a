"""Plans of small networks: who has an encoding, who shares one, who keeps a fixed one, and who is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from calibration import ValueStats
from diagnostics import DataError, ModelError, TargetError
from exporter.graph.values import fused_into
from exporter.ops.base import Refused
from exporter.quantization import planner
from exporter.quantization.apply import encode_constant, node_name, quantized_parameters, read_encoding
from exporter.quantization.plan import Encoding, Plan
from exporter.quantization.planner import float_plan, make_plan, refusals
from exporter.quantization.ranges import MAX_BIAS
from tests.quantization.planned import network, planned, residual_net, statistics, target

FIXED = Encoding("int8", (1 / 256,), (-128,))


def node(model, op_type):
    (found,) = [node for node in model.graph if node.op_type == op_type]
    return found


def test_every_written_value_is_encoded_and_the_one_before_a_fused_activation_is_not():
    model = residual_net()
    plan = planned(model)
    fused = [n for n in model.graph if fused_into(n)]
    assert len(fused) == 2
    assert set(plan.precision.values()) == {"int8"}
    for inner in model.graph:
        for value in inner.outputs:
            hidden = any(user in fused for user, _ in value.uses())
            assert (value.name in plan.encodings) is not hidden
    assert all(node_name(n) not in plan.precision for n in fused)


def test_a_max_pool_shares_its_input_s_encoding():
    model = residual_net()
    plan = planned(model)
    pool = node(model, "MaxPool")
    assert plan.encodings[pool.inputs[0].name] == plan.encodings[pool.outputs[0].name]
    assert plan.requantize == {}


def test_weights_are_per_channel_and_biases_at_the_product_of_the_scales():
    model = residual_net()
    plan = planned(model)
    for conv in [n for n in model.graph if n.op_type == "Conv"]:
        inputs, weight, bias = (plan.encodings[value.name] for value in conv.inputs)
        assert (weight.axis, len(weight.scale)) == (0, 8)
        assert bias.dtype == "int32"
        np.testing.assert_array_equal(np.float32(bias.scale), np.float32(weight.scale) * np.float32(inputs.scale[0]))


def test_the_scheme_of_the_target_is_followed():
    model = residual_net()
    plan = planned(model, target(per_channel=False, weights_range="reduced", activations_symmetric=True))
    conv = next(n for n in model.graph if n.op_type == "Conv")
    integers, encoding = encode_constant(conv, 1, plan)
    assert (encoding.axis, np.abs(integers.astype(int)).max()) == (None, 63)
    assert {e.zero_point for e in plan.encodings.values() if e.axis is None} == {(0,)}


def test_operators_that_a_target_names_have_one_scale_a_tensor():
    model = residual_net()
    plan = planned(model, target(per_tensor=("Gemm",)))
    assert {n.op_type: encode_constant(n, 1, plan)[1].axis for n in model.graph if n.op_type in ("Conv", "Gemm")} == {
        "Conv": 0,
        "Gemm": None,
    }


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weight", [1e-4, 1.0])
def test_outputs_saturate_before_narrow_accumulators_and_biases_leave_half_of_them(per_channel, weight):
    """Of weights of 1e-4 the products are so fine that the bias of 3 would be more than 20 bits of them."""
    model = network(
        "y = Conv (x, w, b)",
        inputs="float[1,1,4,4] x",
        outputs="float[1,2,4,4] y",
        w=np.array([weight, 1.0], np.float32).reshape(2, 1, 1, 1),
        b=np.array([3.0, -0.5], np.float32),
    )
    scheme = {"per_channel": per_channel, "scales": "power_of_two", "activations_symmetric": True}
    plan = planned(model, target(accumulators=20, **scheme))
    conv = node(model, "Conv")
    weights, products = encode_constant(conv, 1, plan)[1], encode_constant(conv, 2, plan)
    assert all(np.frexp(scale)[0] == 0.5 for scale in weights.scale)
    assert 127 * plan.encodings["y"].scale[0] <= 2**19 * min(products[1].scale)
    assert np.abs(products[0]).max() <= 2**18
    np.testing.assert_allclose(products[1].dequantize(products[0]), [3.0, -0.5], atol=max(products[1].scale))
    wide = encode_constant(conv, 1, planned(model, target(**scheme)))[1]
    assert (wide == weights) == (weight == 1.0 or not per_channel)


def joined():
    """A sigmoid (fixed output) and a convolution meet in a concat that an integer node reads."""
    return network(
        "a = Conv (x, w, b)  s = Sigmoid (x)  c = Concat <axis = 1> (a, s)  y = LeakyRelu (c)",
        inputs="float[1,3,4,4] x",
        outputs="float[1,5,4,4] y",
        w=(2, 3, 1, 1),
        b=(2,),
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_target_whose_scales_are_powers_of_two_has_no_other(symmetric):
    model = residual_net()
    plan = planned(model, target(scales="power_of_two", activations_symmetric=symmetric))
    for name, encoding in plan.encodings.items():
        assert all(np.frexp(scale)[0] == 0.5 for scale in encoding.scale), name
        assert not symmetric or set(encoding.zero_point) == {0}


def test_a_fixed_output_that_meets_others_is_requantized_where_it_is_read():
    model = joined()
    plan = planned(model)
    concat = node(model, "Concat")
    common = plan.encodings[concat.outputs[0].name]
    assert plan.encodings[concat.inputs[0].name] == common
    assert plan.encodings[concat.inputs[1].name] == FIXED
    assert plan.requantize == {f"{node_name(concat)}:1": common}
    assert read_encoding(concat, 1, plan) == common
    assert common.scale[0] > FIXED.scale[0]


def test_a_fixed_output_that_is_only_moved_keeps_its_encoding():
    model = network("s = Sigmoid (x)  y = Transpose <perm = [0, 2, 1]> (s)", inputs="float[1,3,4] x", outputs="float[1,4,3] y")
    plan = planned(model)
    assert plan.encodings["y"] == FIXED
    assert plan.requantize == {}


def test_a_constant_beside_activations_is_encoded_for_its_reader():
    constant = np.array([[[[-9.0]], [[30.0]]]], np.float32).repeat(4, 2).repeat(4, 3)
    model = network(
        "a = Conv (x, w)  c = Concat <axis = 1> (a, k)  y = LeakyRelu (c)",
        inputs="float[1,3,4,4] x",
        outputs="float[1,4,4,4] y",
        w=(2, 3, 1, 1),
        k=constant,
    )
    plan = planned(model)
    integers, encoding = encode_constant(node(model, "Concat"), 1, plan)
    assert encoding == plan.encodings["c"]
    assert np.abs(encoding.dequantize(integers) - constant).max() <= encoding.scale[0] / 2 + 1e-5


def test_one_weight_with_two_readers_has_an_encoding_for_each():
    model = network(
        "a = Conv (x, w, b)  c = Mul (x, k)  d = Conv (c, w, b)  y = Add (a, d)",
        inputs="float[1,2,4,4] x",
        outputs="float[1,2,4,4] y",
        w=(2, 2, 1, 1),
        b=(2,),
        k=np.float32(20),
    )
    plan = planned(model)
    first, second = [n for n in model.graph if n.op_type == "Conv"]
    assert first.inputs[2] is not second.inputs[2]  # ensure_biases gave the second one its own
    for conv in (first, second):
        scale = read_encoding(conv, 0, plan).scale[0] * np.float32(read_encoding(conv, 1, plan).scale)
        np.testing.assert_array_equal(np.float32(read_encoding(conv, 2, plan).scale), np.float32(scale))


def test_a_bias_of_a_nearly_dead_channel_does_not_wrap():
    weight = np.array([1e-12, 1.0], np.float32).reshape(2, 1, 1, 1)
    model = network(
        "y = Conv (x, w, b)", inputs="float[1,1,4,4] x", outputs="float[1,2,4,4] y", w=weight, b=np.array([3.0, 0.5], np.float32)
    )
    plan = planned(model)
    integers, encoding = encode_constant(node(model, "Conv"), 2, plan)
    assert np.abs(integers.astype(np.int64)).max() <= MAX_BIAS["int32"]
    np.testing.assert_allclose(encoding.dequantize(integers), [3.0, 0.5], rtol=1e-2)


@pytest.fixture
def erf_refuses(monkeypatch):
    """An operator without an integer form, whatever the registry learns later."""
    known = planner.operator_of

    class Refusing:
        def quantize(self, node):
            raise Refused(node, "Erf has no integer kernel")

    monkeypatch.setattr(planner, "operator_of", lambda node: Refusing() if node.op_type == "Erf" else known(node))


def between_erfs():
    return network(
        "a = Conv (x, w, b)  c = Erf (a)  d = Transpose <perm = [0, 2, 3, 1]> (c)  e = Erf (d)  y = Relu (e)",
        inputs="float[1,3,4,4] x",
        outputs="float[1,4,4,3] y",
        w=(3, 3, 1, 1),
        b=(3,),
    )


@pytest.mark.usefixtures("erf_refuses")
def test_what_has_no_integer_form_stays_float_and_so_does_a_transpose_between():
    model = between_erfs()
    plan = planned(model)
    kinds = {n.op_type: plan.precision[node_name(n)] for n in model.graph}
    assert kinds == {"Conv": "int8", "Erf": "float32", "Transpose": "float32", "Relu": "int8"}
    assert {"a", "y", "x", "e"} <= set(plan.encodings)  # e is read by an integer node
    assert not {"c", "d"} & set(plan.encodings)
    assert list(refusals(model, target().artifact).values()) == ["Erf has no integer kernel"] * 2


@pytest.mark.usefixtures("erf_refuses")
def test_a_target_without_float_names_every_node_and_reason():
    model = between_erfs()
    with pytest.raises(TargetError) as error:
        planned(model, target(float_fallback=False))
    assert error.value.code == "EW-Q003"
    names = [node_name(n) for n in model.graph if n.op_type == "Erf"]
    assert f"{', '.join(names)}: Erf has no integer kernel" in str(error.value)


def test_integer_inputs_and_outputs_are_encoded_even_at_a_float_node():
    model = network("y = Reshape (x, s)", inputs="float[1,6] x", outputs="float[2,3] y", s=np.array([2, 3], np.int64))
    assert planned(model).encodings == {}
    assert set(planned(model, target(io_dtype="int8")).encodings) == {"x", "y"}


@dataclass(frozen=True)
class Seen:
    values: Mapping[str, ValueStats]


def test_missing_statistics_are_an_error():
    model = residual_net()
    found = dict(statistics(model).values)
    del found["x"]
    with pytest.raises(ModelError, match="has no statistics") as missing:
        make_plan(model, Seen(found), target())
    assert missing.value.code == "EW-Q002"


def test_nodes_around_a_value_that_was_infinite_stay_in_float():
    model = residual_net()
    found = dict(statistics(model).values)
    plan = make_plan(model, Seen(found), target())
    found["f"] = replace(found["f"], low=float("-inf"))
    around = make_plan(model, Seen(found), target())
    changed = {name for name, precision in around.precision.items() if precision != plan.precision[name]}
    assert changed == {node_name(n) for n in model.graph if n.op_type in ("Add", "MaxPool")}
    assert "f" not in around.encodings
    assert set(refusals(model, target().artifact, Seen(found))) == changed
    with pytest.raises(TargetError, match="2 of 8 nodes") as refused:
        make_plan(model, Seen(found), target(float_fallback=False))
    assert "becomes infinite" in refused.value.why
    found["x"] = replace(found["x"], high=float("inf"))
    with pytest.raises(DataError, match="was not finite"):
        make_plan(model, Seen(found), target(io_dtype="int8"))


def test_a_plan_is_read_back_as_it_was_written():
    plan = planned(joined())
    assert plan.requantize
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text


def test_corrections_go_into_the_integers_of_the_bias_and_must_fit_it():
    model = residual_net()
    plan = planned(model)
    conv = next(n for n in model.graph if n.op_type == "Conv")
    name, before = conv.inputs[2].name, encode_constant(conv, 2, plan)[0]
    step = plan.encodings[name].scale
    moved = replace(plan, corrections={name: tuple(100 * s for s in step)})
    np.testing.assert_array_equal(encode_constant(conv, 2, moved)[0] - before, 100)
    with pytest.raises(ModelError, match="corrects 1 channels"):
        encode_constant(conv, 2, replace(plan, corrections={name: (0.1,)}))


def test_all_encoded_constants_are_listed_for_the_writers():
    model = residual_net()
    found = quantized_parameters(model, planned(model))
    assert len(found) == 8  # four weights, four biases
    assert {str(array.dtype) for array, _ in found.values()} == {"int8", "int32"}


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_float_plan_has_one_precision_and_no_encodings(precision):
    plan = float_plan(residual_net(), target(precision=precision))
    assert set(plan.precision.values()) == {precision}
    assert plan.encodings == {}


def test_a_mask_of_infinities_keeps_its_node_in_float_and_the_reason_is_told():
    model = network(
        "y = Mul(x, s)\n z = Max(y, mask)",
        inputs="float[1,4] x",
        outputs="float[1,4] z",
        s=np.full(4, 2, np.float32),
        mask=np.array([0, -np.inf, 0, -np.inf], np.float32),
    )
    assert "infinities" in next(iter(refusals(model, target().artifact).values()))
    assert planned(model).precision == {node_name(node(model, "Mul")): "int8", node_name(node(model, "Max")): "float32"}


def test_what_cancels_out_keeps_a_range_that_kernels_can_reach():
    """The sum is a millionth of its addends: LiteRT's ADD aborts where its output's scale is below 2**-20 of twice theirs."""
    model = network("n = Neg (x) d = Mul (n, near) a = Add (x, d) y = Add (a, a)", inputs="float[1,4] x", outputs="float[1,4] y",
                    near=np.float32(1 - 2.0**-20))  # fmt: skip
    store = statistics(model)
    plan = make_plan(model, store, target())
    widest = max(plan.encodings[name].scale[0] for name in ("x", "d") if name in plan.encodings)
    assert plan.encodings["a"].scale[0] > 2 * widest / 2**20


@pytest.mark.parametrize(
    ("behind", "encoded"), [("", False), ("r = Relu (y)", False), ("r = Softmax (y)", True), ("r = Sin (y)", False)]
)
def test_sums_that_no_integer_node_reads_stay_as_kernels_add_them_up(behind, encoded):
    outputs = "float[2,5] r" if behind else "float[2,5] y"
    model = network(f"y = Gemm <transB = 1> (x, w, b) {behind}", inputs="float[2,3] x", outputs=outputs, w=(5, 3), b=(5,))
    plan = planned(model, target(float_sums=("Gemm",)))
    assert ("y" in plan.encodings) is encoded
    assert plan.precision[node_name(node(model, "Gemm"))] == "int8"
    assert "x" in plan.encodings
    written = "r" if "Relu" in behind else "y"
    assert planned(model, target()).encodings[written].dtype == "int8"
    assert (written in plan.encodings) is encoded


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_headroom_ends_where_a_clamp_does(dtype):
    """A runtime folds a clamp into the encoding behind it where that reaches no further; what only moves the value keeps to it too."""
    model = network(
        """
        a = Conv (x, w)
        b = Clip (a, low, high)
        c = MaxPool <kernel_shape = [2, 2]> (b)
        y = Conv (c, v)
        """,
        inputs="float[1,4,8,8] x",
        outputs="float[1,4,7,7] y",
        low=np.float32(-3),
        high=np.float32(3),
        w=(4, 4, 1, 1),
        v=(4, 4, 1, 1),
    )
    wide = {node_name(n): "to see" for n in model.graph} if dtype == "int16" else {}
    plan = make_plan(model, statistics(model), target(), method="headroom", wide=wide)
    assert plan.encodings["b"] == plan.encodings["c"]
    assert plan.encodings["b"].dtype == dtype
    least, greatest = plan.encodings["b"].dequantize(np.array([np.iinfo(dtype).min, np.iinfo(dtype).max]))
    assert -3.02 <= least < greatest <= 3.02
