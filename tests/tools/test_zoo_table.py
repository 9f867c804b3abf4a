"""`make zoo`: rows are measured in processes of their own, and the page says what they say."""

import json

import pytest

from tools import zoo_page, zoo_table
from tools.zoo_cases import CASES
from tools.zoo_rows import FORMS

NEEDS_TENSORFLOW = ("cifar_cnn",)
FLOORS_DB = {"float32": 80, "float16": 30}


def checked(model, form):
    """Check a row: measured, and as near to the original as its form has to be."""
    found = zoo_table.row(model, form)
    assert found["status"] == "measured", found
    if form in FLOORS_DB:
        assert all(float(value) >= FLOORS_DB[form] for value in found["sqnr_db"].values()), found


def test_the_table_is_kept_printed_and_made_anew_in_part(tmp_path, capsys):
    kept = tmp_path / "zoo.json"
    kept.write_text(json.dumps({"rows": {"digit_cnn": {"int8": {"status": "failed", "reason": "took longer than 1 s"}}}}))
    assert zoo_table.main(["mtcnn_onet", "--forms", "float32", "int8", "--json", str(kept)]) == 0
    rows = json.loads(kept.read_text())["rows"]
    assert list(rows) == ["digit_cnn", "mtcnn_onet"]
    exact, integer = rows["mtcnn_onet"]["float32"], rows["mtcnn_onet"]["int8"]
    assert min(float(value) for value in exact["sqnr_db"].values()) >= FLOORS_DB["float32"]
    assert integer["task"]["face_accuracy"]["artifact"] >= 0.98
    assert integer["bytes"] < exact["bytes"] / 3
    assert integer["integer_nodes"] > 0
    assert "face_accuracy 1.0000 -> " in capsys.readouterr().out


def test_a_refusal_is_a_row_and_a_hang_is_one_that_failed():
    assert zoo_table.row("no_such_model", "float32")["status"] == "failed"
    assert "longer than" in zoo_table.row("digit_cnn", "int8", limit_s=0.05)["reason"]


def test_an_unknown_model_is_a_wrong_use(capsys):
    with pytest.raises(SystemExit) as left:
        zoo_table.main(["no_such_model"])
    assert left.value.code == 2
    assert "no_such_model" in capsys.readouterr().err


def test_the_page_says_what_the_rows_say(tmp_path, monkeypatch):
    measured = {
        "status": "measured",
        "sqnr_db": {"y": 50.0},
        "task": {"accuracy": {"original": 0.5, "artifact": 0.25, "drop": 0.25}},
        "top1_agreement": None,
        "bytes": 2048,
        "build_cpu_s": 1.0,
        "integer_nodes": 1,
        "float_nodes": 2,
        "float_macs": 0.125,
        "float_reasons": {"Log | has no kernel": 2},
    }
    rows = {"net": {"float32": measured, "int8": {"status": "refused", "code": "EW-T004", "reason": "cannot\nrun"}}}
    (tmp_path / "zoo.json").write_text(json.dumps({"rows": rows, "versions": {"onnxruntime": "1.0"}}))
    monkeypatch.setattr(zoo_page, "RESULTS", tmp_path / "zoo.json")
    page = zoo_page.zoo_page()
    assert "| net | float32 | 50.0 | accuracy 0.5000 -> 0.2500 | 2 | 1 / 2 | 12.5% | 1.0 |" in page
    assert "| net | int8 | refused: cannot run | | | | | |" in page
    assert "- net, float32: 2 × Log \\| has no kernel" in page


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", [name for name in CASES if name not in NEEDS_TENSORFLOW])
def test_every_model_comes_out_in_every_form(model, form):
    checked(model, form)
