"""The node tests in int8: each case planned on its own data, written, run on LiteRT's reference kernels and judged twice.

- Every value that an integer node writes is that of the integer reference of the plan, to the last bit.
- Float outputs have `LEAST_DB` of signal to quantization noise, other outputs are as expected. Where they are not, the question is what
  8 bits can hold at all: the float model on the case's inputs, rounded to the plan's encodings of them, its outputs rounded to theirs.

Results beside those of `tools.conformance`:

- float: no node of the case runs in integers;
- limit: the artifact is the reference, the float model is right, and 8 bits cannot hold the case's numbers;
- unknown: a node has no integer reference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tools.conformance_cases import Case

if TYPE_CHECKING:
    from calibration import Samples
    from exporter.built import Built
    from exporter.frontends import Source
    from targets import Target

__all__ = ["LEAST_DB", "STATUSES", "fits", "quantizable", "run_int8_case"]

STATUSES: Final = ("pass", "limit", "float", "unknown", "refused", "wrong", "crash")
LEAST_DB: Final = 20.0

Array = np.ndarray[Any, Any]


def quantizable(case: Case) -> bool:
    """Whether a case has real numbers, which an int8 artifact could hold in integers."""
    return any(array.dtype == np.float32 for array in (*case.inputs.values(), *case.outputs))


def run_int8_case(case: Case, isolate: bool = True) -> tuple[str, str, str]:
    """Build and run one case in this process: (status, code, reason). `isolate` is for `tools.conformance.run_cases` alone."""
    import onnx

    from calibration import open_samples
    from diagnostics import EdgewrightError
    from exporter.frontends import load
    from exporter.ops.base import Refused
    from exporter.quantization.planner import refusals
    from exporter.verification.reference import Comparison
    from targets import load_target

    target = load_target("android-arm64-cpu")
    target = target.model_copy(update={"artifact": target.artifact.model_copy(update={"io_layout": "keep", "floor": ""})})
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(case.model, path)
        try:
            source = load(path)
            built = _built(source, target, open_samples([case.inputs], source.inputs))
        except EdgewrightError as error:
            return "refused", error.code, "; ".join(part for part in (error.what, error.where, error.why) if part)
        except Exception as error:
            return "crash", type(error).__name__, _line(error)
    if not any(precision == "int8" for precision in built.plan.precision.values()):
        reasons = refusals(built.graph, target.artifact, built.statistics).values()
        return "float", "", "; ".join(dict.fromkeys(reasons)) or "it only moves data between float neighbours"
    try:
        outputs, tensors = _run(built.artifact.content, case)
    except Exception as error:
        return "wrong", "load", _line(error)
    comparison = Comparison(built.graph, built.plan)
    try:
        comparison.update(tensors)
    except Refused as refused:
        return "unknown", "", refused.reason
    bad = [layer for layer in comparison.result() if layer.max_lsb]
    if bad:
        layer = bad[0]
        what = f"{layer.off_by_one + layer.more} of {layer.elements} integers of {layer.name}, by up to {layer.max_lsb}"
        return "wrong", "reference", f"{layer.op} is not the reference: {what}"
    why = judge(case, outputs)
    if not why:
        return "pass", "", ""
    exact, best = (judge(case, _in_float(case, source.model, encodings)) for encodings in ({}, built.plan.encodings))
    return ("limit", "", why) if best and not exact else ("wrong", "differs", why)


def _built(source: Source, target: Target, samples: Samples) -> Built:
    """In integers wherever there is a kernel, whether or not that pays on the target, which the pipeline would ask."""
    from exporter.backends.tflite.layout import assign
    from exporter.pipeline import Options, build, calibrate, legal
    from exporter.progress import SILENT
    from exporter.quantization.choosing import best_methods
    from exporter.quantization.given import brings_encodings
    from exporter.quantization.planner import make_plan

    graph = legal(source.model, target)
    if brings_encodings(graph.graph):
        return build(source, target, None)
    store = calibrate(graph, target, samples, SILENT)
    assert store is not None
    plan = make_plan(graph, store, target, method=best_methods(graph, store, target, store.reservoir))
    built = build(source, target, None, Options(plan=assign(graph, plan, target.artifact.io_layout)))
    return replace(built, statistics=store)


def judge(case: Case, found: Mapping[str, Array]) -> str:
    """How outputs differ from the expected ones beyond what 8 bits may; empty where they do not."""
    for value, wanted in zip(case.model.graph.output, case.outputs, strict=True):
        array = found.get(value.name)
        if array is None or array.shape != wanted.shape or array.dtype != wanted.dtype:
            form = "absent" if array is None else f"{array.dtype} {array.shape}"
            return f"output {value.name} is {form}, not {wanted.dtype} {wanted.shape}"
        if wanted.dtype.kind != "f":
            if not np.array_equal(array, wanted):
                return f"output {value.name}: {int((array != wanted).sum())} of {wanted.size} differ"
        elif not fits(wanted, array):
            return f"output {value.name}: {_decibels(wanted, array):.1f} dB"
    return ""


def fits(wanted: Array, found: Array) -> bool:
    """Whether a float output has `LEAST_DB`; without a signal it must be the same. Infinities and NaNs must be where they belong."""
    finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~finite], found[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return False
    return bool(np.array_equal(wanted[finite], found[finite])) or _decibels(wanted, found) >= LEAST_DB


def _decibels(wanted: Array, found: Array) -> float:
    """Signal to noise of the finite elements."""
    finite = np.isfinite(wanted)
    signal, noise = wanted[finite].astype(np.float64), found[finite].astype(np.float64) - wanted[finite]
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10 * np.log10(np.square(signal).sum() / np.square(noise).sum()))


def _in_float(case: Case, model: Any, encodings: Mapping[str, Any]) -> dict[str, Array]:
    """The float model between inputs and outputs rounded to encodings: what no artifact of these can be expected to surpass."""
    from exporter.graph.run import FloatRunner

    def rounded(name: str, array: Array) -> Array:
        encoding = encodings.get(name)
        return array if encoding is None else encoding.dequantize(encoding.quantize(array))

    inputs = {name: rounded(name, array) for name, array in case.inputs.items()}
    return {name: rounded(name, array) for name, array in FloatRunner(model)(inputs).items()}


def _run(content: bytes, case: Case) -> tuple[dict[str, Array], dict[str, Array]]:
    """Outputs by name, and every tensor by "index:name", of the artifact on the case's data."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        interpreter = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError):  # the reference resolver lacks some builtins, ELU and ROUND among them
        interpreter = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], case.inputs[detail["name"]])
    interpreter.invoke()

    def tensor(detail: Any) -> Array:
        # LiteRT gives out no tensor without elements.
        empty = 0 in detail["shape"]
        return np.zeros(detail["shape"], detail["dtype"]) if empty else interpreter.get_tensor(detail["index"])

    tensors = {}
    for detail in interpreter.get_tensor_details():
        if np.dtype(detail["dtype"]).kind in "biuf":
            try:
                tensors[f"{detail['index']}:{detail['name']}"] = tensor(detail)
            except ValueError:  # a scratch tensor of a kernel
                continue
    return {detail["name"]: tensor(detail) for detail in interpreter.get_output_details()}, tensors


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
