"""Estimated beside measured latency: the rank correlation, and what the repository's own figures have to reach."""

import json

import pytest

from tools.bench.estimate import FILE, correlations
from tools.bench.estimate_page import estimate_section


def rows(*pairs):
    return {f"m{index}": {"float32": {"estimated_ms": x, "measured_ms": y}} for index, (x, y) in enumerate(pairs)}


def test_ranks_are_compared_not_times():
    assert correlations(rows((1, 10), (2, 11), (300, 12)))["float32"] == pytest.approx(1)
    assert correlations(rows((1, 12), (2, 11), (3, 10)))["float32"] == pytest.approx(-1)


def test_both_precisions_together_are_one_ranking():
    """Each alone is in order; that all of int8 is estimated slower than all of float32, and is faster, shows in both together alone."""
    float32 = [{"estimated_ms": x, "measured_ms": x + 10} for x in (1, 2)]
    int8 = [{"estimated_ms": x + 10, "measured_ms": x} for x in (1, 2)]
    found = correlations({f"m{index}": {"float32": float32[index], "int8": int8[index]} for index in range(2)})
    assert found["float32"] == found["int8"] == pytest.approx(1)
    assert found["all"] < 0


def test_on_this_repositorys_figures_the_estimate_ranks_as_the_clock_does():
    result = json.loads(FILE.read_text(encoding="utf-8"))
    assert set(result["runtimes"]) == {"onnxruntime", "litert-xnnpack"}
    for found in result["runtimes"].values():
        again = correlations(found["models"])
        for name, value in found["rank_correlation"].items():
            assert value == pytest.approx(again[name], abs=1e-3)
            assert value >= 0.9
        assert len(found["models"]) >= 15


def test_the_section_has_a_row_for_every_model():
    result = json.loads(FILE.read_text(encoding="utf-8"))
    text = "\n".join(estimate_section(result))
    for found in result["runtimes"].values():
        assert all(f"| {model} |" in text for model in found["models"])
