"""The evidence behind an artifact, measured on real runtimes: agreement, gates, layers, parity, latency, memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from calibration import Samples
from diagnostics import EdgewrightError, RuntimeFailure
from exporter.backends.onnx.qdq import shifted
from exporter.built import Built
from exporter.frontends.source import Reference
from exporter.graph.columns import Columns, column_groups
from exporter.progress import SILENT, Progress
from exporter.quantization.apply import runs_in_integers
from exporter.quantization.joins import shared_scales
from exporter.quantization.plan import Encoding, Plan
from exporter.runtimes import open_session
from exporter.runtimes.machine import Machine
from exporter.runtimes.places import base_name, placed
from exporter.runtimes.registry import runtime_of
from exporter.verification.compare import Comparison, compare
from exporter.verification.gates import Gate, GateResult, check
from exporter.verification.kernels import MICRO_AND_REFERENCE, Difference, differences, kernel_parity
from exporter.verification.layers import LayerQuality, watch_layers
from exporter.verification.metric import evaluate
from exporter.verification.onnx_parity import emulated_parity
from exporter.verification.parity import Parity, layer_parity
from exporter.verification.runner import Agreement, ArtifactRunner, agreement
from exporter.verification.trusted import trusted
from exporter.verification.within import require_within

__all__ = ["Evidence", "Latency", "Rival", "advice", "asked", "measure", "prove"]

Array = np.ndarray[Any, Any]

_FEW = 4  # samples for the runtimes beside the deciding one, and for what looks at every layer
_REPEATS = 15
_ALIKE = 1.05  # ratio of times within which two artifacts take as long


@dataclass(frozen=True)
class Latency:
    """Wall seconds of single inferences where the runtime runs, one thread. `runtime` is "original" for the model as it came, here."""

    runtime: str
    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return float(np.median(self.seconds))


@dataclass(frozen=True)
class Rival:
    """The same model in another precision of the target, timed in turns with the artifact on one runtime, where that runs.

    Attributes:
        seconds: least wall seconds of an inference, one thread; artifact_s: of the artifact, in the same turns.
        size: bytes; artifact_size: of the artifact.
    """

    precision: str
    runtime: str
    seconds: float
    artifact_s: float
    size: int
    artifact_size: int

    @property
    def faster(self) -> bool:
        """By more than two measurements of one artifact differ."""
        return self.seconds * _ALIKE < self.artifact_s


def advice(precision: str, rivals: Sequence[Rival]) -> tuple[str, ...]:
    """A sentence where the artifact's precision does not pay: it takes longer than another that keeps more of the model."""
    better = sorted((rival for rival in rivals if rival.faster), key=lambda rival: rival.seconds)
    if not better:
        return ()
    best = better[0]
    offers = "; ".join(
        f"--precision {rival.precision} takes {_milliseconds(rival.seconds)}, {rival.size / max(rival.artifact_size, 1):.2g} of its bytes"
        for rival in better
    )
    here = "" if runtime_of(best.runtime).remote is not None else " here"
    return (f"{precision} does not pay on {best.runtime}{here}, where it takes {_milliseconds(best.artifact_s)}: {offers}",)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


@dataclass(frozen=True)
class Evidence:
    """What was measured of one artifact.

    Attributes:
        comparisons: original against artifact, by runtime; the first decides the gates.
        gates: every gate with its value.
        agreement: raw outputs of the first two runtimes against each other, where there are two.
        layers: every quantized value against the float original's.
        parity: the TFLite artifact's layers against those of the ONNX artifact of the same plan; an ONNX artifact's in an emulator against
            those on the CPU.
        kernels: operators that tflite-micro and LiteRT's reference kernels compute differently from the same tensors, where both run.
        memory: what tflite-micro's recording allocator reports, in bytes.
        golden: raw inputs and outputs of a few samples on the deciding runtime, by tensor name.
        warnings: what could not be measured, and why.
        rivals: the artifact beside other precisions of its target.
        machines: where each runtime ran, and with which versions.
    """

    comparisons: Mapping[str, Comparison]
    gates: tuple[GateResult, ...] = ()
    agreement: Agreement | None = None
    layers: tuple[LayerQuality, ...] = ()
    parity: Parity | None = None
    kernels: tuple[Difference, ...] = ()
    latency: tuple[Latency, ...] = ()
    memory: Mapping[str, int] = field(default_factory=dict)
    golden: tuple[tuple[Mapping[str, Array], Mapping[str, Array]], ...] = ()
    warnings: tuple[str, ...] = ()
    rivals: tuple[Rival, ...] = ()
    machines: Mapping[str, Machine] = field(default_factory=dict)

    @property
    def deciding(self) -> Comparison:
        return next(iter(self.comparisons.values()))

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.gates)


