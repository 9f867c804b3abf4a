"""``make bench-convert``: ONNX to float TFLite beside onnx2tf's direct back-end and litert-torch, on every zoo model, in one run.

Every side reads the same ONNX file (litert-torch, which reads none, the module) in a process of its own with its imports done; the
repetitions of all sides are interleaved and the least counts. Then what they wrote is compared: with onnxruntime on one random sample, by
the TRANSPOSE operators in it, and by its latency on LiteRT (XNNPACK, one thread) in paired rounds of one process, measured several times.
Results go to docs/benchmarks/convert.json, from which the page docs/benchmarks.md is generated.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from diagnostics import EdgewrightError
from exporter import convert
from exporter.converting import random_sample
from exporter.frontends import load
from exporter.frontends.quiet import quiet
from exporter.runtimes.process import Worker
from exporter.verification.metrics import json_number
from tools import zoo
from tools.bench.artifacts import agreement, facts
from tools.bench.page import RESULTS, conversion_section, write_page
from tools.bench.peers import LITERT_TORCH, ONNX2TF

__all__ = ["FILE", "OURS", "SIDES", "first_line", "machine", "main", "onnx_file", "rounded"]

FILE: Final = RESULTS / "convert.json"
OURS: Final = "edgewright"
SIDES: Final = (OURS, "edgewright, free I/O", "edgewright convert", "onnx2tf", "onnx2tf, no onnxsim", "litert-torch")
_WORKER: Final = Path(__file__).with_name("convert_worker.py")
_PEERS: Final = {"onnx2tf": ONNX2TF, "litert-torch": LITERT_TORCH}
_LIMIT_S: Final = 600.0
_TIMES: Final = ("cpu_s", "wall_s")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bench convert", description=__doc__)
    parser.add_argument("models", nargs="*", help="zoo models to measure again, the others stay as they are; without any: all")
    parser.add_argument("--repeats", type=int, default=3, help="conversions of each side")
    parser.add_argument("--sessions", type=int, default=6, help="processes in which latency is measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="of paired rounds in each of them")
    chosen = parser.parse_args(arguments)
    frame = {"machine": machine(), "versions": _versions(), "repeats": chosen.repeats}
    rows = _kept(frame)
    for name in chosen.models or zoo.MODELS:
        rows[name] = _measure(name, chosen.repeats, chosen.sessions, chosen.seconds)
        result = {**frame, "models": [rows[known] for known in zoo.MODELS if known in rows]}
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(_text(result), encoding="utf-8")  # after every model: an hour on a busy machine is not lost
        write_page()
        print(f"{name}: done", file=sys.stderr, flush=True)
    print("\n".join(conversion_section(result)))
    return 0


def _kept(frame: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of earlier runs by model, where machine, versions and repetitions were the same."""
    if not FILE.is_file():
        return {}
    earlier = json.loads(FILE.read_text(encoding="utf-8"))
    same = all(earlier.get(key) == value for key, value in frame.items())
    return {row["model"]: row for row in earlier["models"]} if same else {}


def _measure(name: str, repeats: int, sessions: int, budget_s: float) -> dict[str, Any]:
    """All figures of one zoo model."""
    with tempfile.TemporaryDirectory(prefix="edgewright-bench-") as text:
        folder = Path(text)
        made = getattr(zoo, name)()
        model = onnx_file(made, folder / "original.onnx")
        is_module = not isinstance(made["model"], Path)
        sides = [side for side in SIDES if is_module or side != "litert-torch"]
        found = _convert_interleaved(name, model, sides, folder, repeats)
        source = load(model)
        sample = random_sample(source)
        wanted = source.reference(sample)
        runnable: dict[str, tuple[Path, Mapping[str, np.ndarray[Any, Any]]]] = {}
        for side, entry in found.items():
            if "path" not in entry:
                continue
            path = Path(entry.pop("path"))
            content = path.read_bytes()
            entry["bytes"] = len(content)
            try:
                entry |= vars(facts(content))
                agreed = agreement(path, sample, wanted)
            except EdgewrightError as error:
                entry["error"] = f"{_without_xnnpack(path, sample, wanted)}: {first_line(error)}"
                continue
            entry |= {"sqnr_db": json_number(agreed.sqnr_db), "delegated": agreed.delegated}
            runnable[side] = (path, agreed.feed)
        _add_latency(found, runnable, sessions, budget_s)
    kind = "module" if is_module else Path(made["model"]).suffix.lstrip(".")
    return {"model": name, "source": kind, "nodes": len(source.model.graph), "sides": found}


