"""`verify`: a bundle, or a bare artifact, beside the original on real runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from calibration import Preprocess, open_samples
from diagnostics import DataError, ModelError
from exporter.assumed import assumed
from exporter.bundle.bundle import read_bundle
from exporter.frontends import load
from exporter.graph.columns import column_groups
from exporter.progress import SILENT, Progress
from exporter.quantization.plan import Encoding
from exporter.runtimes import open_session
from exporter.runtimes.places import parse_place
from exporter.verification.gates import Gate
from exporter.verification.matched import match
from exporter.verification.prove import Evidence, asked, measure
from exporter.verification.trusted import trusted

__all__ = ["Verified", "verify"]

_DEFAULT: Final = {".tflite": ("litert-xnnpack", "litert-ref"), ".onnx": ("onnxruntime",)}
_METRICS: Final = ("sqnr_db", "cosine", "max_abs", "mean_abs", "top1_agreement", "top5_agreement")


@dataclass(frozen=True)
class Verified:
    """The outcome of `verify`."""

    artifact: Path
    evidence: Evidence

    @property
    def passed(self) -> bool:
        return self.evidence.passed

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "artifact": str(self.artifact),
            "passed": self.passed,
            "gates": [result.to_dict() for result in self.evidence.gates],
            "runtimes": {name: comparison.to_dict() for name, comparison in self.evidence.comparisons.items()},
            "machines": {name: machine.to_dict() for name, machine in self.evidence.machines.items()},
            "latency": {
                entry.runtime: {"median_s": entry.median_s, "repeats": len(entry.seconds)} for entry in self.evidence.latency
            },
            "agreement": asdict(self.evidence.agreement) if self.evidence.agreement is not None else None,
            "warnings": list(self.evidence.warnings),
        }

    def to_text(self) -> str:
        """One line an output and runtime, what the first two differ by, where each ran and how long an inference took there; then the gates."""
        lines = []
        for runtime, comparison in self.evidence.comparisons.items():
            for name, metrics in comparison.outputs.items():
                values = [f"{key} {value:.6g}" for key in _METRICS if (value := metrics.get(key)) is not None]
                lines.append(f"{runtime}  {name}  {comparison.samples} samples  {'  '.join(values)}")
            lines += [
                f"{runtime}  {name}  {score.original:.6g} -> {score.artifact:.6g}" for name, score in comparison.task.items()
            ]
        lines += self._places()
        lines += [f"gate {result}" for result in self.evidence.gates]
        lines += [f"warning: {warning}" for warning in self.evidence.warnings]
        return "\n".join(lines)

    def _places(self) -> list[str]:
        lines = []
        times = {entry.runtime: entry for entry in self.evidence.latency}
        for runtime, machine in self.evidence.machines.items():
            time = times.get(runtime)
            took = (
                f"{1e3 * time.median_s:.3g} ms (median of {len(time.seconds)})" if time is not None else "no latency: it emulates"
            )
            lines.append(f"{runtime}  {took}  on {machine}")
        if self.evidence.agreement is not None:
            found, (first, second) = self.evidence.agreement, list(self.evidence.comparisons)[:2]
            differ = f"differ in {found.mismatches} of {found.elements} output elements, by at most {found.max_lsb:.4g}"
            lines.append(f"{first} and {second} {differ if found.mismatches else 'give the same outputs, bit for bit'}")
        return lines


def verify(
    artifact: str | Path,
    against: Any,
    data: Any,
    *,
    runtimes: Sequence[str] = (),
    on: str | None = None,
    preprocess: Preprocess | str | Path | None = None,
    samples: int = 32,
    gates: Sequence[str] = (),
    metric: str | None = None,
    inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    allow_pickle: bool = False,
    progress: Progress = SILENT,
) -> Verified:
    """Run a bundle or a bare .tflite or .onnx beside the original.

    Args:
        artifact: a bundle's directory (every file is checked against its manifest first) or an artifact's file, whosever it is: its inputs
            and outputs are matched to the original's by name, else by place, and may be channels-last; see `verification.matched`.
        against: the original, see `load`.
        data: samples, see `open_samples`; preprocessed as `preprocess`, the bundle or the source says, in this order.
        runtimes: where to run; the first decides the gates. Default: those of the bundle's target.
        on: a machine, ``"ssh://[user@]host[:port][?python=PATH]"``, where the first of them runs as well and decides the gates.
    Raises:
        DataError: EW-G003, the bundle is damaged. ModelError: EW-M001, there is no such artifact.
        RuntimeFailure: EW-R005, the inputs or outputs of a bare file are not those of the original. And what `measure` raises.
    """
    parsed = [Gate.parse(text, task=metric is not None) for text in gates]
    if on is not None:
        parse_place(on)
    path, layouts, encodings, named, options, recipe = _open(Path(artifact))
    with progress.stage("load"):
        source = load(against, inputs=inputs, shapes=shapes, allow_pickle=allow_pickle)
    chosen = preprocess if preprocess is None or isinstance(preprocess, Preprocess) else Preprocess.from_file(preprocess)
    said = chosen or recipe or source.preprocess
    compared = open_samples(data, source.inputs, said).take(samples)
    for note in assumed(said, compared.preprocess):
        progress.warn(note)
    chosen_runtimes = asked(tuple(runtimes) or named, on)
    names: Mapping[str, str] = {}
    if not Path(artifact).is_dir():
        with open_session(chosen_runtimes[0], path) as session:
            sides = match(session.inputs, source.inputs, "input"), match(session.outputs, source.outputs, "output")
        names = {**sides[0].names, **sides[1].names}
        layouts = {**sides[0].layouts, **sides[1].layouts}
        for note in (*sides[0].notes, *sides[1].notes):
            progress.warn(note)
    evidence = measure(
        path,
        source.reference,
        compared,
        runtimes=chosen_runtimes,
        options=options,
        outputs=[signature.name for signature in source.outputs],
        layouts=layouts,
        encodings=encodings,
        integers=[entry.name for entry in source.outputs if entry.dtype.startswith(("int", "uint"))],
        names=names,
        columns=column_groups(source.model),
        gates=parsed,
        metric=metric,
        progress=progress,
    )
    return Verified(path, evidence)


def _open(
    path: Path,
) -> tuple[Path, dict[str, str], dict[str, Encoding], tuple[str, ...], Mapping[str, Mapping[str, Any]], Preprocess | None]:
    """Artifact file, layouts and encodings of its inputs and outputs, its runtimes with their options, and its preprocessing."""
    if path.is_dir():
        bundle = read_bundle(path)
        manifest = bundle.manifest
        tensors = (*manifest.signature_inputs, *manifest.signature_outputs)
        recipe = Preprocess.from_dict(manifest.preprocess) if manifest.preprocess is not None else None
        layouts = {tensor.name: tensor.layout for tensor in tensors}
        encodings = {
            tensor.name: Encoding(tensor.dtype, (tensor.scale,), (tensor.zero_point or 0,))
            for tensor in tensors
            if tensor.scale is not None
        }
        proof = manifest.target["verification"]
        named, _ = trusted(proof["runtimes"], manifest.target["artifact"]["precision"])
        return bundle.artifact, layouts, encodings, named, proof.get("options", {}), recipe
    if not path.exists():
        raise ModelError("EW-M001", f"{path} does not exist", fix="give a bundle's directory or a .tflite or .onnx file")
    if path.suffix not in _DEFAULT:
        raise DataError("EW-G003", f"{path} is neither a bundle nor a .tflite or .onnx file")
    return path, {}, {}, _DEFAULT[path.suffix], {}, None
