"""From what was built and measured to a bundle on disk: manifest, report and the hand-over kit of the target's kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from calibration import Preprocess
from exporter.backends.tflite.arena import Forecast, forecast
from exporter.built import Built
from exporter.bundle.bundle import Bundle, write_bundle
from exporter.bundle.compiled import compiled_files, compiled_records, compiled_rows
from exporter.bundle.facts import ArenaRow, LatencyRow, LayerRow, OutputRow, ParityRow, ReportData, SizeRow
from exporter.bundle.firmware import GoldenSample, firmware_kit
from exporter.bundle.manifest import FileRecord, GateRecord, Manifest
from exporter.bundle.report import report_html, report_json
from exporter.bundle.signature import signature
from exporter.compilers.agreement import disagreements
from exporter.content import Content
from exporter.fitting import arena_forecasts, device_arena
from exporter.frontends.source import Signature
from exporter.graph.artifacts import read_tflite
from exporter.graph.summary import Summary, live_bytes, place, summarize
from exporter.graph.values import activation_nodes, constant, fused_activation, name_of
from exporter.placement.planned import planned_placements
from exporter.placement.report import PlacementReport, compiler_answers, report_of
from exporter.quantization.apply import encode_constant, node_name, read_encoding, stores_integers
from exporter.quantization.plan import integer_range
from exporter.quantization.planner import refusals
from exporter.runtimes.machine import this_machine
from exporter.runtimes.registry import runtime_of
from exporter.verification.metrics import json_number
from exporter.verification.parity import Parity
from exporter.verification.prove import Evidence, advice

__all__ = ["assemble", "report_data"]

_FORECAST_ERROR: Final = 0.05  # of the arena, beyond which a report says that it was told wrong


def assemble(
    built: Built,
    evidence: Evidence,
    destination: Path,
    *,
    preprocess: Preprocess | None,
    inputs: Sequence[FileRecord],
    command: Sequence[str],
    overwrite: bool,
) -> Bundle:
    """Write the bundle, all or nothing. Raises UsageError EW-U004 where the destination is taken or cannot be written."""
    artifact = f"model{built.artifact.suffix}"
    inputs_of_artifact, outputs_of_artifact = signature(built.graph, built.plan)
    manifest = Manifest(
        model=built.source.name,
        artifact=artifact,
        target=built.target.model_dump(mode="json"),
        signature_inputs=inputs_of_artifact,
        signature_outputs=outputs_of_artifact,
        preprocess=preprocess.to_dict() if preprocess is not None else None,
        gates=_gates(evidence),
        results={runtime: comparison.to_dict() for runtime, comparison in evidence.comparisons.items()},
        inputs=tuple(inputs),
        compiled=compiled_records(built.compiled),
        command=tuple(command),
    )
    data = report_data(built, evidence, manifest)
    files: dict[str, bytes | Path | Content] = {artifact: built.artifact.file, "plan.json": built.plan.to_json().encode()}
    files |= built.artifact.beside
    files |= compiled_files(built.compiled, reproducible=True)
    files |= _kit(built, evidence, manifest)
    measured: dict[str, bytes | Path | Content] = {"report.json": report_json(data), "report.html": report_html(data)}
    measured |= compiled_files(built.compiled, reproducible=False)
    return write_bundle(destination, files, manifest, measured=measured, overwrite=overwrite)


def report_data(built: Built, evidence: Evidence, manifest: Manifest) -> ReportData:
    """The facts of the report, gathered from what was built and measured."""
    original, final = summarize(built.source.model), summarize(built.graph)
    here = this_machine()
    forecasts = arena_forecasts(built.artifact, built.target)
    warnings = [
        f"the layout makes {len(built.artifact.transposed)} TRANSPOSE operators necessary, which move {moved:,} bytes"
        for moved in [sum(built.artifact.transposed.values())]
        if moved
    ]
    warnings += [built.not_compiled] if built.not_compiled else []
    warnings += map(str, disagreements(built))
    warnings += evidence.warnings
    measured = evidence.memory.get("arena_total")
    if forecasts and measured and abs(forecasts[0].total - measured) > _FORECAST_ERROR * measured:
        warnings.append(f"the arena was told from the file as {forecasts[0].total:,} bytes, tflite-micro measured {measured:,}")
    warnings += advice(built.target.artifact.precision, evidence.rivals)
    if evidence.agreement is not None and evidence.agreement.mismatches:
        first, second = list(evidence.comparisons)[:2]
        agreement = evidence.agreement
        warnings.append(
            f"{first} and {second} differ in {agreement.mismatches} of {agreement.elements} output elements, "
            f"by at most {agreement.max_lsb:.4g}: their kernels round differently"
        )
    warnings += [f"tflite-micro beside litert-ref, from the same tensors: {found}" for found in evidence.kernels]
    return ReportData(
        manifest=manifest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        samples=evidence.deciding.samples,
        calibration_samples=built.statistics.samples if built.statistics is not None else None,
        sizes=_sizes(built, original, final),
        outputs=_outputs(evidence, built.source.outputs),
        layers=_layers(built, evidence, final),
        latency=_latency(evidence),
        arena=_arena(built, evidence, forecasts),
        arena_peak=forecasts[-1].peak if forecasts else (),
        arena_operator=forecasts[-1].operator if forecasts else "",
        compiled=compiled_rows(built.compiled),
        parity=_parity(evidence.parity),
        parity_between=evidence.parity.between if evidence.parity is not None else "",
        moved={name: (before, built.plan.encodings[name].scale[0]) for name, before in built.plan.moved.items()},
        aims={gate: float(value) for gate, value in built.plan.aims.items()},
        warnings=tuple(warnings),
        host={"processor": here.processor, "system": here.system},
        machines={runtime: str(machine) for runtime, machine in evidence.machines.items()},
        placement=_placement(built),
    )


def _arena(built: Built, evidence: Evidence, forecasts: Sequence[Forecast]) -> tuple[ArenaRow, ...]:
    """As measured, then as told from the file; the limit is held against what the device's kernels take."""
    limit = built.target.memory.sram if built.target.compile is None else None
    rows = [ArenaRow(f"measured: {label.replace('_', ' ')}", size) for label, size in evidence.memory.items()]
    for found in forecasts:
        last = found is forecasts[-1]
        rows.append(ArenaRow(f"told from the file, {found.kernels} kernels", found.total, limit if last else None))
    on_device = device_arena(built, evidence.memory.get("arena_total"))
    if len(forecasts) > 1 and on_device is not None:
        rows.append(ArenaRow(f"measured, with the scratch of {forecasts[-1].kernels}", on_device, limit))
    return tuple(rows)


