"""`convert`: a model as TFLite or ONNX in one file, run once beside the original before it is called a success."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from calibration import open_samples
from diagnostics import ModelError, RuntimeFailure, UsageError
from exporter.assumed import assumed
from exporter.built import Built
from exporter.bundle.staging import require_free_file, write_file
from exporter.dynamic import open_dimension, resized, write_open
from exporter.frontends import Signature, Source, load
from exporter.pipeline import build, keeps_integers
from exporter.quantization.given import brings_encodings
from exporter.quantization.given_plan import given_notes
from exporter.runtimes import open_session
from exporter.verification.metrics import decibels, json_number
from exporter.verification.runner import ArtifactRunner
from exporter.verification.stepwise import as_written, require_steps
from targets.floor import lower_floors
from targets.precision import choose_io, choose_precision
from targets.schema import PRECISIONS, Artifact, Target, Unit, Verification

__all__ = ["LEAST_DB", "Converted", "agreement", "any_device", "convert", "random_sample"]

# An artifact whose outputs are further from the original than this is not the same model; errors below the absolute tolerance of the
# ONNX project's own node tests do not count (a saturated sigmoid has outputs of 1e-7 and a runtime's own error of 1e-10).
# Of quantized artifacts the figures are no quality goal: below them something is broken.
LEAST_DB: Final[Mapping[str, float]] = {
    "float32": 60.0,
    "float16": 30.0,
    "int16x8": 20.0,
    "weight_int8": 20.0,
    "dynamic_int8": 15.0,
    "int8": 10.0,
    "int8x4": 3.0,
    "auto": 10.0,
    "weight_int4": 3.0,
    "dynamic_int4": 3.0,
}
_BEHIND_STEPS_DB: Final = 30.0  # of what a quantized source computes on in float, behind integers that may be one step apart
_EXACT: Final = ("float32", "float16")  # integer outputs must be equal; behind rounded weights an index may fall on the runner-up
_TOLERANCE: Final = 1e-5
# Ranges of random integers, the most telling first: of either sign, such as are indices, such as are flags.
_INTEGERS: Final = ((-9, 9), (1, 9), (0, 1), (0, 0), (1, 1))
_RUNTIME: Final[Mapping[str, tuple[Literal["litert", "onnxruntime"], str]]] = {
    "tflite": ("litert", "litert-builtin"),
    "onnx": ("onnxruntime", "onnxruntime"),
}
_PRECISIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "tflite": PRECISIONS,
    # onnxruntime quantizes activations as it runs only behind operators of its own, which QuantizeLinear and its like do not become.
    "onnx": tuple(precision for precision in PRECISIONS if not precision.startswith("dynamic")),
}


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        path: the file; beside: files that it names, which belong into the same folder (weights of an ONNX model over 2 GB).
        sqnr_db: the worst output's SQNR against the original on random inputs; None where every output is equal.
        steps: where a quantized source stayed so, how many steps of its encoding an output is apart from the original at most.
        layouts: "channels_last" or "keep" of every input and output.
        operators: (builtin, version) in order, TFLite only; release: the first TFLite release that runs them.
        notes: what the user should know of how the artifact differs in kind from the original.
    """

    path: Path
    sqnr_db: float | None
    layouts: Mapping[str, str]
    operators: tuple[tuple[str, int], ...]
    release: str
    notes: tuple[str, ...] = ()
    steps: int | None = None
    beside: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "path": str(self.path),
            "bytes": sum(file.stat().st_size for file in (self.path, *self.beside)),
            "beside": [str(file) for file in self.beside],
            "sqnr_db": None if self.sqnr_db is None else json_number(self.sqnr_db),
            "steps": self.steps,
            "layouts": dict(self.layouts),
            "operators": [list(entry) for entry in self.operators],
            "tflite_release": self.release or None,
            "notes": list(self.notes),
        }


