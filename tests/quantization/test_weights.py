"""Plans of weights alone: which form each node's weight takes, and that every LiteRT kernel family and onnxruntime computes it."""

from itertools import product

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from diagnostics import RuntimeFailure, TargetError
from exporter.backends.onnx.writer import write_onnx
from exporter.backends.tflite.floor import require_floor
from exporter.backends.tflite.layout import assign
from exporter.backends.tflite.writer import write_tflite
from exporter.graph.passes import canonicalize, legalize
from exporter.graph.run import FloatRunner
from exporter.quantization.plan import Plan
from exporter.quantization.weights import LEAST, weight_plan
from exporter.verification.trusted import trusted
from targets.floor import floor_of
from targets.precision import choose_precision
from targets.schema import PRECISIONS, Artifact, Target, Unit, Verification
from tests.ops.op_bench import graph
from tests.quantization.planned import run, sqnr

KERNELS = ("ref", "builtin", "xnnpack")
# Against the float network with the plan's rounded weights: widened ones are equal to those. Normal numbers within 3.5 sigma, rounded to 255
# steps as a dynamic kernel reads them, keep 20 log10(255 sqrt(12) / 7) = 42 dB; six kernels in a row 34, and 4 are left for the draw.
LEAST_DB = {"dynamic_int8": 30.0, "dynamic_int4": 30.0, "weight_int8": 110.0, "weight_int4": 110.0}


def target(precision: str, form: str = "tflite", floor: str = "") -> Target:
    runtime = {"tflite": "litert", "onnx": "onnxruntime"}[form]
    artifact = Artifact(format=form, runtime=runtime, precision="float32", precisions=PRECISIONS, floor=floor)
    unit = Unit(name="cpu", kind="cpu", dtypes=("int8", "int16", "float16", "float32"))
    bench = Target(
        name="bench", title="b", artifact=artifact, units=(unit,), verification=Verification(runtimes=(), level="rules")
    )
    return choose_precision(bench, precision)


def weight(*shape):
    """Normal numbers, each row of its own magnitude: what one scale a tensor would lose."""
    random = np.random.default_rng(shape)
    return (random.normal(size=shape) * np.exp(random.normal(size=(shape[0], *[1] * (len(shape) - 1))))).astype(np.float32)


def node(op_type, inputs, outputs, **attributes):
    return onnx.helper.make_node(op_type, inputs, outputs, name=f"{op_type}_{outputs[0]}", **attributes)


def net() -> ir.Model:
    """Plain, depthwise, grouped and transposed convolution, a table of rows, a product with batches and a fully connected layer."""
    made = graph(
        [
            node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1], group=128),
            node("Conv", ["c", "w3"], ["d"], group=2),
            node("ConvTranspose", ["d", "w4"], ["e"], strides=[2, 2]),
            node("ReduceMean", ["e", "axes"], ["f"], keepdims=0),
            node("Gemm", ["f", "w5", "b5"], ["g"], transB=1),
            node("Reshape", ["g", "shape"], ["h"]),
            node("MatMul", ["h", "w6"], ["y"]),
        ],
        {"x": (1, 3, 12, 12)},
        ["y"],
        w1=weight(128, 3, 3, 3),
        b1=weight(128),
        w2=weight(128, 1, 3, 3),
        w3=weight(64, 64, 1, 1),
        w4=weight(64, 64, 2, 2),
        axes=np.asarray([2, 3]),
        w5=weight(96, 64) / 8,
        b5=weight(96),
        shape=np.asarray([3, 4, 8]),
        w6=np.random.default_rng(6).normal(size=(3, 8, 64)).astype(np.float32),
    )
    return legalize(canonicalize(made), "tflite")


def planned(model: ir.Model, profile: Target) -> Plan:
    plan = weight_plan(model, profile)
    return assign(model, plan, "keep") if profile.artifact.format == "tflite" else plan


def in_litert(content: bytes, feed, kernels: str):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = {
        "ref": OpResolverType.BUILTIN_REF,
        "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "xnnpack": OpResolverType.AUTO,
    }[kernels]
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return next(iter(interpreter.get_signature_runner()(**feed).values()))


def normal(model: ir.Model):
    random = np.random.default_rng(0)
    return {value.name: random.normal(size=tuple(value.shape)).astype(np.float32) for value in model.graph.inputs}


def rounded(model: ir.Model, plan: Plan) -> ir.Model:
    """The network with the weights that the plan makes of its own."""
    made = model.clone()
    for name, encoding in plan.encodings.items():
        value = made.graph.initializers[name]
        value.const_value = ir.tensor(encoding.dequantize(encoding.quantize(value.const_value.numpy())), name=name)
    return made


