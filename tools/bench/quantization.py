"""``make bench-quantization``: our int8 artifacts and the peers', from the same files, with the same samples, judged alike.

Every row is made in a process of its own with a limit of time and of memory, and judged on held-out samples on the runtime that it is for.
Then the artifacts of a model are run side by side for their latency. Figures go to docs/benchmarks/quantization.json row by row, rows that
are not made anew stay; the page docs/benchmarks.md is generated from it::

    python -m tools.bench quantization --form ours --jobs 2                                 # ours, without effort best, int8x4 and integer-io
    python -m tools.bench quantization --model minilm --form ours:balanced --form nncf
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration import open_samples
from diagnostics import EdgewrightError
from exporter.frontends import load
from exporter.graph.columns import column_groups
from exporter.runtimes import open_session
from exporter.runtimes.process import Worker
from exporter.verification.compare import compare
from exporter.verification.metric import evaluate
from exporter.verification.metrics import json_number
from tools.bench.adapted import Adapted
from tools.bench.convert import first_line, machine, rounded
from tools.bench.page import RESULTS, write_page
from tools.bench.peers import AI_EDGE_QUANTIZER, LITERT_TORCH, NNCF, ONNX2TF, ONNX2TF_TENSORFLOW, ROOT, Peer
from tools.bench.samples import read_samples, write_samples
from tools.bench.watched import run_watched
from tools.bench.workloads import WORKLOADS, Workload, prepared

__all__ = ["FILE", "FORMS", "artifact_of", "feed_of", "main", "merged", "rounds_of"]

FILE: Final = RESULTS / "quantization.json"
_WORKER: Final = Path(__file__).with_name("quantize_worker.py")
_LIMIT_S: Final = 900.0
_LIMIT_BYTES: Final = 12 * 2**30
_TARGETS: Final = {"x86-64-cpu": "onnxruntime", "android-arm64-cpu": "litert-xnnpack"}
_HOW: Final = ("float32", "fast", "balanced", "best", "auto")
_INT4: Final = "ours:int8x4:android-arm64-cpu"
_INTEGERS: Final = "ours:integer-io:android-arm64-cpu"
# Minutes each, or for their latency alone.
_ON_ASKING: Final = ("ours:best:x86-64-cpu", "ours:best:android-arm64-cpu", _INT4, _INTEGERS)
# Ways that peers document for transformers; the MACs of minilm alone are all in MatMul.
_TRANSFORMERS: Final = {"ort:matmul": ("minilm",), "nncf:transformer": ("minilm", "ocr_rec")}

# Who makes each form, in which environment (None: this one), and what runs it.
_PEERS: Final[Mapping[str, tuple[Peer | None, str]]] = {
    "ort:minmax": (None, "onnxruntime"),
    "ort:percentile": (None, "onnxruntime"),
    "ort:entropy": (None, "onnxruntime"),
    "ort:matmul": (None, "onnxruntime"),
    "nncf": (NNCF, "onnxruntime"),
    "nncf:transformer": (NNCF, "onnxruntime"),
    "ai-edge-quantizer": (AI_EDGE_QUANTIZER, "litert-xnnpack"),
    "tensorflow": (ONNX2TF_TENSORFLOW, "litert-xnnpack"),
    "onnx2tf": (ONNX2TF, "litert-xnnpack"),
    "litert-torch": (LITERT_TORCH, "litert-xnnpack"),
}
FORMS: Final = (*(f"ours:{how}:{target}" for target in _TARGETS for how in _HOW), _INT4, _INTEGERS, *_PEERS)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench quantization", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=list(WORKLOADS), help="without any: all")
    parser.add_argument(
        "--form",
        action="append",
        help=f"one of, or the beginning of, {', '.join(FORMS)}; without any: all but effort best, int8x4 and integer-io",
    )
    parser.add_argument(
        "--judge", action="store_true", help="judge the artifacts of earlier runs anew, where they are still there"
    )
    parser.add_argument("--jobs", type=int, default=1, help="rows made at once; figures of time are CPU time")
    parser.add_argument("--sessions", type=int, default=3, help="processes in which latency is measured; 0: not at all")
    parser.add_argument("--seconds", type=float, default=2.0, help="of paired rounds in each of them")
    chosen = parser.parse_args(arguments)
    forms = _chosen(chosen.form or [""])
    if not forms:
        parser.error(f"no form begins with {' or '.join(chosen.form)}; there are {', '.join(FORMS)}")
    start = time.monotonic()
    with ProcessPoolExecutor(chosen.jobs, get_context("spawn")) as pool:
        for model in chosen.model or WORKLOADS:
            workload = prepared(model)
            earlier = _judgeable(workload) if chosen.judge else {}
            asked = [form for form in forms if (form in earlier if chosen.judge else _applies(form, workload))]
            waiting = {pool.submit(_row, form, workload, earlier.get(form)): form for form in asked}
            for done in as_completed(waiting):
                _keep(model, rows={waiting[done]: done.result()})
                print(_line(model, waiting[done], done.result()), file=sys.stderr, flush=True)
            for runtime in sorted(set(_TARGETS.values())) if chosen.sessions else ():
                _keep(model, latency={runtime: _latencies(workload, runtime, chosen.sessions, chosen.seconds)})
    print(f"took {(time.monotonic() - start) / 60:.0f} min", file=sys.stderr)
    return 0


def _chosen(heads: Sequence[str]) -> list[str]:
    """Forms that begin with one of `heads`; what takes minutes only where a head names how it is made."""
    return [
        form
        for form in FORMS
        if any(form.startswith(head) and (form not in _ON_ASKING or head.startswith(form.rpartition(":")[0])) for head in heads)
    ]


def _applies(form: str, workload: Workload) -> bool:
    if form == "litert-torch":
        return (workload.folder / "module.pt2").is_file()
    return form not in _TRANSFORMERS or workload.case.model in _TRANSFORMERS[form]


def _judgeable(workload: Workload) -> dict[str, Any]:
    """The rows whose artifact is still there."""
    models = json.loads(FILE.read_text(encoding="utf-8"))["models"] if FILE.is_file() else {}
    rows = models.get(workload.case.model, {}).get("rows", {})
    return {form: row for form, row in rows.items() if "error" not in row and artifact_of(form, workload).is_file()}


def _keep(model: str, rows: Mapping[str, Any] | None = None, latency: Mapping[str, Any] | None = None) -> None:
    """Change the file of results, and write the page again: after every row, since an hour on a busy machine is not to be lost."""
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(rounded(merged(before, model, rows, latency)), indent=1) + "\n", encoding="utf-8")
    write_page()


def merged(
    result: Mapping[str, Any], model: str, rows: Mapping[str, Any] | None = None, latency: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`result` with these rows of a model, and latencies of it by runtime, in place of those of the same names; in a fixed order.

    What another machine measured is dropped.
    """
    here = machine()
    models = {name: dict(found) for name, found in result.get("models", {}).items()} if result.get("machine") == here else {}
    entry = models.setdefault(model, {})
    found = {**entry.get("rows", {}), **(rows or {})}
    entry["rows"] = {form: found[form] for form in FORMS if form in found}
    entry["latency"] = {**entry.get("latency", {}), **(latency or {})}
    return {"machine": here, "models": {name: models[name] for name in WORKLOADS if name in models}}


