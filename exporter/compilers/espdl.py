"""Espressif's ESP-PPQ: a QDQ .onnx with power-of-two scales -> the .espdl that ESP-DL loads on one of their chips, with our encodings.

Its exporter alone is used, not its calibration. Constants and exponents are read back out of the file and compared with the artifact's, bit
for bit (`exporter.runtimes.espdl_adapter`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from exporter.compilers.base import Compiled, Task
from exporter.compilers.loading import compile_by_loading

__all__ = ["compile_for_espdl"]

_LABEL: Final = "ESP-PPQ"
_COMPILED: Final = "model.espdl"
# Colours, the banner, and times of this run.
_NOISE: Final = re.compile(r"\x1b\[[0-9;]*m|\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\]")
_SAID: Final = re.compile(r"\[(INFO|WARNING|ERROR)\]")


def compile_for_espdl(task: Task, version: str) -> Compiled:
    """Write the .espdl for one chip: ``esp32s3`` or ``esp32p4``.

    Raises CompilerFailure: EW-R007 refused (with nodes and reasons) or its output cannot be read, EW-R008 crashed, EW-R009 time limit.
    """
    options = {**task.options, "target": task.architecture, "compiled": _COMPILED}
    loaded = compile_by_loading(task, "esp-dl", options, (_COMPILED,), label=_LABEL, version=version)
    report = loaded.report
    figures = {
        "flash_bytes": float(len(loaded.files[_COMPILED])),
        "operators": float(sum(report["operators"].values())),
        "constants_compared": float(report["constants"]),
        "exponents_compared": float(report["exponents"]),
    }
    log = _log(loaded.said, report)
    return Compiled("esp-ppq", version, task.architecture, task.options, loaded.files, log, (), figures)


def _log(said: Iterable[str], report: Mapping[str, Any]) -> str:
    """What ESP-PPQ said, without its banner, colours and times; then what was found in the file."""
    operators, borders, constants, exponents = (report[name] for name in ("operators", "borders", "constants", "exponents"))
    lines = [_NOISE.sub("", line).rstrip() for line in said]
    lines = [line for line in lines if _SAID.match(line)]
    lines += borders
    lines += [f"{count} x {operator}" for operator, count in operators.items()]
    lines.append(f"{constants} constants and {exponents} exponents read back: those of the artifact, bit for bit")
    return "".join(f"{line}\n" for line in lines)
