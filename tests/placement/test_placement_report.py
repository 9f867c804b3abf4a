"""The report as plain data, text and page: all reasons, partitions, remedies; and an estimate that is nowhere called a latency of the device."""

import json
import re

import pytest

from exporter import inspect, load
from exporter.bundle.placement import placement_html
from exporter.cli.placement import human_us, print_placement
from targets.loader import load_target
from targets.schema import Unit

CHIP = load_target("cortex-m7")
ZOO = ("mtcnn_onet", "facemesh", "efficientnet_lite0", "yolox_char", "ocr_det")  # what Ethos-U takes as it is


@pytest.fixture(scope="module")
def report():
    npu = Unit(name="array", kind="npu", operators=("Conv", "Relu", "Reshape", "MatMul", "Gemm"), dtypes=("int8",))
    return inspect("tools.zoo:digit_cnn", CHIP.model_copy(update={"units": (npu, *CHIP.units), "title": "a <b>chip</b>"}))


def test_every_node_has_a_unit_or_reasons_and_a_time(report):
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert len(data["placement"]) == len(report.nodes) == sum(len(part["nodes"]) for part in data["partitions"])
    for entry in data["placement"]:
        assert entry["unit"] == "array" or entry["reasons"]
        assert "us" in entry["estimate"]
    assert data["estimate"]["kind"] == "estimate"
    assert data["crossing_bytes"] == sum(part["bytes_in"] for part in data["partitions"]) > 0


def test_the_text_and_the_page_say_the_same(report, capsys):
    print_placement(report)
    text = capsys.readouterr().out
    page = placement_html("net", report).decode()
    for entry in report.nodes:
        assert entry.node in text
        assert entry.node in page
    for part in (text, page):
        assert "array does not run MaxPool" in part


def test_no_estimate_is_called_a_latency_of_the_device(report, capsys):
    """Wherever the word latency stands, that it is estimated and not measured stands beside it."""
    print_placement(report)
    text = capsys.readouterr().out
    page = re.sub(r"<style>.*?</style>|<[^>]+>", " ", placement_html("net", report).decode(), flags=re.DOTALL)
    for part in (text, page):
        said = [part[match.start() - 40 : match.end() + 60].lower() for match in re.finditer("latency", part, re.IGNORECASE)]
        assert said
        assert all("estimated" in around and ("not a measurement" in around or "not measured" in around) for around in said)


def test_the_page_loads_nothing_and_escapes_what_it_is_given(report):
    page = placement_html("<script>x</script>", report).decode()
    assert "<script" not in page
    assert "a &lt;b&gt;chip" in page
    assert not re.search(r"(src|href)\s*=|url\(|@import", page)


def test_a_loaded_source_is_placed_as_its_file_is(report):
    source = load("tools.zoo:digit_cnn")
    assert [node.op_type for node in inspect(source, CHIP).nodes] == [node.op_type for node in report.nodes]


@pytest.mark.parametrize(("us", "text"), [(None, "-"), (1.234, "1.23 us"), (1234.5, "1.23 ms"), (2.5e6, "2.5 s")])
def test_times_have_the_unit_that_fits(us, text):
    assert human_us(us) == text


def test_nodes_that_are_away_for_the_same_reasons_are_one_row(report):
    (row, names), *others = report.away(floats=False)
    assert row.reasons == ("array does not run MaxPool",)
    assert [node.node for node in report.nodes if node.op_type == "MaxPool"] == list(names)
    assert all(entry.op_type != "MaxPool" for entry, _ in others)
    assert sum(len(alike) for _, alike in report.away(floats=False)) == len(report.nodes) - report.on("array")


@pytest.mark.slow
def test_qnn_agrees_with_the_rules():
    (answer,) = inspect("tools.zoo:efficientnet_lite0", "snapdragon-8gen2-npu", ask_compiler=True).answers
    assert (answer.left_out, answer.disagreements) == (0, ())


@pytest.mark.parametrize("model", ["digit_cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ZOO)])
def test_a_compiler_that_is_asked_agrees_and_its_cycles_are_the_estimate(model):
    found = inspect(f"tools.zoo:{model}", "ethos-u55-128", ask_compiler=True)
    (answer,) = found.answers
    assert (answer.architecture, answer.disagreements) == ("ethos-u55-128", ())
    assert answer.operators > answer.left_out == found.on("cpu")
    assert found.estimate is answer.estimate
    assert found.estimate.source.startswith("cycles that vela")
    whole = sum(found.estimate.units.values()) + found.estimate.borders_us
    assert found.estimate.total_us == (pytest.approx(whole) if not answer.left_out else None)
