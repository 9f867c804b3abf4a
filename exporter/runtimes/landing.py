"""Receive a worker and its artifact over stdin, run it, clean up after it: the other end of a connection, see `remote`.

This text travels on a command line to machines that have nothing of edgewright, so it needs the standard library alone. Its argument is
base64 of JSON: ``files`` (name and bytes of each, which follow on stdin in this order, the worker first), ``arguments`` of the worker, its
number of ``threads``, the ``package`` of its runtime, the ``memory_bytes`` that it may hold (null: nearly all). On stdout come, behind
whatever a login shell printed, `MARKER`, a line of JSON that describes the machine (`machine`), and then what the worker writes. Everything
lies in one folder, the runtime's own temporary files too, which is gone when the worker has ended or the connection has: a worker that then
goes on computing is ended.

It parses under any Python 3, so that an old one is told apart by its number.
"""

import base64
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

MARKER = b"\0edgewright\0"
UNFIT = 97  # exit status: this machine cannot run a worker, and the last line on stderr says why
GREEDY = 98  # exit status: the worker held more memory than it may, and was ended
GRACE_S = 2.0
WATCH_S = 0.05  # how often a worker's memory is looked at: less than the time in which pages for a gigabyte can be had
# Waits for the end of its stdin, a pipe that nothing is ever written to, and kills its group, itself included.
KEEPER = ("/bin/sh", "-c", "trap '' HUP INT TERM; read -r _; kill -KILL 0")


class Kept:
    """A process in a group of its own, which is killed with all that it started once this process ends, even if by SIGKILL.

    A keeper holds one end of a pipe whose other end no process has but this one, so that the kernel closes it in any case. It leads the
    group: of a process that joins it from the first, none can be there without it, and no other group gets its number while it lives.

    Takes what `subprocess.Popen` does, but for what is said of groups and sessions. Raises OSError where a process cannot be started.
    """

    def __init__(self, command: "Sequence[str]", **settings: "Any") -> None:
        reader, writer = os.pipe()
        self._line = os.fdopen(writer, "wb")
        try:
            self._keeper = subprocess.Popen(
                KEEPER, stdin=reader, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **_in_group(0)
            )
        except OSError:
            self._line.close()
            raise
        finally:
            os.close(reader)
        try:
            self.process = subprocess.Popen(command, **settings, **_in_group(self._keeper.pid))
        except OSError:
            self._kill()
            raise

    def end(self) -> None:
        """Kill what is left of the group and reap the process; ending it twice does nothing."""
        self._kill()
        self.process.kill()  # where it has left its group
        self.process.wait()

    def _kill(self) -> None:
        if self._keeper.returncode is None:  # else it is reaped, and its number may be another's
            with contextlib.suppress(OSError):
                os.killpg(self._keeper.pid, signal.SIGKILL)
            self._keeper.wait()
        self._line.close()


def _in_group(leader: int) -> "dict[str, Any]":
    """Settings of a process that joins a group (0: that leads one)."""
    if sys.version_info >= (3, 11):  # noqa: UP036 - on other machines it may be older
        return {"process_group": leader}
    return {"preexec_fn": lambda: os.setpgid(0, leader)}  # safe as long as there is one thread, as here at that time


def main(job: str) -> int:
    """The worker's exit status, 128 + N where signal N ended it, `UNFIT` or `GREEDY`."""
    if sys.version_info < (3, 9):  # noqa: UP036 - the interpreter there is not ours
        return _unfit("Python {}.{} is there, and 3.9 or later is needed".format(*sys.version_info[:2]))
    if importlib.util.find_spec("numpy") is None:
        return _unfit("the package numpy is not installed there")
    wanted = json.loads(base64.b64decode(job).decode())
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    folder = tempfile.mkdtemp(prefix="edgewright-")
    try:
        for name, size in wanted["files"]:
            _receive(os.path.join(folder, name), size)
        return _serve(folder, wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unfit(why: str) -> int:
    sys.stderr.write(why + "\n")
    return UNFIT


def _receive(path: str, size: int) -> None:
    """Exactly `size` bytes of stdin into a file: what follows is not ours to read."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        while size:
            chunk = os.read(0, min(size, 1 << 20))
            if not chunk:
                sys.exit("the connection ended early")
            file.write(chunk)
            size -= len(chunk)


def _serve(folder: str, wanted: "dict[str, Any]") -> int:
    """Run the worker to its end, handing stdin on to it."""
    adapter, artifact, options = wanted["arguments"]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(wanted["threads"]))
    command = [sys.executable, os.path.join(folder, wanted["files"][0][0]), adapter, os.path.join(folder, artifact), options]
    os.write(1, MARKER + json.dumps(machine(wanted["package"])).encode() + b"\n")
    kept = Kept(
        command,
        stdin=subprocess.PIPE,
        cwd=folder,
        env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1", TMPDIR=folder, **threads),
    )
    child = kept.process
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # the worker alone holds stdout now
    threading.Thread(target=_hand_on, args=(kept,), daemon=True).start()
    limit = wanted["memory_bytes"] or most_of_the_memory()
    try:
        while child.poll() is None:
            if resident_bytes(child.pid) > limit:
                return GREEDY
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=WATCH_S)
        status = child.returncode
    finally:
        kept.end()
    # 255 is ssh's own status, of a connection that failed.
    return 128 - status if status < 0 else min(status, 254)


def _hand_on(kept: Kept) -> None:
    """stdin to the worker until it ends; then the worker has `GRACE_S` seconds to end as well."""
    stdin = kept.process.stdin
    assert stdin is not None
    try:
        while True:
            chunk = os.read(0, 1 << 20)
            if not chunk:
                break
            stdin.write(chunk)
            stdin.flush()
        stdin.close()
        kept.process.wait(timeout=GRACE_S)
    except OSError:  # the worker has ended: its exit status tells more
        return
    except subprocess.TimeoutExpired:
        kept.end()


def resident_bytes(pid: int) -> int:
    """Memory that a process holds; 0 where the system does not tell, as others than Linux do not."""
    fields = _text("/proc/" + str(pid) + "/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def most_of_the_memory() -> int:
    """15/16 of this machine's memory: beyond it the kernel ends processes as it likes. Without bound where the system does not tell."""
    found = _memory_bytes()
    return sys.maxsize if found is None else found // 16 * 15


def machine(package: str) -> "dict[str, Any]":
    """Facts of this machine and of a package in this interpreter, without its name: see `exporter.runtimes.machine.Machine`."""
    cpu = _text("/proc/cpuinfo")
    fields = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in cpu.splitlines())]
    implementers = [value for key, value in fields if key == "CPU implementer"]
    numbers = [value for key, value in fields if key == "CPU part"]
    return {
        "board": _text("/proc/device-tree/model").strip("\0\n "),
        "processor": next((value for key, value in fields if key == "model name"), "") or _processor(),
        "parts": list(dict.fromkeys(maker + ":" + number for maker, number in zip(implementers, numbers))),  # noqa: B905 - from Python 3.10
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "system": " ".join((platform.system(), platform.release(), platform.machine())),
        "python": platform.python_version(),
        "numpy": _version("numpy"),
        "package": package,
        "version": _version(package),
    }


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _processor() -> str:
    if sys.platform != "darwin":
        return platform.processor()
    asked = subprocess.run(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def _memory_bytes() -> Any:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _version(package: str) -> Any:
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # the latter of an empty name
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
