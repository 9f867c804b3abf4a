"""The runtimes by name: which worker adapter runs them, with which options, from which package. Adding one is adding an entry.

A name may carry a version, ``"onnxruntime==1.17.3"``: then that release runs, in an environment of its own (see `environments`); and a
place, ``"onnxruntime@ssh://pi@pi5.local"`` or ``"onnxruntime@cortex-a76"``: then it runs on that machine (see `places`), or on that core of
Arm's in qemu (see `emulation`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from diagnostics import UsageError
from exporter.runtimes.emulation import DEFAULT_CORE, PLATFORM, Core, emulator, how_to_get_emulator
from exporter.runtimes.environments import RECIPES, Environment, Pin, find_environment, list_environments, parse_pin
from exporter.runtimes.places import Remote, parse_place

__all__ = ["RUNTIMES", "Availability", "Runtime", "all_runtimes", "available", "environment_of", "runtime_of", "runtimes_in"]


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
        emulates: whether its times say nothing of any device, because it imitates one on another machine.
        floats: whether it runs models of floats; else of integers alone (int8 in QDQ form, in steps of powers of two).
        patience_s: wall seconds that loading, and then every call, may take where the caller does not say.
        version: the one release that is meant; None: the one installed here, else the newest that has an environment of its own.
        remote: the machine that it runs on; None: this one.
        core: the emulated core that it runs on; None: this machine's own.
    """

    name: str
    adapter: str
    package: str
    suffix: str
    purpose: str
    how_to_get: str
    options: Mapping[str, Any] = field(default_factory=dict)
    emulates: bool = False
    floats: bool = True
    patience_s: float = 120.0
    version: str | None = None
    remote: Remote | None = None
    core: Core | None = None


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


_ADD: Final = "edgewright runtimes add"
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
    Runtime(
        "qnn-htp",
        "qnn-htp",
        "onnxruntime-qnn",
        ".onnx",
        "runs ONNX artifacts as the Hexagon NPU of a Snapdragon does, in the emulator of Qualcomm's libraries",
        "pip install 'edgewright[qnn]'",
        emulates=True,
        patience_s=900.0,
    ),
    Runtime(
        "openvino",
        "openvino",
        "openvino",
        ".onnx",
        "runs ONNX artifacts on Intel's CPU plugin",
        "pip install 'edgewright[openvino]'",
    ),
    Runtime(
        "rknn-simulator",
        "rknn",
        "rknn-toolkit2",
        ".onnx",
        "builds ONNX artifacts for a Rockchip NPU and simulates them",
        "edgewright runtimes add rknn-toolkit2==2.5.0",
        emulates=True,
        patience_s=900.0,
    ),
    Runtime(
        "esp-dl-simulator",
        "esp-dl",
        "esp-ppq",
        ".onnx",
        "simulates ESP-DL's kernels on ONNX artifacts with power-of-two scales",
        "edgewright runtimes add esp-ppq==1.3.12",
        emulates=True,
        floats=False,
        patience_s=900.0,
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
        "edgewright runtimes add tflite-runtime==2.14.0",
    ),
)

_BY_NAME: Final[Mapping[str, Runtime]] = {runtime.name: runtime for runtime in RUNTIMES}


def runtime_of(name: str) -> Runtime:
    """The runtime of that name, with or without ``==VERSION`` and ``@PLACE``. Raises UsageError EW-U001 where there is none."""
    release, at, place = name.partition("@")
    base, _, version = release.partition("==")
    found = _BY_NAME.get(base)
    if found is None:
        raise UsageError("EW-U001", f"there is no runtime {base!r}", fix=f"name one of {', '.join(_BY_NAME)}")
    if base != release:
        pin = parse_pin(f"{found.package}=={version}")
        found = replace(found, name=name, version=pin.version, how_to_get=f"{_ADD} {pin}")
    return _at(found, name, place) if at else found


def _at(runtime: Runtime, name: str, place: str) -> Runtime:
    """A runtime at a place."""
    where = parse_place(place)
    if isinstance(where, Remote):
        return replace(runtime, name=name, remote=where)
    if runtime.package not in RECIPES:
        raise UsageError("EW-U001", f"{runtime.name} does not run on an emulated core", fix=f"name one of {', '.join(RECIPES)}")
    pin = Pin(runtime.package, _installed(runtime.package) or "VERSION")
    add = runtime.how_to_get if runtime.how_to_get.startswith(_ADD) else f"{_ADD} {pin}"
    how_to_get = f"{add} --platform {PLATFORM}" + ("" if emulator() is not None else f"; {how_to_get_emulator()}")
    purpose = f"{runtime.purpose}, on an emulated {where.title}"
    return replace(
        runtime, name=name, core=where, how_to_get=how_to_get, purpose=purpose, emulates=True, patience_s=10 * runtime.patience_s
    )


def environment_of(runtime: Runtime) -> Environment | None:
    """The environment of its own in which a runtime runs; None where it runs in this one, or is nowhere."""
    if runtime.core is not None:
        return find_environment(runtime.package, runtime.version, PLATFORM)
    here = _installed(runtime.package)
    if here is not None and runtime.version in (None, here):
        return None
    return find_environment(runtime.package, runtime.version)


def available(name: str) -> Availability:
    """Whether a runtime is installed, here or in an environment of its own; nothing of it is imported, and no other machine is asked.

    Raises UsageError EW-U001 where there is no runtime of that name.
    """
    runtime = runtime_of(name)
    environment = environment_of(runtime)
    here = _installed(runtime.package) if runtime.core is None else None
    version = environment.pin.version if environment is not None else (here if runtime.version in (None, here) else None)
    if runtime.core is not None and emulator() is None:
        version = None
    return Availability(runtime.name, version, runtime.how_to_get, runtime.purpose)


def all_runtimes() -> tuple[Availability, ...]:
    """Every runtime that edgewright knows, installed or not, in the order of the table; then what environments of their own hold."""
    qualified = [name for environment in list_environments() for name in runtimes_in(environment)]
    return tuple(available(name) for name in (*_BY_NAME, *qualified))


def runtimes_in(environment: Environment) -> tuple[str, ...]:
    """Names of the runtimes that an environment holds; of those for emulated cores, on one core that stands for all."""
    pin = environment.pin
    place = f"@{DEFAULT_CORE}" if pin.platform else ""
    return tuple(f"{runtime.name}=={pin.version}{place}" for runtime in RUNTIMES if runtime.package == pin.package)


def _installed(package: str) -> str | None:
    """The version of a package in this environment."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
