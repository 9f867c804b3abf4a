"""The conformance cases written for an old TFLite and run by that very release: `python -m tools.floors` (needs the network once).

It proves `targets.releases.tflite`: each builtin operator and version that the table gives to releases up to the floor is loaded by
the floor's own interpreter. Results are as in `tools.conformance`; a file that the release does not load, or computes otherwise, is wrong.
Apart are "not run", where the release's Python binding cannot hand over a dtype, and "elsewhere", where the newest LiteRT computes the same
other numbers.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tools.conformance import Result, judge, run_cases
from tools.conformance_cases import Case, eligible_cases

__all__ = ["RELEASE", "main", "operators_of", "run_at"]

RELEASE: Final = "2.14.0"  # the last under the old name
_UNBOUND: Final = ("uint16",)


def run_at(release: str) -> Callable[[Case, bool], tuple[str, str, str]]:
    """What runs one case at a release: (status, code, reason); of a case that passes, the reason is its operators as JSON."""

    def run(case: Case, isolate: bool) -> tuple[str, str, str]:
        import onnx

        from diagnostics import EdgewrightError
        from exporter import convert
        from exporter.runtimes import open_session

        if any(array.dtype in _UNBOUND for array in (*case.inputs.values(), *case.outputs)):
            return "not run", "", ""
        with tempfile.TemporaryDirectory(prefix="floors-") as folder:
            model, artifact = Path(folder) / "model.onnx", Path(folder) / "model.tflite"
            onnx.save(case.model, model)
            try:
                operators = convert(model, artifact, isolate=isolate, runtime=f"tflite>={release}").operators
            except EdgewrightError as error:
                return "refused", error.code, f"{error.what}; {error.why}"
            try:
                with open_session(f"tflite-runtime=={release}", artifact, timeout_s=60) as session:
                    found = session.run({info.name: case.inputs[info.name] for info in session.inputs})
            except EdgewrightError as error:
                return "wrong", error.code, f"{dict(operators)}: {error.why}"
            names = [value.name for value in case.model.graph.output]
            why = judge(names, case.outputs, found)
            if why:
                with open_session("litert-builtin", artifact) as session:
                    newest = session.run({info.name: case.inputs[info.name] for info in session.inputs})
                if not judge(names, [newest[name] for name in names], found):
                    return "elsewhere", "", why
        return ("wrong", "differs", f"{dict(operators)}: {why}") if why else ("pass", "", json.dumps(operators))

    return run


def operators_of(results: Sequence[Result]) -> Counter[tuple[str, int]]:
    """How many of the cases that pass hold each operator and version."""
    found: Counter[tuple[str, int]] = Counter()
    for result in results:
        if result.status == "pass":
            found.update({(op, version) for op, version in json.loads(result.reason)})
    return found


def main(arguments: Sequence[str]) -> int:
    """The command line; exit status 1 where a case is wrong or crashes."""
    from exporter.runtimes.install import add_environment
    from targets.releases.tflite import release_of

    parser = argparse.ArgumentParser(prog="python -m tools.floors", description=__doc__.partition("\n")[0])
    parser.add_argument("--release", default=RELEASE, help=f"of tflite-runtime; default {RELEASE}")
    parser.add_argument("--only", metavar="REGEX", default="", help="cases whose 'operator/name' matches")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    add_environment(f"tflite-runtime=={options.release}")
    cases = [case for case in eligible_cases() if re.search(options.only, f"{case.operator}/{case.name}")]
    results = list(run_cases(cases, options.jobs, run=run_at(options.release)))
    for (op, version), count in sorted(operators_of(results).items()):
        print(f"{op:28s} version {version}  since {release_of(op, version):8s} {count:4d} cases")
    for result in results:
        if result.status in ("wrong", "crash") or result.code == "EW-T005":
            print(f"{result.status}: {result.operator}/{result.name}: {result.code}: {result.reason}")
    counts = Counter(result.status for result in results)
    print(", ".join(f"{count} {status}" for status, count in counts.most_common()))
    return 1 if counts["wrong"] or counts["crash"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
