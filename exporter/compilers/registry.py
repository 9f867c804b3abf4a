"""The compilers by name, and the stage that asks them. Adding one is adding an entry here and its options to `targets.schema`."""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from diagnostics import CompilerFailure
from exporter.compilers.base import Compiled, Compiler, Task
from exporter.compilers.coreml import compile_for_coreml
from exporter.compilers.espdl import compile_for_espdl
from exporter.compilers.qnn import compile_for_htp
from exporter.compilers.rknn import compile_for_rknn
from exporter.compilers.vela import compile_with_vela
from exporter.runtimes.environments import find_environment
from exporter.runtimes.registry import Availability
from targets.schema import Compile

if TYPE_CHECKING:
    from exporter.built import Written

__all__ = ["COMPILERS", "all_compilers", "compile_for", "compiler_of", "how_to_get"]

COMPILERS: Final[Mapping[str, Compiler]] = {
    compiler.name: compiler
    for compiler in (
        Compiler(
            "vela",
            "ethos-u-vela",
            "compiles TFLite for Arm Ethos-U, says what runs there and in how many cycles",
            "pip install 'edgewright[npu]'",
            compile_with_vela,
        ),
        Compiler(
            "qnn-htp",
            "onnxruntime-qnn",
            "compiles QDQ ONNX into context binaries for the Hexagon NPU of a Snapdragon",
            "pip install 'edgewright[qnn]'",
            compile_for_htp,
        ),
        Compiler(
            "rknn",
            "rknn-toolkit2",
            "compiles QDQ ONNX for Rockchip's NPUs",
            "edgewright runtimes add rknn-toolkit2==2.5.0",
            compile_for_rknn,
        ),
        Compiler(
            "esp-ppq",
            "esp-ppq",
            "writes QDQ ONNX as .espdl, which ESP-DL loads on Espressif's chips",
            "edgewright runtimes add esp-ppq==1.3.12",
            compile_for_espdl,
        ),
        Compiler(
            "coreml",
            "coremltools",
            "converts float ONNX into Core ML's ML programs for Apple's devices",
            "pip install 'edgewright[coreml]'",
            compile_for_coreml,
        ),
    )
}


def compiler_of(table: Compile) -> Compiler:
    """The compiler that a profile names."""
    return COMPILERS[table.compiler]


def all_compilers() -> tuple[Availability, ...]:
    """Every compiler that edgewright knows, installed or not; nothing of them is imported."""
    return tuple(
        Availability(
            compiler.name, found[1] if (found := _find(compiler)) is not None else None, compiler.how_to_get, compiler.purpose
        )
        for compiler in COMPILERS.values()
    )


def how_to_get(table: Compile) -> str:
    """One line that says how to get a profile's compiler; "" where it is here."""
    compiler = compiler_of(table)
    if _find(compiler) is not None:
        return ""
    return f"not compiled: {compiler.name} ({compiler.package}) is not installed; get it: {compiler.how_to_get}"


def compile_for(written: Written, table: Compile) -> tuple[Compiled, ...]:
    """Compile a written artifact for every architecture of a profile.

    Raises CompilerFailure: EW-R006 the compiler is not installed, and what `Compiler.compile` raises.
    """
    compiler = compiler_of(table)
    found = _find(compiler)
    if found is None:
        raise CompilerFailure(
            "EW-R006",
            f"the compiler {compiler.name} is not installed",
            why=f"the package {compiler.package} is not in this environment, and has none of its own",
            fix=compiler.how_to_get,
        )
    python, version = found
    compiled = []
    for architecture in table.architectures:
        with tempfile.TemporaryDirectory(prefix="edgewright-") as name:
            folder = Path(name)
            artifact = folder / f"model{written.suffix}"
            written.write(artifact)
            task = Task(artifact, architecture, dict(table.options), folder, python, table.timeout_s)
            compiled.append(compiler.compile(task, version))
    return tuple(compiled)


def _find(compiler: Compiler) -> tuple[Path, str] | None:
    """An interpreter that has the compiler, this one first, and the version; None where there is none."""
    try:
        return Path(sys.executable), importlib.metadata.version(compiler.package)
    except importlib.metadata.PackageNotFoundError:
        environment = find_environment(compiler.package)
        return (environment.python, environment.pin.version) if environment is not None else None