def _sizes(built: Built, original: Summary, final: Summary) -> tuple[SizeRow, ...]:
    width = {"int8": 1, "int16": 2}.get(built.target.artifact.activations, 4)
    peak = max(live_bytes(built.graph.graph, width).values(), default=0)
    memory = built.target.memory
    return (
        SizeRow("weights and model file", original.parameter_bytes, built.artifact.size, limit=memory.flash),
        SizeRow("multiply-accumulates", original.macs, final.macs, "count"),
        SizeRow("parameters", original.parameters, final.parameters, "count"),
        SizeRow("peak activations", original.peak_float32, peak, limit=memory.sram),
    )


def _outputs(evidence: Evidence, signatures: Iterable[Signature]) -> tuple[OutputRow, ...]:
    shapes = {signature.name: signature.shape for signature in signatures}
    rows = []
    for runtime, comparison in evidence.comparisons.items():
        for name, metrics in comparison.outputs.items():
            known = ("sqnr_db", "cosine", "max_abs", "mean_abs", "top1_agreement", "top5_agreement")
            values = {metric: value for metric in known if (value := metrics.get(metric)) is not None}
            rows.append(OutputRow(name, runtime, values, shapes.get(name, ()), comparison.samples))
        rows += [
            OutputRow(f"task: {name}", runtime, {"original": score.original, "artifact": score.artifact})
            for name, score in comparison.task.items()
        ]
    return tuple(rows)


def _layers(built: Built, evidence: Evidence, final: Summary) -> tuple[LayerRow, ...]:
    quality = {layer.name: layer.sqnr_db for layer in evidence.layers}
    seen = built.statistics.values if built.statistics is not None else {}
    reasons = _reasons(built)
    macs = {facts.name: facts.macs or 0 for facts in final.nodes}
    rows = []
    for node, _ in activation_nodes(built.graph.graph):
        name = name_of((fused_activation(node) or node).outputs[0])
        encoding, stats = built.plan.encodings.get(name), seen.get(name)
        low, high = integer_range(encoding.dtype) if encoding is not None else (0, 0)
        rows.append(
            LayerRow(
                node=node_name(node),
                op_type=node.op_type,
                sqnr_db=quality.get(name),
                low=stats.low if stats is not None else None,
                high=stats.high if stats is not None else None,
                encoded_low=(low - encoding.zero_point[0]) * encoding.scale[0] if encoding is not None else None,
                encoded_high=(high - encoding.zero_point[0]) * encoding.scale[0] if encoding is not None else None,
                macs=macs.get(node.name or "", 0),
                weight_bytes=_weight_bytes(built, node),
                precision=built.plan.precision.get(node_name(node), ""),
                unit=place(node, built.plan.precision.get(node_name(node), "float32"), built.target)[0],
                reason=reasons.get(node_name(node), ""),
            )
        )
    return tuple(rows)


