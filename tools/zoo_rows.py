"""One model of the zoo in one form, measured: ``python -m tools.zoo_rows MODEL FORM`` prints one row as JSON.

`tools.zoo_table` runs it in a process of its own for every row, so that one that fails or hangs is a row and no more.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration import open_samples
from diagnostics import EdgewrightError
from exporter.built import Built
from exporter.frontends import load
from exporter.graph.columns import column_groups
from exporter.graph.summary import summarize
from exporter.pipeline import Options, build
from exporter.quantization.mixing.aiming import Goal
from exporter.quantization.planner import refusals
from exporter.verification.compare import Comparison
from exporter.verification.metrics import json_number
from exporter.verification.prove import measure
from targets.loader import load_target
from targets.precision import choose_precision
from tools.zoo_cases import CASES, Case

__all__ = ["FORMS", "Form", "main", "measured"]


@dataclass(frozen=True)
class Form:
    """An artifact to make: of which target, at which precision."""

    target: str
    precision: str

    @property
    def is_float(self) -> bool:
        return self.precision.startswith("float")


FORMS: Final[Mapping[str, Form]] = {
    "float32": Form("android-arm64-cpu", "float32"),
    "float16": Form("android-arm64-cpu", "float16"),
    "int8": Form("android-arm64-cpu", "int8"),
    "int8-onnx": Form("x86-64-cpu", "int8"),
    "auto": Form("android-arm64-cpu", "auto"),
    "auto-onnx": Form("x86-64-cpu", "auto"),
}


def measured(case: Case, form: Form) -> dict[str, Any]:
    """The row of a model in one form: accuracy on held-out data by output and by task, size, CPU seconds, what stays in float and why."""
    start = time.process_time()
    source = load(f"tools.zoo:{case.model}")
    loaded = time.process_time() - start
    target = choose_precision(load_target(form.target), form.precision)
    calibration = open_samples(case.calibration, source.inputs, source.preprocess).take(case.samples)
    held_out = open_samples(case.held_out, source.inputs, source.preprocess).take(case.test_samples)
    start = time.process_time()
    built = build(
        source,
        target,
        None if form.is_float else calibration,
        Options(goal=Goal.parse(case.gates, case.metric)),
    )
    spent = time.process_time() - start
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        artifact = Path(folder) / f"model{built.artifact.suffix}"
        artifact.write_bytes(built.artifact.content)
        evidence = measure(
            artifact,
            source.reference,
            held_out,
            runtimes=target.verification.runtimes[:1],
            outputs=[signature.name for signature in source.outputs],
            layouts=built.artifact.layouts,
            encodings=built.artifact.encodings,
            columns=column_groups(built.graph),
            metric=case.metric,
        )
    return {
        "status": "measured",
        **_accuracy(evidence.deciding),
        "bytes": len(built.artifact.content),
        "load_cpu_s": loaded,
        "build_cpu_s": spent,
        **_floats(built, form),
    }


def _accuracy(comparison: Comparison) -> dict[str, Any]:
    agreement = comparison.worst("top1_agreement")
    return {
        "samples": comparison.samples,
        "sqnr_db": {name: json_number(metrics.sqnr_db) for name, metrics in comparison.outputs.items()},
        "top1_agreement": agreement[1] if agreement is not None else None,
        "task": {name: score.to_dict() for name, score in comparison.task.items()},
    }


def _floats(built: Built, form: Form) -> dict[str, Any]:
    """How many nodes run in integers and in float, the share of multiply-accumulates in float, and how many nodes for which reason."""
    precisions = built.plan.precision
    counts = Counter("float" if precision.startswith("float") else "integer" for precision in precisions.values())
    reasons = refusals(built.graph, built.target.artifact, built.statistics) if not form.is_float else {}
    reasons |= {
        name: "faster in float than in 8 bits" if "faster" in why or "slower" in why else "8 bits would cost accuracy"
        for name, why in built.plan.reasons.items()
    }
    why = Counter(reasons[name] for name, precision in precisions.items() if name in reasons and precision.startswith("float"))
    macs = {facts.name: facts.macs or 0 for facts in summarize(built.graph).nodes}
    in_float = sum(macs.get(name, 0) for name, precision in precisions.items() if precision.startswith("float"))
    return {
        "integer_nodes": counts["integer"],
        "float_nodes": counts["float"],
        "float_macs": in_float / max(sum(macs.values()), 1),
        "float_reasons": dict(sorted(why.items())),
    }


def main(arguments: list[str]) -> int:
    """Print the row of MODEL in FORM; a refusal is a row too."""
    name, form = arguments
    np.seterr(all="ignore")
    try:
        row = measured(CASES[name], FORMS[form])
    except EdgewrightError as error:
        row = {"status": "refused", "code": error.code, "reason": f"{error.what}; {error.why}" if error.why else error.what}
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
