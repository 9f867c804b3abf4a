"""On which line of a TOML text a key is written: tomllib does not say, and an error without a line is half an error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["line_of"]

_HEADER: Final = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY: Final = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART: Final = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_FENCE: Final = re.compile(r'"""|' + "'''")


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """Line (from 1) of the key or table header `path`; integers are indices of arrays of tables. None where it is not written.

    Keys within inline tables and elements of plain arrays have no line of their own; ask for the key that holds them.
    """
    wanted = tuple(path)
    table: tuple[str | int, ...] = ()
    seen: dict[tuple[str | int, ...], int] = {}
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        fences = len(_FENCE.findall(line))
        if inside:
            inside = fences % 2 == 0
            continue
        header, key = _HEADER.match(line), _KEY.match(line)
        here: tuple[str | int, ...] | None = None
        if header:
            names = _parts(header[2])
            table = ()
            for name in names[:-1]:
                table = (*table, name)
                table = (*table, seen[table]) if table in seen else table  # within the last entry of that array
            table = (*table, names[-1])
            if header[1] == "[[":
                if table == wanted:
                    return number
                seen[table] = seen.get(table, -1) + 1
                table = (*table, seen[table])
            here = table
        elif key:
            here = (*table, *_parts(key[1]))
        if here == wanted:
            return number
        inside = fences % 2 == 1
    return None


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
