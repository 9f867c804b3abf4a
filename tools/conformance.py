"""The ONNX project's node tests through the public `convert`, run by LiteRT: `python -m tools.conformance` (or `make conformance`).

Each case is written as model.onnx, converted by ``exporter.convert("model.onnx", "model.tflite")`` and run on its test data, in a forked
process of its own with a time limit. Results:

- pass: every output has the expected shape and values (integers and booleans exactly, floats to rtol 1e-3 and atol 1e-5);
- refused: `convert` raised an `EdgewrightError`;
- wrong: the file loads and computes something else, or it does not load;
- crash: any other exception, a signal, or the time limit.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import pkgutil
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from targets.releases.tflite import release_key
from tools import conformance_int8
from tools.conformance_cases import Case, eligible_cases
from tools.conformance_int8 import quantizable, run_int8_case

__all__ = ["ATOL", "RTOL", "STATUSES", "Result", "judge", "main", "passing", "run_case", "run_cases", "summary"]

RTOL: Final = 1e-3
ATOL: Final = 1e-5
STATUSES: Final = ("pass", "refused", "wrong", "crash")
TIME_LIMIT_S: Final = 60.0

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Result:
    """What became of one case. `code` is the error's, `reason` says why it did not pass; `code` of one that passes in float is the first
    TFLite release that runs what was written."""

    name: str
    operator: str
    multi: bool
    status: str
    code: str = ""
    reason: str = ""
    seconds: float = 0.0


def run_case(case: Case, isolate: bool = True) -> tuple[str, str, str]:
    """Convert and run one case in this process: (status, code, reason), see `Result`. `isolate` as `convert` has it."""
    import onnx

    from diagnostics import EdgewrightError
    from exporter import convert

    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        model, artifact = Path(folder) / "model.onnx", Path(folder) / "model.tflite"
        onnx.save(case.model, model)
        try:
            release = convert(model, artifact, isolate=isolate).release
        except EdgewrightError as error:
            return "refused", error.code, "; ".join(part for part in (error.what, error.where, error.why) if part)
        except Exception as error:
            return "crash", type(error).__name__, _line(error)
        try:
            found = _run_litert(artifact, case)
        except Exception as error:
            return "wrong", "load", _line(error)
    why = judge([value.name for value in case.model.graph.output], case.outputs, found)
    return ("wrong", "differs", why) if why else ("pass", release, "")


def judge(names: Sequence[str], expected: Sequence[Array], found: dict[str, Array]) -> str:
    """How `found` differs from `expected`; empty where it does not. Dtypes must be the same, except that a boolean may be an integer."""
    for name, wanted in zip(names, expected, strict=True):
        if name not in found:
            return f"there is no output {name}, but {sorted(found)}"
        array = found[name]
        if array.shape != wanted.shape:
            return f"output {name} has shape {array.shape}, not {wanted.shape}"
        if array.dtype != wanted.dtype:
            return f"output {name} is {array.dtype}, not {wanted.dtype}"
        same = np.isclose(array, wanted, RTOL, ATOL, equal_nan=True) if wanted.dtype.kind == "f" else array == wanted
        if not np.all(same):
            at = tuple(int(i) for i in np.argwhere(~np.asarray(same))[0])
            return f"output {name}: {int(np.sum(~same))} of {wanted.size} differ; at {at} {array[at]}, not {wanted[at]}"
    return ""


def _run_litert(artifact: Path, case: Case) -> dict[str, Array]:
    """Outputs by name of the artifact on the case's data, by LiteRT's signature runner where the names are its own."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=str(artifact), num_threads=1, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], case.inputs[detail["name"]])
    interpreter.invoke()
    return {
        detail["name"]: np.zeros(detail["shape"], detail["dtype"])
        if 0 in detail["shape"]  # LiteRT gives out no tensor without elements
        else interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_output_details()
    }


