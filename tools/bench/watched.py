"""A command under a limit of time and of memory, all that it starts included."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Done", "run_watched"]

_PAUSE_S: Final = 0.1
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Done:
    """`exceeded` says which limit ended it, and is empty where it ended by itself, with `status`."""

    status: int
    stdout: str
    stderr: str
    exceeded: str = ""


def run_watched(command: Sequence[str], *, limit_s: float, limit_bytes: int, env: Mapping[str, str] | None = None) -> Done:
    """Run a command in a process group of its own; beyond `limit_s` seconds, or `limit_bytes` of resident memory, all of it is ended.

    Resident memory, not address space, is watched: runtimes reserve far more than they touch.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
        end, exceeded = time.monotonic() + limit_s, ""
        try:
            while process.poll() is None and not exceeded:
                if time.monotonic() > end:
                    exceeded = f"took longer than {limit_s:g} s"
                elif (used := _resident(process.pid)) > limit_bytes:
                    exceeded = f"took {used / 2**30:.1f} GiB of memory, more than the {limit_bytes / 2**30:g} that it was given"
                else:
                    time.sleep(_PAUSE_S)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        log.seek(0)
        return Done(process.returncode, out.read().decode(errors="replace"), log.read().decode(errors="replace"), exceeded)


def _resident(group: int) -> int:
    """Bytes of resident memory of all processes of a group."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if os.getpgid(int(entry.name)) == group:
                    total += int((entry / "statm").read_text().split()[1]) * _PAGE
    return total
