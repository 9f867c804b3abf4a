"""Rockchip's rknn-toolkit2: a QDQ .onnx -> a .rknn for one of its NPUs, with the artifact's own encodings.

The toolkit writes addresses of its memory into the file: the same artifact gives files that differ in some bytes and compute the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from exporter.compilers.base import Compiled, Task
from exporter.compilers.loading import compile_by_loading

__all__ = ["compile_for_rknn"]

_LABEL: Final = "rknn-toolkit2"
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
    loaded = compile_by_loading(task, "rknn", options, (_COMPILED,), label=_LABEL, version=version)
    used = {**task.options, **loaded.report}
    figures = {"flash_bytes": float(len(loaded.files[_COMPILED]))}
    return Compiled("rknn", version, task.architecture, used, loaded.files, _log(loaded.said), (), figures, reproducible=False)


def _log(said: Iterable[str]) -> str:
    """What the toolkit said, without colours, times and progress bars."""
    lines = (_NOISE.sub("", line).rstrip() for line in said)
    return "".join(f"{line}\n" for line in lines if line and not _BAR.search(line))