def agreement(precision: str, kernels: str) -> float:
    model = net()
    plan, feed = planned(model, target(precision)), normal(model)
    wanted = next(iter(FloatRunner(rounded(model, plan))(feed).values()))
    return sqnr(wanted, in_litert(write_tflite(model, plan).content, feed, kernels))


@pytest.mark.parametrize(
    ("precision", "kernels"), [pair for pair in product(LEAST_DB, KERNELS) if pair != ("dynamic_int4", "ref")]
)
def test_litert_computes_what_the_plan_says(precision, kernels):
    assert agreement(precision, kernels) > LEAST_DB[precision]


def test_litert_s_reference_kernels_misread_blocks_and_are_not_asked():
    assert agreement("dynamic_int4", "ref") < 10
    names, warnings = trusted(("litert-xnnpack", "litert-ref"), "dynamic_int4")
    assert names == ("litert-xnnpack",)
    assert "litert-ref was not asked" in warnings[0]
    assert trusted(("litert-ref",), "weight_int4") == (("litert-ref",), ())
    with pytest.raises(RuntimeFailure) as caught:
        trusted(("litert-ref",), "dynamic_int4")
    assert caught.value.code == "EW-R002"


def test_forms_by_kernel():
    model = net()
    forms = weight_plan(model, target("dynamic_int4")).precision
    kernels = [(node.op_type, forms[node.name]) for node in model.graph if forms.get(node.name, "float32") != "float32"]
    assert kernels == [
        ("Conv", "dynamic_int8"),
        ("Conv", "dynamic_int8"),
        ("Conv", "weight_int8"),
        ("ConvTranspose", "weight_int8"),
        ("Gemm", "dynamic_int4"),
        ("MatMul", "dynamic_int8"),
    ]


def test_small_weights_stay_float():
    model = graph([node("Gemm", ["x", "w"], ["y"], transB=1)], {"x": (1, 31)}, ["y"], w=weight(33, 31))
    assert LEAST > 33 * 31
    assert weight_plan(model, target("weight_int8")).encodings == {}


def test_one_scale_a_tensor_where_the_oldest_runtime_has_no_more():
    model = legalize(
        canonicalize(graph([node("Gemm", ["x", "w"], ["y"], transB=1)], {"x": (1, 64)}, ["y"], w=weight(64, 64))), "tflite"
    )
    new, old = (target("dynamic_int8", floor=floor) for floor in ("tflite>=2.17", "tflite>=2.14"))
    assert [len(plan.encodings["w"].scale) for plan in (weight_plan(model, new), weight_plan(model, old))] == [64, 1]
    artifact = write_tflite(model, planned(model, old))
    require_floor(artifact.emitted, floor_of(old), "bench")
    assert artifact.operators == (("FULLY_CONNECTED", 9),)


def test_four_bits_are_refused_on_a_runtime_that_is_too_old():
    model = net()
    old = target("weight_int4", floor="tflite>=2.14")
    with pytest.raises(TargetError, match=r"2\.18\.0") as caught:
        require_floor(write_tflite(model, planned(model, old)).emitted, floor_of(old), "bench")
    assert caught.value.code == "EW-T005"


@pytest.mark.parametrize("precision", ["weight_int8", "weight_int4"])
def test_onnxruntime_computes_what_the_plan_says(precision):
    profile, model = target(precision, "onnx"), legalize(canonicalize(net()), "onnx")
    feed = normal(model)
    plan = planned(model, profile)
    wanted = next(iter(FloatRunner(rounded(model, plan))(feed).values()))
    assert sqnr(wanted, next(iter(run(write_onnx(model, plan, profile), feed).values()))) > LEAST_DB[precision]


@pytest.mark.parametrize("precision", LEAST_DB)
def test_a_plan_survives_its_file_and_gives_the_same_bytes(precision):
    model = net()
    plan = planned(model, target(precision))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert write_tflite(model, again).content == write_tflite(model, plan).content


def test_only_the_reader_for_whom_it_is_a_weight_holds_it_in_integers():
    shared = weight(64, 64)
    made = graph(
        [node("Gemm", ["x", "w"], ["y"], transB=1), node("MatMul", ["w", "z"], ["v"])],
        {"x": (1, 64), "z": (64, 2)},
        ["y", "v"],
        w=shared,
    )
    model = canonicalize(made)
    plan = weight_plan(model, target("weight_int8"))
    assert plan.precision["Gemm_y"] == "weight_int8"
    assert plan.precision["MatMul_v"] == "float32"
