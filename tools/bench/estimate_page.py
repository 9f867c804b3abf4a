"""The section of docs/benchmarks.md that `tools.bench.estimate` measures: how far estimates of latency agree with latencies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

__all__ = ["estimate_section"]

_NAMES: Final = {"onnxruntime": "onnxruntime", "litert-xnnpack": "LiteRT (XNNPACK)"}
_WANTED: Final = 0.9
_FORMS: Final = ("float32", "int8")


def estimate_section(result: Mapping[str, Any]) -> list[str]:
    """The lines of the section."""
    versions = ", ".join(f"{name} {release}" for name, release in result["versions"].items())
    runtimes: Mapping[str, Any] = result["runtimes"]
    return [
        "## Estimated latency beside measured latency",
        "",
        f"`python -m tools.bench estimate`; {versions}; {result['machine']}.",
        "",
        "The cost model (`targets/cost.py`) on a profile calibrated for this host: the rates of one thread, measured in the same run, and the",
        "factors of kernels in `targets/kernels`; a vector of output channels that is not full counts as a full one. No number is fitted to the",
        "models. Artifacts are those of the int8 benchmark above, float32 and int8 (effort balanced); measured is CPU time of one thread, the",
        f"median of rounds and processes. Rank correlation is Spearman's, each artifact one point; {_WANTED} is what it shall reach. *off by*:",
        "the median over the artifacts of the greater of estimated / measured and its inverse: a rank says which is faster, not by how much.",
        "",
        *_table(["runtime", "rates: float32, int8, bytes", "float32", "int8", "both", "off by"], list(_summary(runtimes))),
        "",
        *_table(
            ["model", *(f"{_NAMES[name]} {form}: estimated / measured ms" for name in runtimes for form in _FORMS)],
            _rows(runtimes),
        ),
    ]


def _summary(runtimes: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, found in runtimes.items():
        rates, correlation = found["rates"], found["rank_correlation"]
        ratios = [row["estimated_ms"] / row["measured_ms"] for model in found["models"].values() for row in model.values()]
        counts = {form: sum(form in model for model in found["models"].values()) for form in _FORMS}
        yield [
            _NAMES[name],
            f"{rates['gmacs_float']:.3g}, {rates['gmacs_int8']:.3g} GMAC/s, {rates['bandwidth']:.3g} GB/s",
            *(f"**{correlation[form]:.3f}** ({counts[form]})" for form in _FORMS),
            f"**{correlation['all']:.3f}**",
            f"{median(max(ratio, 1 / ratio) for ratio in ratios):.2f}",
        ]


def _rows(runtimes: Mapping[str, Any]) -> list[list[str]]:
    models = dict.fromkeys(model for found in runtimes.values() for model in found["models"])
    return [
        [model, *(_pair(found["models"].get(model, {}).get(form)) for found in runtimes.values() for form in _FORMS)]
        for model in models
    ]


def _pair(row: Mapping[str, float] | None) -> str:
    return f"{row['estimated_ms']:.3g} / {row['measured_ms']:.3g}" if row else "–"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows)]
