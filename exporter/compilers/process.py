"""A compiler's process: with a time limit, always reaped, ended with this process; a crash or a hang is an error, never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from diagnostics import CompilerFailure
from exporter.runtimes.landing import Kept

__all__ = ["run_compiler"]

_TAIL_LINES: Final = 12
_TAIL_BYTES: Final = 8192
# One thread and one order of hashing, so that a compiler has no occasion to write other bytes the second time.
_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def run_compiler(
    command: Sequence[str | Path],
    *,
    label: str,
    folder: Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command in `folder` to its end; what it printed to both streams, in order.

    Raises CompilerFailure: EW-R006 it cannot be started, EW-R007 it ended with another status than 0, EW-R008 by a signal, EW-R009
    it took longer than `timeout_s` seconds (all that it started is then ended).
    """
    with tempfile.TemporaryFile() as log:
        try:
            kept = Kept(
                [str(part) for part in command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT, **(environment or {})},
            )
        except OSError as error:
            raise CompilerFailure("EW-R006", f"{label} cannot be started", why=str(error)) from error
        try:
            status = kept.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise CompilerFailure(
                "EW-R009",
                f"{label} was not done within {timeout_s:g} s and was ended",
                why=_tail(log.fileno()),
                fix="allow more ([compile] timeout_s of the profile), or look at what the artifact makes the compiler do",
            ) from None
        finally:
            kept.end()
        if status < 0:
            ended = f"by signal {signal.Signals(-status).name}"
            raise CompilerFailure("EW-R008", f"{label} crashed: its process ended {ended}", why=_tail(log.fileno()))
        if status > 0:
            raise CompilerFailure(
                "EW-R007", f"{label} did not compile the artifact: exit status {status}", why=_tail(log.fileno())
            )
        log.seek(0)
        return log.read().decode(errors="replace")


def _tail(descriptor: int) -> str:
    """The last lines of what was printed."""
    size = os.fstat(descriptor).st_size
    kept = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    return "\n".join(kept.decode(errors="replace").strip().splitlines()[-_TAIL_LINES:])
