"""A first profile for a device that none describes, from what its runtime does here: ``edgewright targets new``.

Nothing is looked up: a small network is exported in each precision that the format has, and run. What the runtime computes right is what the
profile takes; how long it takes says the rates. Where this machine is not the device, those are a start to be replaced.
"""

from __future__ import annotations

import platform
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration import Samples, open_samples
from diagnostics import EdgewrightError, RuntimeFailure, UsageError
from exporter.converting import LEAST_DB
from exporter.frontends import Source, load
from exporter.host import cpu_features, processor
from exporter.pipeline import Options, build
from exporter.progress import SILENT, Progress
from exporter.runtimes import available
from exporter.verification.prove import measure
from targets.loader import target_names
from targets.schema import ACTIVATIONS, FORMATS, NAME, PRECISIONS, Artifact, Cost, Quantization, Target, Unit, Verification

__all__ = ["Started", "new_target"]

# Runtime of this machine -> `Artifact.runtime` of the profile that it proves.
_PROVES: Final[Mapping[str, str]] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "litert-xnnpack": "litert",
    "litert-builtin": "litert",
    "litert-ref": "litert",
    "tflite-runtime": "litert",
    "tflite-micro": "tflite-micro",
}
_BYTES: Final = {"int8": ("int8", "uint8")}  # the same kernels take both
_VNNI: Final = frozenset({"avx_vnni", "avx512_vnni"})
_CHANNELS, _SIZE, _CLASSES = 32, 28, 10
_SAMPLES: Final = 4
_COPIED: Final = 1 << 25  # bytes: more than the caches hold


@dataclass(frozen=True)
class Started:
    """A profile to start from, and why it does not take the precisions that it lacks, by precision."""

    target: Target
    refused: Mapping[str, str] = field(default_factory=dict)


def new_target(name: str, runtime: str, progress: Progress = SILENT) -> Started:
    """A profile `name` for what `runtime` (a name of `all_runtimes()`) does on this machine.

    Raises:
        UsageError: EW-U001, there is no such runtime, or none that a profile ships on.
        UsageError: EW-U001, `name` is no name of a profile, or one of ours.
        RuntimeFailure: EW-R001, it is not installed; EW-R002, it runs nothing that edgewright writes.
    """
    if not re.fullmatch(NAME, name) or name in target_names():
        why = "edgewright carries a profile of that name" if name in target_names() else f"a name matches {NAME}"
        raise UsageError("EW-U001", f"a new profile cannot be named {name!r}", why=why, fix="choose another name")
    if runtime.partition("==")[0] not in _PROVES:
        raise UsageError("EW-U001", f"no profile ships on runtime {runtime!r}", fix=f"name one of {', '.join(_PROVES)}")
    there = available(runtime)
    if there.version is None:
        raise RuntimeFailure("EW-R001", f"the runtime {runtime} is not installed", fix=there.how_to_get)
    host, system = processor() or platform.machine(), f"{platform.system()} {platform.machine()}"
    draft = Target(
        name=name,
        title=f"{name}, {runtime}",
        description=f"started by edgewright targets new from {runtime} {there.version}",
        sources=(f"measured with {runtime} {there.version} on {host}, {system}",),
        artifact=_artifact(runtime, there.version),
        quantization=_quantization(runtime),
        units=(Unit(name="cpu", kind="cpu", dtypes=("int8", "uint8", "int16", "float16", "float32")),),
        verification=Verification(runtimes=(runtime,), level="run", note=f"run by {runtime} {there.version} on {host}"),
    )
    asked = _asked(draft.artifact.format)
    refused: dict[str, str] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        source, samples = _network(Path(folder))
        with progress.stage(f"ask {runtime}", len(asked)) as advance:
            for done, precision in enumerate(asked, 1):
                try:
                    seconds[precision] = _seconds(source, _at(draft, precision), samples)
                except EdgewrightError as error:
                    refused[precision] = error.what
                advance(done)
    if not seconds:
        raise RuntimeFailure("EW-R002", f"{runtime} runs nothing that edgewright writes", why="; ".join(refused.values()))
    return Started(_settled(draft, seconds), refused)


def _asked(suffix: str) -> list[str]:
    """What a format may hold; auto is a mixture of the others, and onnxruntime quantizes activations behind operators of its own alone."""
    return [name for name in PRECISIONS if name != "auto" and (suffix == "tflite" or not name.startswith("dynamic"))]


def _artifact(runtime: str, version: str) -> Artifact:
    ships = _PROVES[runtime.partition("==")[0]]
    # LiteRT's own releases are numbered apart from TensorFlow Lite's, in which floors count.
    counted = {"onnxruntime": "onnxruntime", "tflite-runtime": "tflite"}.get(runtime.partition("==")[0])
    release = ".".join(version.split(".")[:2])
    return Artifact.model_validate(
        {
            "format": FORMATS[ships],
            "runtime": ships,
            "floor": f"{counted}>={release}" if counted else "",
            "precision": "float32",
            "io_layout": "channels_last" if FORMATS[ships] == "tflite" else "keep",
        }
    )


