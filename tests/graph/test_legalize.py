import collections

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.graph.legalize import legalize, unsupported
from exporter.graph.run import FloatRunner
from exporter.graph.values import FUSED, constant

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'


def parse(text):
    """A graph in ONNX's text form, with the shapes of all values."""
    import onnx

    model = onnx.parser.parse_model(f"{HEAD} {text}")
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))


def fill(model, **arrays):
    """Replace the values of initializers, which the text form can only spell out."""
    for name, array in arrays.items():
        model.graph.initializers[name].const_value = ir.tensor(np.asarray(array, np.float32), name=name)
    return model


def zeros(*shape):
    return "{" + ",".join(["0"] * int(np.prod(shape))) + "}"


def types(model):
    return [node.op_type for node in model.graph]


def assert_same(model, after, atol=1e-6):
    generator = np.random.default_rng(0)
    feed = {value.name: generator.normal(size=[*value.shape]).astype(np.float32) for value in model.graph.inputs}
    wanted, found = FloatRunner(model)(feed), FloatRunner(after)(feed)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=atol)


def legalized(model, runtime="tflite"):
    after = legalize(model, runtime)
    assert_same(model, after)
    return after


def network_1d():
    """Two convolutions over one axis with what usually stands between them, and a residual."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(4, 2, 3)), generator.normal(size=(4, 4, 3))
    model = parse(
        f"""net (float[1,2,16] x) => (float[1,4,8] y)
        <float[4,2,3] a = {zeros(4, 2, 3)}, float[4,4,3] b = {zeros(4, 4, 3)}>
        {{
            c = Conv<pads=[1,1]>(x, a)
            r = Relu(c)
            p = MaxPool<kernel_shape=[2], strides=[2]>(r)
            d = Conv<pads=[1,1]>(p, b)
            s = Add(d, p)
            y = Tanh(s)
        }}"""
    )
    return fill(model, a=first, b=second)


def test_a_network_over_one_axis_is_lifted_once_and_lowered_once():
    after = legalized(network_1d())
    assert types(after) == ["Unsqueeze", "Conv", "Relu", "MaxPool", "Conv", "Add", "Tanh", "Squeeze"]
    assert [node.op_type for node in after.graph if FUSED in node.metadata_props] == ["Relu"]
    assert types(legalized(network_1d(), "onnx")) == types(network_1d())


def test_the_model_that_is_given_stays_as_it_is():
    model = network_1d()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    legalize(model, "tflite")
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_names_are_unique_deterministic_and_kept_for_outputs_and_rewritten_values():
    first, second = legalize(network_1d(), "tflite"), legalize(network_1d(), "tflite")
    assert ir.to_proto(first).SerializeToString(deterministic=True) == ir.to_proto(second).SerializeToString(deterministic=True)
    values = [value.name for node in first.graph for value in node.outputs] + list(first.graph.initializers)
    names = [node.name for node in first.graph]
    assert len(set(values)) == len(values)
    assert all(values)
    assert [value.name for value in first.graph.outputs] == ["y"]
    assert [value.name for value in first.graph.inputs] == ["x"]
    assert not [name for name, count in collections.Counter(names).items() if name and count > 1]


def test_shapes_and_dtypes_are_on_every_value():
    after = legalize(network_1d(), "tflite")
    for node in after.graph:
        for value in node.outputs:
            assert value.dtype == ir.DataType.FLOAT
            assert all(isinstance(dim, int) for dim in value.shape)


def test_new_nodes_inherit_the_source_line():
    model = network_1d()
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.stack_trace"] = f"line of {node.op_type}"
    traces = {node.op_type: node.metadata_props["pkg.torch.onnx.stack_trace"] for node in legalize(model, "tflite").graph}
    assert traces["Conv"] == "line of Conv"
    assert traces["MaxPool"] == "line of MaxPool"
    assert all(traces.values())


def test_legalizing_twice_changes_nothing():
    once = legalize(network_1d(), "tflite")
    assert types(legalize(once, "tflite")) == types(once)
    assert [node.name for node in legalize(once, "tflite").graph] == [node.name for node in once.graph]


def test_transposes_in_a_row_are_one_or_none():
    model = parse(
        """g (float[1,2,3,4] x) => (float[1,2,3,4] y, float[2,1,3,4] z)
        { a = Transpose<perm=[0,2,3,1]>(x)  b = Transpose<perm=[0,3,1,2]>(a)  y = Relu(b)
          c = Transpose<perm=[0,2,3,1]>(x)  z = Transpose<perm=[3,0,1,2]>(c) }"""
    )
    after = legalized(model)
    assert types(after) == ["Relu", "Transpose"]
    assert tuple(next(iter(reversed(list(after.graph)))).attributes["perm"].as_ints()) == (1, 0, 2, 3)


def test_reshapes_in_a_row_are_one_or_none():
    model = parse(
        """g (float[2,12] x) => (float[2,12] y, float[6,4] z) <int64[3] s = {2,3,4}, int64[2] t = {2,12}, int64[2] u = {6,4}>
        { a = Reshape(x, s)  b = Reshape(a, t)  y = Relu(b)  c = Reshape(x, s)  z = Reshape(c, u) }"""
    )
    assert sorted(types(legalized(model))) == ["Relu", "Reshape"]


def test_an_output_that_is_an_input_keeps_both_names():
    model = parse("g (float[2,3] x) => (float[2,3] y) <int64[2] s = {2,3}> { y = Reshape(x, s) }")
    after = legalized(model)
    assert types(after) == ["Identity"]


def test_a_weight_and_a_bias_belong_to_one_node_each():
    model = fill(
        parse(
            f"""g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {zeros(2, 2)}, float[2] b = {zeros(2)}>
            {{ c = Conv(x, w, b)  d = Conv(c, w, b)  e = Conv(x, w)  y = Add(d, e) }}"""
        ),
        w=np.arange(4).reshape(2, 2, 1, 1),
        b=[1, 2],
    )
    after = legalized(model)
    convolutions = [node for node in after.graph if node.op_type == "Conv"]
    weights = [node.inputs[1] for node in convolutions]
    assert len({value.name for value in weights}) == 3
    assert all(len(value.uses()) == 1 for node in convolutions for value in node.inputs[1:])
    assert all((constant(value) == constant(weights[0])).all() for value in weights)
    assert set(after.graph.initializers) == {value.name for node in convolutions for value in node.inputs[1:]}


def test_a_bias_behind_a_convolution_moves_into_it():
    model = fill(
        parse(
            f"""g (float[1,2,4,4] x) => (float[1,3,4,4] y) <float[3,2,1,1] w = {zeros(3, 2)}, float[1,3,1,1] b = {zeros(3)}>
            {{ c = Conv(x, w)  y = Add(c, b) }}"""
        ),
        w=np.arange(6).reshape(3, 2, 1, 1),
        b=np.arange(3).reshape(1, 3, 1, 1),
    )
    assert types(legalized(model)) == ["Conv"]


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (1, 3, 4, 4), (4,)], ids=str)
def test_an_addend_that_varies_within_a_channel_stays(shape):
    size = int(np.prod(shape))
    dims = ",".join(map(str, shape))
    model = fill(
        parse(
            f"""g (float[1,2,4,4] x) => (float[1,3,4,4] y) <float[3,2,1,1] w = {zeros(3, 2)}, float[{dims}] b = {zeros(size)}>
            {{ c = Conv(x, w)  y = Add(c, b) }}"""
        ),
        w=np.arange(6).reshape(3, 2, 1, 1),
        b=np.arange(size).reshape(shape),
    )
    assert types(legalized(model)) == ["Conv", "Add"]


def test_all_reasons_are_collected_with_their_nodes():
    model = parse(
        """g (float[2,1,2,1,2,1] x, float[1,2,1,2,1,2] b) => (float[2,2,2,2,2,2] y, float[2,1,2,1,2,1] z)
        { y = Add(x, b)  z = RandomNormalLike(x) }"""
    )
    found = unsupported(legalize(model, "tflite"), "lower")
    assert [refused.node.op_type for refused in found] == ["Add", "RandomNormalLike"]
    assert found[0].reason == "Add: Inputs that are broadcast have at most 5 axes."
    assert found[1].reason.startswith("RandomNormalLike ")
    assert [refused.node.op_type for refused in unsupported(model, "quantize")] == ["RandomNormalLike"]


def test_unknown_facets_and_runtimes_are_errors_of_the_caller():
    with pytest.raises(ValueError, match="not a facet"):
        unsupported(network_1d(), "colour")
    with pytest.raises(ValueError, match="neither"):
        legalize(network_1d(), "coreml")


def test_legalizing_the_zoo_keeps_its_outputs(zoo_model):
    after = legalize(zoo_model.model, "tflite")
    assert unsupported(after, "lower") == []
    assert unsupported(after, "quantize") == []
    assert_same(zoo_model.model, after, atol=1e-4)


# --- slices of slices -------------------------------------------------------------------------------------------------


@st.composite
def slices(draw):
    """Cuts (axis, start, end, step) of [2, 7, 8], one behind the other, that all leave something."""
    lengths, cuts = {1: 7, 2: 8}, []
    for _ in range(draw(st.integers(2, 3))):
        axis, step = draw(st.sampled_from([1, 2])), draw(st.sampled_from([-3, -1, 1, 2, 3]))
        length = lengths[axis]
        start = draw(st.integers(0, length - 1))
        end = draw(st.integers(start + 1, length + 2) if step > 0 else st.integers(-length - 2, start - length - 1))
        cuts.append((axis, draw(st.sampled_from([start, start - length])), end, step))
        lengths[axis] = len(range(length)[slice(start, end, step)])
    return cuts


@settings(max_examples=60, deadline=None)
@given(slices())
def test_slices_in_a_row_are_one(cuts):
    x = np.arange(2 * 7 * 8).reshape(2, 7, 8)
    wanted, lines, name = x, [], "x"
    for number, (axis, start, end, step) in enumerate(cuts):
        wanted = wanted[(slice(None),) * axis + (slice(start, end, step),)]
        constants = ", ".join(
            f"int64[1] {letter}{number} = {{{entry}}}" for letter, entry in zip("abcd", (start, end, axis, step), strict=True)
        )
        lines.append((constants, f"y{number} = Slice({name}, a{number}, b{number}, c{number}, d{number})"))
        name = f"y{number}"
    model = parse(
        f"net (float[2,7,8] x) => (float[{','.join(map(str, wanted.shape))}] z) <{', '.join(line for line, _ in lines)}>"
        f"{{ {' '.join(line for _, line in lines)} z = Neg({name}) }}"
    )
    after = legalized(model)
    assert types(after).count("Slice") == 1
    (found,) = FloatRunner(after)({"x": x.astype(np.float32)}).values()
    np.testing.assert_array_equal(-found, wanted)
