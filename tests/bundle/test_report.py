"""The report: complete, self-contained, safe against hostile names, the same bytes for the same facts."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from exporter.bundle.facts import ApproximationRow, ArenaRow, LatencyRow, LayerRow, OutputRow, ParityRow, ReportData, SizeRow
from exporter.bundle.manifest import FileRecord, GateRecord, Manifest, TensorRecord
from exporter.bundle.report import report_html, report_json
from exporter.compilers import Disagreement
from exporter.graph.summary import Placement
from exporter.placement.estimate import Estimate, NodeEstimate
from exporter.placement.partitions import Partition
from exporter.placement.remedies import Remedy
from exporter.placement.report import CompilerAnswer, PlacementReport

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>$\\frac{'
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags and attributes, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def layers(count, prefix="conv"):
    return tuple(
        LayerRow(
            f"{prefix}_{index}",
            "Conv",
            sqnr_db=18.0 + 14 * math.sin(index / 7) ** 2 + 6,
            low=-1.0 - index / 9,
            high=4.0 + index / 5,
            encoded_low=-1.2 - index / 9,
            encoded_high=4.1 + index / 5,
            macs=10_000 * (1 + index % 9),
            weight_bytes=300 * (1 + index % 13),
            precision="int8",
            unit="cpu",
        )
        for index in range(count)
    )


def placement(node):
    """Two nodes of the NPU around one of the CPU, with everything that a compiler and the rules may say."""
    told = Estimate(
        "cycles that a compiler counted: its own model of the device, not a measurement",
        {f"{node}_{index}": NodeEstimate(10_000, 2_000, 12.5) for index in range(3)},
        {"array": 25.0, "core": 12.5},
        3.0,
        {},
    )
    differing = Disagreement(f"{node}_1", "CONV_2D", "cpu", "npu", (), "vela", "ethos-u55-128")
    return PlacementReport(
        "some-phone",
        "Some phone (Arm)",
        "int8",
        {"array": "npu", "core": "cpu"},
        (
            Placement(f"{node}_0", "Conv", "array", "int8", (), "a"),
            Placement(f"{node}_1", "Erf", "core", "int8", (f"array does not run {node}",), "b"),
            Placement(f"{node}_2", "Conv", "array", "int8", (), "c"),
        ),
        (
            Partition("array", (f"{node}_0",), 0, 64),
            Partition("core", (f"{node}_1",), 64, 64),
            Partition("array", (f"{node}_2",), 64, 0),
        ),
        told,
        (Remedy("replace Erf by Tanh", (f"{node}_1",), "runs on array", exact=False),),
        (CompilerAnswer("vela 5", "ethos-u55-128", 3, 1, (differing,), told),),
    )


def full(name="efficient-net", node="conv"):
    manifest = Manifest(
        model=name,
        artifact="model.tflite",
        target={
            "name": "some-phone",
            "title": "Some phone (Arm)",
            "verification": {"runtimes": ["litert-xnnpack", "litert-ref"], "level": "run", "note": "same kernels"},
        },
        signature_inputs=(TensorRecord("image", (1, 224, 224, 3), "int8", 0.0186, -14, "channels_last", "x", (1, 3, 224, 224)),),
        signature_outputs=(TensorRecord("logits", (1, 1000), "int8", 0.1, 3),),
        preprocess={"resize": 256, "mean": [0.485, 0.456, 0.406], "crop": None},
        gates=(
            GateRecord("top1_agreement>=0.95", True, 0.975, "litert-xnnpack"),
            GateRecord("sqnr>=20", True, math.pi * 8, "litert-xnnpack"),
        ),
        inputs=(FileRecord(f"{name}.onnx", 18_000_000, "a" * 64),),
        outputs=(FileRecord("model.tflite", 5_000_000, "b" * 64),),
        command=("edgewright", "export", f"{name}.onnx"),
    )
    return ReportData(
        manifest=manifest,
        created="2026-01-01T00:00:00Z",
        samples=40,
        calibration_samples=64,
        sizes=(
            SizeRow("artifact", 18_600_000, 5_100_000),
            SizeRow("multiply-accumulates", 385_000_000, 385_000_000, "count"),
            SizeRow("peak activations", 6_000_000, 1_500_000),
            SizeRow("arena", None, 410_000, limit=524_288),
        ),
        outputs=(
            OutputRow("logits", "litert-xnnpack", {"SQNR (dB)": 25.1, "cosine": 0.9981, "top-1": 0.975}, (1, 1000)),
            OutputRow("logits", "litert-ref", {"SQNR (dB)": math.inf, "max abs": 0.4}, (1, 1000)),
        ),
        layers=(*layers(60, node), LayerRow(f"{node}_x", "CumSum", precision="float32", unit="cpu", reason="no integer kernel")),
        latency=(
            LatencyRow("original, float", "onnxruntime", 0.0123, 0.0119, 0.0131, 50),
            LatencyRow("artifact", "litert-xnnpack", 0.00412, 0.0040, 0.0045, 50),
        ),
        arena=(ArenaRow("arena, total", 410_000, 524_288), ArenaRow("head (activations)", 600_000, 524_288)),
        parity=(ParityRow(f"{node}_0", "Conv", 0, 0.0), ParityRow(f"{node}_1", "Conv", 1, 0.002, "rounding of ties")),
        approximations=(ApproximationRow(f"{node}_9", "Gelu", "approximate", "5e-4"),),
        aims={"top1_agreement>=0.95": 0.9844},
        moved={"logit": (0.0211735013872, 0.0211734)},
        warnings=("only 40 samples: the 95 % interval of top-1 agreement is wide",),
        host={"cpu": "x86_64", "os": "Linux"},
        placement=placement(node),
    )


def test_every_section_of_a_full_report_is_there():
    text = report_html(full()).decode()
    Page(text)
    for title in (
        "Warnings", "Gates", "What the precisions were chosen by", "Artifact against original", "Layer by layer", "Not in integers",
        "Latency on this host, not the device", "Memory on tflite-micro", "Parity of", "Approximations",
        "Inputs and outputs", "Preprocessing", "Provenance",
    ):  # fmt: skip
        assert f">{title}" in text
    assert text.count("<svg") == 3
    assert "Lowest: <code>conv_0</code> 24 dB" in text
    assert "all 2 gates hold" in text
    assert "3.65× smaller" in text
    assert "∞" in text


def test_nothing_is_called_the_devices_latency():
    """Whatever stands under a latency was measured on this host, which is said, or estimated, which is said."""
    text = report_html(full()).decode()
    assert "Latency on this host, not the device" in text
    assert "says nothing of some-phone" in text
    for heading in re.findall(r"<h[123]>([^<]*latency[^<]*)</h", text, re.IGNORECASE):
        assert "on this host, not the device" in heading or ("Estimated" in heading and "not a measurement" in heading)
    for sentence in re.findall(r"<p[^>]*>([^<]*latency[^<]*)<", text, re.IGNORECASE):
        assert "Estimated latency by the compiler" in sentence
        assert "not a measurement" in sentence


def test_where_it_runs_is_told_with_reasons_partitions_and_remedies():
    text = report_html(full()).decode()
    assert "3 of 3 nodes run: 2 on <code>array</code>, 1 on <code>core</code>. 3 partitions, 128 B cross between them" in text
    assert "array does not run conv" in text
    assert "replace Erf by Tanh" in text
    assert "It disagrees with the rules on 1 node." in text
    facts = json.loads(report_json(full()))["placement"]
    assert facts["estimate"]["total_us"] == 40.5
    assert facts["compilers"][0]["disagreements"][0]["theirs"] == "npu"


def test_layers_that_are_alike_are_told_once():
    data = full()
    more = [LayerRow(f"sum_{index}", "CumSum", precision="float32", unit="cpu", reason="no integer kernel") for index in range(3)]
    text = report_html(replace(data, layers=(*data.layers, *more))).decode()
    section = text[text.index(">Not in integers") :].partition("</section>")[0]
    assert section.count("no integer kernel") == 1
    assert "<summary>all 4</summary>" in section
    assert all(f"<code>{layer.node}</code>" in section for layer in more)


def test_absent_sections_are_left_out():
    text = report_html(ReportData(Manifest(model="m", artifact="m.onnx", target={"name": "t"}))).decode()
    Page(text)
    assert re.findall("<h2>(.*?)</h2>", text) == ["Provenance"]
    assert "<svg" not in text
    assert "no gates" in text


def test_the_page_needs_no_network_and_runs_no_script():
    page = Page(report_html(full()).decode())
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert [value for key, value in page.attributes if key in ("src", "href", "xlink:href") and not value.startswith("#")] == []
    assert "http" not in report_html(full()).decode()
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", report_html(full()).decode())


def test_hostile_names_stay_text():
    data = full(HOSTILE, HOSTILE)
    data = replace(data, layers=(LayerRow(HOSTILE, HOSTILE, sqnr_db=1.0, reason=HOSTILE), *data.layers), warnings=(HOSTILE,))
    text = report_html(data).decode()
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [key for key, _ in page.attributes if key.startswith("on")]
    assert "alert(1)" in text


def test_colours_are_those_of_the_page_so_that_dark_and_light_work():
    text = report_html(full()).decode()
    plots = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--accent)" in plots
    assert not re.search(r"#[0-9a-f]{6}", plots)
    assert "prefers-color-scheme: dark" in text


def test_identifiers_of_the_plots_do_not_collide():
    text = report_html(full()).decode()
    found = re.findall(r' id="([^"]+)"', text)
    assert len(found) == len(set(found))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(found)


def test_the_same_facts_give_the_same_bytes():
    assert report_html(full()) == report_html(full())
    assert report_json(full()) == report_json(full())


def test_failed_gates_are_counted_and_shown():
    data = full()
    gates = (*data.manifest.gates, GateRecord("cosine>=1", False, None, "litert-ref"))
    data = replace(data, manifest=replace(data.manifest, gates=gates))
    assert "1 of 3 gates failed" in report_html(data).decode()
    assert data.verdict is False


def test_json_holds_all_facts_and_is_strict():
    facts = json.loads(report_json(full()), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert facts["outputs"][1]["metrics"]["SQNR (dB)"] == "inf"
    assert facts["verdict"] is True
    assert facts["aims"] == {"top1_agreement>=0.95": 0.9844}
    assert facts["moved"] == {"logit": [0.0211735013872, 0.0211734]}
    assert len(facts["layers"]) == 61
    assert facts["manifest"]["command"] == ["edgewright", "export", "efficient-net.onnx"]


@pytest.mark.parametrize("value", [math.inf, math.nan, -3.0, 0.0, None])
def test_plots_bear_odd_values(value):
    rows = (LayerRow("a", "Conv", sqnr_db=value, low=0.0, high=0.0), LayerRow("b", "Conv", sqnr_db=12.0, low=-1e30, high=1e30))
    text = report_html(replace(full(), layers=rows)).decode()
    assert "NaN" not in text
    assert "mathdefault" not in text
    Page(text)


def test_rules_for_numbers():
    from exporter.bundle.report import _number, _ratio, _seconds, _shape

    assert [_number(v) for v in (None, 3, 0.97512, -2.5, math.inf, 1234567)] == ["–", "3", "0.9751", "−2.5", "∞", "1,234,567"]
    assert [_ratio(*p) for p in ((4, 1), (1, 4), (2, 2), (None, 1))] == ["4.00× smaller", "4.00× larger", "unchanged", ""]
    assert [_seconds(v) for v in (2e-6, 0.0123, 2.0)] == ["2 µs", "12.3 ms", "2 s"]
    assert _shape(()) == "scalar"