def run_cases(
    cases: Iterable[Case],
    jobs: int = 2,
    time_limit_s: float = TIME_LIMIT_S,
    run: Callable[[Case, bool], tuple[str, str, str]] = run_case,
) -> Iterator[Result]:
    """Run each case by `run` in a forked process of its own, `jobs` at a time; results come as they end.

    `convert` checks what it wrote in that process. Where this ends the process, the case runs again with the check in a worker of its own,
    as a user's call has it.
    """
    _warm_up()
    if run is run_int8_case:
        importlib.import_module("torch")  # the integer reference computes with it
    context = multiprocessing.get_context("fork")
    waiting = ((case, False) for case in cases)
    again: list[tuple[Case, bool]] = []
    running: dict[multiprocessing.connection.Connection, tuple[Case, bool, Any, float]] = {}
    while True:
        while len(running) < jobs and (turn := again.pop() if again else next(waiting, None)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(run, *turn, theirs), daemon=False)
            process.start()
            theirs.close()
            running[ours] = (*turn, process, time.monotonic())
        if not running:
            return
        ready = multiprocessing.connection.wait(list(running), timeout=1.0)
        for pipe in list(running):
            case, isolated, process, start = running[pipe]
            seconds = time.monotonic() - start
            if pipe not in ready and seconds < time_limit_s:
                continue
            outcome = _outcome(pipe, process) if pipe in ready else ("crash", "time", f"no answer in {time_limit_s:.0f} s")
            process.kill()
            process.join()
            pipe.close()
            del running[pipe]
            if outcome[1] == "signal" and not isolated:
                again.append((case, True))
            else:
                yield Result(case.name, case.operator, case.multi, *outcome, seconds=round(seconds, 3))


def _outcome(pipe: multiprocessing.connection.Connection, process: Any) -> tuple[str, str, str]:
    try:
        status, code, reason = pipe.recv()
        return status, code, reason
    except EOFError:
        process.join()
        return "crash", "signal", f"the process ended with {process.exitcode}"


def _child(
    run: Callable[[Case, bool], tuple[str, str, str]], case: Case, isolate: bool, pipe: multiprocessing.connection.Connection
) -> None:
    faulthandler.disable()  # an abort is a result here, not a matter for the log
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        outcome = run(case, isolate)
    except Exception as error:  # a fault of the judge: without this it would look like a signal
        outcome = "crash", type(error).__name__, _line(error)
    pipe.send(outcome)
    pipe.close()
    os._exit(0)  # what the runtimes do at exit is not what is tested


def _warm_up() -> None:
    """Import all that a conversion imports, once for all forks."""
    for name in ("ai_edge_litert.interpreter", "onnx.reference", "onnxruntime", "onnxscript.optimizer", "scipy.sparse.csgraph"):
        importlib.import_module(name)
    import exporter.ops

    for module in pkgutil.walk_packages(exporter.__path__, "exporter."):
        if not module.name.startswith(
            ("exporter.cli", "exporter.compilers", "exporter.bundle.plots", "exporter.frontends.torch")
        ):
            importlib.import_module(module.name)
    exporter.ops.all_operators()


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


# --- reports ----------------------------------------------------------------------------------------------------------


