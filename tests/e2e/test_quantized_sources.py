"""Models that come quantized stay so: QDQ and QLinear operators to TFLite and ONNX, .tflite read and written again, on the command line."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration import open_samples
from diagnostics import TargetError
from exporter import convert, load
from exporter.cli.main import main
from exporter.graph.artifacts import read_onnx, read_tflite
from exporter.runtimes import open_session

RANDOM = np.random.default_rng(0)


def save(path, nodes, inputs, outputs, constants, opset=21, tensors=()):
    """An ONNX file: inputs and outputs are (name, dtype, shape), constants arrays by name."""
    info = [[helper.make_tensor_value_info(*entry) for entry in entries] for entries in (inputs, outputs)]
    tensors = [*tensors, *(numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items())]
    graph = helper.make_graph(nodes, "quantized", *info, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def pair(value, scale, point, dtype, constants):
    """QuantizeLinear and DequantizeLinear of a value; the name of what comes out."""
    constants |= {f"{value}_s": np.float32(scale), f"{value}_z": dtype(point)}
    parameters = [f"{value}_s", f"{value}_z"]
    return [
        helper.make_node("QuantizeLinear", [value, *parameters], [f"{value}_q"]),
        helper.make_node("DequantizeLinear", [f"{value}_q", *parameters], [f"{value}_d"]),
    ]


def qdq_network(path, dtype=np.int8, per_channel=True):
    """x -> Conv -> Relu -> MaxPool -> Add(Conv) -> Flatten -> Gemm -> y, all of it in pairs."""
    c, zero = {}, 0 if dtype is np.int8 else 128
    weights = {"w1": (8, 3, 3, 3), "w2": (8, 8, 1, 1), "w3": (10, 8 * 4 * 4)}
    scales_in = {"w1": 0.03, "w2": 0.02, "w3": 0.05}
    nodes = pair("x", 0.03, zero + 5, dtype, c)
    for index, (name, shape) in enumerate(weights.items(), 1):
        count = shape[0] if per_channel else 1
        scale = RANDOM.uniform(0.001, 0.01, count).astype(np.float32)
        c |= {f"{name}_q": RANDOM.integers(-127, 128, shape).astype(np.int8), f"{name}_s": scale if per_channel else scale[0]}
        c |= {f"{name}_z": np.zeros(count, np.int8) if per_channel else np.int8(0)}
        axis = {"axis": 0} if per_channel else {}
        c |= {f"b{index}_q": RANDOM.integers(-3000, 3000, shape[0]).astype(np.int32)}
        c |= {f"b{index}_s": (scale if per_channel else scale[0]) * np.float32(scales_in[name])}
        nodes += [
            helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [name], **axis),
            helper.make_node("DequantizeLinear", [f"b{index}_q", f"b{index}_s"], [f"b{index}"], **axis),
        ]
    nodes += [
        helper.make_node("Conv", ["x_d", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        *pair("r1", 0.02, zero - 128, dtype, c),
        helper.make_node("MaxPool", ["r1_d"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        *pair("p1", 0.02, zero - 128, dtype, c),
        helper.make_node("Conv", ["p1_d", "w2", "b2"], ["c2"]),
        *pair("c2", 0.04, zero + 3, dtype, c),
        helper.make_node("Add", ["p1_d", "c2_d"], ["a"]),
        *pair("a", 0.05, zero - 20, dtype, c),
        helper.make_node("Flatten", ["a_d"], ["f"]),
        *pair("f", 0.05, zero - 20, dtype, c),
        helper.make_node("Gemm", ["f_d", "w3", "b3"], ["g"], transB=1),
        *pair("g", 0.3, zero + 1, dtype, c),
        helper.make_node("Identity", ["g_d"], ["y"]),
    ]
    return save(path, nodes, [("x", TensorProto.FLOAT, [1, 3, 8, 8])], [("y", TensorProto.FLOAT, [1, 10])], c)


@pytest.fixture
def run(capsys):
    """A command's ``--json``; it must end well."""

    def call(*arguments):
        status = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert status == 0, captured.out + captured.err
        return json.loads(captured.out)

    return call


