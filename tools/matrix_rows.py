"""One model of the zoo on many targets: ``python -m tools.matrix_rows MODEL TARGET ...`` prints one row as a line of JSON for each.

The model is loaded once. `tools.matrix` runs it in a process of its own, so that a target that hangs or crashes is a row and no more.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration import Samples, open_samples
from diagnostics import EdgewrightError, RuntimeFailure, TargetError
from exporter.built import Built
from exporter.fitting import arena_forecasts, require_measured
from exporter.frontends import Source, load
from exporter.graph.columns import column_groups
from exporter.graph.summary import place
from exporter.graph.values import activation_nodes
from exporter.pipeline import Options, build, compile_artifact
from exporter.quantization.apply import precision_of
from exporter.runtimes import open_session
from exporter.runtimes.registry import runtime_of
from exporter.verification.kernels import MICRO_AND_REFERENCE, differences, kernel_parity
from exporter.verification.metrics import json_number
from exporter.verification.onnx_parity import emulated_parity
from exporter.verification.prove import measure
from exporter.verification.runner import ArtifactRunner, agreement
from targets import Target, load_target
from tools.zoo_cases import CASES

__all__ = ["main", "measured", "profile_digest"]

Array = np.ndarray[Any, Any]

_TESTS: Final = 32  # samples at most, from all over the set: an emulated NPU takes seconds for each
_KERNELS: Final = 4  # of them on which every operator is compared, whether or not outputs differ
_WHY: Final = 5  # reasons that are kept of a row, the most frequent first


def profile_digest(target: Target) -> str:
    """What a row depends on, as a short hash: all of its profile but what is said to people, and how many samples it is judged on.

    A key of the schema is in it where it is set, so that a new one makes no row old.
    """
    verification = target.verification.model_copy(update={"note": "", "level": "rules"})
    silent = target.model_copy(update={"title": "", "description": "", "sources": (), "verification": verification})
    data = silent.model_dump(mode="json", exclude_defaults=True)
    return hashlib.sha256(json.dumps([_TESTS, data], sort_keys=True).encode()).hexdigest()[:12]


def measured(source: Source, target: Target, calibration: Samples, tests: Samples) -> dict[str, Any]:
    """Export as far as proving goes: build, compile where the target's compiler is here, run on the runtime that decides.

    Raises EdgewrightError where the target refuses the model, or a compiler or runtime fails.
    """
    built = build(source, target, calibration if target.artifact.calibrated else None, Options(effort="fast"))
    built = compile_artifact(built)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        artifact = Path(folder) / f"model{built.artifact.suffix}"
        built.artifact.write(artifact)
        runtime = target.verification.runtimes[0]
        evidence = measure(
            artifact,
            source.reference,
            tests,
            runtimes=(runtime,),
            outputs=[signature.name for signature in source.outputs],
            layouts=built.artifact.layouts,
            encodings=built.artifact.encodings,
            integers=built.plan.io_dtypes,
            columns=column_groups(built.graph),
            options=target.verification.options,
        )
        beside: dict[str, Any] = {}
        if target.verification.runtimes[:2] == MICRO_AND_REFERENCE:
            beside = _beside_reference(artifact, built, tests)
        elif target.artifact.format == "onnx" and runtime_of(runtime).emulates:
            beside = _beside_cpu(artifact, built, tests)
    require_measured(built, evidence.memory.get("arena_total"))
    worst = evidence.deciding.worst("sqnr_db")
    return {
        "status": "verified",
        "runtime": runtime,
        "samples": evidence.deciding.samples,
        "sqnr_db": json_number(worst[1]) if worst is not None else None,
        "bytes": built.artifact.size,
        **({"arena": evidence.memory["arena_total"]} if "arena_total" in evidence.memory else {}),
        **beside,
        **_placed(built),
        "compiled": [_compiled(entry) for entry in built.compiled],
        "not_compiled": built.not_compiled,
    }


def _beside_reference(artifact: Path, built: Built, tests: Samples) -> dict[str, Any]:
    """An artifact for TensorFlow Lite Micro on LiteRT's reference kernels: its outputs on all samples; every operator from the same tensors,
    on the first samples and on those whose outputs differ; and what the arena was told to take."""
    layouts, pairs, chosen = built.artifact.layouts, [], []
    with open_session(MICRO_AND_REFERENCE[0], artifact) as micro, open_session(MICRO_AND_REFERENCE[1], artifact) as reference:
        encode = ArtifactRunner(micro, layouts).encode
        for position, sample in enumerate(tests):
            raw = encode(sample)
            pairs.append((micro.run(raw), reference.run(raw)))
            if position < _KERNELS or agreement(pairs[-1:]).mismatches:
                chosen.append(sample)
    kernels = kernel_parity(artifact, chosen, layouts=layouts)
    told = arena_forecasts(built.artifact, built.target)
    return {
        **({"arena_told": told[0].total} if told else {}),
        "reference": {
            **asdict(agreement(pairs)),
            "kernels": [asdict(found) for found in differences(kernels)],
            "compared": sum(layer.elements for layer in kernels),
            "uncompared": list(kernels.uncompared),
        },
    }


def _beside_cpu(artifact: Path, built: Built, tests: Samples) -> dict[str, Any]:
    """An ONNX artifact in an NPU's emulator, which no node may leave for the CPU, and on onnxruntime's CPU kernels: its outputs on a few
    samples, and on one of them every layer by itself, from the integers that the CPU's kernels gave the layer before it."""
    runtime, layouts = built.target.verification.runtimes[0], built.artifact.layouts
    options = built.target.verification.options.get(runtime, {})
    steps = {name: encoding.scale[0] for name, encoding in built.plan.encodings.items() if encoding.axis is None}
    few = list(tests.take(_KERNELS))

    def integers(raw: Mapping[str, Array]) -> dict[str, Array]:
        """Floats that stand for integers as those, so that what differs is no rounding of the last conversion."""
        return {name: np.rint(array / steps[name]).astype(np.int64) if name in steps else array for name, array in raw.items()}

    with (
        open_session(runtime, artifact, options=options) as npu,
        open_session("onnxruntime", artifact, options={"optimize": False}) as cpu,
    ):
        given = map(ArtifactRunner(npu, layouts).encode, few)
        left, outputs = npu.report().get("cpu", []), agreement((integers(npu.run(raw)), integers(cpu.run(raw))) for raw in given)
    found: dict[str, Any] = {"on_cpu": left, "outputs": asdict(outputs)}
    try:
        parity = emulated_parity(artifact, few[:1], runtime, options)
    except RuntimeFailure as error:  # of the model cut into layers, which is no artifact
        return {"emulated": {**found, "not_compared": error.what}}
    layers = {
        "count": len(parity.layers),
        "max_lsb": parity.max_lsb,
        "mismatches": sum(layer.elements - layer.equal for layer in parity),
        "elements": sum(layer.elements for layer in parity),
        "beyond": [asdict(layer) for layer in parity.beyond()],
        "uncompared": list(parity.uncompared),
    }
    return {"emulated": {**found, "layers": layers}}


