"""Run an artifact on a real runtime, in a process of its own, with time limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np

from diagnostics import DataError, ModelError, RuntimeFailure
from exporter.quantization.plan import Encoding
from exporter.runtimes.emulation import PLATFORM, emulator_version, launcher
from exporter.runtimes.environments import Environment
from exporter.runtimes.inprocess import InProcess
from exporter.runtimes.limits import chosen_limits
from exporter.runtimes.machine import Machine, this_machine
from exporter.runtimes.process import Worker, worker_command
from exporter.runtimes.registry import Runtime, available, environment_of, runtime_of
from exporter.runtimes.remote import remote_worker, what_to_install
from exporter.runtimes.seal import check_seal

__all__ = ["Session", "TensorInfo", "open_session"]

WORKER: Final = Path(__file__).with_name("worker.py")
_UNKNOWN: Final = Machine()


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of an artifact, as the runtime describes it.

    `shape` has -1 where a dimension is not fixed. `scale` and `zero_point` are None where the tensor is not quantized:
    ``real = scale * (integer - zero_point)``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


class Session:
    """An artifact loaded by a runtime in a worker process. Use it as a context manager: leaving it ends the process.

    `machine` is where it runs. Every call raises RuntimeFailure: EW-R002 where the runtime refuses, EW-R003 where it crashes, EW-R004
    where it exceeds the time limit, EW-R011 the memory limit (the process is then gone).
    """

    def __init__(
        self,
        runtime: Runtime,
        worker: Worker | InProcess,
        hello: Mapping[str, Any],
        timeout_s: float,
        machine: Machine = _UNKNOWN,
    ) -> None:
        self.runtime, self.machine = runtime.name, machine
        self.inputs = tuple(_tensor_info(entry) for entry in hello["inputs"])
        self.outputs = tuple(_tensor_info(entry) for entry in hello["outputs"])
        self._worker, self._timeout_s = worker, timeout_s

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name, in the artifact's own dtypes (nothing is quantized or dequantized).

        Raises DataError EW-D003 where a name, shape or dtype of `inputs` does not fit.
        """
        self._check(inputs)
        return self._ask({"request": "run"}, inputs)[1]

    def tensors(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every tensor of the last run by name ("index:name" where a name is empty or repeats); needs `keep_tensors`."""
        return self._ask({"request": "tensors"})[1]

    def encodings(self) -> dict[str, Encoding]:
        """Encodings of the quantized ones among `tensors()`; `axis` counts in the order the tensor is stored."""
        found = self._ask({"request": "tensors"})[0]["tensors"]
        return {name: _encoding(info) for name, info in found.items() if info["scales"]}

    def latency(self, inputs: Mapping[str, np.ndarray[Any, Any]], repeats: int = 20) -> list[float]:
        """Wall seconds of each of `repeats` inferences, measured inside of the worker, after one that is not counted."""
        self._check(inputs)
        seconds: list[float] = self._ask({"request": "latency", "repeats": repeats}, inputs)[0]["seconds"]
        return seconds

    def report(self) -> dict[str, Any]:
        """What the runtime says of itself: arena bytes (tflite-micro), operators and delegated partitions (LiteRT)."""
        report: dict[str, Any] = self._ask({"request": "report"})[0]["report"]
        return report

    def close(self) -> None:
        """End the worker; closing twice does nothing."""
        self._worker.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(
        self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]] | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        answer, found = self._worker.ask(meta, arrays or {}, self._timeout_s)
        if "error" in answer:
            raise RuntimeFailure("EW-R002", f"{self.runtime} refused to {meta['request']}", why=answer["error"])
        return answer, found

    def _check(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> None:
        wanted = {info.name: info for info in self.inputs}
        if set(inputs) != set(wanted):
            raise DataError("EW-D003", f"the artifact takes the inputs {sorted(wanted)}, not {sorted(inputs)}")
        for name, array in inputs.items():
            info = wanted[name]
            fits = len(array.shape) == len(info.shape) and all(
                dim in (have, -1) for dim, have in zip(info.shape, array.shape, strict=True)
            )
            if not fits or array.dtype.name != info.dtype:
                raise DataError(
                    "EW-D003",
                    f"input {name} has shape {array.shape} and dtype {array.dtype}",
                    why=f"the artifact takes shape {info.shape} and dtype {info.dtype}",
                )


def open_session(
    runtime: str,
    artifact: str | Path,
    *,
    threads: int = 1,
    timeout_s: float | None = None,
    keep_tensors: bool = False,
    python: str | Path | Sequence[str | Path] | None = None,
    memory_bytes: int | None = None,
    options: Mapping[str, Any] | None = None,
    worker_script: Path = WORKER,
    isolate: bool = True,
) -> Session:
    """Load an artifact on a runtime in a worker process.

    Args:
        runtime: a name of `all_runtimes()`, or one with a version or a place such as ``"onnxruntime==1.17.3"``,
            ``"litert-xnnpack@ssh://pi@pi5.local"``.
        artifact: the model file.
        threads: number of threads the runtime may use.
        timeout_s: wall seconds that loading, and then every call, may take; None: what the user allows (`limits`), else the runtime's entry.
        keep_tensors: keep all intermediate tensors for `Session.tensors`.
        python: interpreter of another environment that has numpy and the runtime, or the words that start it; None: this one, or the
            runtime's own environment.
        memory_bytes: how much the worker's process may hold; None: what the user allows, else nearly all that the machine has.
        options: adapter options beside those of the runtime (onnxruntime: optimize; tflite-micro: arena_bytes; qnn-htp: htp_arch,
            soc_model, cpu_fallback).
        worker_script: the program that speaks the worker's protocol.
        isolate: False loads the runtime into this very process: faster, without time limits, and a crash takes the caller along. A
            runtime of another interpreter has a process of its own all the same.

    Raises:
        UsageError: EW-U001, there is no such runtime.
        ModelError: EW-M001, the artifact does not exist.
        RuntimeFailure: EW-R001 not installed, EW-R002 refused the artifact, EW-R003 crashed, EW-R004 time limit, EW-R010 the other
            machine cannot be reached, EW-R011 memory limit.
    """
    entry = runtime_of(runtime)
    allowed = chosen_limits()
    timeout_s = next(seconds for seconds in (timeout_s, allowed.seconds, entry.patience_s) if seconds is not None)
    memory_bytes = allowed.memory_bytes if memory_bytes is None else memory_bytes
    path = Path(artifact).resolve()
    if not path.is_file():
        raise ModelError("EW-M001", f"the artifact {artifact} does not exist")
    environment = None
    if python is None and worker_script == WORKER and entry.remote is None:
        if not available(runtime).present:
            wanted = f" {entry.version}" if entry.version is not None else ""
            raise _missing(entry, f"the package {entry.package}{wanted} is not installed here")
        environment = environment_of(entry)
        if environment is not None:
            if environment.seal:
                check_seal(environment.pin.folder, environment.seal)
            python = launcher(environment.pin.folder, entry.core) if entry.core is not None else environment.python
    settings = {
        "threads": threads,
        "keep_tensors": keep_tensors,
        **entry.options,
        **(options or {}),
    }
    if not isolate and python is None and entry.remote is None:
        here = InProcess(entry.adapter, path, settings)
        return Session(entry, here, here.hello, timeout_s, this_machine(entry.package))
    if entry.remote is not None:
        worker, machine = remote_worker(
            entry.remote, entry, worker_script, path, settings, timeout_s=timeout_s, memory_bytes=memory_bytes
        )
    else:
        command = worker_command(python, worker_script, entry.adapter, path, json.dumps(settings))
        worker, machine = (
            Worker(command, label=entry.name, threads=threads, memory_bytes=memory_bytes),
            _where(entry, environment, python),
        )
    try:
        if entry.remote is not None and entry.version not in (None, machine.version):
            raise _missing(entry, f"{entry.package} is there in version {machine.version}")
        hello, _ = worker.wait(timeout_s)
        if "error" in hello:
            if hello["kind"] == "missing":
                raise _missing(entry, hello["error"])
            said = "\n".join(part for part in (hello["error"], worker.stderr_tail()) if part)
            raise RuntimeFailure("EW-R002", f"{entry.name} could not load {path.name}", where=str(artifact), why=said)
    except BaseException:
        worker.close()
        raise
    return Session(entry, worker, hello, timeout_s, machine)


def _where(runtime: Runtime, environment: Environment | None, python: object) -> Machine:
    """This machine, with the versions of the interpreter that runs the worker: unknown of one that the caller brought along."""
    here = this_machine(runtime.package)
    if environment is not None:
        version, numpy = environment.pin.version, environment.installed("numpy")
        if runtime.core is not None:
            here = replace(
                here,
                processor=f"{runtime.core.title} emulated by {emulator_version()}",
                system=f"Linux {PLATFORM}",
                board="",
                cores=None,
            )
        return replace(here, python=environment.python_version, numpy=numpy, version=version)
    return here if python is None else replace(here, python="", numpy="", version=None)


def _missing(runtime: Runtime, why: str) -> RuntimeFailure:
    fix = what_to_install(runtime.remote, runtime) if runtime.remote is not None else runtime.how_to_get
    return RuntimeFailure("EW-R001", f"the runtime {runtime.name} is not installed", why=why, fix=fix)


def _tensor_info(entry: Mapping[str, Any]) -> TensorInfo:
    scale = entry["scales"][0] if entry["scales"] else None
    zero_point = entry["zero_points"][0] if entry["scales"] else None
    return TensorInfo(entry["name"], tuple(entry["shape"]), entry["dtype"], scale, zero_point)


def _encoding(info: Mapping[str, Any]) -> Encoding:
    per_channel = len(info["scales"]) > 1
    zero_points = tuple(info["zero_points"]) or (0,) * len(info["scales"])
    return Encoding(info["dtype"], tuple(info["scales"]), zero_points, info["axis"] if per_channel else None)