def stored(path, name):
    """Integers of the constants of a .tflite file, in no order: what was stored, whatever its layout."""
    from exporter.frontends.tflite.file import parse

    return [np.sort(t.data, axis=None) for t in parse(path.read_bytes()).tensors if t.data is not None and t.dtype == name]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_qdq_comes_in_and_stays_quantized(run, tmp_path, dtype, per_channel):
    model = qdq_network(tmp_path / "model.onnx", dtype, per_channel)
    done = run("convert", model, tmp_path / "model.tflite")
    assert done["steps"] <= 1
    assert done["notes"] == ["the model came quantized and stays so: its own encodings, nothing calibrated"]
    operators = [name for name, _ in done["operators"]]
    assert sorted(set(operators)) == [
        "ADD",
        "CONV_2D",
        "DEQUANTIZE",
        "FULLY_CONNECTED",
        "MAX_POOL_2D",
        "QUANTIZE",
        "RESHAPE",
        "TRANSPOSE",
    ]
    assert operators.count("QUANTIZE") == operators.count("DEQUANTIZE") == 1


def test_weights_and_biases_are_stored_as_they_came(tmp_path):
    model = qdq_network(tmp_path / "model.onnx")
    convert(model, tmp_path / "model.tflite")
    given = {t.name: numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    for dtype, names in (("int8", ("w1_q", "w2_q", "w3_q")), ("int32", ("b1_q", "b2_q", "b3_q"))):
        found = stored(tmp_path / "model.tflite", dtype)
        for name in names:
            wanted = np.sort(given[name], axis=None)
            assert any(array.shape == wanted.shape and np.array_equal(array, wanted) for array in found), name


def test_a_quantized_tflite_file_is_written_again_bit_for_bit(run, tmp_path):
    first, second = tmp_path / "first.tflite", tmp_path / "second.tflite"
    convert(qdq_network(tmp_path / "model.onnx"), first)
    done = run("convert", first, second)
    assert done["steps"] == 0
    samples = [RANDOM.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    with open_session("litert-ref", first) as one, open_session("litert-ref", second) as other:
        for sample in samples:
            np.testing.assert_array_equal(one.run({"x": sample})["y"], other.run({"x": sample})["y"])
    operators = [sorted(node.op_type for node in read_tflite(path.read_bytes()).nodes) for path in (first, second)]
    assert operators[0] == operators[1]


def test_activations_of_16_bits_are_written_again_bit_for_bit(run, tmp_path):
    first, second = tmp_path / "first.tflite", tmp_path / "second.tflite"
    c = {"w": RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32), "b": RANDOM.normal(size=4).astype(np.float32)}
    c |= {"v": RANDOM.normal(size=(4, 5)).astype(np.float32), "axes": np.asarray([2, 3])}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["r"])]
    nodes += [helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[6, 6]), helper.make_node("Squeeze", ["p", "axes"], ["s"])]
    nodes += [helper.make_node("MatMul", ["s", "v"], ["y"])]
    model = save(tmp_path / "m.onnx", nodes, [("x", TensorProto.FLOAT, [1, 3, 6, 6])], [("y", TensorProto.FLOAT, [1, 5])], c)
    samples = [RANDOM.normal(size=(1, 3, 6, 6)).astype(np.float32) for _ in range(4)]
    convert(model, first, precision="int16x8", calibration=[{"x": sample} for sample in samples])
    assert run("convert", first, second)["steps"] == 0
    assert {tensor.dtype for tensor in read_tflite(second.read_bytes()).tensors} >= {"int16", "int64"}
    with open_session("litert-ref", first) as one, open_session("litert-ref", second) as other:
        for sample in samples:
            np.testing.assert_array_equal(one.run({"x": sample})["y"], other.run({"x": sample})["y"])


def test_qdq_to_qdq_keeps_every_number(run, tmp_path):
    model = qdq_network(tmp_path / "model.onnx", np.uint8)
    done = run("convert", model, tmp_path / "again.onnx")
    assert done["steps"] == 0
    names = {node.op_type for node in read_onnx(tmp_path / "again.onnx").nodes}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv", "Gemm"} <= names


def test_our_own_onnx_becomes_the_tflite_of_the_same_plan(run, tmp_path):
    model = qdq_network(tmp_path / "model.onnx", np.uint8)
    run("convert", model, tmp_path / "direct.tflite")
    run("convert", model, tmp_path / "again.onnx")
    run("convert", tmp_path / "again.onnx", tmp_path / "by_onnx.tflite")
    with (
        open_session("litert-ref", tmp_path / "direct.tflite") as one,
        open_session("litert-ref", tmp_path / "by_onnx.tflite") as other,
    ):
        for _ in range(4):
            sample = RANDOM.normal(size=(1, 3, 8, 8)).astype(np.float32)
            np.testing.assert_array_equal(one.run({"x": sample})["y"], other.run({"x": sample})["y"])