def _placed(built: Built) -> dict[str, Any]:
    """How many nodes run on which unit in which precision, and why the units before did not take them."""
    units: Counter[str] = Counter()
    why: Counter[str] = Counter()
    for node, _ in activation_nodes(built.graph.graph):
        precision = precision_of(node, built.plan)
        unit, reasons = place(node, precision, built.target)
        units[f"{unit or 'none'} {precision}"] += 1
        why.update(reasons)
    return {"nodes": dict(sorted(units.items())), "why": dict(why.most_common(_WHY))}


def _compiled(compiled: Any) -> dict[str, Any]:
    return {
        "compiler": f"{compiled.compiler} {compiled.version}",
        "architecture": compiled.architecture,
        "operators": len(compiled.placements),
        "on_cpu": len(compiled.left_out),
        "figures": dict(compiled.figures),
    }


def row(source: Source, name: str, calibration: Samples, tests: Samples) -> dict[str, Any]:
    """`measured`, or why not: a target's refusal is a row too, and so is a compiler or runtime that fails."""
    target = load_target(name)
    try:
        found = measured(source, target, calibration, tests)
    except EdgewrightError as error:
        if isinstance(error, TargetError):
            known = error.fix.splitlines()[:-1]  # the last is what is said of any model
            mends = {"mends": known} if known else {}
            found = {"status": "refused", "code": error.code, "what": error.what, "why": error.why, **mends}
        else:  # what a tool printed last says it; what it printed before names files of this machine
            last = error.why.strip().splitlines()[-1:]
            found = {"status": "failed", "code": error.code, "what": error.what, "why": "".join(last)}
    return {**found, "profile": profile_digest(target)}


def main(arguments: Sequence[str]) -> int:
    """Print the rows of MODEL on each TARGET."""
    model, *targets = arguments
    np.seterr(all="ignore")
    case = CASES[model]
    source = load(f"tools.zoo:{case.model}")
    calibration = open_samples(case.calibration, source.inputs, source.preprocess).take(case.samples)
    held_out = open_samples(case.held_out, source.inputs, source.preprocess).take(case.test_samples)
    tests = open_samples(list(islice(held_out, 0, None, -(-case.test_samples // _TESTS))), source.inputs)
    for target in targets:
        print(json.dumps(row(source, target, calibration, tests)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
