"""The stages in order: load, canonicalize, prune, legalize, calibrate, equalize, plan, write, compile, verify, bundle. This is the architecture.

Each deciding stage adds to the one `Plan`; writing applies it. Everything up to `write` is a pure function of the model, the data and the
target; `compile_artifact` asks the vendor's compiler, `prove` measures on real
runtimes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from calibration import Checkpoint, Preprocess, Samples, Statistics, Store, collect
from diagnostics import CompilerFailure, DataError, ModelError, TargetError
from exporter.built import Built, Written
from exporter.content import Content
from exporter.frontends.source import Source
from exporter.graph.passes import check, legalize
from exporter.progress import SILENT, Progress
from exporter.quantization.clipping import Method
from exporter.quantization.mixing.aiming import Goal
from exporter.quantization.plan import Effort, Plan
from targets.floor import floor_of
from targets.schema import Target

if TYPE_CHECKING:
    from exporter.quantization.equalization.equalizing import Equalized

__all__ = ["Options", "build", "compile_artifact", "legalized"]


@dataclass(frozen=True)
class Options:
    """What the user chose beside model, target and data.

    Attributes:
        prune: share of the MACs to keep, 0 < prune <= 1; None keeps all.
        method: how ranges of activations are chosen; None: for each value what gives the least error at the outputs.
        refine: whether weights are rounded, and biases corrected, by the error they cause on calibration samples.
        plan: an earlier plan to replay; then nothing is decided and no data is read.
        effort: how closely refining looks at the samples, see `quantization.refinement.refine`.
        store: what an earlier calibration learned; then the model is not run on data again.
        goal: of precision "auto", the gates that it shall hold.
        require_compiler: whether an absent compiler of the target is an error, as `[compile] required` of its profile.
    """

    prune: float | None = None
    method: Method | None = None
    refine: bool = True
    plan: Plan | None = None
    effort: Effort = "balanced"
    store: Store | None = None
    goal: Goal = field(default_factory=Goal)
    require_compiler: bool = False


def build(
    source: Source, target: Target, samples: Samples | None, options: Options = Options(), progress: Progress = SILENT
) -> Built:
    """From a loaded model to the bytes of an artifact.

    Raises:
        UsageError: EW-U005, the effort is "best" and torch is not installed.
        DataError: EW-Q001, an int8 target without calibration data or plan.
        TargetError: the target cannot take the model (EW-T003, EW-T004, EW-T005, EW-Q003).
    """
    from exporter.quantization.equalization.equalizing import replay as replay_equalized
    from exporter.quantization.given import brings_encodings
    from exporter.quantization.refinement.reconstruct import require_torch

    if options.effort == "best":
        require_torch()
    graph, kept = prune(source.model, target, options)  # loading canonicalizes
    graph = legal(graph, target)
    plan = options.plan
    statistics: Statistics | None = None
    if plan is None and brings_encodings(graph.graph):
        plan = replace(take(graph, target), kept=kept)
    elif plan is None:
        store = options.store
        statistics = recall(graph, target, store) if store is not None else calibrate(graph, target, samples, progress)
        graph, statistics, plan = quantize(graph, target, statistics, options, progress)
        plan = replace(plan, kept=kept)
    else:
        graph = replay_equalized(graph, plan)
    artifact = write(graph, plan, target, samples.preprocess if samples is not None else source.preprocess)
    check_limits(artifact, target, source.name)
    return Built(source, target, graph, plan, artifact, statistics)


def prune(model: ir.Model, target: Target, options: Options) -> tuple[ir.Model, dict[str, tuple[int, ...]]]:
    """Cut whole channels, as many as the goal asks for and the target's tile allows; a replayed plan cuts what it cut."""
    from exporter.pruning import prune as cut
    from exporter.pruning import replay

    if options.plan is not None:
        return (replay(model, options.plan.kept), dict(options.plan.kept)) if options.plan.kept else (model, {})
    if options.prune is None:
        return model, {}
    pruned = cut(model, macs=options.prune, tile=target.pruning.tile)
    check(pruned.model, "prune")
    return pruned.model, dict(pruned.kept)


def legalized(model: ir.Model, target: Target) -> ir.Model:
    """Rewrite what the target's runtime lacks; what it still lacks stays. A source's own encodings are settled."""
    from exporter.graph.float_sums import mark_float_sums
    from exporter.graph.fold_columns import folded_for
    from exporter.graph.qdq_form import is_quantized, qdq_form
    from exporter.quantization.costs import slow_builtins
    from exporter.quantization.given import settle
    from exporter.quantization.refinement.correction import ensure_biases
    from targets.releases.tflite import AVOIDED

    graph = qdq_form(model) if target.artifact.precision == "int8" else model
    quantized = is_quantized(graph)
    graph = graph if quantized else folded_for(graph, target)
    # What is written out has no encodings of the source.
    avoided = {op: since for op, since in AVOIDED.get(target.artifact.runtime, {}).items() if op not in target.artifact.kept}
    avoid = {**avoided, **dict.fromkeys(() if quantized else slow_builtins(target), 1)}
    graph = settle(legalize(graph, target.artifact.format, floor_of(target), target.has_float, avoid))
    graph = ensure_biases(graph) if target.artifact.calibrated else graph
    if target.has_float and not quantized:
        mark_float_sums(graph)
    check(graph, "legalize")
    return graph


