"""Lines of keys in TOML text."""

from __future__ import annotations

import pytest

from targets.lines import line_of

TEXT = '''# a comment = 1
name = "x"
note = """
[artifact]
format = 1
"""
"quoted key" = 2

[artifact]  # a table
format = "tflite"
inline = { a = 1 }
dotted.key = 3

[[units]]
name = "first"
[[units]]
kind = "cpu"
name = "second"
[a.b]
c = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("note",), 3),
        (("quoted key",), 7),
        (("artifact",), 9),
        (("artifact", "format"), 10),
        (("artifact", "dotted", "key"), 12),
        (("units",), 14),
        (("units", 0), 14),
        (("units", 0, "name"), 15),
        (("units", 1), 16),
        (("units", 1, "name"), 18),
        (("a", "b", "c"), 20),
        (("artifact", "inline", "a"), None),
        (("units", 2), None),
        (("absent",), None),
    ],
)
def test_line_of_a_key(path: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(TEXT, path) == line


NESTED = """\
[[units]]
name = "npu"
[[units.limits]]
most = 1
[[units.limits]]
most = 2
[[units]]
name = "cpu"
[[units.limits]]
most = 3
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("units", 0, "limits", 0, "most"), 4),
        (("units", 0, "limits", 1), 5),
        (("units", 0, "limits", 1, "most"), 6),
        (("units", 1, "name"), 8),
        (("units", 1, "limits"), 9),
        (("units", 1, "limits", 0, "most"), 10),
        (("units", 1, "limits", 1), None),
        (("units", "limits"), None),
    ],
)
def test_arrays_of_tables_within_others_count_from_their_own_start(path: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(NESTED, path) == line
