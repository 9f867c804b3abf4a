"""Apple's Core ML Tools: a float .onnx -> an .mlpackage, the ML program that Xcode compiles and Core ML loads.

Only macOS and the devices run it, and there Core ML decides at run time which unit an operator runs on: what is made here has neither been
run nor placed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from diagnostics import CompilerFailure
from exporter.compilers.base import Compiled, Task
from exporter.compilers.process import run_compiler

__all__ = ["compile_for_coreml"]

_LABEL: Final = "Core ML Tools"
_SCRIPT: Final = "exporter.compilers.coreml_script"
_ROOT: Final = Path(__file__).parents[2]
_PACKAGE: Final = "model.mlpackage"
_PROGRAM: Final = "Data/com.apple.CoreML/model.mlmodel"


def compile_for_coreml(task: Task, version: str) -> Compiled:
    """Convert for one deployment target, for example ``iOS17``.

    Options: `precision` ("float16", the default and what the Neural Engine computes in, or "float32"). Inputs and outputs stay as they are
    in the artifact. The log says how they are named, of which operators the program is, and how far torch, out of which it is made,
    is from onnxruntime on one sample: node by node, and as a whole no further than rounding explains.

    Raises CompilerFailure: EW-R007 refused (an operator without a torch facet or unknown to Core ML Tools, by name) or its output cannot
    be read, EW-R008 crashed, EW-R009 time limit.
    """
    precision = task.options.get("precision", "float16")
    if precision not in ("float16", "float32"):
        raise CompilerFailure(
            "EW-R007", f"{precision} is no precision of an ML program", fix="[compile] options: precision is float16 or float32"
        )
    options = {"precision": precision, "deployment_target": task.architecture}
    command: list[str | Path] = [task.python, "-m", _SCRIPT, task.artifact.name, json.dumps(options), _PACKAGE]
    # The process has the operators' torch facets to run, so it needs edgewright itself.
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    printed = run_compiler(command, label=_LABEL, folder=task.folder, timeout_s=task.timeout_s, environment={"PYTHONPATH": path})
    root = task.folder / _PACKAGE
    try:
        report = json.loads(printed.strip().splitlines()[-1])
        made = {
            path.relative_to(task.folder).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"), key=lambda path: (path != root / _PROGRAM, path))
            if path.is_file()
        }
        log = _log(report)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CompilerFailure(
            "EW-R007", f"what {_LABEL} {version} wrote cannot be read", why=f"{type(error).__name__}: {error}"
        ) from error
    figures = {"flash_bytes": float(sum(map(len, made.values()))), "mil_operators": float(sum(report["operators"].values()))}
    return Compiled("coreml", version, task.architecture, task.options, made, log, (), figures)


def _log(report: dict[str, dict[str, str | int]]) -> str:
    """What the script reports, one line each."""
    lines = [f"{name} is named {feature}" for name, feature in report["features"].items() if name != feature]
    lines += [f"{count} x {operator}" for operator, count in report["operators"].items()]
    lines += [
        f"torch and onnxruntime differ by {report['apart']:.3g} of an output's magnitude on one sample of random numbers",
        "no unit is known: Core ML chooses one for each operator when it loads the program",
    ]
    return "".join(f"{line}\n" for line in lines)
