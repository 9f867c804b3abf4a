"""docs/benchmarks.md: assembled from the result files of docs/benchmarks/, one section a file; nothing on it is written by hand.

A further benchmark adds its section to `SECTIONS`: the file's name, and the function from its content to the section's lines.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tools.bench.estimate_page import estimate_section
from tools.bench.quantization_page import quantization_section

__all__ = ["PAGE", "RESULTS", "SECTIONS", "benchmarks_page", "conversion_section", "ratios_section", "write_page"]

_DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
PAGE: Final = _DOCS / "benchmarks.md"
RESULTS: Final = _DOCS / "benchmarks"

_OURS: Final = "edgewright"
_FREE: Final = "edgewright, free I/O"
# onnx2tf orders the axes of inputs and outputs as it likes; litert-torch keeps them. Each is held against ours of the same freedom.
_MATCHED: Final = {"onnx2tf": _FREE, "onnx2tf, no onnxsim": _FREE, "litert-torch": _OURS}
_EXACT_DB: Final = 60.0  # a file below it computes something else than the model, or runs on kernels that do
_SLACK_DB: Final = 6.0


def benchmarks_page() -> str:
    """The whole page."""
    lines = [
        "# Benchmarks",
        "",
        "<!-- Generated from docs/benchmarks/*.json; do not edit. -->",
        "",
        "Every figure is measured side by side with what it is compared with, in one run on one machine. Absolute times are of that machine.",
    ]
    for name, section in SECTIONS.items():
        file = RESULTS / name
        if file.is_file():
            lines += ["", *section(json.loads(file.read_text(encoding="utf-8")))]
    return "\n".join(lines) + "\n"


def write_page() -> None:
    """Write docs/benchmarks.md again."""
    PAGE.write_text(benchmarks_page(), encoding="utf-8")


def conversion_section(result: Mapping[str, Any]) -> list[str]:
    """The section of `tools.bench.convert`: time, artifacts, and every line where a peer is ahead."""
    versions = ", ".join(f"{name} {release}" for name, release in result["versions"].items())
    return [
        "## From ONNX to float TFLite, beside the peers",
        "",
        f"`make bench-convert`; {versions}; {result['machine']}.",
        "",
        f"Least CPU seconds of {result['repeats']} interleaved conversions, from the ONNX file (litert-torch: the module) to the .tflite on",
        "disk, each converter in a process with its imports done. onnx2tf runs its direct back-end, as its command does: it calls onnxsim",
        "three times and writes a float16 file as well; the next column leaves onnxsim out. *convert* also runs the file once beside the",
        "original, as no peer does. MiB: peak memory of the process.",
        "",
        *_times(result["models"]),
        "",
        "What was written, run by LiteRT (XNNPACK, one thread); SQNR against onnxruntime on one random sample. The ratio is ours / theirs,",
        "the median of paired rounds of CPU time: its median over several processes (least .. greatest); *noise* is ours / ours. onnx2tf",
        "orders the axes of inputs and outputs as it likes, so it is held against ours with the same freedom (*free I/O*).",
        "",
        *_artifacts(result["models"]),
        "",
        "### Where a peer is ahead",
        "",
        *(_lost(result["models"]) or ["Nowhere."]),
    ]


def ratios_section(result: Mapping[str, Any]) -> list[str]:
    """The section of `tools.bench.ratios`: a figure a row, beside what it is held against."""
    versions = ", ".join(f"{name} {release}" for name, release in result["versions"].items())
    rows = [
        [
            row["what"],
            f"{row['ours']:.4g}",
            f"{row['other']:.4g}",
            row["unit"],
            "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
            row["against"],
        ]
        for row in result["rows"]
    ]
    return [
        "## Time and memory of calibrating, planning and writing",
        "",
        f"`make bench`; efficientnet_lite0, {result['samples']} calibration samples; {versions}; {result['machine']}.",
        "",
        *_table(["what", "ours", "other", "unit", "ours / other", "against"], rows),
    ]


def _times(models: Sequence[Mapping[str, Any]]) -> list[str]:
    sides = (_OURS, "edgewright convert", "onnx2tf", "onnx2tf, no onnxsim", "litert-torch")
    rows = []
    ratios: dict[str, list[float]] = {side: [] for side in sides[2:4]}
    for model in models:
        found = model["sides"]
        cells = [model["model"], model["source"], str(model["nodes"])]
        for side in sides:
            entry = found.get(side, {})
            ratio = _time_ratio(found, side) if side in ratios else None
            if ratio is not None:
                ratios[side].append(ratio)
            cells.append(f"{entry['cpu_s']:.2f}" + (f" ({ratio:.2f})" if ratio is not None else "") if "cpu_s" in entry else "–")
        cells.append(" / ".join(f"{entry['peak_mib']:.0f}" if "peak_mib" in entry else "–" for entry in _each(found, sides[::2])))
        rows.append(cells)
    medians = {side: f"**{statistics.median(values):.2f}**" if values else "–" for side, values in ratios.items()}
    rows.append(["median of ours / theirs", "", "", "", "", *medians.values(), "", ""])
    head = ["model", "from", "nodes", "ours", "convert", "onnx2tf (ours / it)", "no onnxsim (ours / it)", "litert-torch"]
    return _table([*head, "MiB: ours / onnx2tf / litert-torch"], rows)


def _artifacts(models: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for model in models:
        for side, entry in model["sides"].items():
            if side == "edgewright convert":
                continue
            if "error" in entry:
                rows.append([model["model"], side, "", "", "", "", "", "", entry["error"].replace("|", "\\|")])
                continue
            ratios = entry.get("noise") if side == _OURS else entry.get("latency_ratios", {}).get(_MATCHED.get(side, ""))
            rows.append(
                [
                    model["model"],
                    side,
                    f"{entry['bytes'] / 1024:.0f}",
                    str(sum(entry["operators"].values())),
                    f"{entry['transposes']}, {entry['transposed_bytes'] / 1024:.0f} KiB" if entry["transposes"] else "0",
                    str(entry["delegated"]),
                    f"{float(entry['sqnr_db']):.0f}" if float(entry["sqnr_db"]) < 999 else "equal",
                    f"{entry['latency_ms']:.3g}",
                    _spread(ratios) + (" noise" if side == _OURS else "") if ratios else "",
                ]
            )
    return _table(["model", "by", "KiB", "operators", "TRANSPOSE", "partitions", "SQNR dB", "ms", "ours / theirs"], rows)


def _lost(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for everything in which a peer's sound file, or its time, is better than ours; latency by more than the noise."""
    lines = []
    for model in models:
        found = model["sides"]
        noise = max((abs(ratio - 1) for ratio in found.get(_OURS, {}).get("noise", [])), default=0.0)
        for side, ours in _MATCHED.items():
            theirs, mine = found.get(side, {}), found.get(ours, {})
            ratio = _time_ratio(found, side)
            if side != "litert-torch" and ratio is not None and ratio > 1:
                lines.append(f"- {model['model']}: converting takes {ratio:.2f} of the time of {side}")
            if not _sound(theirs, mine):
                continue
            for key, unit in (("transposes", "TRANSPOSE operators"), ("transposed_bytes", "bytes moved by them")):
                if mine.get(key, 0) > theirs[key]:
                    lines.append(f"- {model['model']}: {mine[key]} {unit}, {side} {theirs[key]}")
            ratios = theirs.get("latency_ratios", {}).get(ours, [])
            if ratios and min(ratios) > 1 + noise:
                lines.append(f"- {model['model']}: latency {_spread(ratios)} of that of {side}")
    return lines


def _sound(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a peer's file runs and is the model: exact, or as close to it as ours is on the same kernels."""
    if "error" in theirs or "sqnr_db" not in theirs:
        return False
    return float(theirs["sqnr_db"]) >= min(_EXACT_DB, float(ours.get("sqnr_db", _EXACT_DB)) - _SLACK_DB)


def _time_ratio(found: Mapping[str, Any], side: str) -> float | None:
    ours, theirs = found.get(_OURS, {}).get("cpu_s"), found.get(side, {}).get("cpu_s")
    return ours / theirs if ours and theirs else None


def _each(found: Mapping[str, Any], sides: Sequence[str]) -> list[Mapping[str, Any]]:
    return [found.get(side, {}) for side in sides]


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


SECTIONS: Final[Mapping[str, Callable[[Any], list[str]]]] = {
    "convert.json": conversion_section,
    "quantization.json": quantization_section,
    "estimate.json": estimate_section,
    "ratios.json": ratios_section,
}
