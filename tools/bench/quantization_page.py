"""The section of docs/benchmarks.md that `tools.bench.quantization` measures: where we stand beside the peers, then every row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

__all__ = ["best_peer", "latency_ratio", "quantization_section", "worst_db"]

_RUNTIMES: Final = {"onnxruntime": "x86-64-cpu", "litert-xnnpack": "android-arm64-cpu"}
_SHORT: Final = {"onnxruntime": "ORT", "litert-xnnpack": "LiteRT"}
_INTEGER_IO: Final = {"ai-edge-quantizer"}  # peers whose artifacts take and give integers
_PLAIN_INT8: Final = ("ours:fast:", "ours:balanced:", "ours:best:")
_NOISE: Final = 1.05  # CPU time of the same artifact in paired rounds differs by a few percent on a busy machine

Row = Mapping[str, Any]
Model = Mapping[str, Any]


def quantization_section(result: Mapping[str, Any]) -> list[str]:
    """The lines of the section."""
    models: Mapping[str, Model] = result["models"]
    makers = sorted({row["by"] for model in models.values() for row in model["rows"].values() if row["by"] != "edgewright"})
    return [
        "## int8, beside the peers",
        "",
        f"`make bench-quantization`, or one row: `python -m tools.bench quantization --model MODEL --form FORM`; {', '.join(makers)};",
        f"{result['machine']}.",
        "",
        "Every side reads the same float ONNX file (ai-edge-quantizer: our float .tflite; litert-torch: the module; tensorflow: what Keras",
        "wrote), brought to opset 18 by onnx's own converter where it is below 13 or above 18, since some peers else write files that do not",
        "load. All get the same calibration samples, real ones (`tools/zoo_cases.py`), and are judged on the same held-out samples, on the",
        "runtime that they are for, against the float original. ort:percentile and ort:entropy see the first 32 samples alone, since their",
        "memory grows with them. Peers run with their defaults, as their documentation calls them; onnx2tf one scale a tensor where a scale a",
        "channel fails. Models with several outputs are compared by their worst, or the worst part of one that joins several things.",
        "mobilenetv2 has random weights: it says how near an artifact is, nothing of a task.",
        "",
        "### Plain int8, the worst output in dB, and latency",
        "",
        "*fast*, *balanced* and *best* are efforts of ours, x86-64-cpu / android-arm64-cpu; *ahead*: the lower of the two balanced ones less",
        "the best peer on either runtime. Latency is the ratio of CPU time on one thread in paired rounds of one process, the median of",
        "several: ours (balanced) to the fastest int8 artifact of a peer that runs at all, and to our own float form. Those of",
        "ai-edge-quantizer take and give integers, and leave the first and the last operator of ours to the app: beside them stands ours",
        "with `--io-dtype int8` (`--form ours:integer-io`).",
        "",
        *_standing(models),
        "",
        *_summary(models),
        "",
        "### By a goal (`--precision auto`)",
        "",
        "Made by `python -m tools.bench quantization --form ours:balanced --form ours:auto`. *above*: the share of multiply-accumulates of",
        "which either side has more than 8 bits. Latency: the ratio to our own plain int8 (balanced) and to the fastest int8 artifact of",
        "anyone on that runtime. *CPU s*: to make it, and the ratio to balanced. *goal*: the gates that the choice of precisions aims at, in",
        "parentheses what its simulator reached on calibration samples, which alone it is chosen by; all else is of held-out ones.",
        "",
        *_auto(models),
        "",
        "### Weights in 4 bits (`--precision int8x4 --effort best`)",
        "",
        "Made by `python -m tools.bench quantization --form ours:int8x4`: three quarters of the weights in 4 bits, activations in 8.",
        "",
        *_narrow(models),
        "",
        "### Where a peer is ahead",
        "",
        *(_lost(models) or ["Nowhere."]),
        "",
        "### Every row",
        "",
        "*CPU s*: from the model file to the artifact on disk, calibration included, imports not; *MiB*: peak memory of that process.",
        "*ms*: CPU, one thread; *of float*: its ratio to our float32 form on that runtime.",
        "",
        *_rows(models),
    ]


def worst_db(row: Row | None) -> float | None:
    """SQNR of the worst output; NaN counts as -inf. None where the row has no figure."""
    if row is None or "sqnr_db" not in row:
        return None
    return min(-math.inf if math.isnan(value) else value for value in map(float, row["sqnr_db"].values()))


def best_peer(model: Model, runtime: str | None = None) -> tuple[str, float] | None:
    """The peer whose worst output is nearest to the original, on this runtime; None: on either."""
    rows = {form: row for form, row in model["rows"].items() if _is_peer(form) and runtime in (None, row.get("runtime"))}
    found = {form: value for form, row in rows.items() if (value := worst_db(row)) is not None}
    return max(found.items(), key=lambda item: item[1], default=None)


def latency_ratio(model: Model, runtime: str, form: str, other: str) -> float | None:
    """Median over processes of the ratio of `form` to `other`, each pair from one process. None where one was not measured."""
    found = model.get("latency", {}).get(runtime, {})
    if not found.get(form) or not found.get(other):
        return None
    return statistics.median(one / two for one, two in zip(found[form], found[other], strict=True))


def _is_peer(form: str) -> bool:
    return not form.startswith("ours:")


def _fastest(model: Model, runtime: str, *, peers: bool) -> str | None:
    """The int8 artifact of least time: of a peer, or of anyone."""
    found = model.get("latency", {}).get(runtime, {})
    whose = [form for form in found if found[form] and (_is_peer(form) or (not peers and form.startswith(_PLAIN_INT8)))]
    return min(whose, key=lambda form: statistics.median(found[form]), default=None)


def _beside_fastest(model: Model, runtime: str) -> tuple[str, str] | None:
    """The fastest int8 artifact of a peer, and ours that takes and gives what it does; None where neither was measured."""
    fastest = _fastest(model, runtime, peers=True)
    if fastest is None:
        return None
    how = "balanced"
    if fastest in _INTEGER_IO and model["latency"][runtime].get(f"ours:integer-io:{_RUNTIMES[runtime]}"):
        how = "integer-io"
    return fastest, f"ours:{how}:{_RUNTIMES[runtime]}"


def _ours(model: Model, how: str) -> dict[str, float]:
    """Worst output by runtime."""
    rows = {runtime: model["rows"].get(f"ours:{how}:{target}") for runtime, target in _RUNTIMES.items()}
    return {runtime: value for runtime, row in rows.items() if (value := worst_db(row)) is not None}


def _ahead(model: Model) -> float | None:
    ours, peer = _ours(model, "balanced"), best_peer(model)
    return min(ours.values()) - peer[1] if ours and peer is not None else None


def _standing(models: Mapping[str, Model]) -> list[str]:
    rows = []
    for name, model in models.items():
        peer, ahead = best_peer(model), _ahead(model)
        cells = [name, *(_pair(_ours(model, how)) for how in ("fast", "balanced", "best"))]
        cells += [f"{peer[1]:.1f} ({peer[0]})" if peer is not None else "–", f"{ahead:+.1f}" if ahead is not None else "–"]
        for runtime, target in _RUNTIMES.items():
            pair = _beside_fastest(model, runtime)
            ratio = latency_ratio(model, runtime, pair[1], pair[0]) if pair is not None else None
            cells.append(f"{ratio:.2f} ({pair[0]})" if pair is not None and ratio is not None else "–")
            own = latency_ratio(model, runtime, f"ours:balanced:{target}", f"ours:float32:{target}")
            cells.append(f"{own:.2f}" if own is not None else "–")
        rows.append(cells)
    head = ["model", "fast", "balanced", "best", "best peer", "ahead, dB"]
    return _table([*head, *(f"{short}: ours / {of}" for short in _SHORT.values() for of in ("fastest peer", "own float"))], rows)


def _summary(models: Mapping[str, Model]) -> list[str]:
    ahead = {name: value for name, model in models.items() if (value := _ahead(model)) is not None}
    lines = []
    if ahead:
        worst = min(ahead, key=ahead.__getitem__)
        below = sum(value < 0 for value in ahead.values())
        lines.append(
            f"Balanced is ahead of the best peer by {statistics.median(ahead.values()):+.1f} dB in the median of {len(ahead)} models; the least"
            f" is {worst} with {ahead[worst]:+.1f} dB; {below} are below."
        )
    there = [
        (value - peer[1], f"{name} on {_SHORT[runtime]}")
        for name, model in models.items()
        for runtime, value in _ours(model, "balanced").items()
        if (peer := best_peer(model, runtime)) is not None
    ]
    if there:
        (least, where), middle = min(there), statistics.median(value for value, _ in there)
        lines.append(
            f"Beside the best peer on the same runtime it is {middle:+.1f} dB in the median of {len(there)} pairs; the least is {where} with"
            f" {least:+.2f} dB."
        )
    for runtime in _RUNTIMES:
        pairs = [
            ratio
            for model in models.values()
            if (pair := _beside_fastest(model, runtime)) is not None
            and (ratio := latency_ratio(model, runtime, pair[1], pair[0])) is not None
        ]
        if pairs:
            lines.append(
                f"On {_SHORT[runtime]} its latency is {statistics.median(pairs):.2f} of the fastest peer's in the median."
            )
    return lines


def _auto(models: Mapping[str, Model]) -> list[str]:
    rows = []
    for name, model in models.items():
        for runtime, target in _RUNTIMES.items():
            form, plain = f"ours:auto:{target}", f"ours:balanced:{target}"
            row, balanced = model["rows"].get(form), model["rows"].get(plain, {})
            if row is None:
                continue
            if "error" in row:
                rows.append([name, target, "", _cell(row["error"]), *[""] * 7])
                continue
            ratios = [
                latency_ratio(model, runtime, form, other) for other in (plain, _fastest(model, runtime, peers=False)) if other
            ]
            above = sum(share for precision, share in row["macs"].items() if precision in ("float32", "int16x8"))
            longer = f" ({row['cpu_s'] / balanced['cpu_s']:.1f})" if "cpu_s" in balanced else ""
            cosine = f"{row['cosine']:.4f}" if row.get("cosine") is not None else "–"
            rows.append(
                [
                    *(name, target, _goal(row), _decibels(row), cosine, _task(row), f"{above:.1%}"),
                    f"{row['bytes'] / 1024:.0f}",
                    *(f"{ratio:.2f}" if ratio is not None else "–" for ratio in ratios),
                    *["–"] * (2 - len(ratios)),
                    f"{row['cpu_s']:.1f}{longer}",
                ]
            )
    head = ["model", "target", "goal", "SQNR dB, each output", "cosine", "task: original -> artifact", "above", "KiB"]
    return _table([*head, "of balanced", "of the fastest", "CPU s"], rows)


def _goal(row: Row) -> str:
    """The gates, each with what was reached on calibration samples where the row says so."""
    gates = row.get("gates", [f"sqnr_db>={row.get('goal_db', 20.0):g}"])
    aims = row.get("aims", {})
    return ", ".join(f"{gate} ({float(aims[gate]):.4g})" if gate in aims else gate for gate in gates)


def _narrow(models: Mapping[str, Model]) -> list[str]:
    rows = []
    for name, model in models.items():
        for runtime, target in _RUNTIMES.items():
            row, plain = model["rows"].get(f"ours:int8x4:{target}"), model["rows"].get(f"ours:balanced:{target}", {})
            if row is None:
                continue
            if "error" in row:
                rows.append([name, target, _cell(row["error"]), *[""] * 4])
                continue
            size = f"{row['bytes'] / 1024:.0f}" + (f" ({row['bytes'] / plain['bytes']:.2f})" if "bytes" in plain else "")
            rows.append([name, target, _SHORT[runtime], _decibels(row), _task(row), size, f"{row['cpu_s']:.1f}"])
    return _table(
        ["model", "target", "runtime", "SQNR dB, each output", "task: original -> artifact", "KiB (of int8's)", "CPU s"], rows
    )


def _lost(models: Mapping[str, Model]) -> list[str]:
    return [line for name, model in models.items() for line in _losses(name, model)]


def _losses(name: str, model: Model) -> Iterator[str]:
    """Everything in which a peer's artifact, or our own float form, is better than our balanced int8; latency by more than the noise."""
    peer = best_peer(model)
    for runtime, value in _ours(model, "balanced").items():
        target = _RUNTIMES[runtime]
        if peer is not None and value < peer[1]:
            yield f"- {name}, {target}: {value:.1f} dB, {peer[0]} {peer[1]:.1f}"
        pair, own = _beside_fastest(model, runtime), (f"ours:balanced:{target}", f"ours:float32:{target}")
        for mine, other, whose in (*([(pair[1], pair[0], pair[0])] if pair is not None else []), (*own, "its own float form")):
            ratio = latency_ratio(model, runtime, mine, other)
            if ratio is not None and ratio > _NOISE:
                yield f"- {name}, {target}: latency {ratio:.2f} of that of {whose}"


