"""Weights of 4 bits beside activations of 8: which ones, how they round, and that runtimes compute what the plan says."""

import numpy as np
import onnx_ir as ir
import pytest

from calibration import open_samples
from exporter import export
from exporter.frontends.source import Signature
from exporter.graph.values import constant
from exporter.quantization.apply import encode_constant
from exporter.quantization.narrowing import narrowed
from exporter.quantization.plan import integer_range
from exporter.quantization.refinement.refine import refine
from targets.loader import load_target
from targets.precision import choose_precision
from tests.quantization.planned import network, planned, samples, target


def net() -> ir.Model:
    """A stem, a depthwise and two pointwise convolutions, and a classifier that has most of the weights."""
    return network(
        """
        a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
        b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1], group = 8> (b, w2, b2)
        d = Relu (c)
        e = Conv (d, w3, b3)
        f = Relu (e)
        g = GlobalAveragePool (f)
        h = Flatten (g)
        y = Gemm <transB = 1> (h, w4, b4)
        """,
        inputs="float[1,3,16,16] x",
        outputs="float[1,40] y",
        w1=(8, 3, 3, 3),
        b1=(8,),
        w2=(8, 1, 3, 3),
        b2=(8,),
        w3=(64, 8, 1, 1),
        b3=(64,),
        w4=(40, 64),
        b4=(40,),
    )


@pytest.fixture(scope="module")
def plans():
    model = net()
    plan = planned(model)
    return model, plan, narrowed(model, plan, target(), samples(model))


def layers(model):
    return [node for node in model.graph if node.op_type in ("Conv", "Gemm")]


def test_what_costs_most_for_its_bytes_stays_in_8_bits(plans):
    model, plan, narrow = plans
    sizes = {node.inputs[1].name: constant(node.inputs[1]).size for node in layers(model)}
    wide = [name for name in sizes if narrow.encodings[name].dtype == "int8"]
    assert 0 < sum(sizes[name] for name in wide) <= 0.25 * sum(sizes.values())
    assert {narrow.encodings[name].dtype for name in sizes} == {"int4", "int8"}
    changed = {name for name in plan.encodings if plan.encodings[name] != narrow.encodings[name]}
    assert changed == {
        value.name for node in layers(model) for value in node.inputs[1:] if narrow.encodings[node.inputs[1].name].dtype == "int4"
    }


def test_what_rounding_together_mends_need_not_stay_in_8_bits():
    """Two weights of one size: the inputs of the one are copies of few, so that its weights make up for one another."""
    random = np.random.default_rng(3)
    model = network(
        "a = Gemm <transB = 1> (x, w1, b1) b = Gemm <transB = 1> (z, w2, b2) y = Add (a, b) u = Gemm <transB = 1> (z, w3, b3)",
        inputs="float[1,64] x, float[1,64] z",
        outputs="float[1,32] y, float[1,128] u",
        w1=(32, 64),
        b1=(32,),
        w2=(32, 64),
        b2=(32,),
        w3=(128, 64),
        b3=(128,),
    )
    mix = random.normal(size=(4, 64))
    arrays = [
        {"x": (3 * random.normal(size=(1, 4)) @ mix).astype(np.float32), "z": 5 * random.normal(size=(1, 64)).astype(np.float32)}
        for _ in range(48)
    ]
    data = open_samples(arrays, [Signature(name, (1, 64), "float32") for name in ("x", "z")])
    plan = planned(model, data=data)
    found = [narrowed(model, plan, target(), data, together=together).encodings for together in (False, True)]
    assert [(each["w1"].dtype, each["w2"].dtype) for each in found] == [("int8", "int4"), ("int4", "int8")]


def test_biases_follow_their_weights_scales(plans):
    model, _, narrow = plans
    for node in layers(model):
        x, weight, bias = (narrow.encodings[value.name] for value in node.inputs)
        np.testing.assert_array_equal(
            np.asarray(bias.scale, np.float32), np.float32(x.scale[0]) * np.asarray(weight.scale, np.float32)
        )


def test_scales_clip_where_that_is_nearer():
    """One far weight in a channel: all others are nearer with it clipped."""
    weight = np.random.default_rng(0).normal(size=(8, 64, 1, 1)).astype(np.float32)
    weight[0, 0] = 9.0
    model = network("y = Conv (x, w, b)", inputs="float[1,64,4,4] x", outputs="float[1,8,4,4] y", w=weight, b=(8,))
    narrow = narrowed(model, planned(model), target(), samples(model))
    encoding = narrow.encodings["w"]
    assert encoding.dtype == "int4"
    assert encoding.scale[0] < 9.0 / integer_range("int4")[1]


@pytest.mark.parametrize("effort", ["balanced", "best"])
def test_refining_stays_within_4_bits(plans, effort):
    model, _, narrow = plans
    refined = refine(model, narrow, target(), samples(model, 16), effort=effort)
    assert refined.after > refined.before
    for node in layers(model):
        integers, encoding = encode_constant(node, 1, refined.plan)
        assert np.abs(integers.astype(int)).max() <= (7 if encoding.dtype == "int4" else 127)


@pytest.mark.parametrize("name", ["android-arm64-cpu", "x86-64-cpu"])
def test_runtimes_compute_what_the_plan_says(name, tmp_path):
    """Both of LiteRT's sets of kernels and XNNPACK, and onnxruntime; a depthwise convolution keeps 8 bits where no kernel has 4."""
    import onnx

    onnx.save(ir.serde.serialize_model(net()), tmp_path / "net.onnx")
    random = np.random.default_rng(0)
    data = [{"x": random.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(12)]
    (made,) = export(
        tmp_path / "net.onnx",
        [name],
        out=tmp_path / "out",
        calibration=data,
        precision="int8x4",
        gates=["sqnr_db>=14"],
        effort="fast",
    )
    assert made.passed
    found = [entry.outputs for entry in made.evidence.comparisons.values()]
    assert len(found) == len(choose_precision(load_target(name), "int8x4").verification.runtimes)
    for other in found[1:]:
        assert other["y"].sqnr_db == pytest.approx(found[0]["y"].sqnr_db, abs=1.0)
    plan = made.bundle.path / "plan.json"
    assert '"int4"' in plan.read_text()
