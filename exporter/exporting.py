"""`export`: the public call behind ``edgewright export``: load once, then build, prove and bundle for each target."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calibration import Preprocess, Samples, Store, held_out, open_samples
from diagnostics import CompilerFailure, DataError, EdgewrightError, GateError, TargetError, UsageError
from exporter.assumed import assumed
from exporter.bundle.assemble import assemble
from exporter.bundle.bundle import Bundle
from exporter.bundle.manifest import FileRecord, digest_path
from exporter.bundle.staging import require_free
from exporter.fitting import require_measured
from exporter.frontends import Source, load
from exporter.pipeline import Options, build, compile_artifact
from exporter.progress import SILENT, Progress
from exporter.pruning import parse_goal
from exporter.quantization.mixing.aiming import Goal
from exporter.quantization.plan import Effort, Plan
from exporter.rivals import rivals_of
from exporter.runtimes.places import parse_place
from exporter.verification.gates import Gate, GateResult
from exporter.verification.prove import Evidence, advice, prove
from targets.floor import lower_floors
from targets.loader import load_target
from targets.precision import choose_io, choose_precision
from targets.schema import Target

__all__ = ["Exported", "export"]


@dataclass(frozen=True)
class Exported:
    """The outcome for one target: a bundle with its evidence and advice, or the error that ended it."""

    target: str
    bundle: Bundle | None = None
    evidence: Evidence | None = None
    error: EdgewrightError | None = None
    advice: tuple[str, ...] = ()

    @property
    def gates(self) -> tuple[GateResult, ...]:
        return self.evidence.gates if self.evidence is not None else ()

    @property
    def passed(self) -> bool:
        """Whether there is a bundle and all its gates hold."""
        return self.evidence is not None and self.evidence.passed

    @property
    def exit_status(self) -> int:
        if self.error is not None:
            return self.error.exit_status
        return 0 if self.passed else GateError.exit_status

    def worst(self, metric: str) -> float | None:
        """The worst value of a metric over the outputs, on the deciding runtime; None where no output has it."""
        found = self.evidence.deciding.worst(metric) if self.evidence is not None else None
        return found[1] if found is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        if self.bundle is None or self.evidence is None:
            return {"target": self.target, "error": self.error.to_dict() if self.error is not None else None}
        return {
            "target": self.target,
            "path": str(self.bundle.path),
            "artifact": str(self.bundle.artifact),
            "digest": self.bundle.digest,
            "passed": self.passed,
            "advice": list(self.advice),
            "compiled": list(self.bundle.manifest.compiled),
            "gates": [result.to_dict() for result in self.gates],
            "runtimes": {name: comparison.to_dict() for name, comparison in self.evidence.comparisons.items()},
            "machines": {name: machine.to_dict() for name, machine in self.evidence.machines.items()},
        }


def export(
    model: Any,
    targets: Sequence[str | Path | Target],
    *,
    out: str | Path = "bundles",
    inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    calibration: Any = None,
    test: Any = None,
    preprocess: Preprocess | Mapping[str, Any] | str | Path | None = None,
    samples: int | None = None,
    test_samples: int = 32,
    prune: str | float | None = None,
    gates: Sequence[str] = (),
    metric: str | None = None,
    plan: Plan | str | Path | None = None,
    store: Store | str | Path | None = None,
    method: Any = None,
    refine: bool = True,
    effort: Effort = "balanced",
    precision: str | None = None,
    io_dtype: Any = None,
    io_layout: Any = None,
    runtime: str | None = None,
    allow_pickle: bool = False,
    force: bool = False,
    require_compiler: bool = False,
    on: str | None = None,
    progress: Progress = SILENT,
) -> tuple[Exported, ...]:
    """Export a model for one or more targets; each gets the bundle ``out/TARGET``.

    Args:
        model: an ``nn.Module`` (with `inputs`), a path, ``"module:callable"`` or a loaded `Source`; see `load`.
        targets: names or profiles.
        calibration, test: folder, file, ``"module:callable"``, array or iterable; see `open_samples`. Without `test` every fifth
            calibration sample is held out: verification never sees what calibration saw. A plan or float target needs no `calibration`.
        preprocess: how a raw sample becomes an input; default: what the source says.
        samples, test_samples: at most so many of each.
        prune: share of the MACs to keep, or ``"macs=0.8"``.
        gates: conditions such as ``"top1_agreement>=0.98"``; a bundle whose gates fail is written all the same, and says so.
            ``--precision auto`` takes the cheapest precisions that hold them on calibration samples, see `quantization.mixing.aiming`.
        metric: ``module:callable`` whose scores gates may name, see `verification.metric`.
        plan: replay an earlier plan instead of deciding.
        store: what `exporter.calibrate` learned, or its file, instead of `calibration`: the model is not run on that data again.
        method, refine, effort: see `Options`.
        precision: one of those that each target takes (`targets.schema.Precision`), instead of its own.
        io_dtype, io_layout: instead of what the target says.
        runtime: the oldest release that must run the artifact, instead of the floor of each target that has this runtime:
            ``"tflite>=2.11"`` or ``"onnxruntime>=1.17"``.
        force: replace bundles that exist.
        on: a machine, ``"ssh://[user@]host[:port][?python=PATH]"``, where the target's first runtime runs as well and decides the gates;
            latencies measured there are that machine's.
        require_compiler: an absent compiler of a target is an error; else its artifact is written, and the report says how to compile it.
    Returns:
        One outcome a target. A target that refuses the model, or whose compiler fails, does not stop the others: its outcome carries
        the TargetError or CompilerFailure.
    Raises:
        UsageError, ModelError, DataError, RuntimeFailure: what concerns all targets alike.
    """
    parsed_gates = tuple(Gate.parse(text, task=metric is not None) for text in gates)
    replayed = plan if isinstance(plan, Plan) or plan is None else Plan.load(plan)
    precision = _replayed_precision(precision, replayed)
    profiles: Sequence[Target] = [_profile(target, precision, io_dtype, io_layout) for target in targets]
    if runtime is not None:
        profiles = lower_floors(profiles, runtime)
    twice = [profile.name for i, profile in enumerate(profiles) if profile.name in {other.name for other in profiles[:i]}]
    if twice:
        raise UsageError(
            "EW-U002", f"the target {twice[0]} is given twice", fix="name each target once; a bundle has its target's name"
        )
    for profile in profiles:
        require_free(Path(out) / profile.name, overwrite=force)
    if on is not None:
        parse_place(on)
    goal = parse_goal(prune).macs if isinstance(prune, str) else prune
    if store is not None and calibration is not None:
        raise UsageError("EW-U002", "both calibration data and a store are given", fix="give one of --calib and --store")
    learned = store if isinstance(store, Store) or store is None else Store.load(store)
    options = Options(goal, method, refine, replayed, effort, learned, Goal(parsed_gates, metric), require_compiler)
    with progress.stage("load"):
        source = load(model, inputs=inputs, shapes=shapes, allow_pickle=allow_pickle)
    recipe = Preprocess.read(preprocess) or source.preprocess
    source = replace(source, preprocess=recipe)
    to_calibrate, to_test = _data(source, calibration, test, recipe, samples, test_samples)
    for note in assumed(recipe, to_test.preprocess):
        progress.warn(note)
    records = (FileRecord(source.name, _weight_bytes(source), source.sha256), *_records(calibration, store, test))
    outcomes = []
    for profile in profiles:
        try:
            built = compile_artifact(build(source, profile, to_calibrate, options, progress), options, progress)
            evidence = prove(built, to_test, gates=parsed_gates, metric=metric, on=on, progress=progress)
            evidence = replace(evidence, rivals=rivals_of(built, options, to_test, on, progress))
            require_measured(built, evidence.memory.get("arena_total"))
            bundle = assemble(
                built,
                evidence,
                Path(out) / profile.name,
                preprocess=to_test.preprocess,
                inputs=records,
                command=tuple(sys.argv[1:]),
                overwrite=force,
            )
            outcomes.append(Exported(profile.name, bundle, evidence, advice=advice(profile.artifact.precision, evidence.rivals)))
        except (TargetError, CompilerFailure) as error:
            outcomes.append(Exported(profile.name, error=error))
    return tuple(outcomes)


def _replayed_precision(chosen: str | None, plan: Plan | None) -> str | None:
    """The precision that a replayed plan was made for, unless the user chose one: then it must be the same."""
    made_for = plan.artifact_precision if plan is not None else ""
    if chosen is not None and made_for and made_for != chosen:
        raise UsageError(
            "EW-U002", f"the plan was made for precision {made_for}, not {chosen}", fix="leave --precision out, or plan anew"
        )
    return chosen or made_for or None


def _profile(target: str | Path | Target, precision: str | None, io_dtype: str | None, io_layout: str | None) -> Target:
    profile = target if isinstance(target, Target) else load_target(target)
    if precision is not None:
        profile = choose_precision(profile, precision)
    if io_dtype is not None:
        profile = choose_io(profile, io_dtype)
    if io_layout is None:
        return profile
    if profile.artifact.format == "onnx" and io_layout != "keep":
        raise UsageError(
            "EW-U002", f"target {profile.name} takes ONNX, which keeps the axis order of the model", fix="leave --io-layout out"
        )
    data = profile.model_dump()
    return Target.model_validate({**data, "artifact": {**data["artifact"], "io_layout": io_layout}})


def _data(
    source: Source, calibration: Any, test: Any, recipe: Preprocess | None, samples: int | None, test_samples: int
) -> tuple[Samples | None, Samples]:
    """Samples to calibrate with and samples to verify with, never the same ones."""
    opened = open_samples(calibration, source.inputs, recipe) if calibration is not None else None
    if test is not None:
        tests = open_samples(test, source.inputs, recipe)
    elif opened is not None:
        opened, tests = held_out(opened)
    else:
        raise DataError(
            "EW-D001",
            "there is no data to verify with",
            why="neither calibration data nor test data was given",
            fix="give --test DATA (a folder of images, .npy, .npz, .wav or module:callable)",
        )
    return (opened.take(samples) if opened is not None and samples is not None else opened), tests.take(test_samples)


def _records(*specs: Any) -> tuple[FileRecord, ...]:
    """sha256 of the data that lies in files."""
    paths = [Path(spec) for spec in specs if isinstance(spec, str | Path) and Path(spec).exists()]
    return tuple(digest_path(path, name=path.name) for path in dict.fromkeys(paths))


def _weight_bytes(source: Source) -> int:
    weights = (value.const_value for value in source.model.graph.initializers.values())
    return sum(weight.nbytes for weight in weights if weight is not None)
