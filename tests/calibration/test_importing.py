"""A user's module:callable: found beside where the command was started, or an error that says what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from calibration.importing import import_callable, user_code
from diagnostics import DataError, UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_own.py").write_text("class Box:\n    def made():\n        return 3\nnumber = 4\n")
    (tmp_path / "users_broken.py").write_text("raise OSError('no disk')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])


@pytest.mark.usefixtures("here")
def test_the_working_directory_is_searched_and_parts_are_followed() -> None:
    assert import_callable("users_own:Box.made", "the data")() == 3


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("spec", "what", "why"),
    [
        ("users_own", "the data 'users_own' is not of the form module:callable", ""),
        (":made", "the data ':made' is not of the form module:callable", ""),
        ("users_none:made", "the data users_none:made cannot be imported", "ModuleNotFoundError"),
        ("users_own:none", "the data users_own:none cannot be imported", "AttributeError"),
        ("users_broken:made", "the data users_broken:made cannot be imported", "OSError: no disk"),
        ("users_own:number", "the data users_own:number is of type int, which cannot be called", ""),
    ],
)
def test_what_is_wrong_is_said(spec: str, what: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        import_callable(spec, "the data")
    assert (caught.value.code, caught.value.what) == ("EW-U003", what)
    assert why in caught.value.why


def test_what_the_users_code_raises_is_told_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_data.py").write_text("import json\n\ndef samples():\n    return json.loads('{')\n")
    monkeypatch.chdir(tmp_path)
    samples = import_callable("users_data:samples", "the data")
    with pytest.raises(UsageError) as caught, user_code("the data users_data:samples"):
        samples()
    assert (caught.value.code, caught.value.what) == ("EW-U003", "the data users_data:samples failed")
    assert caught.value.where == f"line 4 of {tmp_path / 'users_data.py'}"  # not that of the json module
    assert "JSONDecodeError" in caught.value.why
    with pytest.raises(DataError), user_code("the data"):
        raise DataError("EW-D001", "an error of our own stays what it is")
