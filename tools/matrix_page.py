"""docs/targets.md: the profiles of targets/ and the rows of docs/targets/*.json as a page; nothing on it is written by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from targets import Target, list_targets
from targets.precision import precisions_of
from targets.schema import Limit, Unit
from tools.zoo_cases import CASES

__all__ = ["PAGE", "RESULTS", "read_rows", "targets_page"]

Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]

_DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGE: Final = _DOCS / "targets.md"
RESULTS: Final = _DOCS / "targets"
_POOR_DB: Final = 20.0

_LEVELS: Final = (
    "*run*: the artifact runs here on the runtime that ships, or the one with the same kernels for this machine; *emulated*: on the",
    "vendor's emulator; *compiled*: the vendor's compiler takes it, another runtime runs it; *rules*: another runtime runs it, and its form",
    "and nodes are held against what the vendor documents.",
)


def read_rows() -> dict[str, dict[str, Any]]:
    """Target -> model -> row, as `tools.matrix` left them."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def targets_page() -> str:
    """The whole page."""
    targets, rows = list_targets(), read_rows()
    return "\n".join(
        [
            "# Targets",
            "",
            "<!-- Generated from targets/*.toml and docs/targets/*.json by `make matrix` and `make docs`; do not edit. -->",
            "",
            "A target is a profile, `targets/NAME.toml`. How far its claims are verified on an x86-64 machine without the device:",
            *_LEVELS,
            "",
            "| target | what it is | artifact | precisions, its own first | units | proved on | level |",
            "|---|---|---|---|---|---|---|",
            *map(_profile_row, targets),
            "",
            *_matrix(targets, rows),
            *_refusals(targets, rows),
            *_beside_reference(targets, rows),
            *_beside_cpu(targets, rows),
            "## Profiles",
            "",
            *(line for target in targets for line in _profile(target)),
        ]
    )


def _profile_row(target: Target) -> str:
    artifact = target.artifact
    cells = [
        f"`{target.name}`",
        target.title,
        f"{artifact.format} for {artifact.runtime}" + (f" ({artifact.floor})" if artifact.floor else ""),
        ", ".join(precisions_of(target)),
        ", ".join(f"{unit.name} ({unit.kind})" for unit in target.units),
        ", ".join(target.verification.runtimes),
        target.verification.level,
    ]
    return _line(cells)


def _matrix(targets: tuple[Target, ...], rows: Rows) -> list[str]:
    models = [model for model in CASES if any(model in rows.get(target.name, {}) for target in targets)]
    return [
        "## The zoo on every target",
        "",
        "Each model of the zoo, built as `edgewright export --effort fast` builds it from its calibration samples (`tools/zoo_cases.py`), run",
        "on up to 32 others by the first of the runtimes above: the worst output's SQNR in dB against the original, or the code of the",
        "refusal; – where no row was made. A figure says how near the original an artifact was, not that this is enough: nothing is held",
        "against a gate here. docs/zoo.md has what more effort and all samples give.",
        "",
        _counted(targets, rows),
        "",
        _line(["target", *models]),
        "|---" * (len(models) + 1) + "|",
        *(_line([f"`{target.name}`", *(_cell(rows.get(target.name, {}).get(model)) for model in models)]) for target in targets),
        "",
    ]


def _counted(targets: tuple[Target, ...], rows: Rows) -> str:
    """How many rows there are of each kind, as a sentence."""
    found = [row for target in targets for model, row in rows.get(target.name, {}).items() if model in CASES]
    kinds = Counter(row["status"] for row in found)
    poor = sum(row["status"] == "verified" and row["sqnr_db"] is not None and float(row["sqnr_db"]) < _POOR_DB for row in found)
    return (
        f"{len(found)} of {len(targets) * len(CASES)} rows: {kinds['verified']} measured ({poor} of them below {_POOR_DB:.0f} dB), "
        f"{kinds['refused']} refused by name, {kinds['failed']} failed."
    )


def _beside_reference(targets: tuple[Target, ...], rows: Rows) -> list[str]:
    """Rows of targets that TensorFlow Lite Micro proves; those that are alike stand in one line."""
    lines: dict[tuple[str, ...], list[str]] = {}
    reasons: dict[str, None] = {}
    for model in CASES:
        for target in targets:
            row = rows.get(target.name, {}).get(model, {})
            if "reference" not in row:
                continue
            found, told, arena = row["reference"], row.get("arena_told"), row["arena"]
            kernels = [
                f"{kernel['op']} {kernel['dtype']}: {kernel['mismatches']:,} by {kernel['max_lsb']}"
                for kernel in found["kernels"]
            ]
            reasons |= {
                f"{kernel['op']} of {kernel['dtype']}: {kernel['reason'] or 'no reason is known'}": None
                for kernel in found["kernels"]
            }
            cells = (
                model,
                f"{arena:,}",
                "–" if told is None else f"{100 * (told - arena) / arena:+.1f} %",
                f"{found['mismatches']:,} of {found['elements']:,}"
                + (f" by {found['max_lsb']:g}" if found["mismatches"] else ""),
                f"{found['compared']:,}" + (f", not {', '.join(found['uncompared'])}" if found["uncompared"] else ""),
                "; ".join(kernels) or "none",
            )
            lines.setdefault(cells, []).append(f"`{target.name}`")
    return [
        "## TensorFlow Lite Micro beside LiteRT's reference kernels",
        "",
        "The same artifact on both: the integers of its outputs that differ, and by how many steps of the encoding; then each operator by",
        "itself, from the very tensors that it read on tflite-micro, so that what one operator computes otherwise is not counted at the next.",
        "The arena is what tflite-micro's recording allocator measures, beside what was told from the file.",
        "[micro_kernels.md](micro_kernels.md) has every kernel on random networks.",
        "",
        _line(["model", "targets", "arena, bytes", "told", "outputs that differ", "integers compared", "operators that differ"]),
        "|---" * 7 + "|",
        *(_line([model, ", ".join(where), *rest]) for (model, *rest), where in lines.items()),
        "",
        *(f"- {_text(reason)}." for reason in reasons),
        *([""] if reasons else []),
    ]


