"""Qualcomm's HTP compiler, behind ONNX Runtime's QNN execution provider: a QDQ .onnx -> a context binary for one Hexagon architecture.

What is made is an .onnx of one EPContext node, which apps load in place of the artifact, and beside it the NPU's code. Both belong to one
architecture and are read by the QNN release that made them or later ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from diagnostics import CompilerFailure
from exporter.compilers.base import Compiled, OperatorPlacement, Task
from exporter.compilers.loading import compile_by_loading

__all__ = ["compile_for_htp"]

_LABEL: Final = "QNN"
_CONTEXT: Final = "model_ctx.onnx"
_CODE: Final = "model_ctx_qnn.bin"  # the name that QNN gives to what lies beside `_CONTEXT`
_INFORMATION: Final = 1  # log severity
# One line of the log: colour, time, [severity:onnxruntime:, file:line function] text. Only what the execution provider says is kept.
_LINE: Final = re.compile(
    r"\[(?P<severity>[VIWEF]):onnxruntime:[^,]*, qnn_\w+\.cc:\d+ (?P<function>[^\]]+)\] (?P<text>.*?)(?:\x1b\[m)?$"
)
_REFUSED: Final = "the QNN execution provider does not give it to the NPU"


def compile_for_htp(task: Task, version: str) -> Compiled:
    """Compile for one Hexagon architecture, for example ``v75``.

    Options: `soc_model` (Qualcomm's number of the Snapdragon, whose memory on the chip the compiler then knows), `finalization` (1 to 3: how
    long it looks for a faster graph), `cpu_fallback` (whether nodes may be left to the CPU; else they are a refusal by name).

    Raises CompilerFailure: EW-R007 refused or its output cannot be read, EW-R008 crashed, EW-R009 time limit.
    """
    architecture = task.architecture.removeprefix("v")
    if not architecture.isdecimal() or architecture == task.architecture:
        raise CompilerFailure(
            "EW-R007", f"{task.architecture} is no Hexagon architecture", fix="name one such as v73 in [compile] architectures"
        )
    options = {**task.options, "htp_arch": architecture, "context": _CONTEXT, "log_severity": _INFORMATION}
    try:
        loaded = compile_by_loading(task, "qnn-htp", options, (_CONTEXT, _CODE), label=_LABEL, version=version)
    except CompilerFailure as error:
        said = "\n".join(line for line in error.why.splitlines() if ":onnxruntime:" not in line)
        raise CompilerFailure(error.code, error.what, why=said or error.why, fix=error.fix) from None
    figures = {"partitions": float(loaded.report["partitions"]), "flash_bytes": float(sum(map(len, loaded.files.values())))}
    placements = _placements(task.artifact, loaded.report)
    return Compiled("qnn-htp", version, task.architecture, task.options, loaded.files, _log(loaded.said), placements, figures)


def _placements(artifact: Path, report: Mapping[str, Any]) -> tuple[OperatorPlacement, ...]:
    """Each operator of the artifact but QuantizeLinear and DequantizeLinear, which are part of those that they surround."""
    import onnx

    left = set(report["cpu"])
    return tuple(
        OperatorPlacement(
            node.output[0],
            node.op_type,
            "cpu" if (on_cpu := f"{node.name} ({node.op_type})" in left) else "npu",
            (_REFUSED,) if on_cpu else (),
        )
        for node in onnx.load(artifact, load_external_data=False).graph.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
    )


def _log(said: Iterable[str]) -> str:
    """What the execution provider said, one line each, without times and colours."""
    found = (_LINE.search(line) for line in said)
    return "".join(f"{match['severity']} {match['function']}: {match['text']}\n" for match in found if match)
