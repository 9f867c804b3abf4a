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
