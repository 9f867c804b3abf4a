"""Whole .tflite files: from the zoo and back, damaged ones, and those that cannot be taken."""

import contextlib
from types import SimpleNamespace

import flatbuffers
import numpy as np
import onnx_ir as ir
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from tflite_bench import File, both, read, sample_of, single

from diagnostics import EdgewrightError
from exporter import convert
from exporter.converting import random_sample
from exporter.frontends import load
from exporter.frontends.tflite.sparse import densify
from exporter.graph.artifacts import read_tflite
from exporter.graph.run import FloatRunner
from tests.conftest import zoo_source
from tools import zoo

WEIGHT = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
POOL = {"filterHeight": 2, "filterWidth": 2, "strideH": 2, "strideW": 2}


def network(weight=WEIGHT) -> bytes:
    """CONV_2D with RELU, MAX_POOL_2D, RESHAPE, FULLY_CONNECTED."""
    file = File()
    x, conv, pooled = file.tensor("image", (1, 8, 8, 3)), file.tensor("conv", (1, 8, 8, 4)), file.tensor("pool", (1, 4, 4, 4))
    flat, y = file.tensor("flat", (1, 64)), file.tensor("scores", (1, 5))
    bias = file.constant(np.ones(4, np.float32))
    file.operator("CONV_2D", [x, file.constant(weight), bias], [conv], "Conv2D", strideH=1, strideW=1, fusedActivationFunction=1)
    file.operator("MAX_POOL_2D", [conv], [pooled], "Pool2D", **POOL)
    file.operator("RESHAPE", [pooled, file.constant(np.int32([1, 64]))], [flat])
    file.operator("FULLY_CONNECTED", [flat, file.constant(np.ones((5, 64), np.float32)), -1], [y], "FullyConnected")
    return file.finish([x], [y])


def refusal(folder, content, **options) -> EdgewrightError:
    (folder / "bad.tflite").write_bytes(content)
    with pytest.raises(EdgewrightError) as error:
        load(folder / "bad.tflite", **options)
    return error.value


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_network_is_read_channels_first_and_keeps_its_interface(tmp_path):
    source = read(tmp_path, network())
    assert [node.op_type for node in source.model.graph] == [
        *("Transpose", "Conv", "Relu", "MaxPool", "Transpose", "Reshape", "Gemm")
    ]
    assert [(entry.name, entry.shape) for entry in (*source.inputs, *source.outputs)] == [
        ("image", (1, 8, 8, 3)),
        ("scores", (1, 5)),
    ]
    assert source.kind == "tflite"
    values = {value.name: tuple(value.shape) for node in source.model.graph for value in node.outputs}
    assert values["pool"] == (1, 4, 4, 4)
    sample = sample_of(source)
    np.testing.assert_array_equal(source.reference(sample)["scores"], both(tmp_path, source, sample)[0][0])


def test_what_comes_in_as_tflite_goes_out_as_it_was(tmp_path):
    """The same operators in the same order, no TRANSPOSE, and the very same numbers."""
    (tmp_path / "in.tflite").write_bytes(network())
    done = convert(tmp_path / "in.tflite", tmp_path / "out.tflite")
    assert [kind for kind, _ in done.operators] == ["CONV_2D", "MAX_POOL_2D", "RESHAPE", "FULLY_CONNECTED"]
    assert done.sqnr_db is None


def test_face_mesh_goes_through_unchanged(tmp_path):
    done = convert("tools.zoo:facemesh", tmp_path / "out.tflite")
    before = read_tflite(zoo.facemesh()["model"].read_bytes())
    after = read_tflite(done.path.read_bytes())
    kinds = {kind: count for (kind, _), count in before.operators.items()}
    kinds["MAX_POOL_2D"] -= 1  # the file pools one tensor twice
    assert {kind: count for (kind, _), count in after.operators.items()} == kinds
    assert after.inputs == before.inputs
    assert after.outputs == before.outputs
    assert done.sqnr_db is None


def test_half_precision_weights_are_widened(tmp_path):
    convert("tools.zoo:digit_cnn", tmp_path / "half.tflite", precision="float16")
    assert "DEQUANTIZE" in {kind for kind, _ in read_tflite((tmp_path / "half.tflite").read_bytes()).operators}
    source = load(tmp_path / "half.tflite")
    assert {node.op_type for node in source.model.graph} == {"Transpose", "Conv", "Relu", "MaxPool", "Reshape", "Gemm"}
    whole = {"".join(map(str, array.shape)): array for array in weights(zoo_source("digit_cnn"))}
    for array in weights(source):
        np.testing.assert_array_equal(array, whole["".join(map(str, array.shape))].astype(np.float16).astype(np.float32))
    sample = random_sample(source)
    (name,) = (entry.name for entry in source.outputs)
    np.testing.assert_allclose(FloatRunner(source.model)(sample)[name], source.reference(sample)[name], rtol=1e-4, atol=1e-5)