def asked(runtimes: Sequence[str], on: str | None) -> tuple[str, ...]:
    """What to run on: `runtimes`, and ahead of them the first of them at the place `on`, which then decides."""
    return tuple(runtimes) if on is None else (placed(runtimes[0], on), *runtimes)


def prove(
    built: Built,
    samples: Samples,
    *,
    gates: Sequence[Gate] = (),
    metric: str | None = None,
    on: str | None = None,
    progress: Progress = SILENT,
) -> Evidence:
    """Measure a built artifact on the runtimes that its target names, with samples that calibration did not see.

    `on` is another machine ("ssh://pi@pi5.local") on which the first of them runs as well, and decides.
    Raises RuntimeFailure where the deciding runtime is absent or fails, EW-R005 where it leaves out a rounding; a further runtime that is
    absent is a warning.
    """
    target = built.target
    runtimes, warnings = trusted(target.verification.runtimes, target.artifact.precision)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        artifact = Path(folder) / f"model{built.artifact.suffix}"
        built.artifact.write(artifact)
        evidence = measure(
            artifact,
            built.source.reference,
            samples,
            runtimes=asked(runtimes, on),
            options=target.verification.options,
            outputs=[signature.name for signature in built.source.outputs],
            layouts=built.artifact.layouts,
            encodings=built.artifact.encodings,
            integers=built.plan.io_dtypes,
            steps={name: encoding.scale[0] for name, encoding in built.plan.encodings.items() if encoding.axis is None},
            columns=column_groups(built.graph),
            gates=gates,
            metric=metric,
            progress=progress,
        )
        shared = shared_scales(built.graph.graph, built.plan, built.statistics.values) if built.statistics is not None else ()
        evidence = replace(evidence, warnings=(*warnings, *evidence.warnings, *shared))
        if not target.artifact.calibrated:
            return evidence
        require_within(built.graph.graph, built.plan, [outputs for _, outputs in evidence.golden], runtimes[0])
        with progress.stage("look at every layer"):
            few = list(samples.take(_FEW))
            layers = watch_layers(
                built.graph, built.plan, artifact, [_real(sample, built.plan) for sample in few], layouts=built.artifact.layouts
            )
            comparable = target.artifact.format == "tflite" and any(
                runs_in_integers(node, built.plan) for node in built.graph.graph
            )
            parity = layer_parity(built.graph, built.plan, artifact, few) if comparable else None
            if tuple(evidence.comparisons)[:2] == MICRO_AND_REFERENCE:
                evidence = replace(evidence, kernels=differences(kernel_parity(artifact, few, layouts=built.artifact.layouts)))
            if target.artifact.format == "onnx" and runtime_of(runtimes[0]).emulates:
                try:
                    parity = emulated_parity(artifact, few[:1], runtimes[0], target.verification.options.get(runtimes[0], {}))
                except RuntimeFailure as error:  # of the model cut into layers, which is no artifact
                    evidence = replace(
                        evidence, warnings=(*evidence.warnings, f"layers were not compared with the CPU's: {error.what}")
                    )
        return replace(evidence, layers=layers, parity=parity)


def _real(sample: Mapping[str, Array], plan: Plan) -> dict[str, Array]:
    """A sample as the float graph takes it: what a quantized source takes as integers, as the numbers that they stand for."""
    own = {name: shifted(plan.encodings[name], dtype) for name, dtype in plan.io_dtypes.items() if name in sample}
    return {name: own[name].dequantize(array) if name in own else array for name, array in sample.items()}


