"""Rockchip's rknn-toolkit2: a QDQ .onnx -> a .rknn for one of its NPUs, with the artifact's own encodings.

The toolkit writes addresses of its memory into the file: the same artifact gives files that differ in some bytes and compute the same.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from diagnostics import CompilerFailure
from exporter.compilers.base import Compiled, Task
from exporter.compilers.process import run_compiler

__all__ = ["compile_for_rknn"]

_LABEL: Final = "rknn-toolkit2"
_SCRIPT: Final = Path(__file__).with_name("load_script.py")
_WORKER: Final = Path(__file__).parents[1] / "runtimes" / "worker.py"
_COMPILED: Final = "model.rknn"
# Colours, and times of this run; a progress bar writes itself again and again behind carriage returns.
_NOISE: Final = re.compile(r"\x1b\[[0-9;]*m|\[\d\d:\d\d:\d\d\.\d+\] ")
_BAR: Final = re.compile(r"\d+%\|")


def compile_for_rknn(task: Task, version: str) -> Compiled:
    """Compile for one platform, for example ``rk3588``.

    Options: `optimization_level` (0 to 3, default the highest at which the toolkit does not crash; the result has the one that was used).

    Raises CompilerFailure: EW-R007 refused or its output cannot be read, EW-R008 crashed, EW-R009 time limit.
    """
    options = {**task.options, "target_platform": task.architecture, "compiled": _COMPILED}
    command: list[str | Path] = [task.python, _SCRIPT, _WORKER, "rknn", task.artifact.name, json.dumps(options)]
    printed = run_compiler(command, label=_LABEL, folder=task.folder, timeout_s=task.timeout_s)
    try:
        made = {_COMPILED: (task.folder / _COMPILED).read_bytes()}
        used = {**task.options, **json.loads(printed.splitlines()[-1])}
    except (OSError, ValueError, IndexError) as error:
        raise CompilerFailure("EW-R007", f"what {_LABEL} {version} wrote cannot be read", why=str(error)) from error
    figures = {"flash_bytes": float(len(made[_COMPILED]))}
    return Compiled("rknn", version, task.architecture, used, made, _log(printed), (), figures, reproducible=False)


def _log(printed: str) -> str:
    """What the toolkit said, without colours, times, progress bars and the script's own last line."""
    lines = (_NOISE.sub("", line).rstrip() for line in printed.replace("\r", "\n").splitlines()[:-1])
    return "".join(f"{line}\n" for line in lines if line and not _BAR.search(line))