def table(results: Sequence[Result], statuses: Sequence[str] = STATUSES) -> list[str]:
    """One line an operator, single-node first, with the reasons for what did not pass."""
    groups: dict[tuple[bool, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.multi, result.operator].append(result)
    lines = []
    for (multi, operator), group in sorted(groups.items()):
        counts = Counter(result.status for result in group)
        label = f"{operator} (expanded)" if multi and operator[0].isupper() else operator
        numbers = "  ".join(f"{counts[status]:3d} {status}" if counts[status] else " " * (4 + len(status)) for status in statuses)
        reasons = Counter(f"{result.code}: {result.reason}"[:110] for result in group if result.status != "pass")
        first = next(iter(reasons), "")
        lines.append(f"{label:34s} {numbers}  {first}".rstrip())
    return lines


def summary(results: Sequence[Result], statuses: Sequence[str] = STATUSES) -> dict[str, dict[str, Any]]:
    """Counts of single-node and multi-node cases, and how many operators pass whole."""
    found = {}
    for key, multi in (("single-node", False), ("multi-node", True)):
        own = [result for result in results if result.multi == multi]
        counts = Counter(result.status for result in own)
        operators = {result.operator for result in own}
        whole = operators - {result.operator for result in own if result.status != "pass"}
        found[key] = {
            "cases": len(own),
            **{status: counts[status] for status in statuses},
            "operators": len(operators),
            "operators whole": len(whole),
        }
    return found


def passing(results: Sequence[Result]) -> dict[str, list[str]]:
    """Names of the cases that pass, sorted, by operator (or suite): what tests/conformance/expected.json holds."""
    found: dict[str, list[str]] = defaultdict(list)
    for result in results:
        if result.status == "pass":
            found[result.operator].append(result.name)
    return {operator: sorted(names) for operator, names in sorted(found.items())}


def releases(results: Sequence[Result]) -> dict[str, list[str]]:
    """First TFLite release of the least and of the most demanding case that passes, by operator: what tests/conformance/releases.json holds."""
    found: dict[str, set[str]] = defaultdict(set)
    for result in results:
        if result.status == "pass" and not result.multi:
            found[result.operator].add(result.code)
    return {operator: [min(own, key=release_key), max(own, key=release_key)] for operator, own in sorted(found.items())}


def main(arguments: Sequence[str]) -> int:
    """The command line; exit status 1 where a case is wrong or crashes."""
    parser = argparse.ArgumentParser(prog="python -m tools.conformance", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="REGEX", help="cases whose 'operator/name' matches")
    parser.add_argument("--cases", metavar="FILE", type=Path, help="cases named in FILE, one a line")
    parser.add_argument("--list", action="store_true", help="list the cases and run none")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every result to FILE")
    parser.add_argument(
        "--expect",
        metavar="FILE",
        type=Path,
        help="write the names of the cases that pass to FILE, by operator (in float also releases.json beside it)",
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT_S, metavar="SECONDS")
    parser.add_argument("-v", "--verbose", action="store_true", help="also print every case that does not pass")
    parser.add_argument(
        "--int8", action="store_true", help="quantize what the operator allows; judged as tools.conformance_int8 says"
    )
    options = parser.parse_args(arguments)
    cases = _chosen(options)
    run, statuses = (run_int8_case, conformance_int8.STATUSES) if options.int8 else (run_case, STATUSES)
    if options.list:
        for case in cases:
            print(f"{case.operator}/{case.name}")
        return 0
    start = time.monotonic()
    results = []
    for result in run_cases(cases, options.jobs, options.time_limit, run):
        results.append(result)
        if len(results) % 100 == 0:
            print(f"{len(results)} of {len(cases)} after {time.monotonic() - start:.0f} s", file=sys.stderr)
    results.sort(key=lambda result: (result.multi, result.operator, result.name))
    print("\n".join(table(results, statuses)))
    for result in results:
        if result.status in ("wrong", "crash") or (options.verbose and result.status != "pass"):
            print(f"{result.status}: {result.operator}/{result.name}: {result.code}: {result.reason}")
    counts = summary(results, statuses)
    for label, row in counts.items():
        share = 100 * row["pass"] / max(row["cases"], 1)
        print(f"{label}: {share:.1f} % pass, " + ", ".join(f"{value} {key}" for key, value in row.items()))
    print(f"{time.monotonic() - start:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps({"summary": counts, "results": [asdict(result) for result in results]}, indent=1))
    if options.expect is not None:
        options.expect.write_text(json.dumps(passing(results), indent=1) + "\n")
        if not options.int8:
            options.expect.with_name("releases.json").write_text(json.dumps(releases(results), indent=1) + "\n")
    return 1 if any(result.status in ("wrong", "crash") for result in results) else 0


def _chosen(options: argparse.Namespace) -> list[Case]:
    cases = list(eligible_cases())
    if options.int8:
        cases = [case for case in cases if quantizable(case)]
    if options.only:
        cases = [case for case in cases if re.search(options.only, f"{case.operator}/{case.name}")]
    if options.cases:
        named = set(options.cases.read_text(encoding="utf-8").split())
        cases = [case for case in cases if case.name in named]
    return cases


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
