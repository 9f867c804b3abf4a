"""The matrix of models and targets: what fails is a row, and the page says what was refused and why."""

from __future__ import annotations

import json

import pytest

from targets import list_targets, load_target, target_names
from tools import matrix, matrix_page
from tools.matrix_rows import profile_digest

REFUSED = {
    "status": "refused",
    "code": "EW-T004",
    "what": "target cortex-m7 cannot run 1 of 3 nodes",
    "why": "n (If): no",
    "mends": ["a."],
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of rows instead of the one in docs/."""
    for module in (matrix, matrix_page):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "targets.md")
    return tmp_path


def test_a_process_that_dies_is_a_row_with_its_last_words():
    ((target, row),) = matrix.rows_of("no-such-model", ["cortex-m7"])
    assert (target, row["status"], row["what"]) == ("cortex-m7", "failed", "KeyError: 'no-such-model'")


def test_a_process_that_is_silent_for_too_long_is_ended():
    ((target, row),) = matrix.rows_of("digit_cnn", ["cortex-m7"], limit_s=0.05)
    assert (target, row["status"], row["what"]) == ("cortex-m7", "failed", "took longer than 0 s")


def test_rows_are_kept_in_the_order_of_the_zoo_and_made_anew_when_the_profile_changed(results, monkeypatch):
    asked = []

    def rows_of(model, targets, limit_s):
        asked.extend((model, target) for target in targets)
        for target in targets:
            yield target, {"status": "verified", "sqnr_db": 30.0, "profile": profile_digest(load_target(target))}

    monkeypatch.setattr(matrix, "rows_of", rows_of)
    assert matrix.main(["magika", "digit_cnn", "--targets", "cortex-m7"]) == 0
    kept = json.loads((results / "cortex-m7.json").read_text())
    assert list(kept) == ["digit_cnn", "magika"]
    assert matrix.main(["magika", "digit_cnn", "--targets", "cortex-m7", "--missing"]) == 0
    assert asked == [("magika", "cortex-m7"), ("digit_cnn", "cortex-m7")]
    kept["magika"]["profile"] = "another"
    (results / "cortex-m7.json").write_text(json.dumps(kept))
    matrix.main(["magika", "digit_cnn", "--targets", "cortex-m7", "--missing"])
    assert asked[2:] == [("magika", "cortex-m7")]


def test_a_row_depends_on_what_the_profile_says_to_the_code_not_to_people():
    target = load_target("cortex-m7")
    assert profile_digest(target.model_copy(update={"title": "another", "sources": ()})) == profile_digest(target)
    symmetric = target.quantization.model_copy(update={"activations_symmetric": True})
    assert profile_digest(target.model_copy(update={"quantization": symmetric})) != profile_digest(target)


def test_the_page_names_every_target_and_every_refusal(results):
    rows = {
        "digit_cnn": {"status": "verified", "sqnr_db": 41.94},
        "magika": REFUSED,
        "minilm": {"status": "verified", "sqnr_db": None},
    }
    (results / "cortex-m7.json").write_text(json.dumps(rows))
    page = matrix_page.targets_page()
    assert "| `cortex-m7` | 41.9 | EW-T004 | exact |" in page
    assert "| `x86-64-cpu` | – | – | – |" in page
    assert "- magika on `cortex-m7`: EW-T004: the target cannot run 1 of 3 nodes\n  - n (If): no\n  - would mend it: a\n" in page
    for name in target_names():
        assert f"### `{name}`" in page


def test_the_page_sets_micro_rows_beside_the_reference_and_counts(results):
    kernel = {
        "op": "FULLY_CONNECTED",
        "dtype": "int8",
        "mismatches": 2,
        "elements": 320,
        "max_lsb": 1,
        "reason": "once and twice",
    }
    beside = {"max_lsb": 1.0, "mismatches": 3, "elements": 320, "kernels": [kernel], "compared": 4000, "uncompared": []}
    row = {"status": "verified", "sqnr_db": 12.0, "arena": 1000, "arena_told": 1020, "reference": beside}
    for name in ("cortex-m7", "cortex-m55"):
        (results / f"{name}.json").write_text(json.dumps({"digit_cnn": row, "magika": REFUSED}))
    page = matrix_page.targets_page()
    micro = "| digit_cnn | `cortex-m55`, `cortex-m7` | 1,000 | +2.0 % | 3 of 320 by 1 | 4,000 | FULLY_CONNECTED int8: 2 by 1 |"
    assert micro in page
    assert "- FULLY_CONNECTED of int8: once and twice." in page
    assert "rows: 2 measured (2 of them below 20 dB), 2 refused by name, 0 failed." in page


def test_the_page_sets_an_emulator_beside_the_cpu(results):
    outputs = {"max_lsb": 2.0000001, "mismatches": 5, "elements": 2000}
    layers = {"count": 61, "max_lsb": 1, "mismatches": 10, "elements": 4000, "beyond": [], "uncompared": []}
    rows = {
        "digit_cnn": {"on_cpu": [], "outputs": outputs, "layers": layers},
        "magika": {"on_cpu": ["n (Pow)"], "outputs": outputs | {"max_lsb": 0.0, "mismatches": 0}, "not_compared": "it crashed"},
    }
    rows = {name: {"status": "verified", "sqnr_db": 25.0, "emulated": found} for name, found in rows.items()}
    for name in ("snapdragon-8gen2-npu", "snapdragon-8gen3-npu"):
        (results / f"{name}.json").write_text(json.dumps(rows))
    page = matrix_page.targets_page()
    both = "`snapdragon-8gen2-npu`, `snapdragon-8gen3-npu`"
    told = "99.75 % of 2,000 equal, others by 2 at most | 61 | 99.75 % of 4,000 equal, others by 1 at most | none |"
    assert f"| digit_cnn | {both} | none | {told}" in page
    assert f"| magika | {both} | n (Pow) | 100.00 % of 2,000 equal | – | it crashed | none |" in page


def test_the_page_says_limits_and_sources(results):
    page = matrix_page.targets_page()
    assert "  - elements of Softmax: at most 16000 (Softmax takes one axis of at most 16,000 elements)" in page
    for target in list_targets():
        for source in target.sources:
            assert matrix_page._text(source) in page
