"""The quantization benchmark judges anyone's artifact alike, keeps what it is not asked to make anew, and names every loss."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration import open_samples
from diagnostics import DataError
from exporter import convert
from exporter.frontends import load
from exporter.runtimes import TensorInfo, open_session
from exporter.verification.compare import compare
from tools.bench import quantization
from tools.bench.adapted import Adapted, _encoded
from tools.bench.quantization_page import best_peer, latency_ratio, quantization_section, worst_db
from tools.bench.samples import fitted, read_samples, write_samples
from tools.bench.watched import run_watched
from tools.bench.workloads import WORKLOADS, Workload, _settled

# --- judging ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path):
    """Relu and Neg behind a convolution that changes nothing, [1, 3, 4, 6]: two outputs of one shape; with eight samples."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["same"]),
        helper.make_node("Relu", ["same"], ["up"]),
        helper.make_node("Neg", ["same"], ["down"]),
    ]
    weights = [numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "w")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 4, 6)) for name in ("x", "up", "down")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    source = load(tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    samples = [{"x": random.normal(size=(1, 3, 4, 6)).astype(np.float32)} for _ in range(8)]
    return source, open_samples(samples, source.inputs)


def renamed(path, out, names):
    """Write the ONNX file with its inputs and outputs called otherwise, outputs in reverse order."""
    model = onnx.load(path)
    for node in model.graph.node:
        for field in (node.input, node.output):
            for place, name in enumerate(field):
                field[place] = names.get(name, name)
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    backwards = list(reversed(model.graph.output))
    del model.graph.output[:]
    model.graph.output.extend(backwards)
    onnx.save(model, out)


def test_outputs_without_their_names_are_paired_by_what_they_hold(net, tmp_path):
    source, samples = net
    renamed(tmp_path / "model.onnx", tmp_path / "other.onnx", {"x": "input_0", "up": "Identity", "down": "Identity_1"})
    with open_session("onnxruntime", tmp_path / "other.onnx") as session:
        found = compare(source.reference, Adapted(session, source.reference, samples), samples, ["up", "down"])
    assert worst_db({"sqnr_db": {name: metrics.sqnr_db for name, metrics in found.outputs.items()}}) == np.inf


def test_an_artifact_with_its_channels_last_is_fed_and_read_so(net, tmp_path):
    source, samples = net
    convert(tmp_path / "model.onnx", tmp_path / "model.tflite", io_layout="channels_last")
    with open_session("litert-xnnpack", tmp_path / "model.tflite") as session:
        assert session.inputs[0].shape == (1, 4, 6, 3)
        run = Adapted(session, source.reference, samples)
        found = compare(source.reference, run, samples, ["up", "down"])
        assert next(iter(run.encode(next(iter(samples))).values())).shape == (1, 4, 6, 3)
    assert all(metrics.sqnr_db == np.inf for metrics in found.outputs.values())


def test_a_scalar_stays_one():
    assert _encoded(np.array(16000), TensorInfo("sr", (), "int64")).shape == ()


def test_an_artifact_with_other_outputs_is_refused(net, tmp_path):
    source, samples = net
    model = onnx.load(tmp_path / "model.onnx")
    del model.graph.output[1:]
    onnx.save(model, tmp_path / "less.onnx")
    with open_session("onnxruntime", tmp_path / "less.onnx") as session, pytest.raises(DataError, match="EW-D003"):
        Adapted(session, source.reference, samples)


def test_samples_come_back_as_they_were_written(tmp_path):
    samples = [{"a/b:0": np.full((1, 2), number, np.float32), "mask": np.ones(3, np.int64)} for number in range(12)]
    write_samples(tmp_path / "s", ["a/b:0", "mask"], samples)
    read = list(read_samples(tmp_path / "s"))
    assert [float(sample["a/b:0"][0, 0]) for sample in read] == list(range(12))
    assert read[0]["mask"].dtype == np.int64
    assert len(list(read_samples(tmp_path / "s", 5))) == 5


def test_a_sample_is_fitted_to_the_order_of_axes_that_has_its_shape():
    assert fitted(np.zeros((1, 3, 4, 6)), [1, 4, 6, 3]).shape == (1, 4, 6, 3)
    assert fitted(np.zeros((1, 3, 4, 6)), [-1, 3, 4, 6]).shape == (1, 3, 4, 6)
    with pytest.raises(ValueError, match="is wanted"):
        fitted(np.zeros((1, 3)), [1, 4])


@pytest.mark.parametrize(("opset", "settled"), [(11, 18), (15, 15), (21, 18)])
def test_a_file_is_brought_to_an_opset_that_quantizers_know(tmp_path, opset, settled):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2,)) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), tmp_path / "model.onnx")
    assert onnx.load(_settled(tmp_path / "model.onnx")).opset_import[0].version == settled


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_command_beyond_its_memory_or_time_is_ended():
    hungry = [sys.executable, "-c", "import time; kept = bytearray(b'x') * 300_000_000; time.sleep(60)"]
    assert "GiB of memory" in run_watched(hungry, limit_s=50, limit_bytes=200 * 2**20).exceeded
    assert (
        "longer than"
        in run_watched([sys.executable, "-c", "import time; time.sleep(60)"], limit_s=0.3, limit_bytes=2**30).exceeded
    )