def convert(
    model: Any,
    out: str | Path,
    *,
    precision: str = "float32",
    calibration: Any = None,
    io_dtype: str = "float32",
    io_layout: str = "keep",
    runtime: str | None = None,
    inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dynamic: str | None = None,
    allow_pickle: bool = False,
    overwrite: bool = False,
    isolate: bool = True,
) -> Converted:
    """Write `model` (see `load`) to `out`, a .tflite or .onnx path.

    `precision`: one of `targets.schema.PRECISIONS`; int8 and int16x8 need `calibration` data, see `open_samples`.
    `runtime`: the oldest release that must run it, ``"tflite>=2.11"`` or ``"onnxruntime>=1.17"``; None: the newest.
    `dynamic`: a dimension that a .tflite leaves open, see `dynamic.open_dimension`; proved at two sizes.
    `isolate`: run what was written in a worker process, which may crash; False is for callers that are such a process themselves.

    Raises:
        UsageError: EW-U001, another suffix, precision or form of `runtime`; EW-U002, `runtime` runs no such file, or there is
            `calibration` that `precision` does not read, or the file cannot be `dynamic` or of `io_layout`; EW-U004, `out` exists and
            `overwrite` is not set, cannot be written, or is the model itself.
        DataError: EW-Q001, `precision` needs calibration data.
        ModelError, TargetError: the model cannot be read or expressed, EW-T005: not for so old a runtime; EW-T006: not in this
            precision, or not with inputs and outputs of `io_dtype`; EW-T007, the dimension cannot stay open.
        RuntimeFailure: the runtime cannot run what was written (EW-R002), or it computes something else (EW-R005); nothing is kept.
    """
    path = Path(out)
    suffix = path.suffix.lstrip(".")
    if suffix not in _RUNTIME:
        raise UsageError("EW-U001", f"{path.name} names no format to write", fix="name the output NAME.tflite or NAME.onnx")
    if precision not in LEAST_DB:
        raise UsageError("EW-U001", f"there is no precision {precision!r}", fix=f"name one of {', '.join(PRECISIONS)}")
    if isinstance(model, str | os.PathLike) and path.exists() and Path(model).exists() and path.samefile(model):
        raise UsageError(
            "EW-U004", f"{path} is the model itself", fix="give another destination: the original is what proofs compare with"
        )
    require_free_file(path, overwrite=overwrite)
    if io_layout != "keep" and suffix != "tflite":
        raise UsageError(
            "EW-U002", f"{path.name} keeps the axis order of the model", fix="leave --io-layout out, or write a .tflite"
        )
    if dynamic is not None and suffix != "tflite":
        raise UsageError("EW-U002", f"a dimension cannot stay open in {path.name}", fix="leave it out, or write a .tflite")
    target = choose_io(any_device(suffix, precision, io_layout), io_dtype)
    if calibration is not None and not target.artifact.calibrated:
        raise UsageError("EW-U002", f"precision {precision} does not read calibration data", fix="leave it out")
    if runtime is not None:
        [target] = lower_floors([target], runtime)
    source = as_written(load(model, inputs=inputs, shapes=shapes, allow_pickle=allow_pickle))
    if precision == "float32" and keeps_integers(source, integers := choose_precision(target, "int8")):
        target = integers
    samples = open_samples(calibration, source.inputs, source.preprocess) if calibration is not None else None
    built = build(source, target, samples)
    kept = brings_encodings(built.graph.graph)
    sample = next(iter(samples.take(1))) if samples is not None else None
    notes = (
        *source.notes,
        *_notes(source),
        *assumed(source.preprocess, samples.preprocess if samples is not None else None),
        *(given_notes(built.graph) if kept else ()),
    )
    open_db: list[float | None] = []
    if dynamic is not None:
        opened = open_dimension(model, source, dynamic)

        def load_at(size: int) -> Source:
            shapes = opened.shapes(source, size)
            given = resized(source.example, shapes) if source.example is not None else inputs
            other = load(model, inputs=given, shapes=shapes, allow_pickle=allow_pickle)
            if {entry.name: entry.shape for entry in other.inputs} != shapes:
                raise ModelError("EW-M011", f"the model does not take the size {size} of {dynamic}", why="its inputs are fixed")
            return other

        built, others = write_open(built, target, opened, load_at)
        for other in others:
            given = resized(sample, {entry.name: entry.shape for entry in other.inputs}) if sample is not None else None
            at = replace(built, source=other)
            open_db += [
                _check_once(at, precision, given, isolate, kept, name)[0] for name in ("litert-builtin", "litert-xnnpack")
            ]
        sizes = " and ".join(str(opened.of(other)) for other in others)
        notes += (f"{dynamic} is open in {', '.join(opened.axes)}: proved at the sizes {sizes}",)
    own_db, steps = _check_once(built, precision, sample, isolate, kept)
    agreement = min((value for value in (own_db, *open_db) if value is not None), default=None)
    written = built.artifact
    beside = tuple(path.parent / name for name in written.beside)
    for file, content in zip(beside, written.beside.values(), strict=True):
        write_file(file, content, overwrite=True)  # named after its content: what is there is the same
    write_file(path, written.file, overwrite=overwrite)
    return Converted(path, agreement, written.layouts, written.operators, written.release, notes, steps, beside)


