"""What users name as ``package.module:callable``: their models, data and metrics."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from diagnostics import EdgewrightError, UsageError

__all__ = ["import_callable", "raised_at", "user_code"]

_INSTALLED: Final = ("stdlib", "purelib", "platlib")  # names of `sysconfig.get_path`


def import_callable(spec: str, what: str) -> Callable[..., Any]:
    """The callable that `spec` names; the working directory is searched too, first where it was not yet.

    Args:
        what: what it is to the user, for messages: "the data".

    Raises UsageError EW-U003 where it is of another form, cannot be imported or is not callable.
    """
    module, _, attribute = spec.partition(":")
    fix = "give package.module:callable that is importable from here"
    if not module or not attribute:
        raise UsageError("EW-U003", f"{what} {spec!r} is not of the form module:callable", fix=fix)
    if os.getcwd() not in sys.path:  # a console script's path lacks the folder it was started in; `python -m` has it
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(
            "EW-U003", f"{what} {spec} cannot be imported", why=f"{type(error).__name__}: {error}", fix=fix
        ) from error
    if not callable(found):
        raise UsageError("EW-U003", f"{what} {spec} is of type {type(found).__name__}, which cannot be called", fix=fix)
    return found  # type: ignore[no-any-return]


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """What the user's own code raises in this block as UsageError EW-U003 with the line that raised it; `what` is the code: "the data a:b"."""
    try:
        yield
    except EdgewrightError:
        raise
    except Exception as error:  # it may raise anything
        why = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        raise UsageError(
            "EW-U003", f"{what} failed", where=raised_at(error), why=why, fix="mend it: the error is its own"
        ) from error


def raised_at(error: BaseException) -> str:
    """ "line 12 of data.py", the innermost that is neither of edgewright nor of an installed package; "" where there is none."""
    home = Path(__file__).resolve().parents[1]
    foreign = [home / name for name in ("calibration", "exporter", "targets")] + [
        Path(sysconfig.get_path(at)).resolve() for at in _INSTALLED
    ]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.resolve().is_relative_to(folder) for folder in foreign):
            return f"line {frame.lineno} of {frame.filename}"
    return ""
