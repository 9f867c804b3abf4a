"""`verify`: a bundle, or a bare artifact, beside the original on real runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from calibration import Preprocess, open_samples
from diagnostics import DataError, ModelError
from exporter.bundle.bundle import read_bundle
from exporter.frontends import load
from exporter.graph.columns import column_groups
from exporter.progress import SILENT, Progress
from exporter.quantization.plan import Encoding
from exporter.verification.gates import Gate
from exporter.verification.prove import Evidence, measure
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
            "warnings": list(self.evidence.warnings),
        }

    def to_text(self) -> str:
        """One line an output and runtime, then the gates."""
        lines = []
        for runtime, comparison in self.evidence.comparisons.items():
            for name, metrics in comparison.outputs.items():
                values = [f"{key} {value:.6g}" for key in _METRICS if (value := metrics.get(key)) is not None]
                lines.append(f"{runtime}  {name}  {comparison.samples} samples  {'  '.join(values)}")
            lines += [
                f"{runtime}  {name}  {score.original:.6g} -> {score.artifact:.6g}" for name, score in comparison.task.items()
            ]
        lines += [f"gate {result}" for result in self.evidence.gates]
        lines += [f"warning: {warning}" for warning in self.evidence.warnings]
        return "\n".join(lines)


def verify(
    artifact: str | Path,
    against: Any,
    data: Any,
    *,
    runtimes: Sequence[str] = (),
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
        artifact: a bundle's directory (every file is checked against its manifest first) or an artifact's file, whose inputs and
            outputs then have the original's names and order of axes.
        against: the original, see `load`.
        data: samples, see `open_samples`; preprocessed as `preprocess`, the bundle or the source says, in this order.
        runtimes: where to run; the first decides the gates. Default: those of the bundle's target.
    Raises:
        DataError: EW-G003, the bundle is damaged. ModelError: EW-M001, there is no such artifact. And what `measure` raises.
    """
    parsed = [Gate.parse(text, task=metric is not None) for text in gates]
    path, layouts, encodings, named, options, recipe = _open(Path(artifact))
    with progress.stage("load"):
        source = load(against, inputs=inputs, shapes=shapes, allow_pickle=allow_pickle)
    chosen = preprocess if preprocess is None or isinstance(preprocess, Preprocess) else Preprocess.from_file(preprocess)
    evidence = measure(
        path,
        source.reference,
        open_samples(data, source.inputs, chosen or recipe or source.preprocess).take(samples),
        runtimes=tuple(runtimes) or named,
        options=options,
        outputs=[signature.name for signature in source.outputs],
        layouts=layouts,
        encodings=encodings,
        integers=[entry.name for entry in source.outputs if entry.dtype.startswith(("int", "uint"))],
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