# --- one row ----------------------------------------------------------------------------------------------------------


def _row(form: str, workload: Workload, made: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The artifact's cost and its distance from the original; or an error in one line.

    `made`: an earlier row of it, whose artifact is to be judged anew.
    """
    runtime = _runtime(form)
    path = artifact_of(form, workload)
    by = {"by": _maker(form), "runtime": runtime}
    shutil.rmtree(feed_of(path), ignore_errors=True)
    if made is None:
        path.unlink(missing_ok=True)
        made = _made(form, workload, path)
    if "error" in made:
        return {**by, "error": _without_paths(made["error"], workload)}
    try:
        return {**made, **by, "bytes": path.stat().st_size, **_judged(path, runtime, workload)}
    except EdgewrightError as error:
        problem = _without_paths(first_line(error), workload)
    if runtime == "litert-xnnpack":
        try:
            found = _judged(path, "litert-builtin", workload)
        except EdgewrightError:
            return {**by, "error": problem}
        shutil.rmtree(feed_of(path))  # its latency would be that of other kernels
        return {**made, **by, "bytes": path.stat().st_size, **found, "note": f"without XNNPACK: {problem}"}
    return {**by, "error": problem}


def _without_paths(text: str, workload: Workload) -> str:
    """The message without where things happen to lie on this machine."""
    for folder in (workload.artifacts, workload.folder, ROOT, tempfile.gettempdir(), Path.home()):
        text = text.replace(f"{folder}/", "")
    return re.sub(r"\btmp\w{8}/", "", text)  # the temporary folder of a process that ended


def _runtime(form: str) -> str:
    return _TARGETS[form.split(":")[2]] if form.startswith("ours:") else _PEERS[form][1]


def artifact_of(form: str, workload: Workload) -> Path:
    """Where the artifact of a form lies, or would lie."""
    return workload.artifacts / (form.replace(":", "_") + (".onnx" if _runtime(form) == "onnxruntime" else ".tflite"))


def _maker(form: str) -> str:
    peer = None if form.startswith("ours:") else _PEERS[form][0]
    if peer is not None:
        return f"{peer.name} {peer.version}"
    return "edgewright" if form.startswith("ours:") else f"onnxruntime {version('onnxruntime')}"


def _made(form: str, workload: Workload, path: Path) -> dict[str, Any]:
    peer = None if form.startswith("ours:") else _PEERS[form][0]
    interpreter = str(peer.interpreter()) if peer is not None else sys.executable
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = run_watched(
        [
            interpreter,
            str(_WORKER),
            form,
            str(workload.folder),
            str(path),
            json.dumps([workload.case.gates, workload.case.metric]),
        ],
        limit_s=_LIMIT_S,
        limit_bytes=_LIMIT_BYTES,
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **threads},
    )
    if done.exceeded:
        return {"error": done.exceeded}
    if not done.stdout:
        said = (done.stderr.strip().splitlines() or [""])[-1]
        return {"error": f"its process ended with status {done.status}; the last that it said: {said}"[:200]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _judged(path: Path, runtime: str, workload: Workload) -> dict[str, Any]:
    """Held-out samples through the original and the artifact; one raw input stays beside it, for its latency."""
    source = load(workload.model)
    calibration, held_out = (open_samples(workload.samples(split), source.inputs) for split in ("calibration", "held_out"))
    with open_session(runtime, path) as session:
        run = Adapted(session, source.reference, calibration)
        outputs = [signature.name for signature in source.outputs]
        found = compare(source.reference, run, held_out, outputs, columns=column_groups(source.model))
        metric = workload.case.metric
        task = evaluate(metric, source.reference, run, held_out) if metric is not None else {}
        feed = run.encode(next(iter(held_out)))
        write_samples(feed_of(path), list(feed), [feed])
    agreement, cosine = found.worst("top1_agreement"), found.worst("cosine")
    return {
        "samples": found.samples,
        "sqnr_db": {name: json_number(metrics.sqnr_db) for name, metrics in found.outputs.items()},
        "top1_agreement": agreement[1] if agreement is not None else None,
        "cosine": cosine[1] if cosine is not None else None,
        "gates": list(workload.case.gates),
        "task": {name: score.to_dict() for name, score in task.items()},
        "lower_is_better": workload.case.lower_is_better,
    }


def feed_of(path: Path) -> Path:
    """The folder of one raw input of an artifact that was judged."""
    return path.with_name(path.name + ".feed")


# --- latency ----------------------------------------------------------------------------------------------------------


def _latencies(workload: Workload, runtime: str, sessions: int, budget_s: float) -> dict[str, list[float]]:
    """Milliseconds of CPU of every artifact that runs, one thread: the median of paired rounds, one figure a process."""
    paths = {form: artifact_of(form, workload) for form in FORMS if _runtime(form) == runtime and _applies(form, workload)}
    paths = {form: path for form, path in paths.items() if path.is_file() and feed_of(path).is_dir()}
    found: dict[str, list[float]] = {form: [] for form in paths}
    for number in range(sessions if paths else 0):
        # Where an artifact's memory comes to lie decides up to a third of its time: the order must not decide which one is lucky.
        order = [list(paths)[(place + number) % len(paths)] for place in range(len(paths))]
        for form, seconds in zip(order, rounds_of([paths[form] for form in order], runtime, budget_s), strict=True):
            found[form].append(float(np.median(seconds)) * 1e3)
    return found


def rounds_of(paths: Iterable[Path], runtime: str, budget_s: float) -> list[list[float]]:
    """CPU seconds of every round of some judged artifacts in one new process, one row an artifact."""
    feeds = {path: next(read_samples(feed_of(path))) for path in paths}
    arrays = {f"{place}:{name}": array for place, feed in enumerate(feeds.values()) for name, array in feed.items()}
    request = {"paths": [str(path) for path in feeds], "budget_s": budget_s, "runtime": runtime}
    worker = Worker([sys.executable, "-m", "tools.bench.latency_worker"], label=runtime, threads=1)
    try:
        seconds: list[list[float]] = worker.ask(request, arrays, _LIMIT_S)[0]["seconds"]
    finally:
        worker.close()
    return seconds


def _line(model: str, form: str, row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{model:20s} {form:32s} {row['error']}"
    task = "".join(f"  {name} {score['original']:.4f} -> {score['artifact']:.4f}" for name, score in row["task"].items())
    decibels = " ".join(f"{float(value):.1f}" for value in row["sqnr_db"].values())
    return f"{model:20s} {form:32s} {decibels} dB{task}  {row['bytes'] / 1024:.0f} KiB  {row['cpu_s']:.1f} CPU s  {row['peak_mib']:.0f} MiB"