def _beside_cpu(targets: tuple[Target, ...], rows: Rows) -> list[str]:
    """Rows of targets that an NPU's emulator proves; those that are alike stand in one line."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for model in CASES:
        for target in targets:
            found = rows.get(target.name, {}).get(model, {}).get("emulated")
            if found is None:
                continue
            layers = found.get("layers")
            cells = (
                model,
                ", ".join(found["on_cpu"]) or "none",
                _apart(found["outputs"]),
                *((str(layers["count"]), _apart(layers)) if layers is not None else ("–", found["not_compared"])),
                ", ".join(layers["uncompared"]) if layers is not None and layers["uncompared"] else "none",
            )
            lines.setdefault(cells, []).append(f"`{target.name}`")
    return [
        "## An NPU's emulator beside onnxruntime's CPU kernels",
        "",
        "The same artifact on both: the share of its outputs' numbers that are equal, and by how many steps of the encoding others differ at",
        "most; then each layer by itself, from the integers that the CPU's kernels gave the layer before it. Where an output differs by more",
        "steps than any layer does, steps of single layers have added up on the way.",
        "",
        _line(["model", "targets", "nodes on the CPU", "outputs", "layers", "integers of layers", "not compared"]),
        "|---" * 7 + "|",
        *(_line([model, ", ".join(where), *rest]) for (model, *rest), where in lines.items()),
        "",
    ]


def _apart(found: Mapping[str, Any]) -> str:
    equal = found["elements"] - found["mismatches"]
    share = f"{100 * equal / found['elements']:.2f} % of {found['elements']:,} equal"
    return share + (f", others by {found['max_lsb']:.3g} at most" if found["mismatches"] else "")


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    if row["status"] != "verified":
        return str(row.get("code", row["status"]))
    return "exact" if row["sqnr_db"] is None or float(row["sqnr_db"]) == float("inf") else f"{float(row['sqnr_db']):.1f}"


def _refusals(targets: tuple[Target, ...], rows: Rows) -> list[str]:
    found: dict[str, list[str]] = {}
    for target in targets:
        for model, row in rows.get(target.name, {}).items():
            if row["status"] != "verified":
                code = f"{row['code']}: " if "code" in row else ""
                code = code if row["status"] == "refused" else f"failed, {code}"
                whys = [_text(line) for line in row.get("why", "").splitlines() if line.strip()]
                whys += [f"would mend it: {_text(line)}" for line in row.get("mends", ())]
                text = "\n  - ".join([_text(code + row["what"]), *whys])
                found.setdefault(
                    text.replace(f"target {target.name}", "the target").replace(target.name, "the target"), []
                ).append(f"{model} on `{target.name}`")
    lines = [f"- {', '.join(where)}: {text}" for text, where in found.items()]
    return ["### What was refused or failed, and why", "", *(lines or ["Nothing was."]), ""]


def _profile(target: Target) -> list[str]:
    memory = target.memory
    limits = [f"{name} {_bytes(size)}" for name, size in (("flash", memory.flash), ("SRAM", memory.sram)) if size is not None]
    return [
        f"### `{target.name}`",
        "",
        f"{target.description}. Verified: {target.verification.level}. {_text(target.verification.note)}.",
        "",
        *([f"Memory: {', '.join(limits)}.", ""] if limits else []),
        *(line for unit in target.units for line in _unit(unit)),
        "",
        "Sources:",
        "",
        *(f"- {_text(source)}" for source in target.sources),
        "",
    ]


def _unit(unit: Unit) -> list[str]:
    facts = [
        "all operators of the runtime"
        if "*" in unit.operators
        else f"{len(unit.operators)} operators: {', '.join(unit.operators)}",
        f"dtypes {', '.join(unit.dtypes)}",
        *([f"float is computed in {unit.computes}"] if unit.computes != "float32" else []),
        *([f"channels padded to a multiple of {unit.alignment}"] if unit.alignment > 1 else []),
        *([f"{_bytes(unit.memory)} of its own"] if unit.memory is not None else []),
    ]
    return [f"- unit {unit.name} ({unit.kind}): {'; '.join(facts)}", *(f"  - {_limit(limit)}" for limit in unit.limits)]


def _limit(limit: Limit) -> str:
    bounds = (("at least", limit.least), ("at most", limit.most), ("a multiple of", limit.multiple_of))
    said = ", ".join(f"{words} {number}" for words, number in bounds if number is not None)
    where = "" if "*" in limit.operators else f" of {', '.join(limit.operators)}"
    return f"{limit.measure.replace('_', ' ')}{where}: {said} ({_text(limit.why)})"


def _bytes(count: int) -> str:
    return f"{count / 1024:,.0f} KiB"


def _text(text: str) -> str:
    return " ".join(text.split()).rstrip(".").replace("|", "\\|")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