def _without_xnnpack(path: Path, sample: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Of a file that fails with XNNPACK: whether LiteRT's own kernels run it."""
    try:
        return f"its file runs without XNNPACK only ({agreement(path, sample, wanted, 'litert-builtin').sqnr_db:.0f} dB)"
    except EdgewrightError:
        return "its file does not run"


def onnx_file(made: Mapping[str, Any], out: Path) -> Path:
    """The ONNX file that all sides read: the model's own, with its shapes fixed where it has no sizes that all would take for dynamic ones
    (a batch is 1 to everyone); a module through torch's exporter, a .tflite or Keras file through ours."""
    import onnx_ir as ir

    from exporter.graph.fix_shapes import fix_shapes

    model = made["model"]
    if not isinstance(model, Path):
        import torch

        with quiet(prints=True):
            torch.onnx.export(model, made["inputs"], out, dynamo=True, opset_version=18, external_data=False, verbose=False)
    elif model.suffix != ".onnx":
        convert(model, out)
    elif "shapes" in made:
        static = ir.load(model)
        fix_shapes(static, made["shapes"])
        ir.save(static, out)
    else:
        shutil.copy(model, out)
    return out


def _convert_interleaved(name: str, model: Path, sides: Sequence[str], folder: Path, repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds and peak memory of each side, with the path of what it wrote last; or its error."""
    found: dict[str, dict[str, Any]] = {side: {} for side in sides}
    with ExitStack() as stack:
        workers = {}
        for side in sides:
            try:
                workers[side] = _started(stack, side)
            except EdgewrightError as error:
                found[side]["error"] = first_line(error)
        for number in range(repeats):
            for side, worker in list(workers.items()):
                place = folder / side.replace(" ", "-") / str(number)
                place.mkdir(parents=True)
                copy = Path(shutil.copy(model, place / "model.onnx"))  # onnx2tf writes over what it reads
                try:
                    answer = worker.ask({"model": str(copy), "zoo": name, "folder": str(place)}, {}, _LIMIT_S)[0]
                except EdgewrightError as error:
                    answer = {"error": first_line(error)}
                answer.pop("arrays", None)
                if "error" in answer:
                    found[side] = {"error": answer["error"]}
                    del workers[side]
                    continue
                best = found[side] or answer
                found[side] = {**answer, **{key: min(best[key], answer[key]) for key in _TIMES}}
    return found


def _started(stack: ExitStack, side: str) -> Worker:
    """The side's process, once it has done its imports."""
    peer = _PEERS.get(side.split(",")[0])
    worker = Worker([peer.interpreter() if peer else sys.executable, _WORKER, side], label=side, threads=1)
    stack.callback(worker.close)
    worker.wait(_LIMIT_S)
    return worker


def _add_latency(
    found: Mapping[str, dict[str, Any]], runnable: Mapping[str, tuple[Path, Mapping[str, Any]]], sessions: int, budget_s: float
) -> None:
    """Add to each side that runs: its least milliseconds, and the ratios of ours to it, one a session: `edgewright` and with free I/O.

    Ours is measured twice: `noise` are its ratios to itself.
    """
    sides = [side for side in runnable if side != "edgewright convert"]
    if OURS not in sides:
        return
    files = [runnable[side] for side in (*sides, OURS)]
    for number in range(sessions):
        seconds = _session(files, number, budget_s)
        for side, row in zip(sides, seconds, strict=False):
            entry = found[side]
            entry["latency_ms"] = min(entry.get("latency_ms", np.inf), float(row.min()) * 1e3)
            for ours in (OURS, "edgewright, free I/O"):
                if ours in sides:
                    ratio = float(np.median(seconds[sides.index(ours)] / row))
                    entry.setdefault("latency_ratios", {}).setdefault(ours, []).append(ratio)
        found[OURS].setdefault("noise", []).append(float(np.median(seconds[sides.index(OURS)] / seconds[-1])))


def _session(files: Sequence[tuple[Path, Mapping[str, Any]]], number: int, budget_s: float) -> np.ndarray[Any, Any]:
    """Seconds [file, round] of one process, which loads the files in an order that rotates from one session to the next.

    Where an artifact's memory comes to lie decides up to a third of its time: the order must not decide which one is lucky.
    """
    order = [(place + number) % len(files) for place in range(len(files))]
    arrays = {f"{place}:{name}": array for place, index in enumerate(order) for name, array in files[index][1].items()}
    request = {"paths": [str(files[index][0]) for index in order], "budget_s": budget_s}
    worker = Worker([sys.executable, "-m", "tools.bench.latency_worker"], label="LiteRT", threads=1)
    try:
        rows = worker.ask(request, arrays, _LIMIT_S)[0]["seconds"]
    finally:
        worker.close()
    return np.array([rows[order.index(index)] for index in range(len(files))])


def first_line(error: EdgewrightError) -> str:
    return " ".join(f"{error.what}: {error.why}".split())[:200]


def machine() -> str:
    models = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {len(models)} cores"


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        yield from file


def _versions() -> dict[str, str]:
    ours = {name: version(name) for name in ("ai-edge-litert", "onnxruntime")}
    return {**ours, **{peer.name: peer.version for peer in _PEERS.values()}}


def _text(result: Any) -> str:
    return json.dumps(rounded(result), indent=1) + "\n"


def rounded(value: Any) -> Any:
    """Figures to four digits, which is more than a shared machine gives."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list) else value
