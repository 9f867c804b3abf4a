"""`calibrate` and `merge_stores`: the public calls behind ``edgewright calibrate``."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibration import Checkpoint, Preprocess, Store, open_samples
from diagnostics import DataError, TargetError, UsageError
from exporter.assumed import assumed
from exporter.bundle.staging import require_free_file
from exporter.frontends import load
from exporter.pipeline import Options, legal, prune
from exporter.pipeline import calibrate as collect
from exporter.progress import SILENT, Progress
from exporter.pruning import parse_goal
from targets.floor import lower_floors
from targets.loader import load_target
from targets.schema import Target

__all__ = ["calibrate", "merge_stores", "parse_shard"]


def calibrate(
    model: Any,
    target: str | Path | Target,
    data: Any,
    *,
    out: str | Path | None = None,
    inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    preprocess: Preprocess | Mapping[str, Any] | str | Path | None = None,
    samples: int | None = None,
    shard: tuple[int, int] = (1, 1),
    resume: bool = False,
    seconds: float = 10.0,
    pruning: str | float | None = None,
    runtime: str | None = None,
    allow_pickle: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> Store:
    """Run a model over data once; the store serves every later `export` of the same model for targets whose runtimes want the same graph.

    While it runs, what was learned so far is in ``OUT.partial``, which a later call with `resume` goes on from; the result is the same to
    the last byte.

    Args:
        model, inputs, shapes, preprocess, runtime, allow_pickle: as for `exporter.export`; so is `pruning`, its `prune`.
        target: whose graph is calibrated.
        data: see `calibration.open_samples`. All of it is used: verify with other data.
        out: where the store is written; default: nowhere.
        samples: at most so many, before sharding.
        shard: (i, n): each n-th sample, from the i-th, counted from 1. `merge_stores` joins the n stores.
        seconds: how often the partial store is written.
        force: replace a file at `out`.
    Raises:
        UsageError EW-U002, EW-U004; TargetError EW-T002, for a target that is not calibrated, and what legalizing raises; DataError: see
        `calibration.collect`.
    """
    path = Path(out) if out is not None else None
    if path is not None:
        require_free_file(path, overwrite=force)
    if path is None and resume:
        raise UsageError("EW-U002", "there is nothing to resume without a destination", fix="give --out FILE")
    profile = target if isinstance(target, Target) else load_target(target)
    if runtime is not None:
        (profile,) = lower_floors([profile], runtime)
    if not profile.artifact.calibrated:
        raise TargetError(
            "EW-T002",
            f"target {profile.name} is {profile.artifact.precision} and takes no calibration",
            fix="choose a target with integer activations",
        )
    with progress.stage("load"):
        source = load(model, inputs=inputs, shapes=shapes, allow_pickle=allow_pickle)
    goal = parse_goal(pruning).macs if isinstance(pruning, str) else pruning
    graph = legal(prune(source.model, profile, Options(prune=goal))[0], profile)
    recipe = Preprocess.read(preprocess) or source.preprocess
    chosen = open_samples(data, source.inputs, recipe, limit=samples)
    for note in assumed(recipe, chosen.preprocess):
        progress.warn(note)
    partial = path.with_name(f"{path.name}.partial") if path is not None else None
    checkpoint = Checkpoint(partial, seconds, resume) if partial is not None else None
    store = collect(graph, profile, chosen, progress, checkpoint, shard)
    assert store is not None
    if path is not None and partial is not None:
        store.save(path)
        for left in (
            partial,
            *partial.parent.glob(f".{glob.escape(partial.name)}.*"),
        ):  # the latter where a run was killed writing it
            left.unlink(missing_ok=True)
    return store


def merge_stores(paths: Sequence[str | Path], out: str | Path | None = None, *, force: bool = False) -> Store:
    """The store of the samples of all: that of one run over all of them, to the last byte.

    Raises DataError EW-D004 for a file that is none, EW-D007 where they are of other models or two of the same samples;
    UsageError EW-U001 without a file, EW-U004 where `out` exists.
    """
    if not paths:
        raise UsageError("EW-U001", "there is no store to merge", fix="give the stores of all shards")
    if out is not None:
        require_free_file(Path(out), overwrite=force)
    merged = Store.load(paths[0])
    names = {merged.data: paths[0]}  # by the digest of its samples
    for path in paths[1:]:
        store = Store.load(path)
        if store.data in names:
            raise DataError(
                "EW-D007",
                f"the stores {names[store.data]} and {path} are of the same samples",
                why="merged, they would count twice",
                fix="give each shard once",
            )
        names[store.data] = path
        merged = merged.merged(store)
    if out is not None:
        merged.save(out)
    return merged


def parse_shard(text: str) -> tuple[int, int]:
    """``"2/4"`` -> (2, 4). Raises UsageError EW-U001."""
    found = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", text)
    if found is None or int(found[1]) > int(found[2]):
        raise UsageError(
            "EW-U001", f"--shard {text} cannot be parsed", why="wanted: I/N with 1 <= I <= N", fix="for example --shard 1/4"
        )
    return int(found[1]), int(found[2])
