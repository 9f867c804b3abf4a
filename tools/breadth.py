"""``make breadth``: one small member of every timm family and some transformers configurations, random weights, to float and int8 TFLite.

Each model is exported in a process of its own with a time limit and judged by what LiteRT computes on random inputs: exact, refused (an
error with a code and a reason), or wrong (anything else that was called a success). Exact is, of float32, an SQNR of every output of at
least 60 dB beside PyTorch; of int8, to be as near to PyTorch as onnxruntime is with the same plan (at most 3 dB less).

`tools/breadth_timm.json` names the smallest member of each of timm 1.0's families (parameters times pixels), counted on the meta device.
timm imports torchvision, of which there is no build for every machine: where it is absent, an importable stand-in takes its place.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from diagnostics import EdgewrightError
from tools.breadth_models import make, names

if TYPE_CHECKING:
    from exporter.frontends import Source

__all__ = ["Outcome", "main"]

EXACT_DB: Final = 60.0
PLANNED_DB: Final = (
    3.0  # roundings of one step add up differently in two runtimes: a network of noise may lose this much more in one
)
PRECISIONS: Final = ("float32", "int8")
Sample = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """Of one model in one precision: "exact", "refused" or "wrong", its SQNR (None where all outputs are equal or there is no file), that
    of the plan in onnxruntime (int8 only), and the reason."""

    name: str
    precision: str
    verdict: str
    sqnr_db: float | None = None
    planned_db: float | None = None
    reason: str = ""
    seconds: float = 0.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Export many architectures to TFLite and compare.")
    parser.add_argument("--only", default="", help="names that hold this text")
    parser.add_argument("--suite", choices=["timm", "transformers", "all"], default="all")
    parser.add_argument("--limit", type=int, default=600, help="seconds a model")
    parser.add_argument("--workers", type=int, default=2, help="models at a time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        for outcome in _export(chosen.one):
            print(json.dumps(asdict(outcome)), flush=True)
        return 0
    wanted = [name for name in names(chosen.suite) if chosen.only in name]
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(chosen.workers) as pool:
        for made in pool.map(lambda name: _isolated(name, chosen.limit), wanted):
            for outcome in made:
                _print(outcome)
            outcomes += made
            if chosen.json is not None:
                chosen.json.write_text(json.dumps([asdict(entry) for entry in outcomes], indent=1) + "\n")
    for suite, precision in product(("timm", "transformers"), PRECISIONS):
        counted = Counter(entry.verdict for entry in outcomes if entry.name.startswith(suite) and entry.precision == precision)
        if counted:
            listed = ", ".join(f"{counted[verdict]} {verdict}" for verdict in ("exact", "refused", "wrong"))
            print(f"{suite} {precision}: {listed}")
    return 1 if any(outcome.verdict == "wrong" for outcome in outcomes) else 0


def _print(outcome: Outcome) -> None:
    decibels = "" if outcome.sqnr_db is None else f"{outcome.sqnr_db:.1f} dB"
    planned = "" if outcome.planned_db is None else f"(planned {outcome.planned_db:.1f})"
    what = f"{outcome.verdict:<8} {outcome.precision:<8} {outcome.name:<44} {decibels:>10} {planned:<16}"
    print(f"{what} {outcome.seconds:6.1f} s  {outcome.reason[:160]}", flush=True)


def _isolated(name: str, limit: int) -> list[Outcome]:
    """One outcome a precision, from a process of its own; a process that ends early has said what it came to before."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tools.breadth", "--one", name],
            capture_output=True,
            text=True,
            timeout=limit,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        said, verdict, reason = done.stdout, "wrong", f"the process ended with {done.returncode}: {done.stderr.strip()[-200:]}"
    except subprocess.TimeoutExpired as ended:
        said, verdict, reason = (ended.stdout or b"").decode(), "refused", f"longer than {limit} s"
    lines = [line for line in said.splitlines() if line.startswith('{"name"')]
    found = {outcome.precision: outcome for outcome in (Outcome(**json.loads(line)) for line in lines)}
    lost = Outcome(name, "", verdict, reason=reason, seconds=time.perf_counter() - start)
    return [found.get(precision) or replace(lost, precision=precision) for precision in PRECISIONS]


def _export(name: str) -> Iterator[Outcome]:
    import torch

    from exporter import load

    torch.manual_seed(0)
    torch.set_num_threads(1)
    try:
        module, inputs = make(name)
    except Exception as error:
        reason = f"the model cannot be made here: {type(error).__name__}: {error}"[:300]
        yield from (Outcome(name, precision, "refused", reason=reason) for precision in PRECISIONS)
        return
    _spread(module)
    source = None
    for precision, export in zip(PRECISIONS, (_float, _integer), strict=True):
        start = time.perf_counter()
        try:
            source = source or load(module.eval(), inputs=inputs)
            outcome = export(
                name, source, {entry.name: array.numpy() for entry, array in zip(source.inputs, inputs, strict=True)}
            )
        except EdgewrightError as error:
            verdict = (
                "wrong" if error.code.startswith("EW-R") else "refused"
            )  # something was written, and it does not run, or not right
            outcome = Outcome(name, precision, verdict, reason=f"{error.code}: {error.what} {error.why}"[:400])
        except Exception as error:
            outcome = Outcome(name, precision, "wrong", reason=f"{type(error).__name__}: {error}"[:400])
        yield replace(outcome, seconds=time.perf_counter() - start)


def _float(name: str, source: Source, sample: Sample) -> Outcome:
    from exporter import convert

    with tempfile.TemporaryDirectory() as folder:
        done = convert(source, Path(folder) / "model.tflite")
    exact = done.sqnr_db is None or done.sqnr_db >= EXACT_DB
    return Outcome(name, "float32", "exact" if exact else "wrong", done.sqnr_db)


def _integer(name: str, source: Source, sample: Sample) -> Outcome:
    """Calibrated on the sample that it is judged on: the lowering is in question here, not what calibration is worth."""
    from calibration import open_samples
    from exporter.pipeline import Options, build
    from exporter.quantization.mixing.switches import Switchboard
    from exporter.runtimes import open_session
    from exporter.verification.runner import ArtifactRunner
    from targets.loader import load_target

    built = build(
        source, load_target("android-arm64-cpu"), open_samples([sample], source.inputs), Options(refine=False, method="minmax")
    )
    wanted, board = source.reference(sample), Switchboard(built.graph, built.plan)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(built.artifact.content)
        with open_session("litert-builtin", path, timeout_s=300) as session:
            found = _worst(wanted, ArtifactRunner(session, built.artifact.layouts)(sample))
    planned = _worst(wanted, board.with_nodes(sample, board.nodes))
    return Outcome(name, "int8", "exact" if found >= min(planned - PLANNED_DB, EXACT_DB) else "wrong", found, planned)


def _worst(wanted: Sample, found: Sample) -> float:
    """SQNR of the worst output, in decibels."""
    from exporter.verification.metrics import decibels

    pairs = [(np.asarray(array, np.float64), np.asarray(found[name], np.float64)) for name, array in wanted.items()]
    return min(decibels(float(np.square(r).sum()), float(np.square(r - c).sum())) for r, c in pairs)


def _spread(module: Any) -> None:
    """Give parameters that are initialized to one value some variance: a head of zeros would make every output equal to any other."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and float(parameter.std()) == 0:
                parameter.add_(torch.randn_like(parameter) * 0.02)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