def test_a_command_within_its_limits_is_left_alone():
    done = run_watched([sys.executable, "-c", "import sys; print('out'); sys.exit(3)"], limit_s=50, limit_bytes=2**30)
    assert (done.status, done.stdout, done.exceeded) == (3, "out\n", "")


# --- keeping ----------------------------------------------------------------------------------------------------------


def test_rows_that_are_not_made_anew_stay_in_a_fixed_order(monkeypatch):
    monkeypatch.setattr(quantization, "machine", lambda: "here")
    result = quantization.merged({}, "minilm", {"nncf": {"by": "nncf"}})
    result = quantization.merged(result, "digit_cnn", {"ort:minmax": {"by": "a"}}, {"onnxruntime": {"ort:minmax": [1.0]}})
    result = quantization.merged(result, "minilm", {"ours:fast:x86-64-cpu": {"by": "edgewright"}}, {"onnxruntime": {}})
    assert list(result["models"]) == ["digit_cnn", "minilm"]
    assert list(result["models"]["minilm"]["rows"]) == ["ours:fast:x86-64-cpu", "nncf"]
    assert result["models"]["digit_cnn"]["latency"] == {"onnxruntime": {"ort:minmax": [1.0]}}


def test_what_another_machine_measured_is_dropped(monkeypatch):
    monkeypatch.setattr(quantization, "machine", lambda: "here")
    result = {"machine": "there", "models": {"minilm": {"rows": {"nncf": {"by": "nncf"}}}}}
    assert list(quantization.merged(result, "digit_cnn", {"nncf": {}})["models"]) == ["digit_cnn"]


def test_effort_best_is_made_where_it_is_named_alone():
    chosen = quantization._chosen
    assert not any("best" in form for form in (*chosen([""]), *chosen(["ours"]), *chosen(["ours:b"])))
    assert "ours:int8x4:android-arm64-cpu" not in chosen(["ours"])
    assert chosen(["ours:best:x86", "ours:int8x4"]) == ["ours:best:x86-64-cpu", "ours:int8x4:android-arm64-cpu"]
    assert chosen(["ours:balanced", "nncf:"]) == [
        "ours:balanced:x86-64-cpu",
        "ours:balanced:android-arm64-cpu",
        "nncf:transformer",
    ]
    assert chosen(["no such"]) == []


# --- the page ---------------------------------------------------------------------------------------------------------


def row(*decibels, by="edgewright", runtime="onnxruntime", **more):
    sqnr = {f"y{place}": value for place, value in enumerate(decibels)}
    facts = {"bytes": 2048, "cpu_s": 1.0, "peak_mib": 100.0, "samples": 4, "task": {}, "top1_agreement": None}
    return {"by": by, "runtime": runtime, "sqnr_db": sqnr, **facts, **more}


def model(ours=(25.0, 30.0), peer=(20.0, 40.0), times=(1.0, 1.0, 2.0)):
    """One model with ours, a peer and our float form; `times` of these in that order."""
    forms = ("ours:balanced:x86-64-cpu", "ort:minmax", "ours:float32:x86-64-cpu")
    rows = {forms[0]: row(*ours), forms[1]: row(*peer, by="onnxruntime 1"), forms[2]: row("inf", "inf")}
    return {"rows": rows, "latency": {"onnxruntime": {form: [time, time] for form, time in zip(forms, times, strict=True)}}}


def page(**models):
    return "\n".join(quantization_section({"machine": "one", "models": models}))


