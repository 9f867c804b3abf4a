"""How long a worker may take and how much memory it may hold, whatever the target: `--worker-seconds` and `--worker-memory` of a command,
else `$EDGEWRIGHT_WORKER_SECONDS` and `_MEMORY`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from diagnostics import UsageError

__all__ = ["MEMORY", "SECONDS", "Limits", "chosen_limits", "limited", "parse_bytes"]

SECONDS: Final = "EDGEWRIGHT_WORKER_SECONDS"
MEMORY: Final = "EDGEWRIGHT_WORKER_MEMORY"
_UNITS: Final[Mapping[str, int]] = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Limits:
    """What the user allows every worker; None: what the runtime's entry says, and nearly all memory of the machine.

    Attributes:
        seconds: wall time of loading, and then of every call.
        memory_bytes: resident memory of the worker's process.
    """

    seconds: float | None = None
    memory_bytes: int | None = None


_UNLIMITED: Final = Limits()
_GIVEN: Final[ContextVar[Limits]] = ContextVar("limits", default=_UNLIMITED)


@contextmanager
def limited(limits: Limits) -> Iterator[None]:
    """Within it these limits hold, where they are given, instead of the environment's."""
    token = _GIVEN.set(limits)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def chosen_limits(environment: Mapping[str, str] = os.environ) -> Limits:
    """The user's choice. Raises UsageError EW-U001 where it cannot be parsed."""
    given, seconds, memory = _GIVEN.get(), environment.get(SECONDS), environment.get(MEMORY)
    if seconds and not re.fullmatch(r"[0-9]+(\.[0-9]+)?", seconds):
        raise UsageError("EW-U001", f"{SECONDS}={seconds} is no number of seconds", fix=f"for example {SECONDS}=600")
    return Limits(
        given.seconds if given.seconds is not None else float(seconds) if seconds else None,
        given.memory_bytes if given.memory_bytes is not None else parse_bytes(memory) if memory else None,
    )


def parse_bytes(text: str) -> int:
    """``"512MiB"``, ``"4G"`` or a plain number of bytes; units are binary. Raises UsageError EW-U001 for anything else."""
    found = re.fullmatch(r"([0-9]+) *([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError("EW-U001", f"{text!r} is no amount of memory", fix="for example 512MiB, 4GiB")
    return int(found[1]) * _UNITS[found[2].upper()]
