"""The generated pages are current, and what they are generated from is whole."""

from functools import cache

import pytest

import diagnostics
from exporter.ops import base
from exporter.ops.base import FACETS, Operator, register
from tools.make_docs import main, operators_page, pages, statuses


def test_the_generated_pages_are_current():
    stale = [path.name for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    assert not stale, f"{stale}: run `make docs`"


sources = cache(statuses)


@pytest.mark.parametrize("code", sorted(diagnostics.CODES))
def test_a_code_is_raised_somewhere_and_has_one_exit_status(code):
    assert len(sources()[code]) == 1


def test_check_says_what_is_stale(tmp_path, monkeypatch, capsys):
    page = tmp_path / "errors.md"
    monkeypatch.setattr("tools.make_docs.pages", lambda: {page: "new\n"})
    assert main(["--check"]) == 1
    assert "errors.md" in capsys.readouterr().err
    assert main([]) == 0
    assert page.read_text() == "new\n"
    assert main(["--check"]) == 0


def test_a_missing_facet_is_shown_with_its_reason(monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base.all_operators()))  # a whole copy: what is registered below goes with it

    @register
    class Peculiar(Operator):
        op_type = "Peculiar"
        refuses = dict.fromkeys(FACETS, "it is too peculiar")

    page = operators_page()
    assert "| Peculiar | – | – | – | – | – | – |" in page
    assert "  - int8: it is too peculiar" in page