def _rows(models: Mapping[str, Model]) -> list[str]:
    rows = []
    for name, model in models.items():
        for form, row in model["rows"].items():
            if "error" in row:
                rows.append([name, form, _cell(row["error"]), "", "", "", "", "", ""])
                continue
            runtime = row["runtime"]
            times = model.get("latency", {}).get(runtime, {}).get(form)
            ratio = latency_ratio(model, runtime, form, f"ours:float32:{_RUNTIMES[runtime]}")
            note = f" ({row['note']})" if "note" in row else ""
            cells = [
                name,
                form + note,
                _decibels(row),
                _task(row),
                f"{row['bytes'] / 1024:.0f}",
                f"{row['cpu_s']:.1f}",
                f"{row['peak_mib']:.0f}",
            ]
            rows.append(
                [*cells, f"{statistics.median(times):.3g}" if times else "–", f"{ratio:.2f}" if ratio is not None else "–"]
            )
    return _table(
        ["model", "form", "SQNR dB, each output", "task: original -> artifact", "KiB", "CPU s", "MiB", "ms", "of float"], rows
    )


def _decibels(row: Row) -> str:
    return ", ".join("equal" if value == math.inf else f"{value:.1f}" for value in map(float, row["sqnr_db"].values()))


def _task(row: Row) -> str:
    scores = [f"{name} {score['original']:.4f} -> {score['artifact']:.4f}" for name, score in row["task"].items()]
    if not scores and row["top1_agreement"] is not None:
        scores = [f"top-1 agreement {row['top1_agreement']:.3f}"]
    return "; ".join(scores)


def _pair(values: Mapping[str, float]) -> str:
    return " / ".join(f"{values[runtime]:.1f}" if runtime in values else "–" for runtime in _RUNTIMES) if values else "–"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows)]