def weights(source):
    return [node.inputs[1].const_value.numpy() for node in source.model.graph if node.op_type == "Conv"]


@pytest.mark.slow
def test_face_mesh_trained_again_in_half_precision_finds_the_same_face(tmp_path):
    """Two trainings of one architecture: their 468 points of a face differ by a few pixels of 192."""
    skimage = pytest.importorskip("skimage.data")
    from PIL import Image

    photo = Image.fromarray(skimage.astronaut()[0:220, 120:320]).resize((192, 192))
    points = []
    for name in ("facemesh", "facemesh_half"):
        source = load(f"tools.zoo:{name}")
        assert convert(source, tmp_path / f"{name}.tflite").sqnr_db is None
        sample = {source.inputs[0].name: np.asarray(photo, np.float32)[None] / 255}
        points.append(FloatRunner(source.model)(sample)[source.outputs[0].name].reshape(468, 3)[:, :2])
    assert np.abs(points[0] - points[1]).mean() < 3.0


def test_the_twins_of_basic_pitch_compute_the_same(tmp_path):
    found = []
    for name in ("basic_pitch", "basic_pitch_tflite"):
        done = load(convert(f"tools.zoo:{name}", tmp_path / f"{name}.tflite").path)
        found.append(done.reference(random_sample(done)))
    assert set(found[0]) == set(found[1])
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name])


def test_sparse_weights_are_read(tmp_path):
    """DENSIFY with blocks, float16, and symbolic orders of axes: a detector whose convolutions are pruned."""
    path = zoo.facemesh()["model"].with_name("face_detection_full_range_sparse.tflite")
    assert "DENSIFY" in {kind for kind, _ in read_tflite(path.read_bytes()).operators}
    assert convert(path, tmp_path / "out.tflite").sqnr_db is None


def test_integers_come_in_as_integers(tmp_path):
    """QuantizeLinear and DequantizeLinear around every encoded tensor give what the integer kernels give."""
    generator = np.random.default_rng(3)
    file = File()
    x = file.tensor("x", (1, 8, 8, 3), "int8", scale=[0.05], zero_point=[3])
    scales = np.float32([0.01, 0.02, 0.015, 0.03])
    weight = file.tensor("w", (4, 3, 3, 3), "int8", generator.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), scale=scales)
    bias = file.tensor("b", (4,), "int32", generator.integers(-900, 900, 4).astype(np.int32), scale=scales * np.float32(0.05))
    y = file.tensor("y", (1, 8, 8, 4), "int8", scale=[0.1], zero_point=[-20])
    file.operator("CONV_2D", [x, weight, bias], [y], "Conv2D", version=3, strideH=1, strideW=1, fusedActivationFunction=1)
    source = read(tmp_path, file.finish([x], [y]))
    assert [entry.dtype for entry in (*source.inputs, *source.outputs)] == ["int8", "int8"]
    sample = sample_of(source, -128, 128)
    # Not onnxruntime: without VNNI, its integer kernels saturate sums of two products of large weights.
    (found,) = ReferenceEvaluator(ir.to_proto(source.model)).run(None, sample)
    wanted = source.reference(sample)["y"]
    assert wanted.dtype == found.dtype == np.int8
    assert np.abs(wanted.astype(int) - found).max() <= 1
    assert (wanted == found).mean() > 0.99


def test_four_bit_weights_are_unpacked(tmp_path):
    """Two in a byte, the lower half first."""
    file = File()
    x, y = file.tensor("x", (1, 3)), file.tensor("y", (1, 1))
    weight = file.tensor("w", (1, 3), "int4", np.uint8([0x8F, 0x07]), scale=[0.5])
    file.operator("FULLY_CONNECTED", [x, weight, -1], [y], "FullyConnected")
    source = read(tmp_path, file.finish([x], [y]))
    np.testing.assert_array_equal(FloatRunner(source.model)({"x": np.float32([[1, 10, 100]])})["y"], [[-0.5 - 40 + 350]])


