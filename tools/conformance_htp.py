"""What a Snapdragon's NPU takes: the ONNX node tests in integers, run by its emulator: ``python -m tools.conformance_htp``.

Each case is planned on its own data for a Snapdragon profile that lists no operators, written, and loaded by the QNN execution provider, which
says which nodes go to the NPU. What runs there wholly is compared with ONNX Runtime's CPU kernels in steps of the outputs' encodings. The
table that is printed, one line an ONNX operator of the written graphs, is where the operators of the profiles come from:

- npu: cases in which each node of the type went to the NPU, and the outputs are at most `MOST_STEPS` a node apart;
- cpu: cases in which one was left to the CPU;
- far: cases that ran there wholly, and whose outputs are further apart.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from tools.conformance import Result, run_cases
from tools.conformance_cases import Case, eligible_cases
from tools.conformance_int8 import quantizable

__all__ = ["MOST_STEPS", "main", "operators", "run_htp_case"]

PROFILE: Final = "snapdragon-8gen2-npu"
MOST_STEPS: Final[Mapping[str, int]] = {"int8": 1, "int16x8": 2}  # that a layer of the NPU is from the CPU's
_QDQ: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})


def run_htp_case(case: Case, isolate: bool = True, precision: str = "int8") -> tuple[str, str, str]:
    """Build and run one case in this process: (status, operators, reason). `isolate` is for `tools.conformance.run_cases` alone.

    The status is one of npu, cpu and far, with the operators of the graph, or of those left, as a comma-separated list; or refused, with
    the error's code, where the case has no integer form.
    """
    import onnx

    from calibration import open_samples
    from diagnostics import EdgewrightError
    from exporter.frontends import load
    from exporter.pipeline import Options, build
    from exporter.runtimes import open_session
    from targets import load_target
    from targets.precision import choose_precision

    target = choose_precision(load_target(PROFILE), precision)
    units = tuple(unit.model_copy(update={"operators": ("*",), "limits": ()}) for unit in target.units)
    target = target.model_copy(update={"units": units})
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        model, path = Path(folder) / "model.onnx", Path(folder) / "artifact.onnx"
        onnx.save(case.model, model)
        try:
            source = load(model)
            built = build(source, target, open_samples([case.inputs], source.inputs), Options(refine=False))
        except EdgewrightError as error:
            return "refused", error.code, "; ".join(part for part in (error.what, error.why) if part)
        built.artifact.write(path)
        types = sorted({node.op_type for node in onnx.load(path).graph.node} - _QDQ)
        options = {**target.verification.options["qnn-htp"], "cpu_fallback": True}
        with (
            open_session("qnn-htp", path, options=options, isolate=False) as npu,
            open_session("onnxruntime", path, options={"optimize": False}, isolate=False) as cpu,
        ):
            left = npu.report()["cpu"]
            lacking = sorted({found[1] for text in left if (found := re.search(r"\((\w+)\)$", text))} & set(types))
            if left:
                return "cpu", ",".join(lacking or types), ", ".join(left)
            found, wanted = npu.run(dict(case.inputs)), cpu.run(dict(case.inputs))
    steps = {name: encoding.scale[0] for name, encoding in built.plan.encodings.items() if name in wanted}
    apart = max((_steps(found[name], wanted[name], steps.get(name, 1.0)) for name in wanted), default=0.0)
    nodes = sum(form == built.target.artifact.precision for form in built.plan.precision.values())
    far = apart > MOST_STEPS[precision] * max(nodes, 1) + 0.01
    return "far" if far else "npu", ",".join(types), f"{apart:.3g} steps through {nodes} nodes" if apart > 0.01 else ""


def _steps(found: Any, wanted: Any, step: float) -> float:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    return float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0)) / step


def operators(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """Operator -> status -> the results of the cases whose graphs hold it (cpu: those in which it was left)."""
    found: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        for name in result.code.split(",") if result.status in ("npu", "cpu", "far") else ():
            found[name][result.status].append(result)
    return {name: dict(own) for name, own in sorted(found.items()) if name}


def main(arguments: Sequence[str]) -> int:
    """The command line; exit status 1 where a case crashes."""
    parser = argparse.ArgumentParser(prog="python -m tools.conformance_htp", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="REGEX", default="", help="cases whose 'operator/name' matches")
    parser.add_argument("--precision", choices=tuple(MOST_STEPS), default="int8")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every result to FILE")
    options = parser.parse_args(arguments)
    cases = [case for case in eligible_cases() if quantizable(case) and re.search(options.only, f"{case.operator}/{case.name}")]
    results = sorted(
        run_cases(cases, options.jobs, run=partial(run_htp_case, precision=options.precision)), key=lambda result: result.name
    )
    for name, own in operators(results).items():
        counts = "  ".join(f"{len(own.get(status, ())):4d} {status}" for status in ("npu", "cpu", "far"))
        examples = [f"{result.name}: {result.reason}" for status in ("cpu", "far") for result in own.get(status, ())]
        print(f"{name:24s} {counts}  {'; '.join(examples)[:200]}".rstrip())
    crashed = [result for result in results if result.status == "crash"]
    for result in crashed:
        print(f"crash: {result.operator}/{result.name}: {result.code}: {result.reason}")
    if options.json is not None:
        options.json.write_text(json.dumps([vars(result) for result in results], indent=1))
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
