"""`convert`: a model as float TFLite or ONNX, run once beside the original before it is called a success."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from diagnostics import RuntimeFailure, UsageError
from exporter.bundle.staging import write_file
from exporter.frontends import Source, load
from exporter.pipeline import build
from exporter.runtimes import open_session
from exporter.verification.compare import compare
from exporter.verification.metrics import json_number
from exporter.verification.runner import ArtifactRunner
from targets.schema import Artifact, Target, Unit, Verification

__all__ = ["Converted", "convert", "random_sample"]

# An artifact whose outputs are further from the original than this is not the same model; errors below the absolute tolerance of the
# ONNX project's own node tests do not count (a saturated sigmoid has outputs of 1e-7 and a runtime's own error of 1e-10).
_FLOOR_DB: Final = {"float32": 60.0, "float16": 30.0}
_TOLERANCE: Final = 1e-5
_RUNTIME: Final[Mapping[str, tuple[Literal["litert", "onnxruntime"], str]]] = {
    "tflite": ("litert", "litert-builtin"),
    "onnx": ("onnxruntime", "onnxruntime"),
}


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        path: the file.
        sqnr_db: the worst output's SQNR against the original on random inputs; None where every output is equal.
        layouts: "channels_last" or "keep" of every input and output.
        operators: (builtin, version) in order, TFLite only; release: the first TFLite release that runs them.
    """

    path: Path
    sqnr_db: float | None
    layouts: Mapping[str, str]
    operators: tuple[tuple[str, int], ...]
    release: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "path": str(self.path),
            "bytes": self.path.stat().st_size,
            "sqnr_db": None if self.sqnr_db is None else json_number(self.sqnr_db),
            "layouts": dict(self.layouts),
            "operators": [list(entry) for entry in self.operators],
            "tflite_release": self.release or None,
        }


def convert(
    model: Any,
    out: str | Path,
    *,
    precision: str = "float32",
    io_layout: str = "keep",
    inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    allow_pickle: bool = False,
    overwrite: bool = False,
) -> Converted:
    """Write `model` (see `load`) to `out`, a .tflite or .onnx path.

    Raises:
        UsageError: EW-U001, another suffix or precision; EW-U004, `out` exists and `overwrite` is not set.
        ModelError, TargetError: the model cannot be read or expressed.
        RuntimeFailure: the runtime cannot run what was written (EW-R002), or it computes something else (EW-R005); nothing is kept.
    """
    path = Path(out)
    suffix = path.suffix.lstrip(".")
    if suffix not in _RUNTIME or precision not in _FLOOR_DB:
        raise UsageError(
            "EW-U001",
            f"cannot convert to {path.name} in {precision}",
            fix="name the output NAME.tflite or NAME.onnx; precision is float32 or float16",
        )
    if path.exists() and not overwrite:
        raise UsageError("EW-U004", f"{path} exists", fix="give --force to replace it, or another destination")
    source = load(model, inputs=inputs, shapes=shapes, allow_pickle=allow_pickle)
    written = build(source, _any_device(suffix, precision, io_layout), None).artifact
    agreement = _check_once(source, written.content, suffix, written.layouts, _FLOOR_DB[precision])
    write_file(path, written.content, overwrite=overwrite)
    return Converted(path, agreement, written.layouts, written.operators, written.release)


def random_sample(source: Source, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """One sample of the model's inputs: standard normal floats, small integers, both from a fixed seed."""
    random = np.random.default_rng(seed)
    return {
        signature.name: random.normal(size=signature.shape).astype(signature.dtype)
        if np.dtype(signature.dtype).kind == "f"
        else random.integers(0, 2, signature.shape).astype(signature.dtype)
        for signature in source.inputs
    }


def _check_once(source: Source, content: bytes, suffix: str, layouts: Mapping[str, str], floor_db: float) -> float | None:
    """SQNR of the worst output on one random sample, in decibels; None where all are equal."""
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        artifact = Path(folder) / f"model.{suffix}"
        artifact.write_bytes(content)
        with open_session(_RUNTIME[suffix][1], artifact) as session:
            outputs = [signature.name for signature in source.outputs]
            found = compare(source.reference, ArtifactRunner(session, layouts), [random_sample(source)], outputs)
    worst = found.worst("sqnr_db")
    if worst is None or worst[1] == math.inf:
        return None
    name, decibels = worst
    if math.isnan(decibels) or (decibels < floor_db and found.outputs[name].max_abs > _TOLERANCE):
        raise RuntimeFailure(
            "EW-R005",
            f"output {name} of what was written has {decibels:.1f} dB SQNR against the original",
            why=f"at least {floor_db:.0f} dB are expected on random inputs",
            fix="nothing was kept; please report the model's operators (edgewright inspect)",
        )
    return decibels


def _any_device(suffix: str, precision: str, io_layout: str) -> Target:
    """The profile of whatever runs the newest runtime of a format, with nothing known of the device."""
    runtime, prover = _RUNTIME[suffix]
    return Target(
        name=f"any-{suffix}",
        title=f"any device with {runtime}",
        artifact=Artifact.model_validate(
            {
                "format": suffix,
                "runtime": runtime,
                "precision": precision,
                "io_layout": io_layout if suffix == "tflite" else "keep",
            }
        ),
        units=(Unit(name="cpu", kind="cpu", dtypes=("float16", "float32")),),
        verification=Verification(runtimes=(prover,), level="run"),
    )
