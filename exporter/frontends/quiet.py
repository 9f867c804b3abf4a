"""Other libraries' chatter while a model is read, and the one line of an error that a user can use."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

__all__ = ["first_line", "quiet", "root_cause"]


@contextlib.contextmanager
def quiet(*, prints: bool = False) -> Iterator[None]:
    """Silence logging and warnings, and with `prints` also what is printed: nothing of it is anything that a user can act on."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")
            if prints:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        logging.disable(disabled)


def root_cause(error: BaseException) -> BaseException:
    """The error that started a chain of ``raise ... from``."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none; at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