def measure(
    artifact: Path,
    reference: Reference,
    samples: Samples,
    *,
    runtimes: Sequence[str],
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    outputs: Sequence[str],
    layouts: Mapping[str, str],
    encodings: Mapping[str, Encoding] | None = None,
    integers: Collection[str] = (),
    names: Mapping[str, str] = MappingProxyType({}),
    steps: Mapping[str, float] = MappingProxyType({}),
    columns: Sequence[Columns] = (),
    gates: Sequence[Gate] = (),
    metric: str | None = None,
    progress: Progress = SILENT,
) -> Evidence:
    """Run an artifact file beside the original on each of `runtimes`; the first takes all samples and decides the gates.

    Args:
        options: of runtimes' adapters, by the runtime's name with or without version and place.
        layouts: "channels_last" for every input or output that the artifact holds so.
        encodings: of integer inputs and outputs that the file itself does not describe (ONNX).
        integers: names of outputs that the original gives as integers too.
        names: the artifact's -> the original's, of inputs and outputs whose names differ.
        steps: of float outputs whose values have an encoding inside of the artifact, its scale: runtimes are compared in these.
        columns: parts of outputs that are judged by themselves as well.
    """
    comparisons: dict[str, Comparison] = {}
    latency: list[Latency] = []
    memory: Mapping[str, int] = {}
    machines: dict[str, Machine] = {}
    raw_inputs: list[Mapping[str, Array]] = []
    raw_outputs: dict[str, list[Mapping[str, Array]]] = {}
    warnings: list[str] = []
    first = samples.take(1)
    for position, runtime in enumerate(runtimes):
        try:
            with open_session(runtime, artifact, options=options.get(runtime, options.get(base_name(runtime)))) as session:
                runner = ArtifactRunner(session, layouts, encodings, integers, names)
                chosen = samples if position == 0 else samples.take(_FEW)
                machines[runtime] = session.machine
                with progress.stage(f"verify on {runtime}", chosen.length) as advance:
                    found = compare(reference, runner, chosen, outputs, progress=advance, columns=columns)
                if position == 0:
                    raw_inputs = [runner.encode(sample) for sample in samples.take(_FEW)]
                    if metric is not None:
                        found = replace(found, task=evaluate(metric, reference, runner, samples))
                raw_outputs[runtime] = [session.run(raw) for raw in raw_inputs]
                comparisons[runtime] = found
                if not runtime_of(runtime).emulates:
                    inputs = runner.encode(next(iter(first)))
                    latency.append(Latency(runtime, tuple(session.latency(inputs, _repeats(found.candidate_s)))))
                report = {} if memory else session.report()
                memory = memory or _memory(report)
                warnings += [f"{runtime}: {line}" for line in report.get("warnings", ())]
        except EdgewrightError as error:
            if position == 0:
                raise
            warnings.append(f"{runtime}: {error.what}")
    latency.insert(0, Latency("original", tuple(_time(reference, first))))
    one, other = [*(raw_outputs[name] for name in comparisons), None, None][:2]
    return Evidence(
        comparisons,
        tuple(check(gates, next(iter(comparisons.values())))),
        agreement(zip(one, other, strict=True), steps) if one is not None and other is not None else None,
        latency=tuple(latency),
        memory=memory,
        golden=tuple(zip(raw_inputs, one or (), strict=True)),
        warnings=tuple(warnings),
        machines={name: machine for name, machine in machines.items() if name in comparisons},
    )


def _repeats(seconds: float) -> int:
    """Fewer for what takes long: about two seconds in all, and at least 3."""
    return int(np.clip(2.0 / max(seconds, 1e-6), 3, _REPEATS))


def _time(reference: Reference, samples: Iterable[Mapping[str, Array]]) -> list[float]:
    sample = next(iter(samples))
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        reference(sample)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def _memory(report: Mapping[str, Any]) -> Mapping[str, int]:
    return {key: int(value) for key, value in report.items() if key.startswith("arena_") and isinstance(value, int)}