def _notes(source: Source) -> tuple[str, ...]:
    double = [entry.name for entry in (*source.inputs, *source.outputs) if entry.dtype == "float64"]
    if not double:
        return ()
    return (f"float64 ({', '.join(double)}) is computed in float32: 24 bits of precision, magnitudes up to 3.4e38",)


def random_sample(source: Source, seed: int = 0, integers: tuple[int, int] = (0, 1)) -> dict[str, np.ndarray[Any, Any]]:
    """One sample of the model's inputs from a fixed seed: standard normal floats, integers of `integers` (least, greatest).

    Zero is left out where the range has both signs (a divisor); an unsigned dtype has magnitudes alone.
    """
    random = np.random.default_rng(seed)
    sample = {}
    for signature in source.inputs:
        dtype, shape = np.dtype(signature.dtype), signature.shape
        if dtype.kind == "f":
            sample[signature.name] = random.normal(size=shape).astype(dtype)
        else:
            low, high = (0, 1) if dtype.kind == "b" else integers
            drawn = np.asarray(random.integers(low, high, shape, endpoint=True))
            drawn = np.where(drawn == 0, high, drawn) if low < 0 < high else drawn
            sample[signature.name] = (drawn if dtype.kind == "i" else np.abs(drawn)).astype(dtype)
    return sample


def _check_once(
    built: Built, precision: str, given: Mapping[str, np.ndarray[Any, Any]] | None, isolate: bool, kept: bool, runtime: str = ""
) -> tuple[float | None, int | None]:
    """The worst output on one sample (a random one where none is given): its SQNR in decibels, None where all are equal; where a quantized
    source was `kept` so, also how many steps of its encoding an output is apart at most."""
    source, written, own = built.source, built.artifact, built.plan.io_dtypes
    sample, wanted = _reference_run(source, own) if given is None else (given, source.reference(given))
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        artifact = Path(folder) / f"model{written.suffix}"
        written.write(artifact)
        with open_session(runtime or _RUNTIME[written.suffix[1:]][1], artifact, isolate=isolate) as session:
            found = ArtifactRunner(session, written.layouts, written.encodings, own)(sample)
    steps = require_steps(built, sample, wanted, found) if kept else None
    encoded = built.plan.encodings if kept else {}
    floor_db, exact = _BEHIND_STEPS_DB if kept else LEAST_DB[precision], precision in _EXACT
    found_db = [
        agreement(entry, wanted[entry.name], found, -math.inf if entry.name in encoded else floor_db, exact=exact)
        for entry in source.outputs
        if entry.name not in own
    ]
    return min((value for value in found_db if value is not None), default=None), steps


