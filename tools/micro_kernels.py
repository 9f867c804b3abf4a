"""``make micro-kernels``: every family of integer kernels on tflite-micro and on LiteRT's reference kernels, onto docs/micro_kernels.md.

Each network is planned as for a Cortex-M55, once with the scales that calibration gives and once with those that were moved so that all
kernels agree (`exporter.quantization.agreeing`); then every operator is run on both from the same tensors.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import onnx_ir as ir

from diagnostics import TargetError
from exporter.backends.tflite.layout import assign
from exporter.backends.tflite.writer import write_tflite
from exporter.graph.run import FloatRunner, observed_values
from exporter.pipeline import legal
from exporter.quantization.agreeing import agreed
from exporter.quantization.plan import Plan
from exporter.quantization.planner import make_plan
from exporter.verification.kernels import differences, kernel_parity
from exporter.verification.parity import LayerParity, Parity
from targets import load_target
from targets.precision import choose_precision
from targets.schema import Target
from tools.operator_families import FAMILIES, Array, Draw, feeds

__all__ = ["Tally", "main", "page", "sweep"]

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "micro_kernels.md"
_PROFILE: Final = "cortex-m55"
_PRECISIONS: Final = ("int8", "int16x8")
_COUNT: Final = 40
_UNKNOWN: Final = "no reason is known"


@dataclass
class Tally:
    """What was found of one operator and dtype.

    Attributes:
        operators: how many were run; elements: integers that they wrote.
        before, after: of those the ones that differ with scales as calibrated and as moved; steps: by how many at most, as moved.
    """

    operators: int = 0
    elements: int = 0
    before: int = 0
    after: int = 0
    steps: float = 0.0
    reason: str = ""

    def add(self, before: Sequence[LayerParity], after: Sequence[LayerParity]) -> None:
        self.operators += len(after)
        self.elements += sum(layer.elements for layer in after)
        self.before += sum(layer.elements - layer.equal for layer in before)
        self.after += sum(layer.elements - layer.equal for layer in after)
        self.steps = max([self.steps, *(layer.max_lsb for layer in after)])


def sweep(families: Sequence[str], count: int) -> dict[str, Tally]:
    """Tallies by operator and dtype, "CONV_2D int8", of `count` networks of each family in each precision that the profile has it in."""
    found: dict[str, Tally] = {}
    for family in families:
        for precision in _PRECISIONS:
            for number in range(count):
                before, after = _compared(family, precision, number)
                for kind in sorted({layer.op for layer in after}):
                    layers = [[layer for layer in parity if layer.op == kind] for parity in (before, after)]
                    found.setdefault(kind, Tally()).add(*layers)
                for difference in differences(after):
                    found[f"{difference.op} {difference.dtype}"].reason = difference.reason or _UNKNOWN
    return dict(sorted(found.items()))


def _compared(family: str, precision: str, number: int) -> tuple[Parity, Parity]:
    """One network with scales as calibrated and as moved; nothing is compared of one whose operators the profile lacks."""
    draw = Draw(zlib.crc32(f"{family} {number}".encode()))
    model = FAMILIES[family](draw)
    samples = feeds(model, draw.random, draw.number(0.1, 20), draw.number(-5, 5))
    target = choose_precision(load_target(_PROFILE), precision)
    try:
        graph = legal(model, target)
        plan = make_plan(graph, _Extremes(graph, samples), target)
    except TargetError:
        return Parity(0, (), (), ""), Parity(0, (), (), "")
    wider = [*samples, *({name: 2 * array for name, array in sample.items()} for sample in samples)]
    moved = agreed(graph.graph, plan)
    return _parity(graph, plan, wider, target), _parity(graph, moved, wider, target)


class _Extremes:
    """What was least and greatest of every value on some samples."""

    def __init__(self, graph: ir.Model, samples: Sequence[dict[str, Array]]) -> None:
        run = FloatRunner(graph, observed_values(graph))
        seen = [run(sample) for sample in samples]
        self.values = {
            name: SimpleNamespace(
                low=min(float(values[name].min()) for values in seen), high=max(float(values[name].max()) for values in seen)
            )
            for name in seen[0]
        }


def _parity(graph: ir.Model, plan: Plan, samples: Sequence[dict[str, Array]], target: Target) -> Parity:
    written = write_tflite(graph, assign(graph, plan, target.artifact.io_layout))
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(written.content)
        return kernel_parity(path, samples, layouts=dict(written.layouts), isolate=False)


def page(found: dict[str, Tally], count: int) -> str:
    """docs/micro_kernels.md."""
    rows = []
    for kind, tally in found.items():
        op, _, dtype = kind.partition(" ")
        after = f"{tally.after:,}" + (f" by {tally.steps:g}" if tally.after else "")
        cells = (f"`{op}`", dtype, f"{tally.operators:,}", f"{tally.elements:,}", f"{tally.before:,}", after, tally.reason)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            "# TensorFlow Lite Micro's kernels beside LiteRT's reference kernels",
            "",
            "<!-- Generated by `make micro-kernels`; do not edit. -->",
            "",
            f"{count} networks of each of {len(FAMILIES)} families of operators, of random shapes, weights, attributes and ranges, as far as",
            f"`{_PROFILE}` has them in {' and '.join(_PRECISIONS)}; some of their values saturate. Each operator is run on both from the same",
            "tensors: first with scales as calibration gives them; then, as every export for TensorFlow Lite Micro has them, with those of",
            "LOGISTIC, TANH, MUL, LEAKY_RELU, PRELU and RELU moved by units in their last place where both would round some integer otherwise.",
            "",
            "| operator | dtype | run | integers compared | differ as calibrated | differ as moved | why |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """The command line; exit status 1 where an operator differs for no known reason."""
    parser = argparse.ArgumentParser(prog="python -m tools.micro_kernels", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=_COUNT, help="networks of each family and precision")
    count = parser.parse_args(arguments).count
    found = sweep(tuple(FAMILIES), count)
    PAGE.write_text(page(found, count), encoding="utf-8")
    return int(any(tally.reason == _UNKNOWN for tally in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