def _reasons(built: Built) -> dict[str, str]:
    """Why nodes do not run in integers, by node name."""
    refused = refusals(built.graph, built.target.artifact, built.statistics) if built.target.artifact.calibrated else {}
    return {**refused, **built.plan.reasons}


def _placement(built: Built) -> PlacementReport:
    placed = planned_placements(built.graph.graph, built.plan, built.target, _reasons(built))
    return report_of(built.graph.graph, placed, built.target, answers=compiler_answers(built, placed))


def _weight_bytes(built: Built, node: ir.Node) -> int:
    total = 0
    for index, value in enumerate(node.inputs):
        array = constant(value)
        if array is None:
            continue
        integers = stores_integers(node, built.plan) and read_encoding(node, index, built.plan) is not None
        if not integers:
            total += array.nbytes
            continue
        stored, encoding = encode_constant(node, index, built.plan)
        total += -(-stored.size // 2) if encoding.dtype == "int4" else stored.nbytes
    return total


def _latency(evidence: Evidence) -> tuple[LatencyRow, ...]:
    elsewhere = {name: str(found) for name, found in evidence.machines.items() if runtime_of(name).remote is not None}
    rows = []
    for measured in evidence.latency:
        low, median, high = np.percentile(measured.seconds, (25, 50, 75))
        label = "original" if measured.runtime == "original" else "artifact"
        where = elsewhere.get(measured.runtime, "")
        repeats = len(measured.seconds)
        rows.append(LatencyRow(label, measured.runtime, float(median), float(low), float(high), repeats, machine=where))
    for rival in evidence.rivals:
        where = elsewhere.get(rival.runtime, "")
        for label, least in (("artifact", rival.artifact_s), (rival.precision, rival.seconds)):
            rows.append(LatencyRow(f"{label}, least", rival.runtime, least, least, least, 1, machine=where))
    return tuple(rows)


def _parity(parity: Parity | None) -> tuple[ParityRow, ...]:
    if parity is None:
        return ()
    return tuple(
        ParityRow(
            layer.name,
            layer.op,
            layer.max_lsb,
            (layer.off_by_one + layer.more) / max(layer.elements, 1),
            "the two runtimes round this operator differently" if layer.max_lsb > 1 else "",
        )
        for layer in parity.layers
    )


def _gates(evidence: Evidence) -> tuple[GateRecord, ...]:
    runtime = next(iter(evidence.comparisons))
    return tuple(
        GateRecord(
            str(result.gate), result.passed, value if isinstance(value := json_number(result.value), float) else None, runtime
        )
        for result in evidence.gates
    )


def _shipped(built: Built, measured: int) -> tuple[bytes, int, str, str]:
    """What firmware holds, the arena that it takes, where that figure is from, and what compiled it ("": nothing did)."""
    for compiled in built.compiled[:1]:
        content = next(iter(compiled.files.values()))
        told = forecast(read_tflite(content))
        by = f"{compiled.compiler} {compiled.version} for {compiled.architecture}"
        return content, told.total if told is not None else measured, f"told from what {compiled.compiler} wrote", by
    needed = max(measured, device_arena(built, measured) or 0)
    kernels = built.target.memory.scratch
    more = f", {needed - measured} of them scratch memory of {kernels}" if kernels != "reference" else ""
    return built.artifact.content, needed, f"measured on a 64-bit host with the reference kernels{more}", ""


def _kit(built: Built, evidence: Evidence, manifest: Manifest) -> dict[str, bytes]:
    golden = [GoldenSample(inputs, outputs) for inputs, outputs in evidence.golden]
    tensors = (manifest.signature_inputs, manifest.signature_outputs)
    runtime = built.target.artifact.runtime
    if runtime == "tflite-micro":
        shipped, arena, arena_from, compiled_by = _shipped(built, evidence.memory["arena_total"])
        return firmware_kit(
            built.source.name,
            shipped,
            *tensors,
            arena=arena,
            arena_from=arena_from,
            golden=golden,
            target=built.target.name,
            compiled_by=compiled_by,
        )
    if runtime == "litert":
        from exporter.bundle.mobile import mobile_kit

        return mobile_kit(built.source.name, *tensors, golden=golden, preprocess=manifest.preprocess)
    return {}
