"""Nothing that edgewright starts outlives it, however it is ended: workers, compilers, what is on another machine, and what those start."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.runtimes import landing

# Deaf to what a terminal or a service manager sends, and busy: it reads no stdin, and so does its child.
STUBBORN = """
import os, signal, sys, time
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
child = os.fork()
with open(os.path.join({folder!r}, "child" if child == 0 else "parent"), "w") as file:
    file.write(str(os.getpid()) + "\\n")
time.sleep(120)
"""
OF_A_RUNTIME = """
import sys
from exporter.runtimes.process import Worker
worker = Worker([sys.executable, {script!r}], label="stubborn", threads=1)
worker.wait(120)
"""
OF_A_COMPILER = """
import sys
from pathlib import Path
from exporter.compilers.process import run_compiler
run_compiler([sys.executable, {script!r}], label="stubborn", folder=Path({folder!r}), timeout_s=120)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("text", [OF_A_RUNTIME, OF_A_COMPILER], ids=["runtime", "compiler"])
def test_what_was_started_ends_with_a_parent_that_is_killed(text: str, number: int, tmp_path: Path) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN.format(folder=str(tmp_path)))
    code = text.format(script=str(script), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        started = [started_process(tmp_path / name) for name in ("parent", "child")]
        assert all(map(running, started))
        parent.send_signal(number)
        assert parent.wait(10) == -number
    assert until(lambda: not any(map(running, started)))


def test_a_worker_on_another_machine_ends_with_what_started_it_there(tmp_path: Path) -> None:
    script = STUBBORN.format(folder=str(tmp_path)).encode()
    job = {
        "files": [("stubborn.py", len(script)), ("model", 0)],
        "arguments": ("adapter", "model", "{}"),
        "threads": 1,
        "package": "numpy",
        "memory_bytes": None,
    }
    command = [sys.executable, landing.__file__, base64.b64encode(json.dumps(job).encode()).decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as there:
        assert there.stdin is not None
        there.stdin.write(script)
        there.stdin.flush()
        started = [started_process(tmp_path / name) for name in ("parent", "child")]
        there.kill()
        there.wait(10)
        assert until(lambda: not any(map(running, started)))


@pytest.mark.parametrize("version", [sys.version_info, (3, 9)], ids=["this", "3.9"])
def test_a_process_that_is_forgotten_is_ended(version: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", version)
        kept = landing.Kept([sys.executable, "-c", STUBBORN.format(folder=str(tmp_path))])
    started = [started_process(tmp_path / name) for name in ("parent", "child")]
    process = kept.process
    del kept
    assert until(lambda: not any(map(running, started)))
    assert process.wait(10) == -signal.SIGKILL


def test_ending_leaves_no_process_and_no_descriptor(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for command in ([sys.executable, "-c", "pass"], [sys.executable, "-c", "import os, time; os.setsid(); time.sleep(120)"]):
        kept = landing.Kept(command)
        time.sleep(0.2)
        kept.end()
        kept.end()
        assert not running(kept.process.pid)
        with pytest.raises(ProcessLookupError):  # the keeper is reaped as well
            os.killpg(kept._keeper.pid, 0)
    with pytest.raises(FileNotFoundError):
        landing.Kept([str(tmp_path / "none")])
    assert set(os.listdir("/proc/self/fd")) == before


def started_process(path: Path) -> int:
    """The number that a process writes into a file as soon as it runs."""
    assert until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def running(pid: int) -> bool:
    """Whether there is such a process; what is dead and not yet reaped is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(true: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
