"""Find, inherit, check and load target profiles.

A profile may say ``extends = "NAME"`` (one of ours, or a .toml beside it): its tables are laid over the other's key by key, and an
array replaces the other's array whole.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from diagnostics import TargetError
from targets.lines import line_of
from targets.schema import Artifact, Compile, Cost, Limit, Memory, Pruning, Quantization, Target, Unit, Verification

__all__ = ["Problem", "check_file", "list_targets", "load_target", "target_names"]

_HOME: Final = Path(__file__).parent
_TABLES: Final[Mapping[str, type[BaseModel]]] = {
    "artifact": Artifact,
    "quantization": Quantization,
    "units": Unit,
    "memory": Memory,
    "cost": Cost,
    "pruning": Pruning,
    "compile": Compile,
    "verification": Verification,
}


@dataclass(frozen=True)
class Problem:
    """What is wrong with one key of a profile. `line` counts from 1; None where no line can be named."""

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class _Invalid(Exception):
    """A profile that cannot be checked further."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def target_names() -> tuple[str, ...]:
    """Names of the profiles that edgewright carries, sorted."""
    return tuple(sorted(path.stem for path in _HOME.glob("*.toml")))


def list_targets() -> tuple[Target, ...]:
    """All profiles that edgewright carries, sorted by name."""
    return tuple(load_target(name) for name in target_names())


def load_target(name_or_path: str | Path) -> Target:
    """The profile of a name (one of `target_names`) or of a .toml file.

    Raises TargetError: EW-T001 where there is none, EW-T002 with file, line, key and allowed values of everything that is wrong in it.
    """
    path = _find(name_or_path)
    target, problems = _check(path)
    if target is None:
        raise TargetError(
            "EW-T002",
            f"the target profile {path} is invalid",
            where="; ".join(str(problem) for problem in problems),
            fix=f"edgewright targets show {target_names()[0]} prints a profile with every key",
        )
    return target


def check_file(path: str | Path) -> list[Problem]:
    """Everything that is wrong with a profile; empty where it is valid. Raises TargetError EW-T001 where the file does not exist."""
    return _check(_find(Path(path)))[1]


def _find(name_or_path: str | Path) -> Path:
    if isinstance(name_or_path, str) and name_or_path in target_names():
        return _HOME / f"{name_or_path}.toml"
    path = Path(name_or_path)
    if (isinstance(name_or_path, Path) or path.suffix == ".toml" or len(path.parts) > 1) and path.is_file():
        return path
    if path.suffix == ".toml":
        raise TargetError("EW-T001", f"there is no profile {path}", fix="give the path of a profile, or the name of a target")
    close = difflib.get_close_matches(str(name_or_path), target_names(), 3, 0.5)
    raise TargetError(
        "EW-T001",
        f"there is no target {str(name_or_path)!r}",
        why=f"the targets are {', '.join(target_names())}",
        fix=f"did you mean {' or '.join(close)}?"
        if close
        else "name one of them, or give the path of a profile of your own (.toml)",
    )


def _check(path: Path) -> tuple[Target | None, list[Problem]]:
    try:
        data, texts = _inherit(path, ())
    except _Invalid as error:
        return None, [error.problem]
    try:
        # Strict and from JSON: no number is taken from a string, and arrays are tuples.
        return Target.model_validate_json(json.dumps(data, default=str), strict=True), []
    except ValidationError as error:
        return None, [_problem(entry, texts) for entry in error.errors()]


def _inherit(path: Path, heirs: tuple[Path, ...]) -> tuple[dict[str, Any], list[tuple[Path, str]]]:
    """The data of `path` over what it extends, and the texts of the chain, `path` first."""
    path = path.resolve()
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise _Invalid(Problem(str(path), None, "", f"cannot be read: {error}")) from error
    except tomllib.TOMLDecodeError as error:
        line = getattr(error, "lineno", None) or _line_in(str(error))
        raise _Invalid(Problem(str(path), line, "", f"is not TOML: {error}")) from error
    parent = data.pop("extends", None)
    if parent is None:
        return data, [(path, text)]
    line = line_of(text, ("extends",))
    found = _parent(path, parent)
    if found is None:
        raise _Invalid(
            Problem(
                str(path), line, "extends", f"there is no target {parent!r}; allowed: {', '.join(target_names())}, or a .toml"
            )
        )
    if found in (path, *heirs):
        chain = " -> ".join(entry.stem for entry in (*reversed(heirs), path, found))
        raise _Invalid(Problem(str(path), line, "extends", f"the profiles extend each other in a circle: {chain}"))
    base, texts = _inherit(found, (path, *heirs))
    return _overlay(base, data), [(path, text), *texts]


def _parent(path: Path, name: object) -> Path | None:
    if not isinstance(name, str):
        return None
    if name in target_names():
        return (_HOME / f"{name}.toml").resolve()
    beside = (path.parent / name).resolve()
    return beside if beside.is_file() and beside.suffix == ".toml" else None


def _overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _overlay(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged


def _line_in(message: str) -> int | None:
    """The line of tomllib's "... (at line 3, column 7)"."""
    _, _, rest = message.partition("at line ")
    digits = rest.partition(",")[0]
    return int(digits) if digits.isdigit() else None


def _problem(entry: Any, texts: list[tuple[Path, str]]) -> Problem:
    """One of pydantic's errors: where its key is written (in the heir or what it extends), and what may be there."""
    path: tuple[str | int, ...] = tuple(entry["loc"])
    message = entry["msg"][0].lower() + entry["msg"][1:]
    if entry["type"] == "value_error":
        message = str(entry["ctx"]["error"])
        if not path:  # of the whole profile: the message begins with the key that it is about
            key, _, message = message.partition(": ")
            path = tuple(key.split("."))
    elif entry["type"] == "extra_forbidden":
        message = _unknown_key(path)
    elif entry["type"] == "missing":
        message = f"is missing{_meaning(path)}"
    else:
        message = f"{message}{_meaning(path)}, not {entry['input']!r}"
    file, line = _place(path, texts)
    return Problem(str(file), line, ".".join(str(part) for part in path), message)


def _place(path: tuple[str | int, ...], texts: list[tuple[Path, str]]) -> tuple[Path, int | None]:
    """The file and line of a key, or of the nearest table around it."""
    for length in range(len(path), 0, -1):
        for file, text in texts:
            line = line_of(text, path[:length])
            if line is not None:
                return file, line
    return texts[0][0], None


def _table(path: tuple[str | int, ...]) -> type[BaseModel]:
    """The table of the schema that a key belongs to."""
    if len(path) > 3 and path[2] == "limits":
        return Limit
    return _TABLES.get(str(path[0]), Target) if len(path) > 1 else Target


def _unknown_key(path: tuple[str | int, ...]) -> str:
    table = _table(path)
    known = [*table.model_fields, *(["extends"] if table is Target else [])]
    close = difflib.get_close_matches(str(path[-1]), known, 1)
    return f"no such key; {f'did you mean {close[0]}? ' if close else ''}allowed: {', '.join(known)}"


def _meaning(path: tuple[str | int, ...]) -> str:
    """Unit or form of a key, from the schema."""
    table = _table(path)
    field = table.model_fields.get(next((str(part) for part in reversed(path) if isinstance(part, str)), ""))
    return f" ({field.description})" if field is not None and field.description else ""
