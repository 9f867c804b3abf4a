"""What users name as ``package.module:callable``: their models, data and metrics."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from diagnostics import UsageError

__all__ = ["import_callable"]


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
        raise UsageError("EW-U003", f"{what} {spec} is a {type(found).__name__}, not callable", fix=fix)
    return found  # type: ignore[no-any-return]
