"""A profile as TOML text: all keys, inherited and default ones included; a start for a profile of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from targets.schema import Target

__all__ = ["to_toml"]


def to_toml(target: Target) -> str:
    """TOML text that loads as an equal `Target`. Keys without a value are left out."""
    data = target.model_dump(mode="json", exclude_none=True)
    blocks = ["\n".join(_line(key, value) for key, value in data.items() if not _is_table(value))]
    for key, value in data.items():
        if not _is_table(value):
            continue
        tables, header = (value, f"[[{key}]]") if isinstance(value, list) else ([value], f"[{key}]")
        blocks += ["\n".join([header, *(_line(name, entry) for name, entry in table.items())]) for table in tables if table]
    return "\n\n".join(blocks) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _line(key: str, value: Any) -> str:
    if isinstance(value, list) and len(value) > 1:
        return f"{key} = [\n" + "".join(f"    {_scalar(entry)},\n" for entry in value) + "]"
    return f"{key} = [{', '.join(map(_scalar, value))}]" if isinstance(value, list) else f"{key} = {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {_scalar(entry)}" for name, entry in value.items()) + "}"
    # A JSON string is a TOML basic string, but for the delete character, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
