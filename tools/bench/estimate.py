"""How far the latency estimate of a profile calibrated for this host agrees with what is measured on it.

Artifacts that ``make bench-quantization`` made, float32 and int8 with effort balanced, are read back and estimated node by node
(`exporter.placement.estimate`), then run for their latency, one thread. What an estimate is for is to tell slow from fast: the figure is
Spearman's rank correlation over the models. Results go to docs/benchmarks/estimate.json and onto docs/benchmarks.md::

    python -m tools.bench estimate
    python -m tools.bench estimate --estimates     # the estimates alone, on the rates and latencies of the last run
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from exporter.frontends import load
from exporter.graph.qdq_form import is_quantized
from exporter.pipeline import Options, decide, legal, take
from exporter.placement.estimate import estimate
from exporter.placement.planned import planned_placements
from exporter.progress import SILENT
from targets.loader import load_target
from targets.precision import choose_precision
from targets.schema import Cost, Target
from tools.bench.convert import machine, rounded
from tools.bench.page import RESULTS, write_page
from tools.bench.quantization import artifact_of, feed_of, rounds_of
from tools.bench.workloads import WORKLOADS, Workload, prepared
from tools.kernels import measured_rates

__all__ = ["FILE", "correlations", "estimated_ms", "main"]

FILE: Final = RESULTS / "estimate.json"
# Runtime of the artifacts -> its kernel table, and the profile that they were made for.
_RUNTIMES: Final = {"onnxruntime": ("onnxruntime", "x86-64-cpu"), "litert-xnnpack": ("litert", "android-arm64-cpu")}
_FORMS: Final = {"float32": "float32", "int8": "balanced"}  # precision -> how `tools.bench.quantization` calls it
_PACKAGES: Final = ("onnxruntime", "ai-edge-litert")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench estimate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--estimates", action="store_true", help="keep the rates and latencies of the last run")
    parser.add_argument("--sessions", type=int, default=3, help="processes in which latency is measured")
    parser.add_argument("--seconds", type=float, default=1.0, help="of paired rounds in each of them")
    chosen = parser.parse_args(arguments)
    before = json.loads(FILE.read_text(encoding="utf-8")) if chosen.estimates else {}
    runtimes = {}
    for runtime in _RUNTIMES:
        known = before.get("runtimes", {}).get(runtime)
        runtimes[runtime] = _runtime(runtime, known, chosen.sessions, chosen.seconds)
    where = {key: before[key] for key in ("machine", "versions")} if before else {"machine": machine(), "versions": _versions()}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(rounded({**where, "runtimes": runtimes}), indent=1) + "\n", encoding="utf-8")
    write_page()
    return 0


def estimated_ms(artifact: Path, target: Target) -> float:
    """The estimate of an artifact's latency on `target`, whose precision is the artifact's: from the file alone.

    Raises ValueError where the profile has not all rates; what loading raises.
    """
    source = load(artifact)
    graph = legal(source.model, target)
    plan = take(graph, target) if is_quantized(source.model) else decide(graph, target, None, Options(), SILENT)
    total = estimate(graph.graph, planned_placements(graph.graph, plan, target), target).total_us
    if total is None:
        raise ValueError(f"{target.name} has not all rates that an estimate needs")
    return total / 1e3


def correlations(models: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Spearman's rank correlation of estimated and measured latency, by precision and ("all") over both; each artifact is one point."""
    points = {
        precision: [
            (found[precision]["estimated_ms"], found[precision]["measured_ms"]) for found in models.values() if precision in found
        ]
        for precision in _FORMS
    }
    points["all"] = [point for chosen in list(points.values()) for point in chosen]
    return {name: _spearman(chosen) for name, chosen in points.items()}


def _spearman(points: Sequence[tuple[float, float]]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr([x for x, _ in points], [y for _, y in points]).statistic)


def _runtime(runtime: str, known: Mapping[str, Any] | None, sessions: int, seconds: float) -> dict[str, Any]:
    kernels, profile = _RUNTIMES[runtime]
    rates = Cost.model_validate(known["rates"]) if known is not None else measured_rates(kernels)
    models: dict[str, dict[str, dict[str, float]]] = {}
    for name in WORKLOADS:
        workload = prepared(name)
        paths = _artifacts(workload, profile)
        if known is None:
            latencies = _latencies(paths, runtime, sessions, seconds)
        else:
            latencies = {form: row["measured_ms"] for form, row in known["models"].get(name, {}).items() if form in paths}
        for precision, measured in latencies.items():
            # An artifact of the calibrated profile's precision, and nothing of its own rates: only what this host was found to do.
            target = choose_precision(load_target(profile), precision).model_copy(update={"cost": rates})
            row = {"estimated_ms": estimated_ms(paths[precision], target), "measured_ms": measured}
            models.setdefault(name, {})[precision] = row
            print(
                f"{runtime:15s} {name:22s} {precision:8s} {row['estimated_ms']:9.3f} {measured:9.3f} ms",
                file=sys.stderr,
                flush=True,
            )
    kept = rounded(models)  # ranks are those of the figures that are kept: two models may differ by less
    return {"rates": rates.model_dump(exclude={"kernels"}), "models": kept, "rank_correlation": correlations(kept)}


def _artifacts(workload: Workload, profile: str) -> dict[str, Path]:
    """Precision -> the artifact that an earlier benchmark made and judged; what it did not make is left out."""
    paths = {precision: artifact_of(f"ours:{how}:{profile}", workload) for precision, how in _FORMS.items()}
    return {precision: path for precision, path in paths.items() if path.is_file() and feed_of(path).is_dir()}


def _latencies(paths: Mapping[str, Path], runtime: str, sessions: int, seconds: float) -> dict[str, float]:
    """Milliseconds by precision: the median over processes of the median over rounds of CPU time."""
    found: dict[str, list[float]] = {precision: [] for precision in paths}
    for _ in range(sessions if paths else 0):
        for precision, times in zip(paths, rounds_of(paths.values(), runtime, seconds), strict=True):
            found[precision].append(median(times) * 1e3)
    return {precision: median(times) for precision, times in found.items()}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}