def legal(model: ir.Model, target: Target) -> ir.Model:
    """The legalized graph. Raises TargetError EW-T004 with all nodes that the target cannot run, why, and what would mend it."""
    from exporter.graph.alike import alike
    from exporter.graph.summary import placements
    from exporter.placement.remedies import mending

    graph = legalized(model, target)
    placed = placements(graph, target)
    refused = [placement for placement in placed if not placement.unit]
    if refused:
        known = mending(model, graph, placed, target, legalized)
        raise TargetError(
            "EW-T004",
            f"target {target.name} cannot run {len(refused)} of the {len(graph.graph)} nodes",
            why="\n".join(alike((placement.node, placement.op_type, placement.reasons) for placement in refused)),
            fix="\n".join([*known, "change these operators in the model, or choose another target"]),
        )
    return graph


def calibrate(
    graph: ir.Model,
    target: Target,
    samples: Samples | None,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Store | None:
    """One pass of the data through the float graph; sketches of every value that a kernel writes, and some of the samples."""
    from exporter.graph.digest import digest_of
    from exporter.graph.observe import Observer
    from exporter.quantization.tails import with_row_peaks

    if not target.artifact.calibrated:
        return None
    if samples is None:
        raise DataError(
            "EW-Q001",
            f"precision {target.artifact.precision} of target {target.name} needs calibration data",
            fix="give --calib DATA (a folder of images, .npy, .npz, .wav or module:callable)",
        )
    with progress.stage("calibrate", samples.length) as advance:
        watched = Observer(with_row_peaks(graph))
        return collect(watched, samples, advance, shard=shard, model=digest_of(graph), checkpoint=checkpoint)


def recall(graph: ir.Model, target: Target, store: Store) -> Store | None:
    """The store, where it is of this very graph and the target wants one. Raises DataError EW-D007 where it is of another graph."""
    from calibration.store import other_model
    from exporter.graph.digest import digest_of

    if not target.artifact.calibrated:
        return None
    if (wanted := digest_of(graph)) != store.model:
        raise other_model(wanted, store.model)
    return store


def equalize(graph: ir.Model, target: Target, statistics: Statistics | None, options: Options, progress: Progress) -> Equalized:
    """Move scales between channels and the weights behind them, and outliers into branches, where the outputs on samples gain by it."""
    from exporter.quantization.equalization.equalizing import Equalized, equalize

    if statistics is None or not options.refine:
        return Equalized(graph, statistics)
    with progress.stage("equalize channels"):
        return equalize(graph, statistics, target, options.effort)


def quantize(
    graph: ir.Model, target: Target, statistics: Statistics | None, options: Options, progress: Progress
) -> tuple[ir.Model, Statistics | None, Plan]:
    """The equalized graph, its statistics and its plan.

    Of a target whose kernels can quantize row by row, which makes up for outliers of few rows as well, branches stay only where they are
    better than a plan without them. With the effort "fast", whose plans seldom have such kernels, and the precision "auto", which spends
    minutes on each plan, `equalize` decides.
    """
    from exporter.quantization.equalization.equalizing import BRANCH_DB
    from exporter.quantization.mixing.sensitivity import planned_db
    from targets.precision import precisions_of

    found = equalize(graph, target, statistics, options, progress)
    planned = decided(found, target, options, progress)
    once = options.effort == "fast" or target.artifact.precision == "auto" or "dynamic_int8" not in precisions_of(target)
    if found.whole is None or found.statistics is None or once:
        return found.model, found.statistics, planned
    samples = found.statistics.reservoir
    whole = decided(found.whole, target, options, progress)
    gained = planned_db(found.model, planned, samples) - planned_db(found.whole.model, whole, samples)
    if gained > BRANCH_DB:
        return found.model, found.statistics, planned
    return found.whole.model, found.whole.statistics, whole


def decided(found: Equalized, target: Target, options: Options, progress: Progress) -> Plan:
    """The plan of an equalized graph, which holds how it was made."""
    plan = decide(found.model, target, found.statistics, options, progress)
    return replace(plan, splits=found.splits, migrations=found.scales)


def keeps_integers(source: Source, target: Target) -> bool:
    """Whether the source came quantized, so that some of it computes in integers on `target` with its own encodings."""
    from exporter.graph.qdq_form import is_quantized
    from exporter.quantization.given import computes_in_integers

    return is_quantized(source.model) and computes_in_integers(legal(source.model, target).graph)


def take(graph: ir.Model, target: Target) -> Plan:
    """The plan that a quantized source brings along; only the layout is decided."""
    from exporter.backends.tflite.layout import assign
    from exporter.quantization.given_plan import given_plan

    plan = given_plan(graph, target)
    return assign(graph, plan, target.artifact.io_layout) if target.artifact.format == "tflite" else plan


def decide(
    graph: ir.Model,
    target: Target,
    statistics: Statistics | None,
    options: Options,
    progress: Progress,
) -> Plan:
    """Encodings, bias correction and layout, as one plan."""
    from exporter.backends.tflite.layout import assign
    from exporter.quantization.agreeing import agreed
    from exporter.quantization.deciding import integer_plan
    from exporter.quantization.planner import float_plan
    from exporter.quantization.weights import weight_plan
    from targets.releases.tflite import AGREEING

    if statistics is None:
        plan = weight_plan(graph, target) if target.artifact.holds_integers else float_plan(graph, target)
    else:
        effort = options.effort if options.refine else None
        plan = integer_plan(graph, statistics, target, options.method, effort, options.goal, progress)
        if target.artifact.runtime in AGREEING and target.quantization.scales == "any":
            plan = agreed(graph.graph, plan)
    return assign(graph, plan, target.artifact.io_layout) if target.artifact.format == "tflite" else plan


def write(graph: ir.Model, plan: Plan, target: Target, preprocess: Preprocess | None = None) -> Written:
    """Apply the plan. A .tflite carries its signature and preprocessing as metadata. Raises ModelError EW-Q002 for another graph's plan."""
    missing = set(plan.encodings) - {name for value in _values(graph) if (name := value.name)}
    if missing:
        raise ModelError(
            "EW-Q002",
            f"the plan has encodings of values that the graph lacks: {sorted(missing)[:3]}",
            fix="plan this model again",
        )
    from exporter.bundle.signature import encodings_of, signature

    if target.artifact.format == "onnx":
        from exporter.backends.onnx.writer import onnx_artifact

        file = onnx_artifact(graph, plan, target)
        encodings = encodings_of(graph, plan)
        written = Written(Content((file.content,)), ".onnx", encodings=encodings, beside=dict(file.beside))
    else:
        from exporter.backends.tflite.writer import write_tflite
        from exporter.bundle.mobile import METADATA_NAME, metadata_json

        facts = metadata_json(*signature(graph, plan), preprocess.to_dict() if preprocess is not None else None)
        made = write_tflite(
            graph,
            plan,
            description=f"edgewright artifact for {target.name}",
            metadata={METADATA_NAME: facts},
            # A compiler orders for itself.
            kernels=target.memory.scratch if target.artifact.runtime == "tflite-micro" and target.compile is None else None,
        )
        written = Written(
            made.file,
            ".tflite",
            dict(made.layouts),
            encodings_of(graph, plan),
            made.emitted,
            made.release,
            dict(made.transposed),
        )
    return written


def check_limits(written: Written, target: Target, model: str) -> None:
    """Memory and runtime floor. Raises TargetError EW-T003 with the numbers, EW-T005 with the operators that are too young."""
    from exporter.backends.tflite.floor import require_floor
    from exporter.fitting import require_predicted

    require_predicted(written, target, model)
    floor = floor_of(target)
    if floor is not None:
        require_floor(written.emitted, floor, target.name)
        if written.release and not floor.covers(written.release):
            raise TargetError(
                "EW-T005",
                f"the artifact needs TFLite {written.release}, target {target.name} promises {floor}",
                why=f"its {written.file.size:,} bytes are more than a flatbuffer holds: the weights lie behind it",
                fix="raise the floor, or hold the weights in fewer bits (--precision)",
            )


def compile_artifact(built: Built, options: Options = Options(), progress: Progress = SILENT) -> Built:
    """What the target's compiler makes of the artifact; where it is absent the artifact stands alone, with how to get it.

    So it does where a compiler that is optional fails, with the reason.

    Raises CompilerFailure: EW-R006 it is absent and required, EW-R007 it refused, EW-R008 it crashed, EW-R009 it took too long.
    Raises TargetError: EW-T003, what it made does not fit the target's memory.
    """
    from exporter.compilers import compile_for, how_to_get
    from exporter.fitting import require_compiled

    table = built.target.compile
    if table is None:
        return built
    absent = how_to_get(table)
    required = table.required or options.require_compiler
    if absent and not required:
        progress.warn(f"{built.target.name}: {absent}")
        return replace(built, not_compiled=absent)
    with progress.stage(f"compile with {table.compiler}"):
        try:
            compiled = compile_for(built.artifact, table)
        except CompilerFailure as error:
            if required or not table.optional:
                raise
            failed = "; ".join(filter(None, [f"not compiled: {error.what} ({error.code})", *error.why.splitlines()]))
            progress.warn(f"{built.target.name}: {failed}")
            return replace(built, not_compiled=failed)
    require_compiled(compiled, built.target, built.source.name)
    return replace(built, compiled=compiled)


def _values(graph: ir.Model) -> Sequence[ir.Value]:
    return [
        *graph.graph.inputs,
        *graph.graph.initializers.values(),
        *(value for node in graph.graph for value in node.outputs),
    ]