def test_a_tensor_may_have_no_name_or_another_ones(tmp_path):
    file = File()
    tensors = [file.tensor(name, (2, 3)) for name in ("", "t", "t", "t")]
    file.operator("ABS", [tensors[0]], [tensors[1]])
    file.operator("NEG", [tensors[1]], [tensors[2]])
    file.operator("EXP", [tensors[2]], [tensors[3]])
    source = read(tmp_path, file.finish(tensors[:1], [tensors[1], tensors[3]]))
    assert [entry.name for entry in (*source.inputs, *source.outputs)] == ["0:", "1:t", "3:t"]
    x = np.float32([[1, -2, 0], [3, 0, -1]])
    np.testing.assert_allclose(source.reference({"0:": x})["3:t"], np.exp(-np.abs(x)), rtol=1e-6)


def test_an_output_may_be_an_input_or_stand_twice(tmp_path):
    file = File()
    x, y = file.tensor("x", (2, 3)), file.tensor("y", (2, 3))
    file.operator("NEG", [x], [y])
    source = read(tmp_path, file.finish([x], [y, x, y]))
    array = np.float32([[1, -2, 0], [3, 0, -1]])
    assert [entry.name for entry in source.outputs] == ["y", "x_output"]
    for found in (FloatRunner(source.model)({"x": array}), source.reference({"x": array})):
        np.testing.assert_array_equal(found["x_output"], array)
        np.testing.assert_array_equal(found["y"], -array)


def test_a_constant_without_elements_is_known(tmp_path):
    """Its buffer is as empty as that of an activation, but nothing writes it."""
    file = File()
    x, none, y = file.tensor("x", (2, 0)), file.tensor("none", (2, 0)), file.tensor("y", (2, 0))
    file.operator("CONCATENATION", [x, none], [y], "Concatenation", axis=1)
    source = read(tmp_path, file.finish([x], [y]))
    assert source.reference({"x": np.zeros((2, 0), np.float32)})["y"].shape == (2, 0)


def test_shapes_are_those_of_the_file(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(network())
    assert load(path, shapes={"image": (1, 8, 8, 3)}).inputs[0].shape == (1, 8, 8, 3)
    assert refusal(tmp_path, network(), shapes={"image": (2, 8, 8, 3)}).code == "EW-M011"
    assert refusal(tmp_path, network(), shapes={"picture": (1, 8, 8, 3)}).code == "EW-M011"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_every_custom_operator_is_named(tmp_path):
    file = File()
    x, y, z = (file.tensor(name, (1, 4)) for name in "xyz")
    file.operator("CUSTOM", [x], [y], custom="Mine")
    file.operator("CUSTOM", [y], [z], custom="Yours")
    error = refusal(tmp_path, file.finish([x], [z]))
    assert error.code == "EW-M009"
    assert {"CUSTOM:Mine", "CUSTOM:Yours"} <= set(error.what.replace(",", "").split())


def test_state_is_refused_by_name(tmp_path):
    file = File()
    x, y = file.tensor("x", (1, 4)), file.tensor("y", (1, 4))
    handle = file.tensor("handle", (), "resource")
    file.operator("VAR_HANDLE", [], [handle], "VarHandle")
    file.operator("READ_VARIABLE", [handle], [y])
    error = refusal(tmp_path, file.finish([x], [y]))
    assert error.code == "EW-M009"
    assert "VAR_HANDLE keeps state" in error.why
    assert "READ_VARIABLE keeps state" in error.why


def test_a_variable_tensor_is_state(tmp_path):
    file = File()
    x, state, y = file.tensor("x", (1, 4)), file.tensor("state", (1, 4), isVariable=True), file.tensor("y", (1, 4))
    file.operator("ADD", [x, state], [y], "Add")
    error = refusal(tmp_path, file.finish([x], [y]))
    assert error.code == "EW-M009"
    assert "ADD keeps state" in error.why


def test_a_parameter_that_is_computed_is_refused_with_its_place(tmp_path):
    error = refusal(tmp_path, single("TILE", [(2, 3), ((2,), "int32")], [(4, 3)]))
    assert error.code == "EW-M009"
    assert "x1" in error.why
    assert "y0" in error.where


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path, bad):
    weight = WEIGHT.copy()
    weight[2, 1, 0, 0] = bad
    error = refusal(tmp_path, network(weight))
    assert error.code == "EW-M005"
    assert "constant_6" in error.what


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"\x1c\0\0\0TFL3" + b"\xff" * 64, bytes(range(256))])
def test_garbage_is_no_model(tmp_path, content):
    assert refusal(tmp_path, content).code == "EW-M002"


