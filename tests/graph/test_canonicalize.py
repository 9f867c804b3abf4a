"""The whole of canonicalization: on the zoo's real models, and pass by pass on what they feed it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_graphs import graph, kinds, run

from diagnostics import ModelError
from exporter.frontends.source import fingerprint
from exporter.graph.dead_code import remove_dead_code
from exporter.graph.eliminate_noops import eliminate_noops
from exporter.graph.explicit_windows import explicit_windows, fold_padding
from exporter.graph.fold_affine import fold_affine
from exporter.graph.fold_constants import fold_constants
from exporter.graph.infer_shapes import infer_shapes
from exporter.graph.lower_batchnorm import lower_batchnorm
from exporter.graph.name_everything import name_everything
from exporter.graph.opset import canonical_opset
from exporter.graph.passes import canonicalize, check
from exporter.graph.values import constant
from tools import zoo

PASSES = (
    fold_constants,
    infer_shapes,
    eliminate_noops,
    explicit_windows,
    fold_padding,
    lower_batchnorm,
    fold_affine,
    remove_dead_code,
    name_everything,
)


def real_inputs(source) -> dict[str, np.ndarray]:
    """One real sample: a photo through the model's own preprocessing, or a digit."""
    from calibration import open_samples

    if source.inputs[0].shape[1] == 1:
        return {source.inputs[0].name: zoo.digits()[0][:1]}
    return next(iter(open_samples(zoo.imagenet_photos(), source.inputs, source.preprocess)))