def _reference_run(
    source: Source, encoded: Mapping[str, str] = {}
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """A sample that the original runs on, and its outputs: integers far from 0 where it takes them, else such as fit for indices.

    Inputs in `encoded` (dtype by name) are integers that stand for real numbers: they are drawn from all of their dtype.
    """
    for integers in _INTEGERS:
        sample = random_sample(source, integers=integers) | _any_integers(source, encoded)
        try:
            return sample, source.reference(sample)
        except ModelError as error:
            refusal = error
    raise refusal


def _any_integers(source: Source, encoded: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    limits = {entry: np.iinfo(entry.dtype) for entry in source.inputs if entry.name in encoded}
    return {entry.name: random.integers(at.min, at.max, entry.shape, entry.dtype, endpoint=True) for entry, at in limits.items()}


def agreement(
    signature: Signature,
    wanted: np.ndarray[Any, Any],
    found: Mapping[str, np.ndarray[Any, Any]],
    floor_db: float,
    *,
    exact: bool = True,
) -> float | None:
    """SQNR of an output in decibels, None where it is equal or of integers; NaN and infinities must lie at the same places.

    Integers and booleans must be equal where the artifact is `exact`.
    Raises RuntimeFailure EW-R005 where it is no such output: absent, of another shape or dtype, or further off than `floor_db`.
    """
    name = signature.name
    if name not in found:
        raise _differs(f"output {name} is missing from what was written", f"it has {sorted(found)}")
    array = found[name]
    if array.shape != wanted.shape:
        raise _differs(f"output {name} of what was written has shape {array.shape}", f"the original gives {wanted.shape}")
    if wanted.dtype.kind != "f":
        if array.dtype.kind == "f" or (exact and not np.array_equal(array, wanted)):
            raise _differs(
                f"output {name} of what was written differs from the original", "integers and booleans are compared exactly"
            )
        return None
    reference, candidate = wanted.astype(np.float64), array.astype(np.float64)
    finite = np.isfinite(reference)
    if not np.array_equal(reference[~finite], candidate[~finite], equal_nan=True) or not np.isfinite(candidate[finite]).all():
        raise _differs(f"output {name} of what was written has NaN or infinity where the original has not, or the reverse", "")
    error = np.abs(reference[finite] - candidate[finite])
    value = decibels(float(np.square(reference[finite]).sum()), float(np.square(error).sum()))
    if value < floor_db and not np.all(error <= _TOLERANCE):
        raise _differs(
            f"output {name} of what was written has {value:.1f} dB SQNR against the original",
            f"at least {floor_db:.0f} dB are expected on random inputs",
        )
    return None if value == math.inf else value


def _differs(what: str, why: str) -> RuntimeFailure:
    return RuntimeFailure(
        "EW-R005", what, why=why, fix="nothing was kept; please report the model's operators (edgewright inspect)"
    )


def any_device(suffix: str, precision: str, io_layout: str) -> Target:
    """The profile of whatever runs the newest runtime of a format, with nothing known of the device.

    Raises TargetError EW-T006 where that runtime has not this precision.
    """
    runtime, prover = _RUNTIME[suffix]
    anything = Target(
        name=f"any-{suffix}",
        title=f"any device with {runtime}",
        artifact=Artifact.model_validate(
            {
                "format": suffix,
                "runtime": runtime,
                "precision": "float32",
                "precisions": _PRECISIONS[suffix],
                "io_layout": io_layout if suffix == "tflite" else "keep",
            }
        ),
        units=(Unit(name="cpu", kind="cpu", dtypes=("int8", "uint8", "int16", "float16", "float32")),),
        verification=Verification(runtimes=(prover,), level="run"),
    )
    return choose_precision(anything, precision)
