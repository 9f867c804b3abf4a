"""Arm's Vela: an int8 or int16x8 .tflite -> a .tflite whose operators run on Ethos-U as one custom operator, the rest on the CPU.

Whatever of the artifact is an operator of the compiled file still is one for the CPU: that is read from the file, not from what Vela
prints. Why it is, Vela prints.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from diagnostics import CompilerFailure
from exporter.compilers.base import Compiled, OperatorPlacement, Task
from exporter.compilers.process import run_compiler
from exporter.graph.artifacts import read_tflite

__all__ = ["compile_with_vela"]

_LABEL: Final = "Vela"
_OUT: Final = "compiled"
_CONFIG: Final = "Arm/vela.ini"  # the systems that Arm describes, in Vela's own package
# A reason may take several lines; an empty line ends it.
_REASON: Final = re.compile(
    r"^Warning \((?:supported|semantic)[^)]*\) operator: \S+, ofm: '(?P<output>.*)'\nReason: (?P<reason>(?:.+\n?)+)", re.MULTILINE
)
_KIB: Final = 1024
_NPU_OPERATOR: Final = "CUSTOM:ethos-u"  # all that runs on the NPU, in the compiled file
# Column of the per-layer file -> the name of our figure.
_LAYER_FIGURES: Final = {"Op Cycles": "cycles", "MAC Count": "macs"}
# Column of the summary -> the name of our figure and what it is multiplied by.
_FIGURES: Final[Mapping[str, tuple[str, float]]] = {
    "cycles_total": ("cycles", 1),
    "cycles_npu": ("npu_cycles", 1),
    "inference_time": ("estimated_seconds", 1),
    "core_clock": ("clock_hz", 1),
    "nn_macs": ("macs", 1),
    "sram_memory_used": ("sram_bytes", _KIB),
    "dram_memory_used": ("dram_bytes", _KIB),
    "on_chip_flash_memory_used": ("on_chip_flash_bytes", _KIB),
    "off_chip_flash_memory_used": ("off_chip_flash_bytes", _KIB),
}


def compile_with_vela(task: Task, version: str) -> Compiled:
    """Compile for one accelerator configuration, for example ``ethos-u55-128``.

    Options: `config` (an .ini of Vela's package), `system_config` and `memory_mode` (sections of it), `optimise` ("Performance" or
    "Size"), `arena_cache_size` (bytes).

    Raises CompilerFailure: EW-R007 refused or its output cannot be read, EW-R008 crashed, EW-R009 time limit.
    """
    options = {"config": _CONFIG, **task.options}
    command: list[str | Path] = [
        task.python,
        "-m",
        "ethosu.vela",
        task.artifact.name,
        "--accelerator-config",
        task.architecture,
        "--output-dir",
        _OUT,
    ]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    log = run_compiler([*command, "--verbose-performance"], label=_LABEL, folder=task.folder, timeout_s=task.timeout_s)
    stem = task.artifact.stem
    try:
        made = {
            f"{stem}_vela.tflite": (task.folder / _OUT / f"{stem}_vela.tflite").read_bytes(),
            "per-layer.csv": (task.folder / _OUT / f"{stem}_per-layer.csv").read_bytes(),
            "summary.csv": _summary_file(task.folder / _OUT, stem).read_bytes(),
        }
        compiled = made[f"{stem}_vela.tflite"]
        placements = _placements(task.artifact.read_bytes(), compiled, _rows(made["per-layer.csv"]), _reasons(log))
        (summary,) = _rows(made["summary.csv"])
        figures = {name: float(summary[column]) * factor for column, (name, factor) in _FIGURES.items()}
    except (OSError, ValueError, KeyError) as error:
        raise CompilerFailure(
            "EW-R007", f"what {_LABEL} {version} wrote cannot be read", why=f"{type(error).__name__}: {error}"
        ) from error
    figures["flash_bytes"] = len(compiled)
    return Compiled("vela", version, task.architecture, options, made, log, placements, figures)


def _summary_file(folder: Path, stem: str) -> Path:
    (found,) = folder.glob(f"{stem}_summary_*.csv")
    return found


def _rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(content.decode().splitlines()))


def _reasons(log: str) -> dict[str, tuple[str, ...]]:
    """Output name of an operator -> why it stays on the CPU, a sentence for each rule that it breaks."""
    found: dict[str, tuple[str, ...]] = {}
    for match in _REASON.finditer(log):
        reason = " ".join(line.strip() for line in match["reason"].splitlines())
        found[match["output"]] = (*found.get(match["output"], ()), reason)
    return found


def _placements(
    artifact: bytes, compiled: bytes, layers: Sequence[Mapping[str, str]], reasons: Mapping[str, tuple[str, ...]]
) -> tuple[OperatorPlacement, ...]:
    """Where each operator of the artifact went, with the figures of the layers that carry its output's name.

    Vela splits, joins and renames operators for the NPU: what it adds carries no name of the artifact's, and its cycles are in the
    sum alone.
    """
    left = {node.outputs[0] for node in read_tflite(compiled).nodes if node.op_type != _NPU_OPERATOR}
    figures: dict[str, dict[str, float]] = {}
    for layer in layers:
        own = figures.setdefault(layer["Name"], {})
        for column, name in _LAYER_FIGURES.items():
            own[name] = own.get(name, 0.0) + float(layer[column])
    return tuple(
        OperatorPlacement(
            node.outputs[0],
            node.op_type,
            "cpu" if node.outputs[0] in left else "npu",
            reasons.get(node.outputs[0], ("Vela gives no reason",)) if node.outputs[0] in left else (),
            figures.get(node.outputs[0], {}),
        )
        for node in read_tflite(artifact).nodes
    )