def damaged(change) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(network(), 0)
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    "change",
    [
        lambda model, graph: setattr(graph.operators[0], "opcodeIndex", 99),
        lambda model, graph: setattr(graph.operators[0], "inputs", [0, 1, 400]),
        lambda model, graph: setattr(graph.operators[0], "inputs", [0, -2]),
        lambda model, graph: setattr(graph.operators[0], "inputs", [4]),
        lambda model, graph: setattr(graph.operators[0], "outputs", [0]),
        lambda model, graph: setattr(graph.operators[3], "outputs", [1]),
        lambda model, graph: setattr(graph, "outputs", [-1]),
        lambda model, graph: setattr(graph, "outputs", []),
        lambda model, graph: setattr(graph, "inputs", [0, 0]),
        lambda model, graph: setattr(graph, "operators", []),
        lambda model, graph: setattr(graph.tensors[5], "shape", [4, 3, 3, 4]),
        lambda model, graph: setattr(graph.tensors[5], "shape", [-4, 3, 3, 3]),
        lambda model, graph: setattr(graph.tensors[5], "shape", [65536, 65536, 65536, 3]),
        lambda model, graph: setattr(graph.tensors[5], "shape", [1] * 12),
        lambda model, graph: setattr(graph.tensors[5], "buffer", 1000),
        lambda model, graph: setattr(graph.tensors[5], "type", 99),
        lambda model, graph: setattr(model.buffers[graph.tensors[5].buffer], "data", np.zeros(7, np.uint8)),
        lambda model, graph: setattr(model, "subgraphs", []),
        lambda model, graph: setattr(model, "operatorCodes", []),
    ],
    ids=lambda change: "",
)
def test_a_file_that_contradicts_itself(tmp_path, change):
    assert refusal(tmp_path, damaged(change)).code == "EW-M002"


@settings(max_examples=300, deadline=None)
@given(kept=st.floats(0, 0.999), flipped=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), min_size=1, max_size=3))
def test_a_damaged_file_gives_one_clear_error_or_a_model(tmp_path_factory, kept, flipped):
    """Truncated anywhere, or with bits wrong, `load` never fails with anything but its own errors."""
    whole = network()
    harmed = bytearray(whole)
    for place, bit in flipped:
        harmed[int(place * len(whole))] ^= 1 << bit
    folder = tmp_path_factory.mktemp("damaged")
    for content in (whole[: int(kept * len(whole))], bytes(harmed)):
        with contextlib.suppress(EdgewrightError):
            read(folder, content)


# --- sparse storage ---------------------------------------------------------------------------------------------------


@st.composite
def stored(draw):
    """A random array with zeros, and the same stored sparsely: axes in any order, dense or compressed, the last one perhaps in blocks."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    block = draw(st.sampled_from([size for size in (1, 2) if shape[-1] % size == 0]))
    order = draw(st.permutations(range(len(shape))))
    array = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    array *= np.asarray(draw(st.lists(st.booleans(), min_size=array.size, max_size=array.size))).reshape(shape)
    spread = array.reshape(*shape[:-1], shape[-1] // block, block).transpose(*order, len(shape))
    levels, values = compress(spread, [draw(st.booleans()) for _ in shape])
    levels.append(SimpleNamespace(format=0, denseSize=block))
    sparsity = SimpleNamespace(traversalOrder=[*order, len(shape)], blockMap=[len(shape) - 1], dimMetadata=levels)
    return array, values, sparsity


def compress(spread, dense):
    """Levels of all axes but the last, each dense or compressed, and the stored values: blocks along the last axis."""
    levels, nodes = [], [()]
    for axis, whole in enumerate(dense):
        kept = [[index for index in range(spread.shape[axis]) if whole or spread[(*node, index)].any()] for node in nodes]
        if whole:
            levels.append(SimpleNamespace(format=0, denseSize=spread.shape[axis]))
        else:
            segments = np.cumsum([0, *map(len, kept)])
            indices = [index for entry in kept for index in entry]
            vectors = [SimpleNamespace(values=vector) for vector in (segments, indices)]
            levels.append(SimpleNamespace(format=1, denseSize=0, arraySegments=vectors[0], arrayIndices=vectors[1]))
        nodes = [(*node, index) for node, entry in zip(nodes, kept, strict=True) for index in entry]
    return levels, np.asarray([spread[node] for node in nodes], np.float32).reshape(-1)


@settings(max_examples=100, deadline=None)
@given(stored())
def test_sparse_storage_is_made_dense(case):
    array, values, sparsity = case
    np.testing.assert_array_equal(densify(values, array.shape, sparsity), array)


@settings(max_examples=50, deadline=None)
@given(stored())
def test_sparse_storage_that_lacks_a_value_is_refused(case):
    array, values, sparsity = case
    with pytest.raises(ValueError, match="holds"):
        densify(np.append(values, np.float32(1)), array.shape, sparsity)
