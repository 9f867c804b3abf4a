"""Compilers that write what they make while a runtime's adapter loads the artifact: one script, `load_script`, runs any of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diagnostics import CompilerFailure
from exporter.compilers.base import Task
from exporter.compilers.process import run_compiler

__all__ = ["Loaded", "compile_by_loading"]

_SCRIPT: Final = Path(__file__).with_name("load_script.py")
_WORKER: Final = Path(__file__).parents[1] / "runtimes" / "worker.py"


@dataclass(frozen=True)
class Loaded:
    """What came of it: the adapter's report, the files that were written, by name, and what else was printed, line by line."""

    report: Mapping[str, Any]
    files: Mapping[str, bytes]
    said: Sequence[str]


def compile_by_loading(
    task: Task, adapter: str, options: Mapping[str, Any], files: Sequence[str], *, label: str, version: str
) -> Loaded:
    """Load a task's artifact on an adapter of `exporter.runtimes.worker`, whose options have it write `files` into the task's folder.

    Raises CompilerFailure: EW-R007 refused or its output cannot be read, and as `run_compiler`.
    """
    # By its bare name: some compilers name what they make by the path that they are given.
    command: list[str | Path] = [task.python, _SCRIPT, _WORKER, adapter, task.artifact.name, json.dumps(options)]
    said = run_compiler(command, label=label, folder=task.folder, timeout_s=task.timeout_s).splitlines()
    try:
        last = max(index for index, line in enumerate(said) if line.startswith("{"))  # libraries may print behind the report
        report = json.loads(said.pop(last))
        return Loaded(report, {name: (task.folder / name).read_bytes() for name in files}, said)
    except (OSError, ValueError) as error:
        raise CompilerFailure(
            "EW-R007", f"what {label} {version} wrote cannot be read", why=f"{type(error).__name__}: {error}"
        ) from error