def assert_close(found, expected):
    """Within 1e-5 of each output's range; probabilities have the range 1, however small they are on this sample."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        scale = max(float(np.abs(array).max()), 1.0)
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * scale, err_msg=name)


def test_a_zoo_model_computes_what_its_original_does(zoo_model):
    inputs = real_inputs(zoo_model)
    assert_close(run(zoo_model.model, inputs), zoo_model.reference(inputs))


def test_every_pass_keeps_what_a_zoo_model_computes(raw_zoo_model):
    inputs = real_inputs(raw_zoo_model)
    model = canonical_opset(raw_zoo_model.model.clone())
    infer_shapes(model)
    expected = run(model, inputs)
    for step in PASSES:
        before = fingerprint(model)
        step(model)
        if fingerprint(model) != before:
            assert_close(run(model, inputs), expected)
    check(model, "the passes of this test")


def test_a_canonical_model_stays_as_it_is(zoo_model):
    assert fingerprint(canonicalize(zoo_model.model)) == fingerprint(zoo_model.model)


def test_the_model_that_is_given_is_not_changed(raw_zoo_model):
    before = fingerprint(raw_zoo_model.model)
    canonicalize(raw_zoo_model.model)
    assert fingerprint(raw_zoo_model.model) == before


def test_no_batchnorm_and_no_padding_is_left_in_the_zoo(zoo_model):
    assert {"BatchNormalization", "Pad", "Identity", "Dropout", "Constant"} & set(kinds(zoo_model.model)) == set()


def test_convolutions_took_in_their_scales_and_shifts(efficientnet_lite0, ocr_det):
    assert kinds(efficientnet_lite0.model).count("Conv") == 49
    assert "Mul" not in kinds(efficientnet_lite0.model)
    for node in ocr_det.model.graph:
        if node.op_type == "Conv":
            users = [use.node for use in node.outputs[0].uses()]
            affine = [
                user
                for user in users
                if user.op_type in ("Add", "Mul") and any(constant(value) is not None for value in user.inputs)
            ]
            assert len(users) > 1 or not affine


def test_nodes_of_a_torch_model_know_their_source_line(digit_cnn):
    from exporter.graph.values import source_line

    for node in digit_cnn.model.graph:
        assert "model.py" in node.metadata_props["pkg.torch.onnx.stack_trace"]
        assert source_line(node)


def test_arithmetic_of_shapes_folds():
    model = graph(
        "s = Shape(x) n = Gather(s, zero) u = Unsqueeze(n, axes) c = Concat<axis=0>(u, rest) y = Reshape(x, c)",
        inputs="float[N,3,4] x",
        outputs="float[N,12] y",
        infer=False,
        zero=np.array(0),
        axes=np.array([0]),
        rest=np.array([-1]),
    )
    after = canonicalize(model, {"x": (2, 3, 4)})
    assert kinds(after) == ["Reshape"]
    assert tuple(after.graph.outputs[0].shape) == (2, 12)


def test_an_old_opset_is_brought_up():
    """Upsample left with opset 10; its scales became the third input of Resize, its grid is the asymmetric one."""
    model = graph(
        'y = Upsample<mode="nearest">(x, scales)',
        inputs="float[1,2,3,3] x",
        outputs="float[1,2,6,6] y",
        opset=9,
        infer=False,
        scales=np.array([1, 1, 2, 2], np.float32),
    )
    model.ir_version = 4
    after = canonicalize(model)
    assert kinds(after) == ["Resize"]
    x = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)
    np.testing.assert_array_equal(run(after, {"x": x})["y"], x.repeat(2, 2).repeat(2, 3))


def test_old_opsets_are_brought_up():
    model = graph("y = Add<broadcast=1>(x, c)", inputs="float[2,3,4] x", outputs="float[2,3,4] y", opset=6, infer=False, c=(4,))
    x = np.random.default_rng(3).normal(size=(2, 3, 4)).astype(np.float32)
    bias = model.graph.initializers["c"].const_value.numpy()
    np.testing.assert_allclose(run(canonicalize(model), {"x": x})["y"], x + bias, rtol=1e-6)


def test_an_operator_younger_than_the_canonical_opset_becomes_its_definition():
    model = graph(
        "y = RMSNormalization<axis=-1>(x, s)", inputs="float[2,3,4] x", outputs="float[2,3,4] y", opset=23, infer=False, s=(4,)
    )
    after = canonicalize(model)
    assert after.opset_imports[""] == 21
    assert "RMSNormalization" not in kinds(after)
    x = np.random.default_rng(3).normal(size=(2, 3, 4)).astype(np.float32)
    scale = model.graph.initializers["s"].const_value.numpy()
    expected = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(run(after, {"x": x})["y"], expected, rtol=1e-5)


def test_a_dtype_younger_than_the_canonical_opset_keeps_its_own():
    model = graph('y = BitShift<direction="LEFT">(x, x)', inputs="int32[2] x", outputs="int32[2] y", opset=28, infer=False)
    after = canonicalize(model)
    assert after.opset_imports[""] == 28
    assert kinds(after) == ["BitShift"]


def test_an_output_whose_size_depends_on_data_is_named():
    model = graph("n = NonZero(x) y = Cast<to=1>(n)", inputs="float[4] x", outputs="float[1,M] y", infer=False)
    with pytest.raises(ModelError, match="depends on data") as error:
        canonicalize(model)
    assert error.value.code == "EW-M006"
    assert "NonZero" in error.value.where


def test_an_operator_of_an_unknown_domain_is_named():
    model = graph("a = Relu(x) y = Relu(a)", inputs="float[4] x", outputs="float[4] y", infer=False)
    first = model.graph.node(0)
    first.domain, first.op_type = "com.example", "Warp"
    model.opset_imports["com.example"] = 1
    with pytest.raises(ModelError, match=r"com\.example\.Warp") as error:
        canonicalize(model)
    assert error.value.code == "EW-M009"


def test_a_graph_that_contradicts_itself_is_refused():
    model = graph("y = Add(x, w)", inputs="float[1,3,4] x", outputs="float[1,3,4] y", infer=False, w=(1, 3, 5))
    with pytest.raises(ModelError) as error:
        canonicalize(model)
    assert error.value.code == "EW-M007"


def test_nodes_without_names_get_the_same_unique_ones_each_time():
    body = "a = Relu(x) b = Relu(a) y = Add(a, b) dead = Neg(b)"
    first, second = (canonicalize(graph(body, inputs="float[4] x", outputs="float[4] y")) for _ in range(2))
    names = [node.name for node in first.graph]
    assert names == [node.name for node in second.graph] == ["Relu_0", "Relu_1", "Add_2"]


def broken_names(model):
    model.graph.node(1).name = model.graph.node(0).name


def broken_shape(model):
    model.graph.node(0).outputs[0].shape = ir.Shape([None])


def broken_dtype(model):
    model.graph.node(0).outputs[0].type = None


def broken_order(model):
    first = model.graph.node(0)
    model.graph.remove(first)
    model.graph.append(first)


def broken_opset(model):
    model.opset_imports[""] = 20


def broken_constant(model):
    node = ir.node("Constant", [], {"value": ir.tensor(np.zeros(2, np.float32))}, name="c")
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].dtype = "cv", ir.Shape([2]), ir.DataType.FLOAT
    model.graph.insert_before(model.graph.node(0), node)


@pytest.mark.parametrize("harm", [broken_names, broken_shape, broken_dtype, broken_order, broken_opset, broken_constant])
def test_the_checker_finds_it_and_names_the_stage(harm):
    model = canonicalize(graph("a = Relu(x) y = Neg(a)", inputs="float[2] x", outputs="float[2] y"))
    check(model, "before")
    harm(model)
    with pytest.raises(ModelError) as error:
        check(model, "the test")
    assert error.value.code == "EW-M007"
    assert "after the test" in error.value.where


def test_a_newer_opset_is_brought_down():
    model = graph(
        "y = AveragePool<kernel_shape=[2]>(x)", inputs="float[1,2,4] x", outputs="float[1,2,3] y", opset=22, infer=False
    )
    after = canonicalize(model)
    assert after.opset_imports[""] == 21
    assert kinds(after) == ["AveragePool"]


def test_functions_are_inlined():
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[N,3] x) => (float[N,3] y) { y = local.twice(x) } '
        '<domain: "local", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }'
    )
    after = canonicalize(ir.from_proto(onnx.parser.parse_model(text)))
    assert kinds(after) == ["Add"]
    assert dict(after.opset_imports) == {"": 21}
