"""docs/zoo.md: the rows of docs/benchmarks/zoo.json as a page; nothing on it is written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["PAGE", "RESULTS", "zoo_page"]

_DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGE: Final = _DOCS / "zoo.md"
RESULTS: Final = _DOCS / "benchmarks" / "zoo.json"

_HEAD: Final = (
    "model",
    "form",
    "SQNR dB, each output",
    "task: original -> artifact",
    "KiB",
    "nodes in integers / float",
    "MACs in float",
    "CPU s",
)


def zoo_page() -> str:
    """The whole page."""
    result = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"rows": {}, "versions": {}}
    versions = ", ".join(f"{name} {release}" for name, release in result["versions"].items())
    return "\n".join(
        [
            "# The zoo",
            "",
            "<!-- Generated from docs/benchmarks/zoo.json by `make zoo`; do not edit. -->",
            "",
            "Public models with their real weights (`tools/zoo.py`), each read from its own format, written in every form, and run on its real",
            "runtime on data that calibration did not see (`tools/zoo_cases.py`). float32, float16 and int8 are TFLite for `android-arm64-cpu`",
            "on LiteRT (XNNPACK), int8-onnx is ONNX for `x86-64-cpu` on onnxruntime; auto and auto-onnx are `--precision auto` with the gates",
            "that `tools/zoo_cases.py` names, mostly 20 dB, on the calibration samples. SQNR is that of the artifact's outputs against the",
            "original's. *MACs in float*: of those that the integer forms have left. *CPU s*: from the loaded graph to the artifact's bytes,",
            "calibration included.",
            *([f"Measured with {versions}."] if versions else []),
            "",
            "| " + " | ".join(_HEAD) + " |",
            "|---" * len(_HEAD) + "|",
            *(_table_row(model, form, found) for model, forms in result["rows"].items() for form, found in forms.items()),
            "",
            *_reasons(result["rows"]),
        ]
    )


def _table_row(model: str, form: str, found: Mapping[str, Any]) -> str:
    if found["status"] != "measured":
        return f"| {model} | {form} | {found['status']}: {_cell(found['reason'])} | | | | | |"
    task = "; ".join(f"{name} {score['original']:.4f} -> {score['artifact']:.4f}" for name, score in found["task"].items())
    if not task and found["top1_agreement"] is not None:
        task = f"top-1 agreement {found['top1_agreement']:.4f}"
    cells = [
        model,
        form,
        ", ".join(f"{float(value):.1f}" for value in found["sqnr_db"].values()),
        task,
        f"{found['bytes'] / 1024:.0f}",
        f"{found['integer_nodes']} / {found['float_nodes']}",
        f"{found['float_macs']:.1%}" if "float_macs" in found and found["integer_nodes"] else "",
        f"{found['build_cpu_s']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _reasons(rows: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- {model}, {form}: {count} × {_cell(reason)}"
        for model, forms in rows.items()
        for form, found in forms.items()
        for reason, count in (found.get("float_reasons") or {}).items()
    ]
    return ["## Why nodes stay in float", "", *(lines or ["None does."]), ""]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
