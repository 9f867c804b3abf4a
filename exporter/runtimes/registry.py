"""The runtimes by name: which worker adapter runs them, with which options, from which package. Adding one is adding an entry."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from diagnostics import UsageError

__all__ = ["RUNTIMES", "Availability", "Runtime", "all_runtimes", "available", "runtime_of"]


@dataclass(frozen=True)
class Runtime:
    """One way to run artifacts.

    Attributes:
        name: as users and target profiles write it.
        adapter: entry of `worker.ADAPTERS`.
        package: distribution name whose presence and version `available` asks for.
        suffix: file name ending of the artifacts it runs.
        purpose: what it is for, one phrase.
        how_to_get: the command that installs it.
        options: passed to the adapter.
    """

    name: str
    adapter: str
    package: str
    suffix: str
    purpose: str
    how_to_get: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Availability:
    """Whether something is installed here: `version` is None where it is not."""

    name: str
    version: str | None
    how_to_get: str
    purpose: str = ""

    @property
    def present(self) -> bool:
        return self.version is not None


_LITERT: Final = ("litert", "ai-edge-litert", ".tflite")
_PIP_LITERT: Final = "pip install 'ai-edge-litert>=2.0'"

RUNTIMES: Final[tuple[Runtime, ...]] = (
    Runtime(
        "onnxruntime",
        "onnxruntime",
        "onnxruntime",
        ".onnx",
        "runs ONNX artifacts on the CPU",
        "pip install 'onnxruntime>=1.22'",
    ),
    Runtime("litert-ref", *_LITERT, "runs TFLite artifacts, reference kernels (bit-exact)", _PIP_LITERT, {"kernels": "ref"}),
    Runtime("litert-builtin", *_LITERT, "runs TFLite artifacts, builtin kernels", _PIP_LITERT, {"kernels": "builtin"}),
    Runtime("litert-xnnpack", *_LITERT, "runs TFLite artifacts through XNNPACK, as apps do", _PIP_LITERT, {"kernels": "xnnpack"}),
    Runtime(
        "tflite-micro",
        "tflite-micro",
        "tflite-micro",
        ".tflite",
        "runs TFLite artifacts as a microcontroller does, measures the arena",
        "pip install 'edgewright[mcu]'",
    ),
    Runtime(
        "tflite-runtime",
        "tflite-runtime",
        "tflite-runtime",
        ".tflite",
        "runs TFLite artifacts on the last release under the old name",
        "pip install 'tflite-runtime==2.14.0' 'numpy<2' in an environment of its own (Python 3.11), named by `python=`",
    ),
)

_BY_NAME: Final[Mapping[str, Runtime]] = {runtime.name: runtime for runtime in RUNTIMES}


def runtime_of(name: str) -> Runtime:
    """The runtime of that name. Raises UsageError EW-U001 where there is none."""
    found = _BY_NAME.get(name)
    if found is None:
        raise UsageError("EW-U001", f"there is no runtime {name!r}", fix=f"name one of {', '.join(_BY_NAME)}")
    return found


def available(name: str) -> Availability:
    """Whether a runtime is installed in this environment; nothing of it is imported.

    Raises UsageError EW-U001 where there is no runtime of that name.
    """
    runtime = runtime_of(name)
    try:
        version: str | None = importlib.metadata.version(runtime.package)
    except importlib.metadata.PackageNotFoundError:
        version = None
    return Availability(runtime.name, version, runtime.how_to_get, runtime.purpose)


def all_runtimes() -> tuple[Availability, ...]:
    """Every runtime that edgewright knows, installed or not, in the order of the table."""
    return tuple(available(runtime.name) for runtime in RUNTIMES)
