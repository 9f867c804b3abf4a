"""``make bench``: time and memory as ratios, measured side by side in one run on this machine; the accuracy of a peer beside ours.

Absolute times mean little on a shared machine; every row names what it is compared with. Prints one table; the figures go to
docs/benchmarks/ratios.json, from which the page docs/benchmarks.md is generated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from calibration import Samples, open_samples
from exporter.backends.tflite.writer import write_tflite
from exporter.frontends import Source, load
from exporter.graph.run import FloatRunner
from exporter.pipeline import Options, build, calibrate, legal
from exporter.progress import SILENT
from exporter.quantization.plan import Effort
from exporter.verification.prove import measure
from targets.loader import load_target
from tools import zoo
from tools.bench.convert import machine, rounded
from tools.bench.page import RESULTS, write_page

__all__ = ["FILE", "Row", "main"]

FILE: Final = RESULTS / "ratios.json"
MODEL = "tools.zoo:efficientnet_lite0"
_EFFORTS: Final[tuple[Effort, ...]] = ("fast", "balanced")


@dataclass(frozen=True)
class Row:
    """One figure of ours and what it is held against; `ratio` is ours / other."""

    what: str
    ours: float
    other: float
    unit: str
    against: str

    @property
    def ratio(self) -> float:
        return self.ours / self.other if self.other else float("nan")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=FILE, help="where the figures are kept")
    parser.add_argument("--samples", type=int, default=32)
    chosen = parser.parse_args(arguments)
    source = load(MODEL)
    calibration = open_samples(zoo.calibration_photos(), source.inputs, source.preprocess).take(chosen.samples)
    held_out = open_samples(zoo.held_out_photos(), source.inputs, source.preprocess)
    rows = [
        *_writing(source, calibration),
        *_help(),
        *_memory(),
        *_calibrating(source, calibration),
        *_against_ort(source, calibration, held_out),
    ]
    table = Table(box=None, pad_edge=False)
    for column in ("what", "ours", "other", "unit", "ratio", "against"):
        table.add_column(column, justify="left" if column in ("what", "unit", "against") else "right")
    for row in rows:
        table.add_row(row.what, f"{row.ours:.4g}", f"{row.other:.4g}", row.unit, f"{row.ratio:.3f}", row.against)
    Console(width=140, highlight=False).print(table)
    result = {
        "machine": machine(),
        "versions": {"onnxruntime": version("onnxruntime")},
        "samples": chosen.samples,
        "rows": [{**asdict(row), "ratio": row.ratio if row.other else None} for row in rows],
    }
    chosen.json.write_text(json.dumps(rounded(result), indent=1) + "\n", encoding="utf-8")
    if chosen.json == FILE:
        write_page()
    return 0


def _writing(source: Source, calibration: Samples) -> Iterator[Row]:
    built = build(source, load_target("android-arm64-cpu"), calibration.take(4), Options(refine=False))
    seconds = _median(lambda: write_tflite(built.graph, built.plan))
    yield Row("writing TFLite from a planned graph", seconds, 0.5, "s", "the goal of 0.5 s")


def _help() -> Iterator[Row]:
    command = [sys.executable, "-X", "importtime", "-m", "exporter.cli.main", "--help"]
    seconds = _median(lambda: subprocess.run(command, check=True, capture_output=True))
    bare = _median(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True, capture_output=True))
    yield Row("edgewright --help", seconds, bare, "s", "an empty Python process")
    imported = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    heavy = sum(f" {name}\n" in imported for name in ("torch", "onnxruntime", "numpy", "onnx_ir", "pydantic"))
    yield Row("heavy modules that --help imports", heavy, 0, "modules", "none")


_CALIBRATE = """
import sys
import numpy as np
from exporter import calibrate
from exporter.frontends import load
source = load("{model}")
def samples():
    random = np.random.default_rng(0)
    return (random.normal(size=source.inputs[0].shape).astype(np.float32) for _ in range(int(sys.argv[1])))
calibrate(source, "x86-64-cpu", samples)
with open("/proc/self/status") as status:  # ru_maxrss would count what the process held that started this one
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def _memory() -> Iterator[Row]:
    script = _CALIBRATE.format(model=MODEL)

    def peak(count: int) -> float:
        command = [sys.executable, "-c", script, str(count)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024

    few, many = (statistics.median(peak(count) for _ in range(3)) for count in (32, 1024))
    yield Row("peak memory of calibrating on 1,024 samples", many, few, "MiB", "32 samples")


def _calibrating(source: Source, samples: Samples) -> Iterator[Row]:
    """Reading the samples and opening the session count on both sides."""
    graph, target = legal(source.model, load_target("x86-64-cpu")), load_target("x86-64-cpu")
    ours = _least_cpu(lambda: calibrate(graph, target, samples, SILENT))
    plain = _least_cpu(lambda: [run(sample) for run in [FloatRunner(graph)] for sample in samples])
    yield Row("calibrating", ours, plain, "CPU s", "plain inference of the same samples")


def _against_ort(source: Source, calibration: Samples, held_out: Samples) -> Iterator[Row]:
    """Calibrating, planning and writing beside onnxruntime's quantize_static (MinMax, per channel, QDQ) of the same samples."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.onnx", Path(folder) / "theirs.onnx"
        for effort in _EFFORTS:
            build_ours = partial(_build, source, calibration, effort, ours)
            build_theirs = partial(_ort_minmax, source, calibration, Path(folder), theirs)
            spent, peer = _least_of_each((build_ours, build_theirs), 3 if effort == "fast" else 1)
            yield Row(f"calibrating and planning, effort {effort}", spent, peer, "CPU s", "onnxruntime quantize_static MinMax")
            found = [
                measure(
                    path,
                    source.reference,
                    held_out,
                    runtimes=["onnxruntime"],
                    outputs=[signature.name for signature in source.outputs],
                    layouts={},
                )
                for path in (ours, theirs)
            ]
            for metric, unit in (("sqnr_db", "dB"), ("top1_agreement", "")):
                values = [worst[1] for evidence in found if (worst := evidence.deciding.worst(metric))]
                label = f"held-out photos, effort {effort}: {metric}"
                yield Row(label, values[0], values[1], unit, "onnxruntime quantize_static MinMax")


def _build(source: Source, samples: Samples, effort: Effort, out: Path) -> None:
    out.write_bytes(build(source, load_target("x86-64-cpu"), samples, Options(effort=effort)).artifact.content)


def _ort_minmax(source: Source, samples: Samples, folder: Path, out: Path) -> None:
    import onnx
    import onnx_ir as ir
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._walk = iter(samples)

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            return next(self._walk, None)

    model = folder / "float.onnx"
    onnx.save(ir.to_proto(source.model), model)
    quantize_static(
        model,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _least_of_each(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Least CPU seconds of each call, all of them in turn."""
    rounds = [[_least_cpu(run, 1) for run in runs] for _ in range(repeats)]
    return [min(seconds) for seconds in zip(*rounds, strict=True)]


def _least_cpu(run: Callable[[], Any], repeats: int = 5) -> float:
    """Least CPU seconds of a call: what others do on the machine can only add to it."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def _median(run: Callable[[], Any], repeats: int = 7) -> float:
    """Median wall seconds of a call, the first one not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
