"""Is a quantized artifact the model that came quantized, where its outputs are further apart than one rounding explains?

Two runtimes round a product near a tie up or down; through fifty layers such steps reach the output as several. So the question is taken apart:

- the plan against the original: both in the original's own runtime, where the same encodings give the same numbers;
- the artifact against the plan: layer by layer, each fed with what the artifact fed it (`parity`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from diagnostics import RuntimeFailure
from exporter.built import Built
from exporter.frontends.onnx import OnnxReference
from exporter.frontends.source import Source
from exporter.quantization.plan import Encoding
from exporter.runtimes import open_session
from exporter.verification.kept import stored_layouts
from exporter.verification.parity import artifact_parity
from exporter.verification.runner import ArtifactRunner

__all__ = ["MOST_STEPS", "Stepwise", "as_written", "require_steps", "steps_apart", "stepwise"]

# Kernels round a tie, or a product near one, up or down.
MOST_STEPS: Final = 1

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Stepwise:
    """`plan`: steps of its encoding that an output of the plan is apart from the original in the original's runtime, at most;
    `layer`: that a layer of the artifact is apart from the plan."""

    plan: float
    layer: int


def steps_apart(wanted: Array, found: Array, encoding: Encoding) -> float:
    """How many steps of its encoding an output is apart at most, a whole number; infinity where one has NaN or another shape or dtype."""
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return float("inf")
    step = 1.0 if wanted.dtype.kind in "iu" else encoding.scale[0]
    apart = np.abs(wanted.astype(np.float64) - found.astype(np.float64)) / step
    return float(np.rint(apart.max(initial=0.0))) if np.isfinite(apart).all() else float("inf")


def require_steps(
    built: Built, sample: Mapping[str, Array], wanted: Mapping[str, Array], found: Mapping[str, Array]
) -> int | None:
    """How many steps of its encoding an output is apart at most; None where no output is encoded.

    Raises RuntimeFailure EW-R005 where an output is missing or of another form, or where more than `MOST_STEPS` are not the sum of roundings.
    """
    encodings = {entry.name: encoding for entry in built.source.outputs if (encoding := built.plan.encodings.get(entry.name))}
    apart = {
        name: steps_apart(wanted[name], found[name], encodings[name]) if name in found else float("inf") for name in encodings
    }
    name = max(apart, key=lambda entry: apart[entry], default=None)
    if name is None:
        return None
    if apart[name] > MOST_STEPS:
        parts = stepwise(built, sample) if np.isfinite(apart[name]) else Stepwise(float("inf"), 0)
        if parts.plan > MOST_STEPS or parts.layer > MOST_STEPS:
            raise RuntimeFailure(
                "EW-R005",
                f"output {name} of what was written is {apart[name]} steps of its encoding apart from the original",
                why=f"in the original's own runtime the plan is {parts.plan} steps apart, a single layer {parts.layer} at most; "
                f"roundings explain {MOST_STEPS}",
                fix="nothing was kept; please report the model's operators (edgewright inspect)",
            )
    return int(apart[name])


def stepwise(built: Built, sample: Mapping[str, Array]) -> Stepwise:
    """Take an artifact of a quantized source apart on one sample. Raises RuntimeFailure where a runtime fails on a part of it."""
    from exporter.backends.onnx.qdq import insert_qdq
    from exporter.backends.tflite.layout import assign
    from exporter.backends.tflite.writer import write_tflite

    graph, plan = built.graph, built.plan
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        qdq, tflite = Path(folder) / "plan.onnx", Path(folder) / "plan.tflite"
        model = graph.clone()
        insert_qdq(model, plan, "uint8")
        qdq.write_bytes(ir.serde.serialize_model(model).SerializeToString())
        layouts: Mapping[str, str] = {}
        if built.source.kind == "tflite" or built.target.artifact.format == "tflite":
            plan = plan if built.target.artifact.format == "tflite" else assign(graph, plan, "keep")
            tflite.write_bytes(write_tflite(graph, plan).content)
            layouts = stored_layouts(graph, plan)
        in_tflite = built.source.kind == "tflite"
        with open_session(
            "litert-builtin" if in_tflite else "onnxruntime", tflite if in_tflite else qdq, options={"optimize": False}
        ) as session:
            found = ArtifactRunner(session, layouts if in_tflite else {}, integers=plan.io_dtypes)(sample)
        wanted = as_written(built.source).reference(sample)
        apart = [steps_apart(wanted[name], found[name], plan.encodings[name]) for name in wanted if name in plan.encodings]
        layer = (
            artifact_parity(tflite, qdq, [sample], layouts=layouts, kernels="litert-builtin").max_lsb if tflite.exists() else 0
        )
    return Stepwise(max(apart, default=0.0), layer)


def as_written(source: Source) -> Source:
    """The source with a reference that rounds nowhere but where the file says so."""
    reference = source.reference
    return replace(source, reference=reference.as_written()) if isinstance(reference, OnnxReference) else source
