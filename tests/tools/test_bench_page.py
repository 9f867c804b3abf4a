"""The benchmark's page says where a peer is ahead, and only there."""

import pytest

from tools.bench.page import PAGE, benchmarks_page, conversion_section, ratios_section


def entry(**changed):
    return {
        "cpu_s": 1.0,
        "peak_mib": 100.0,
        "bytes": 2048,
        "operators": {"CONV_2D": 2, "TRANSPOSE": 1},
        "transposes": 1,
        "transposed_bytes": 4096,
        "sqnr_db": 120.0,
        "delegated": 1,
        "latency_ms": 1.0,
    } | changed


def section(**theirs):
    ratios = {"edgewright, free I/O": [0.9, 0.95]}
    sides = {
        "edgewright": entry(noise=[0.98, 1.02]),
        "edgewright, free I/O": entry(),
        "onnx2tf": entry(cpu_s=4.0, latency_ratios=ratios) | theirs,
    }
    model = {"model": "net", "source": "onnx", "nodes": 3, "sides": sides}
    return "\n".join(conversion_section({"versions": {}, "machine": "one", "repeats": 3, "models": [model]}))


def test_where_nothing_is_lost_the_page_says_so():
    text = section()
    assert text.endswith("Nowhere.")
    assert "4.00 (0.25)" in text


@pytest.mark.parametrize(
    ("theirs", "line"),
    [
        ({"cpu_s": 0.5}, "- net: converting takes 2.00 of the time of onnx2tf"),
        ({"transposes": 0}, "- net: 1 TRANSPOSE operators, onnx2tf 0"),
        ({"transposed_bytes": 8}, "- net: 4096 bytes moved by them, onnx2tf 8"),
        ({"latency_ratios": {"edgewright, free I/O": [1.1, 1.06]}}, "- net: latency 1.08 (1.06 .. 1.10) of that of onnx2tf"),
    ],
)
def test_every_loss_is_a_line(theirs, line):
    assert line in section(**theirs)


def test_latency_within_the_noise_of_ours_beside_ours_is_no_loss():
    assert section(latency_ratios={"edgewright, free I/O": [1.01, 1.05]}).endswith("Nowhere.")


def test_a_wrong_file_wins_nothing_and_a_broken_one_is_named():
    assert section(sqnr_db=20.0, transposes=0).endswith("Nowhere.")
    text = section(error="its file does not run: a|b")
    assert "its file does not run: a\\|b" in text
    assert text.endswith("Nowhere.")


def test_a_ratio_is_a_row_and_against_nothing_there_is_none():
    rows = [
        {"what": "calibrating", "ours": 3.0, "other": 2.0, "unit": "CPU s", "ratio": 1.5, "against": "plain inference"},
        {"what": "heavy modules", "ours": 0, "other": 0, "unit": "modules", "ratio": None, "against": "none"},
    ]
    text = "\n".join(ratios_section({"machine": "one", "versions": {"onnxruntime": "1"}, "samples": 32, "rows": rows}))
    assert "| calibrating | 3 | 2 | CPU s | 1.50 | plain inference |" in text
    assert "| heavy modules | 0 | 0 | modules | – | none |" in text


def test_the_page_in_the_repository_is_what_its_results_say():
    assert PAGE.read_text(encoding="utf-8") == benchmarks_page()
