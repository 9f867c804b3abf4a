"""Espressif's ESP-PPQ: a QDQ .onnx with power-of-two scales -> the .espdl that ESP-DL loads on one of their chips, with our encodings.

Its exporter alone is used, not its calibration. Constants and exponents are read back out of the file and compared with the artifact's, bit
for bit (`exporter.runtimes.espdl_adapter`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from diagnostics import CompilerFailure
from exporter.compilers.base import Compiled, Task
from exporter.compilers.process import run_compiler

__all__ = ["compile_for_espdl"]

_LABEL: Final = "ESP-PPQ"
_SCRIPT: Final = Path(__file__).with_name("load_script.py")
_WORKER: Final = Path(__file__).parents[1] / "runtimes" / "worker.py"
_COMPILED: Final = "model.espdl"
# Colours, the banner, and times of this run.
_NOISE: Final = re.compile(r"\x1b\[[0-9;]*m|\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\]")
_SAID: Final = re.compile(r"\[(INFO|WARNING|ERROR)\]")


def compile_for_espdl(task: Task, version: str) -> Compiled:
    """Write the .espdl for one chip: ``esp32s3`` or ``esp32p4``.

    Raises CompilerFailure: EW-R007 refused (with nodes and reasons) or its output cannot be read, EW-R008 crashed, EW-R009 time limit.
    """
    options = {**task.options, "target": task.architecture, "compiled": _COMPILED}
    command: list[str | Path] = [task.python, _SCRIPT, _WORKER, "esp-dl", task.artifact.name, json.dumps(options)]
    printed = run_compiler(command, label=_LABEL, folder=task.folder, timeout_s=task.timeout_s)
    try:
        made = {_COMPILED: (task.folder / _COMPILED).read_bytes()}
        report = json.loads(printed.splitlines()[-1])
        log = _log(printed, report)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CompilerFailure(
            "EW-R007", f"what {_LABEL} {version} wrote cannot be read", why=f"{type(error).__name__}: {error}"
        ) from error
    figures = {
        "flash_bytes": float(len(made[_COMPILED])),
        "operators": float(sum(report["operators"].values())),
        "constants_compared": float(report["constants"]),
        "exponents_compared": float(report["exponents"]),
    }
    return Compiled("esp-ppq", version, task.architecture, task.options, made, log, (), figures)


def _log(printed: str, report: dict[str, object]) -> str:
    """What ESP-PPQ said, without its banner, colours and times; then what was found in the file."""
    operators, constants, exponents = report["operators"], report["constants"], report["exponents"]
    assert isinstance(operators, dict)
    lines = [_NOISE.sub("", line).rstrip() for line in printed.splitlines()[:-1]]
    lines = [line for line in lines if _SAID.match(line)]
    lines += [f"{count} x {operator}" for operator, count in operators.items()]
    lines.append(f"{constants} constants and {exponents} exponents read back: those of the artifact, bit for bit")
    return "".join(f"{line}\n" for line in lines)
