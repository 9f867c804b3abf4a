"""The same worker on another machine, through OpenSSH: it needs Python, numpy and the runtime there, and leaves nothing behind.

One connection carries everything: a small program on the command line (`landing`), which receives the worker's file and the artifact over
stdin into a temporary folder and runs the worker on the rest. Host keys and authentication are the user's own ssh configuration's; nothing is
ever asked (``BatchMode``). ``$EDGEWRIGHT_SSH`` is another command than ``ssh``, with options: ``ssh -F board.conf``.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from diagnostics import DataError, RuntimeFailure
from exporter.runtimes import landing
from exporter.runtimes.environments import RECIPES
from exporter.runtimes.machine import Machine
from exporter.runtimes.places import Remote
from exporter.runtimes.process import Worker, memory_failure
from exporter.runtimes.registry import Runtime

__all__ = ["remote_worker", "sent_files", "what_to_install"]

_CONNECT_S: Final = 20
_CHUNK: Final = 1 << 20
_OPTIONS: Final = {
    "BatchMode": "yes",
    "ClearAllForwardings": "yes",
    "ConnectTimeout": str(_CONNECT_S),
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ServerAliveCountMax": "4",
    "ServerAliveInterval": "15",
}
# What ssh says (OpenSSH 9.2) -> how to mend it; the first that fits.
_REMEDIES: Final = (
    (
        "has changed and you have requested strict checking",
        "its key is another than the known one: make sure that it is the same machine, then ssh-keygen -R {host}",
    ),
    ("Host key verification failed", "its key is not known here: connect once by hand and compare the fingerprint: {ssh}"),
    (
        "Permission denied",
        "give it your public key (ssh-copy-id) and let ssh find the private one (ssh-add, or IdentityFile): {ssh}",
    ),
    ("Could not resolve hostname", "check the name, or give an address"),
    ("Connection refused", "check the port, and that sshd runs there"),
    ("timed out", "check the address, and that the machine is on this network"),
    ("No route to host", "check the address, and that the machine is on this network"),
)


def remote_worker(
    remote: Remote,
    runtime: Runtime,
    script: Path,
    artifact: Path,
    settings: Mapping[str, Any],
    *,
    timeout_s: float,
    memory_bytes: int | None = None,
) -> tuple[Worker, Machine]:
    """A worker that is about to load the artifact there, and where that is.

    Args:
        timeout_s: wall seconds that the connection, and then every megabyte on its way, may take.
        memory_bytes: how much the worker may hold there; None: nearly all that the machine has.
    Raises:
        DataError: EW-G003, the artifact names files outside of its folder.
        RuntimeFailure: EW-R001 Python or numpy is not there, EW-R003 and EW-R004 as `Worker`, EW-R010 the machine cannot be reached.
    """
    files = {script.name: script, **sent_files(artifact)}
    job = {
        "files": [(name, path.stat().st_size) for name, path in files.items()],
        "arguments": (runtime.adapter, artifact.name, json.dumps(settings)),
        "threads": settings["threads"],
        "package": runtime.package,
        "memory_bytes": memory_bytes,
    }

    def explain(status: int, said: str) -> RuntimeFailure | None:
        return _explained(remote, runtime, memory_bytes, status, said)

    worker = Worker(_command(remote, job), label=f"{runtime.name}", threads=int(settings["threads"]), explain=explain)
    try:
        worker.upload((chunk for path in files.values() for chunk in _chunks(path)), timeout_s)
        worker.read_to(landing.MARKER, timeout_s)
        machine = Machine.from_facts(json.loads(worker.read_to(b"\n", timeout_s)))
    except BaseException:
        worker.close()
        raise
    return worker, machine


def sent_files(artifact: Path) -> dict[str, Path]:
    """An artifact and the files of its external data, by the names that it knows them by.

    Raises DataError EW-G003 where one lies outside of its folder or is missing: nothing of this machine leaves it that way.
    """
    files = {artifact.name: artifact}
    for location in _external(artifact) if artifact.suffix == ".onnx" else ():
        path = (artifact.parent / location).resolve()
        if not path.is_relative_to(artifact.parent.resolve()) or not path.is_file():
            raise DataError("EW-G003", f"{artifact.name} names {location!r}, which is no file of its folder", where=str(artifact))
        files[location] = path
    return files


def what_to_install(remote: Remote, runtime: Runtime) -> str:
    """How the other machine gets what a runtime needs."""
    version = f"=={runtime.version}" if runtime.version is not None else ""
    recipe = RECIPES.get(runtime.package)
    numpy = recipe.numpy_for(runtime.version or "999") if recipe is not None else "numpy"
    packages = " ".join(shlex.quote(package) for package in (runtime.package + version, numpy))
    return f"on {remote}: {remote.python} -m pip install {packages}"


def _external(artifact: Path) -> list[str]:
    """Names of the files in which an ONNX file keeps weights."""
    import onnx_ir as ir

    try:
        model = ir.load(artifact)
    except Exception:  # no ONNX file, in one of many ways: the runtime there is to say so
        return []
    tensors = [
        tensor
        for graph in model.graphs()
        for tensor in (
            *(value.const_value for value in graph.initializers.values()),
            *(entry.value for node in graph for entry in node.attributes.values() if entry.type == ir.AttributeType.TENSOR),
        )
    ]
    return sorted({str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _command(remote: Remote, job: Mapping[str, Any]) -> list[str]:
    """ssh's own command line. What it hands to a shell there holds no newline and no character that shells quote differently."""
    program = base64.b64encode(Path(landing.__file__).read_bytes()).decode()
    described = base64.b64encode(json.dumps(job).encode()).decode()
    run = f"exec(compile(__import__('base64').b64decode('{program}'),'landing','exec'))"
    options = [text for name, value in _OPTIONS.items() for text in ("-o", f"{name}={value}")]
    user = ["-l", remote.user] if remote.user is not None else []
    port = ["-p", str(remote.port)] if remote.port is not None else []
    there = f'{shlex.quote(remote.python)} -c "{run}" {described}'
    return [*shlex.split(os.environ.get("EDGEWRIGHT_SSH") or "ssh"), "-T", *options, *user, *port, "--", remote.host, there]


def _explained(remote: Remote, runtime: Runtime, memory_bytes: int | None, status: int, said: str) -> RuntimeFailure | None:
    """The error behind an exit status of ssh, which is that of the program there but for 255."""
    by_hand = (
        f"ssh {'-p ' + str(remote.port) + ' ' if remote.port else ''}{remote.user + '@' if remote.user else ''}{remote.host}"
    )
    if status == 255:
        remedy = next((remedy for sign, remedy in _REMEDIES if sign in said), "see whether this works: {ssh}")
        return RuntimeFailure(
            "EW-R010", f"{remote} cannot be reached, or was lost", why=said, fix=remedy.format(host=remote.host, ssh=by_hand)
        )
    if status == landing.GREEDY:
        return memory_failure(runtime.name, memory_bytes, said)
    if status == landing.UNFIT:
        return RuntimeFailure("EW-R001", f"{remote} cannot run a worker", why=said, fix=what_to_install(remote, runtime))
    if status in (126, 127):
        return RuntimeFailure(
            "EW-R001",
            f"there is no {remote.python} on {remote}",
            why=said,
            fix=f"install Python 3.9 or later with numpy there, or name it: {remote}?python=PATH",
        )
    if status - 128 in set(signal.Signals):
        ended = f"its process ended there by signal {signal.Signals(status - 128).name}"
        return RuntimeFailure("EW-R003", f"{runtime.name} crashed: {ended}", why=said)
    return None