@pytest.mark.parametrize(("dtype", "block"), [(TensorProto.INT8, 0), (TensorProto.INT8, 4), (TensorProto.INT4, 4)])
def test_weights_alone_in_integers_are_the_numbers_that_they_stand_for(run, tmp_path, dtype, block):
    shape = (2, 5) if block else (5,)
    c = {"s": RANDOM.uniform(0.01, 0.1, shape).astype(np.float32)}
    weight = helper.make_tensor("w_q", dtype, [8, 5], RANDOM.integers(-8, 8, 40))
    attributes = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [
        helper.make_node("DequantizeLinear", ["w_q", "s"], ["w"], **attributes),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = save(
        tmp_path / "m.onnx", nodes, [("x", TensorProto.FLOAT, [3, 8])], [("y", TensorProto.FLOAT, [3, 5])], c, tensors=[weight]
    )
    done = run("convert", model, tmp_path / "m.tflite")
    assert done["steps"] is None  # nothing was rounded: float, and exact
    assert done["sqnr_db"] is None or float(done["sqnr_db"]) > 120


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_an_average_between_pairs(run, tmp_path, suffix):
    c = {}
    nodes = [
        *pair("x", 0.03, 5, np.int8, c),
        helper.make_node("AveragePool", ["x_d"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    nodes += [*pair("a", 0.03, 5, np.int8, c), helper.make_node("Identity", ["a_d"], ["y"])]
    model = save(
        tmp_path / "m.onnx", nodes, [("x", TensorProto.FLOAT, [1, 3, 8, 8])], [("y", TensorProto.FLOAT, [1, 3, 4, 4])], c
    )
    done = run("convert", model, tmp_path / f"again.{suffix}")
    assert done["steps"] <= 1
    assert len(done["notes"]) == 1


def qlinear_network(path, weight_point=0):
    """Integers in, QLinearConv, MaxPool of integers, integers out."""
    c = {"x_s": np.float32(0.02), "x_z": np.uint8(120), "w_s": np.float32(0.01), "w_z": np.int8(weight_point)}
    c |= {"y_s": np.float32(0.05), "y_z": np.uint8(100), "w": RANDOM.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)}
    c |= {"b": RANDOM.integers(-2000, 2000, 4).astype(np.int32)}
    nodes = [
        helper.make_node("QLinearConv", ["x", "x_s", "x_z", "w", "w_s", "w_z", "y_s", "y_z", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["c"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    return save(path, nodes, [("x", TensorProto.UINT8, [1, 3, 8, 8])], [("y", TensorProto.UINT8, [1, 4, 4, 4])], c)


def test_qlinear_operators_take_and_give_the_sources_own_integers(run, tmp_path):
    model = qlinear_network(tmp_path / "model.onnx")
    done = run("convert", model, tmp_path / "model.tflite")
    assert done["steps"] <= 1
    facts = read_tflite((tmp_path / "model.tflite").read_bytes())
    assert {facts.tensor("x").dtype, facts.tensor("y").dtype} == {"uint8"}
    assert (facts.tensor("x").zero_point, facts.tensor("y").zero_point) == ((120,), (100,))
    assert {"CONV_2D", "MAX_POOL_2D"} <= {node.op_type for node in facts.nodes}
    assert "DEQUANTIZE" not in {node.op_type for node in facts.nodes}


def test_integers_at_the_boundary_are_proved_as_integers(run, tmp_path):
    model, out = qlinear_network(tmp_path / "model.onnx"), tmp_path / "bundles"
    np.save(tmp_path / "x.npy", RANDOM.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8))
    data = ["--target", "android-arm64-cpu", "--target", "x86-64-cpu", "--test", tmp_path / "x.npy", "--out", out]
    for outcome in run("export", model, *data)["bundles"]:
        assert outcome["passed"]
        assert all(float(entry["outputs"]["y"]["max_abs"]) <= 1 for entry in outcome["runtimes"].values())
    assert (
        float(
            run("verify", out / "x86-64-cpu", "--against", model, "--data", tmp_path / "x.npy")["runtimes"]["onnxruntime"][
                "outputs"
            ]["y"]["max_abs"]
        )
        <= 1
    )


def test_a_weight_with_a_zero_point_keeps_its_node_in_float_and_it_is_said(run, tmp_path):
    c = {"x_s": np.float32(0.02), "x_z": np.uint8(120), "w_q": RANDOM.integers(0, 256, (4, 3, 1, 1)).astype(np.uint8)}
    c |= {"w_s": np.float32(0.01), "w_z": np.uint8(130), "y_s": np.float32(0.05), "y_z": np.uint8(100)}
    c |= {"v_q": RANDOM.integers(-127, 128, (4, 4, 1, 1)).astype(np.int8), "v_s": np.float32(0.01), "v_z": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_s", "x_z"], ["x_d"]),
        helper.make_node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"]),
        helper.make_node("DequantizeLinear", ["v_q", "v_s", "v_z"], ["v"]),
        helper.make_node("Conv", ["x_d", "w"], ["c"], name="asymmetric"),
        helper.make_node("QuantizeLinear", ["c", "y_s", "y_z"], ["c_q"]),
        helper.make_node("DequantizeLinear", ["c_q", "y_s", "y_z"], ["c_d"]),
        helper.make_node("Conv", ["c_d", "v"], ["e"], name="symmetric"),
        helper.make_node("QuantizeLinear", ["e", "y_s", "y_z"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "y_s", "y_z"], ["y"]),
    ]
    model = save(
        tmp_path / "m.onnx", nodes, [("x", TensorProto.FLOAT, [1, 3, 4, 4])], [("y", TensorProto.FLOAT, [1, 4, 4, 4])], c
    )
    done = run("convert", model, tmp_path / "m.tflite")
    assert done["steps"] <= 1
    assert "asymmetric" in done["notes"][1]
    assert "zero point" in done["notes"][1]
    assert "symmetric: the source" not in done["notes"][1].replace("asymmetric", "")


def test_a_microcontroller_computes_the_source_as_the_reference_kernels_do(tmp_path):
    from exporter.pipeline import build
    from exporter.verification.prove import prove
    from targets.loader import load_target

    source = load(qdq_network(tmp_path / "model.onnx"))
    built = build(source, load_target("cortex-m7"), None)
    assert "FULLY_CONNECTED" not in dict(built.artifact.operators)
    built.artifact.write(tmp_path / "model.tflite")
    given = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    wanted = np.sort(given["w3_q"], axis=None)
    assert any(np.array_equal(array, wanted) for array in stored(tmp_path / "model.tflite", "int8"))
    samples = open_samples([{"x": RANDOM.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(8)], source.inputs)
    evidence = prove(built, samples)
    assert evidence.kernels == ()
    assert evidence.deciding.worst("sqnr_db")[1] > 40


def test_a_device_without_float_refuses_what_the_source_has_in_float(tmp_path):
    from exporter.exporting import export
    from targets.loader import load_target

    target = load_target("cortex-m7")
    c = {
        "s": np.float32(0.02),
        "z": np.int8(3),
        "v_q": RANDOM.integers(-127, 128, (4, 3, 1, 1)).astype(np.int8),
        "v_z": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_d"]),
        helper.make_node("DequantizeLinear", ["v_q", "s", "v_z"], ["v"]),
        helper.make_node("Conv", ["x_d", "v"], ["y"], name="left_in_float"),
    ]
    model = save(
        tmp_path / "m.onnx", nodes, [("x", TensorProto.FLOAT, [1, 3, 4, 4])], [("y", TensorProto.FLOAT, [1, 4, 4, 4])], c
    )
    samples = [{"x": np.zeros((1, 3, 4, 4), np.float32)}]
    assert not target.quantization.float_fallback
    (outcome,) = export(model, [target], test=samples, out=tmp_path / "bundles")
    assert isinstance(outcome.error, TargetError)
    assert outcome.error.code == "EW-Q003"
    assert "left_in_float" in str(outcome.error.why)


def test_a_quantized_model_is_exported_without_calibration(run, tmp_path):
    model = qdq_network(tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", RANDOM.normal(size=(4, 3, 8, 8)).astype(np.float32))
    out = tmp_path / "bundles"
    run("export", model, "--target", "android-arm64-cpu", "--test", tmp_path / "x.npy", "--out", out)
    given = json.loads((out / "android-arm64-cpu" / "plan.json").read_text())["encodings"]
    scales = {entry["scale"][0] for entry in given.values() if entry["dtype"] == "int8" and entry["axis"] is None}
    assert {float(np.float32(scale)) for scale in (0.03, 0.02, 0.04, 0.05, 0.3)} <= scales


def test_loading_leaves_the_source_as_it_is(tmp_path):
    source = load(qdq_network(tmp_path / "model.onnx"))
    assert "QuantizeLinear" in {node.op_type for node in source.model.graph}