def test_the_worst_output_is_what_is_compared():
    assert worst_db(row(25.0, "inf")) == 25.0
    assert worst_db(row("nan", 25.0)) == -np.inf
    assert worst_db({"by": "a", "error": "no"}) is None
    assert best_peer(model()) == ("ort:minmax", 20.0)
    text = page(net=model())
    assert "ahead of the best peer by +5.0 dB in the median of 1 models; the least is net with +5.0 dB; 0 are below." in text
    assert "Nowhere." in text


def test_peers_on_the_same_runtime_are_counted_by_themselves():
    found = model(ours=(25.0, 30.0), peer=(26.0, 40.0))
    found["rows"]["ours:balanced:android-arm64-cpu"] = row(24.0, runtime="litert-xnnpack")
    found["rows"]["tensorflow"] = row(20.0, runtime="litert-xnnpack", by="tensorflow 1")
    assert best_peer(found, "litert-xnnpack") == ("tensorflow", 20.0)
    text = page(net=found)
    assert "the least is net with -2.0 dB; 1 are below." in text
    assert "it is +1.5 dB in the median of 2 pairs; the least is net on ORT with -1.00 dB." in text


def test_latency_is_the_median_of_ratios_within_one_process():
    found = model()
    found["latency"]["onnxruntime"] = {"ours:balanced:x86-64-cpu": [1.0, 8.0, 3.0], "ort:minmax": [2.0, 4.0, 3.0]}
    assert latency_ratio(found, "onnxruntime", "ours:balanced:x86-64-cpu", "ort:minmax") == 1.0
    assert latency_ratio(found, "onnxruntime", "ours:balanced:x86-64-cpu", "nncf") is None


def test_what_takes_and_gives_integers_stands_beside_ours_that_does_so():
    found = model()
    mine, whole, peer = "ours:balanced:android-arm64-cpu", "ours:integer-io:android-arm64-cpu", "ai-edge-quantizer"
    found["rows"] |= {form: row(25.0, runtime="litert-xnnpack") for form in (mine, whole, peer)}
    found["latency"]["litert-xnnpack"] = {mine: [2.0, 2.0], peer: [1.0, 1.0]}
    assert "2.00 (ai-edge-quantizer)" in page(net=found)
    found["latency"]["litert-xnnpack"][whole] = [1.0, 1.0]
    assert "1.00 (ai-edge-quantizer)" in page(net=found)
    found["latency"]["litert-xnnpack"]["onnx2tf"] = [0.5, 0.5]  # floats at its border, as ours have
    assert "4.00 (onnx2tf)" in page(net=found)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"peer": (26.0, 40.0)}, "- net, x86-64-cpu: 25.0 dB, ort:minmax 26.0"),
        ({"times": (1.2, 1.0, 2.0)}, "- net, x86-64-cpu: latency 1.20 of that of ort:minmax"),
        ({"times": (2.0, 3.0, 1.0)}, "- net, x86-64-cpu: latency 2.00 of that of its own float form"),
    ],
)
def test_every_loss_is_a_line(changed, line):
    assert line in page(net=model(**changed))


def test_weights_of_4_bits_have_a_table_with_their_size_beside_that_of_8():
    found = model()
    found["rows"]["ours:balanced:android-arm64-cpu"] = row(25.0, runtime="litert-xnnpack")
    found["rows"]["ours:int8x4:android-arm64-cpu"] = row(14.0, runtime="litert-xnnpack", bytes=1024, top1_agreement=0.85)
    assert "| net | android-arm64-cpu | LiteRT | 14.0 | top-1 agreement 0.850 | 1 (0.50) | 1.0 |" in page(net=found)
    found["rows"]["ours:int8x4:android-arm64-cpu"] = {"by": "edgewright", "runtime": "litert-xnnpack", "error": "no"}
    assert "| net | android-arm64-cpu | no |" in page(net=found)


def test_an_error_says_nothing_of_where_things_lie(tmp_path):
    workload = Workload(WORKLOADS["digit_cnn"], tmp_path / "net")
    text = f"cannot load {workload.artifacts}/nncf.onnx, see {quantization.ROOT}/tools"
    assert quantization._without_paths(text, workload) == "cannot load nncf.onnx, see tools"


def test_a_peer_that_fails_is_a_row_with_its_error():
    found = model()
    found["rows"]["nncf"] = {"by": "nncf 1", "runtime": "onnxruntime", "error": "ValueError: a|b\nmore"}
    text = page(net=found)
    assert "| net | nncf | ValueError: a\\|b more |" in text
    assert "Nowhere." in text
