"""Learned rounding: block by block through the graph, each behind those that already are as they will be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import onnx_ir as ir

from calibration.reservoir import spread
from diagnostics import UsageError
from exporter.graph.values import name_of
from exporter.quantization.plan import Plan
from exporter.quantization.ranges import greatest_weight
from exporter.quantization.refinement.blocks import Block, blocks_of
from exporter.quantization.refinement.correction import Correction, planned_sqnr
from exporter.quantization.refinement.learning import Recipe, Samples, learnable_weight, learned
from exporter.quantization.refinement.rounding import Array
from exporter.quantization.simulate import Float, Form, Planned, compute
from targets.schema import Target

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["learn_roundings", "require_torch", "split"]

_T = TypeVar("_T")

_SAMPLES: Final = 64  # samples used at most: what goes on between two blocks is held for all of them
_HELD: Final = 8  # every so many-th sample judges what was learned from the others

_CHUNK: Final = 8  # samples that run at once


def require_torch() -> None:
    """Raise UsageError EW-U005 where torch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "EW-U005", "--effort best needs torch", fix="pip install 'edgewright[torch]', or --effort balanced"
        ) from error


def split(samples: Sequence[_T]) -> tuple[list[_T], list[_T]]:
    """Samples to learn from, and those held back to judge by: every eighth, the first one among them."""
    return [sample for number, sample in enumerate(samples) if number % _HELD], list(samples[::_HELD])


def learn_roundings(
    model: ir.Model,
    plan: Plan,
    target: Target,
    samples: Iterable[Mapping[str, Array]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Correction:
    """Learn which way weights are rounded, biases and scales of activations, so that each block's output is nearest to the float one.

    Begins with the roundings and corrections of `plan`. Reads 64 samples, images also mirrored; every eighth is held back: a block's result
    is kept only where its error on those is lower, all of it only where the outputs on those have a higher SQNR. The same samples give the
    same bits whatever the number of threads, on the same kind of processor.

    Args:
        model: the graph that the plan was made for.
        samples: inputs by name, one sample each, as calibration saw them.
        progress: called with (blocks done, blocks) after each block.
    Raises:
        UsageError: EW-U005, torch is not installed.
    """
    require_torch()
    seen, back = split([dict(sample) for sample in spread(samples, _SAMPLES)])
    layers = [node for node in model.graph if learnable_weight(node, plan) is not None]
    if not seen or not layers:
        return Correction(plan, float("nan"), float("nan"))
    with _reproducible() as device:
        blocks = blocks_of(model.graph, layers)
        found = _walk(model.graph, plan, target, blocks, [*seen, *map(_mirrored, seen)], back, device, progress)
    before, after = planned_sqnr(model, [plan, found], target, back)
    return Correction(found, before, after) if after > before else Correction(plan, before, before)


def _mirrored(sample: Mapping[str, Array]) -> dict[str, Array]:
    """A sample with its images the other way round: the float network says what is right of them too, so they need no label."""
    return {name: array[..., ::-1] if array.ndim == 4 and array.dtype.kind == "f" else array for name, array in sample.items()}


def _walk(
    graph: ir.Graph,
    plan: Plan,
    target: Target,
    blocks: list[Block],
    seen: list[dict[str, Array]],
    back: list[dict[str, Array]],
    device: str,
    progress: Callable[[int, int], None] | None,
) -> Plan:
    import torch

    reduced = target.quantization.weights_range == "reduced"
    limits = {dtype: greatest_weight(dtype, reduced=reduced) for dtype in ("int8", "int4")}
    recipe = Recipe() if target.quantization.scales == "any" else Recipe(scale=0.0)
    inputs = [name_of(value) for value in graph.inputs]
    real = {name: torch.from_numpy(np.stack([sample[name] for sample in (*seen, *back)])).to(device) for name in inputs}
    given = dict(real)
    numbers = torch.arange(len(seen) + len(back), device=device)
    for done, block in enumerate(blocks, 1):
        wanted = _through(block, real, Float(device))
        reads = [{name: values[name] for name in block.reads} for values in (given, real)]
        samples = Samples(reads[0], reads[1], wanted, numbers[: len(seen)], numbers[len(seen) :])
        plan = learned(graph, block, plan, samples, limits, seed=done, recipe=recipe)
        given |= _through(block, given, Planned(plan, device))
        real |= wanted
        wanting = {name for later in blocks[done:] for name in later.reads}
        given, real = ({name: values[name] for name in values if name in wanting} for values in (given, real))
        if progress is not None:
            progress(done, len(blocks))
    return plan


def _through(block: Block, values: Mapping[str, Tensor], form: Form) -> dict[str, Tensor]:
    """What a block writes, [samples, *shape] by name."""
    import torch

    parts = []
    count = len(next(iter(values.values())))
    with torch.no_grad():
        for start in range(0, count, _CHUNK):
            some = {name: values[name][start : start + _CHUNK] for name in block.reads}
            compute(block.nodes, some, form)
            parts.append({name: some[name] for name in block.writes})
    return {name: torch.cat([part[name] for part in parts]) for name in block.writes}


@contextmanager
def _reproducible() -> Iterator[str]:
    """The device to learn on, with what would make two runs differ switched off: torch adds up in another order on other threads."""
    import torch

    threads, tf32, chosen = torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    try:
        yield "cuda" if torch.cuda.is_available() else "cpu"
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = tf32, chosen