def _quantization(runtime: str) -> Quantization:
    """x86 multiplies unsigned by signed bytes, and without VNNI adds pairs of products in 16 bits, which 7-bit weights do not fill."""
    if _PROVES[runtime.partition("==")[0]] not in ("onnxruntime", "openvino") or platform.machine().lower() not in (
        "x86_64",
        "amd64",
    ):
        return Quantization()
    return Quantization(activations="uint8", weights_range="full" if cpu_features() & _VNNI else "reduced")


def _network(folder: Path) -> tuple[Source, Samples]:
    """A convolution with most of the work, and a classifier; with samples of its input."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    shapes = {"w": (_CHANNELS, _CHANNELS, 3, 3), "b": (_CHANNELS,), "v": (_CLASSES, _CHANNELS), "c": (_CLASSES,)}
    weights = {name: random.normal(0, prod(shape[1:]) ** -0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v", "c"], ["y"], transB=1),
    ]
    shape = [1, _CHANNELS, _SIZE, _SIZE]
    x, y = (
        helper.make_tensor_value_info(*given)
        for given in (("x", TensorProto.FLOAT, shape), ("y", TensorProto.FLOAT, [1, _CLASSES]))
    )
    graph = helper.make_graph(nodes, "probe", [x], [y], [numpy_helper.from_array(array, key) for key, array in weights.items()])
    path = folder / "probe.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    source = load(path)
    data = [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(_SAMPLES)]
    return source, open_samples(data, source.inputs)


def _at(draft: Target, precision: str) -> Target:
    artifact = draft.artifact.model_copy(update={"precision": precision})
    return draft.model_copy(update={"artifact": artifact})


def _seconds(source: Source, target: Target, samples: Samples) -> float:
    """Least seconds of an inference. Raises EdgewrightError where the runtime does not run this precision, or computes something else."""
    built = build(source, target, samples if target.artifact.calibrated else None, Options(effort="fast", refine=False))
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        artifact = Path(folder) / f"probe{built.artifact.suffix}"
        built.artifact.write(artifact)
        evidence = measure(
            artifact,
            source.reference,
            samples,
            runtimes=target.verification.runtimes,
            outputs=[signature.name for signature in source.outputs],
            layouts=built.artifact.layouts,
            encodings=built.artifact.encodings,
        )
    worst = evidence.deciding.worst("sqnr_db")
    found, least = worst[1] if worst is not None else inf, LEAST_DB[target.artifact.precision]
    if found < least:
        raise RuntimeFailure("EW-R005", f"{found:.1f} dB against the original, at least {least:.0f} are expected")
    return min(evidence.latency[-1].seconds)


def _settled(draft: Target, seconds: Mapping[str, float]) -> Target:
    """The draft with what the runtime does: int8 first where it has it, dtypes of those precisions, rates of this machine."""
    micro = draft.artifact.runtime == "tflite-micro"
    taken = list(seconds)
    first = "int8" if "int8" in taken else taken[0]
    macs = _CHANNELS * _CHANNELS * 9 * _SIZE * _SIZE + _CHANNELS * _CLASSES
    rates: dict[str, Any] = {
        "bandwidth": _bandwidth(),
        "measured": f"{processor()}, a small network on {draft.verification.runtimes[0]}",
    }
    rates |= {
        key: _rate(macs / seconds[form]) for key, form in (("gmacs_int8", "int8"), ("gmacs_float", "float32")) if form in seconds
    }
    dtypes = [dtype for precision in taken for dtype in _BYTES.get(ACTIVATIONS[precision], (ACTIVATIONS[precision],))]
    artifact = {**draft.artifact.model_dump(), "precision": first, "precisions": (first, *(p for p in taken if p != first))}
    return Target.model_validate(
        {
            **draft.model_dump(),
            "artifact": {**artifact, "io_dtype": "int8" if micro and first == "int8" else "float32"},
            "quantization": {**draft.quantization.model_dump(), "float_fallback": "float32" in dtypes},
            "units": ({"name": "cpu", "kind": "cpu", "dtypes": tuple(dict.fromkeys(dtypes))},),
            "cost": Cost(**rates).model_dump(),
        }
    )


def _bandwidth() -> float:
    """10^9 bytes a second that are read and written while memory is copied; the best of three."""
    source = np.ones(_COPIED, np.uint8)
    found = []
    for _ in range(3):
        start = time.perf_counter()
        source.copy()
        found.append(2 * _COPIED / (time.perf_counter() - start))
    return _rate(max(found))


def _rate(per_second: float) -> float:
    """In 10^9 a second, three digits: more would be noise."""
    return float(f"{per_second / 1e9:.3g}")
