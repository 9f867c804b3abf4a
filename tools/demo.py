"""``make demo``: a real ImageNet model for three targets and a real digit model for a microcontroller, each proved on its runtime.

Fetches the models' trained weights, calibrates on photos that scikit-image and scikit-learn carry, verifies on other photos of theirs.
The exit status is 0 when every gate holds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from exporter import Exported, export
from exporter.progress import RichProgress
from tools import zoo

__all__ = ["main"]


def main() -> int:
    start = time.perf_counter()
    out = Path("bundles") / "demo"
    console = Console(width=max(Console().width, 110), highlight=False)
    photos = export(
        "tools.zoo:efficientnet_lite0",
        targets=["android-arm64-cpu", "x86-64-cpu", "android-gpu"],
        calibration=zoo.calibration_photos(),
        test=zoo.unseen_photos(),
        samples=64,
        test_samples=246,
        gates=["top1_agreement>=0.95", "sqnr_db>=24"],
        out=out / "efficientnet_lite0",
        force=True,
        progress=RichProgress(),
    )
    digits = export(
        "tools.zoo:digit_cnn",
        targets=["cortex-m7"],
        calibration="tools.zoo:calibration_digits",
        test="tools.zoo:held_out_digits",
        test_samples=200,
        gates=["top1_agreement>=0.99", "sqnr_db>=20"],
        out=out / "digit_cnn",
        force=True,
        progress=RichProgress(),
    )
    console.print(_table([("efficientnet_lite0", photos), ("digit_cnn", digits)]))
    outcomes = [*photos, *digits]
    for outcome in outcomes:
        if outcome.error is not None:
            console.print(f"[red]{outcome.target}[/]: {outcome.error}")
        for gate in outcome.gates:
            if not gate.passed:
                console.print(f"[red]{outcome.target}[/]: gate {gate}")
    green = all(outcome.passed for outcome in outcomes)
    console.print(f"{'all gates are green' if green else '[red]not all gates hold[/]'}, {time.perf_counter() - start:.0f} s")
    for outcome in outcomes:
        if outcome.bundle is not None:
            console.print(f"  {outcome.bundle.path / 'report.html'}", soft_wrap=True)
    return 0 if green else 1


def _table(groups: list[tuple[str, tuple[Exported, ...]]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("model", "target", "proved on", "KiB", "SQNR dB", "top-1", "ms here", "float32 ms", "gates"):
        table.add_column(column, justify="left" if column in ("model", "target", "proved on") else "right")
    for model, outcomes in groups:
        for outcome in outcomes:
            if outcome.bundle is None or outcome.evidence is None:
                continue
            runtime = next(iter(outcome.evidence.comparisons))
            # Beside its own float form in turns on the same runtime; what is not of integers, or runs on portable kernels, has none.
            beside = next((rival for rival in outcome.evidence.rivals if rival.precision == "float32"), None)
            alone = min(min(entry.seconds) for entry in outcome.evidence.latency if entry.runtime == runtime)
            table.add_row(
                model,
                outcome.target,
                runtime,
                f"{outcome.bundle.artifact.stat().st_size / 1024:.0f}",
                f"{outcome.worst('sqnr_db') or 0:.1f}",
                f"{outcome.worst('top1_agreement') or 0:.1%}",
                f"{1e3 * (alone if beside is None else beside.artifact_s):.2f}",
                "-" if beside is None else f"{1e3 * beside.seconds:.2f}",
                "green" if outcome.passed else "[red]failed[/]",
            )
    return table


if __name__ == "__main__":
    sys.exit(main())
