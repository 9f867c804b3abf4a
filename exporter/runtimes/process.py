"""A worker process: started in a group of its own, spoken to with time limits, always reaped, ended with this process."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np

from diagnostics import RuntimeFailure
from exporter.runtimes import landing, worker
from exporter.runtimes.limits import MEMORY, SECONDS

__all__ = ["Worker", "memory_failure", "worker_command"]

_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_TAIL_LINES: Final = 12
_LONGEST: Final = 1 << 40  # bytes of a message: a longer one is no message, eight characters of text look like that
_NOISE: Final = 1 << 16  # bytes that a login shell may print before the worker speaks

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Worker:
    """One child process that speaks the worker's protocol.

    Args:
        command: what to run.
        label: the runtime's name, for messages.
        threads: value of the thread variables (OMP_NUM_THREADS, ...) of the child.
        memory_bytes: how much the child may hold at once; None: nearly all that the machine has.
        explain: the error behind an exit status and the last lines printed; None, or where it gives None: it crashed.

    The standard error of the child goes to an unnamed file, so that it can neither block the child nor reach the terminal.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        label: str,
        threads: int,
        memory_bytes: int | None = None,
        explain: Callable[[int, str], RuntimeFailure | None] | None = None,
    ) -> None:
        self._label, self._explain = label, explain
        self._memory_bytes = memory_bytes if memory_bytes is not None else landing.most_of_the_memory()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._kept = landing.Kept(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                env={**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), "PYTHONDONTWRITEBYTECODE": "1"},
            )
        except OSError as error:
            self._log.close()
            raise RuntimeFailure("EW-R001", f"the worker of {label} cannot be started", why=str(error)) from error
        self._process = self._kept.process
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, meta: Mapping[str, Any], arrays: Arrays, timeout_s: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Send a request and wait for its answer. Raises RuntimeFailure EW-R003 (crash) or EW-R004 (time limit)."""
        message = BytesIO()
        worker.send(message, meta, arrays)
        deadline = time.monotonic() + timeout_s
        self._write(message.getvalue(), deadline, timeout_s)
        return self._read_message(deadline, timeout_s)

    def wait(self, timeout_s: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """The next message that the worker sends by itself. Raises as `ask`."""
        return self._read_message(time.monotonic() + timeout_s, timeout_s)

    def upload(self, chunks: Iterable[bytes], timeout_s: float) -> None:
        """Write raw bytes ahead of all messages; each chunk may take `timeout_s`. Raises as `ask`."""
        for chunk in chunks:
            self._write(chunk, time.monotonic() + timeout_s, timeout_s)

    def read_to(self, marker: bytes, timeout_s: float) -> bytes:
        """What comes up to and with `marker`; what follows is left. Raises as `ask`, EW-R003 also where the marker does not come."""
        deadline, seen = time.monotonic() + timeout_s, b""
        while not seen.endswith(marker):
            if len(seen) > _NOISE:
                raise self._garbage(seen)
            seen += self._read(1, deadline, timeout_s)
        return seen

    def stderr_tail(self) -> str:
        """The last lines that the worker and its runtime printed."""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 8192))
        return "\n".join(self._log.read().decode(errors="replace").strip().splitlines()[-_TAIL_LINES:])

    def close(self) -> None:
        """End the whole process group and reap it; closing twice does nothing."""
        if self._log.closed:
            return
        self._kept.end()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._log.close()

    def _read_message(self, deadline: float, limit: float) -> tuple[dict[str, Any], dict[str, Any]]:
        header = self._read(8, deadline, limit)
        length = struct.unpack("<Q", header)[0]
        if length > _LONGEST:
            raise self._garbage(header)
        payload = self._read(length, deadline, limit)
        try:
            message = worker.receive(BytesIO(header + payload))
        except (EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile):
            raise self._garbage(payload) from None
        assert message is not None
        return message

    def _read(self, count: int, deadline: float, limit: float) -> bytes:
        received = bytearray()
        while len(received) < count:
            self._wait(self._stdout, selectors.EVENT_READ, deadline, limit)
            chunk = os.read(self._stdout, min(count - len(received), 1 << 20))
            if not chunk:
                raise self._crashed()
            received += chunk
        return bytes(received)

    def _write(self, data: bytes, deadline: float, limit: float) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(self._stdin, selectors.EVENT_WRITE, deadline, limit)
            try:
                rest = rest[os.write(self._stdin, rest[: 1 << 20]) :]
            except BrokenPipeError:
                raise self._crashed() from None

    def _wait(self, descriptor: int, event: int, deadline: float, limit: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, event)
            while not selector.select(max(0.0, min(landing.WATCH_S, deadline - time.monotonic()))):
                held = landing.resident_bytes(self.pid)
                if held > self._memory_bytes:
                    self._kept.end()
                    raise memory_failure(self._label, self._memory_bytes, self.stderr_tail())
                if time.monotonic() >= deadline:
                    self._kept.end()
                    raise RuntimeFailure(
                        "EW-R004",
                        f"{self._label} did not answer within {limit:g} s and was ended",
                        why=self.stderr_tail(),
                        fix=f"allow more time ({SECONDS}=SECONDS), or look at what the artifact makes the runtime do",
                    )

    def _garbage(self, received: bytes) -> RuntimeFailure:
        self._kept.end()
        said = "\n".join(part for part in (f"it sent {received[:64]!r}", self.stderr_tail()) if part)
        return RuntimeFailure("EW-R003", f"{self._label} sent what is no message of a worker, and was ended", why=said)

    def _crashed(self) -> RuntimeFailure:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._kept.end()
            status = self._process.returncode
        explained = self._explain(status, self.stderr_tail()) if self._explain is not None else None
        if explained is not None:
            return explained
        ended = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        return RuntimeFailure("EW-R003", f"{self._label} crashed: its process ended {ended}", why=self.stderr_tail())


def memory_failure(label: str, limit: int | None, said: str) -> RuntimeFailure:
    """The error of a worker that took more than it may (None: nearly all that its machine has)."""
    allowed = f"{limit:,} bytes" if limit is not None else "15/16 of the machine's memory"
    return RuntimeFailure(
        "EW-R011",
        f"{label} held more than {allowed} and was ended",
        why=said,
        fix=f"allow more ({MEMORY}=8GiB), or look at what the artifact makes the runtime do",
    )


def worker_command(
    python: str | Path | Sequence[str | Path] | None, script: Path, adapter: str, artifact: Path, options: str
) -> list[str]:
    """The command line of a worker under `python`, an interpreter or the words that start one (None: this interpreter)."""
    words = [python or sys.executable] if python is None or isinstance(python, str | Path) else python
    return [*(str(word) for word in words), str(script), adapter, str(artifact), options]
