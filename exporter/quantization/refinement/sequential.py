"""Fit and round the weights of a network layer by layer, each behind those that already run in integers.

For each layer the float network says which outputs it should have at some positions of the calibration samples, the integer network which
inputs it really gets there. The weights are moved a little so that they make up for what the layers in front have lost, rounded together
(`rounding.round_rows`), and the bias takes what is left in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Final

import numpy as np
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from calibration.reservoir import spread
from exporter.backends.onnx.qdq import insert_qdq, stored_constant
from exporter.graph.run import FloatRunner
from exporter.graph.values import constant, consumers, name_of
from exporter.quantization.apply import node_name, read_encoding, stores_integers
from exporter.quantization.plan import Plan
from exporter.quantization.ranges import greatest_weight
from exporter.quantization.refinement.correction import Correction, bias_index, sqnr
from exporter.quantization.refinement.rounding import Array, pack_offsets, round_rows, rounding_error
from exporter.quantization.refinement.segments import Runner, outputs_of
from exporter.quantization.refinement.vectors import Layer, layer_of
from targets.schema import Target

__all__ = ["CLOSE", "FAST", "Look", "round_weights"]

_WIDEST: Final = 2048  # inputs rounded together: time grows with the third power of their number, memory with the second
_JUDGED: Final = 64  # rows of a layer on which a damping is tried
# Weight of staying at the float weights, in parts of the moment's diagonal. On efficientnet-lite0, 1 follows the samples' noise and loses
# 2 dB on other photos, 10 to 30 gain 1 to 1.5 dB over no fit.
_RIDGE: Final = 30.0
_LEAST_ALIKE: Final = 0.5  # of a layer's outputs that are what is wanted: where less is, no factor mends them


@dataclass(frozen=True)
class Look:
    """How closely layers are looked at.

    Attributes:
        samples: used at most; the integer activations of all of them are held between two layers.
        vectors: input vectors a layer is judged on: fewest, how many an input of the layer, most.
        dampings: what may be added to the diagonal of a layer's moment, in parts of its mean. The more, the less the rounding of one
            weight follows what its neighbours' inputs have in common on the samples; inputs that were silent there keep their weights.
        widest: layers with more inputs keep their weights rounded to nearest, and have their biases corrected.
        judged: samples of these on which the outputs are compared at the end.
    """

    samples: int
    vectors: tuple[int, int, int]
    dampings: tuple[float, ...]
    widest: float = inf
    judged: int = 64


# Behind few positions of few samples, the best damping is a hundred times that of an early layer: 0.8 dB in 4 bits, on other photos.
CLOSE: Final = Look(64, (1024, 8, 4096), (0.02, 0.2, 2.0))
# Rounding loses most where few weights make an output, and there fitting them takes least: depthwise layers, the first, expansions. Samples
# differ more than the places of one do: for the same vectors, many of them are looked at in few places.
FAST: Final = Look(24, (120, 5, 1024), (0.2,), 128, 6)


@dataclass(frozen=True)
class _Work:
    layer: Layer
    bias: int | None  # index of the bias input, where the layer has one of its own
    positions: Array  # [samples, count], where to look
    wanted: list[Array]  # float outputs at these positions, by sample


def round_weights(
    model: ir.Model,
    plan: Plan,
    target: Target,
    samples: Iterable[Mapping[str, Array]],
    *,
    look: Look = CLOSE,
    progress: Callable[[int, int], None] | None = None,
) -> Correction:
    """Fill the plan's `roundings` and `corrections`; no encoding changes.

    Takes three runs of the model a sample and, for each layer with n inputs and m outputs, arithmetic of the order n^2 (n + m).
    The result is kept only where the outputs on these samples have a higher SQNR than those of the plan as it came.
    The same samples give the same bits whatever the number of threads.

    Args:
        model: the graph that the plan was made for.
        samples: inputs by name, one sample each, as calibration saw them.
        progress: called with (layers done, layers) after each layer.
    """
    held = [dict(sample) for sample in spread(samples, look.samples)]
    layers = [layer for node in model.graph if (layer := _roundable(node, plan)) is not None]
    if not held or not layers:
        return Correction(plan, float("nan"), float("nan"))
    with threadpool_limits(limits=1, user_api="blas"):
        works, reference = _wanted(model, plan, layers, held, look.vectors)
        return _rounded(model, plan, target, works, held, reference, look, progress)


def _rounded(
    model: ir.Model,
    plan: Plan,
    target: Target,
    works: list[_Work],
    held: list[dict[str, Array]],
    reference: list[dict[str, Array]],
    look: Look,
    progress: Callable[[int, int], None] | None,
) -> Correction:
    inside = replace(plan, io_dtype="float32")
    quantized = model.clone()
    insert_qdq(quantized, inside, target.quantization.activations)
    judges = spread(range(len(held)), look.judged)
    wished = [reference[index] for index in judges]
    before = sqnr(model, wished, outputs_of(quantized, [held[index] for index in judges]))
    runner = Runner(quantized, held)
    reduced = target.quantization.weights_range == "reduced"
    roundings, corrections = dict(plan.roundings), dict(plan.corrections)
    for done, work in enumerate(works, 1):
        node, layer = work.layer.node, work.layer
        weight, encoding = node.inputs[1], read_encoding(node, 1, plan)
        assert weight is not None
        assert encoding is not None
        given: list[Array] = []
        look_at = layer.looking(work.positions)
        runner.inputs_of(node_name(node), lambda i, x, to=given, see=look_at: to.append(see(i, x)))  # type: ignore[misc]
        inputs, outputs = (np.concatenate(parts, axis=-1, dtype=np.float64) for parts in (given, work.wanted))
        work.wanted.clear()
        scale = np.asarray(encoding.scale, np.float64).reshape((1, 1, 1) if encoding.axis is None else (*layer.rows.shape[:2], 1))
        limit = greatest_weight(encoding.dtype, reduced=reduced)
        middle, wanted = inputs.mean(axis=-1, keepdims=True), outputs.mean(axis=-1, keepdims=True)
        if layer.rows.shape[2] <= look.widest:
            if work.bias is not None:  # it takes the mean, so that only the variance counts
                inputs -= middle
                outputs -= wanted
            integers = _fit(layer.rows, inputs, outputs, scale, limit, look.dampings)
            nearest = encoding.quantize(np.asarray(constant(weight)))
            roundings[name_of(weight)] = pack_offsets(layer.weight(integers), nearest)
        else:
            integers = np.clip(np.rint(layer.rows / scale), -limit, limit)
        bias = node.inputs[work.bias] if work.bias is not None else None
        if bias is not None:
            left = wanted - np.matmul(integers * scale, middle)
            corrections[name_of(bias)] = tuple((left.ravel() - np.asarray(constant(bias)).ravel()).astype(np.float32).tolist())
        inside = replace(inside, roundings=roundings, corrections=corrections)
        for index in (1, work.bias):
            value = node.inputs[index] if index is not None else None
            if index is not None and value is not None:
                runner.replace(*stored_constant(node, index, inside))
        if progress is not None:
            progress(done, len(works))
    reached = runner.outputs()
    after = sqnr(model, wished, [reached[index] for index in judges])
    kept = replace(plan, roundings=roundings, corrections=corrections)
    return Correction(kept, before, after) if after > before else Correction(plan, before, before)


def _roundable(node: ir.Node, plan: Plan) -> Layer | None:
    """The layer where it runs in integers and no other node reads its weight."""
    layer = layer_of(node) if stores_integers(node, plan) else None
    if layer is None or read_encoding(node, 1, plan) is None:
        return None
    alone = len(consumers(node.inputs[1])) == 1  # type: ignore[arg-type]
    return layer if alone and f"{node_name(node)}:1" not in plan.requantize else None


def _wanted(
    model: ir.Model, plan: Plan, layers: list[Layer], held: list[dict[str, Array]], vectors: tuple[int, int, int]
) -> tuple[list[_Work], list[dict[str, Array]]]:
    """The float network's outputs of all layers, at the positions that are looked at, and its own outputs: one run a sample."""
    fewest, each, most = vectors
    works = []
    for layer in layers:
        total = min(max(fewest, each * layer.rows.shape[2]), most)
        works.append(_Work(layer, bias_index(layer.node, plan), layer.positions(len(held), -(-total // len(held))), []))
    ends = [name_of(value) for value in model.graph.outputs]
    run, reference = FloatRunner(model, list(dict.fromkeys([*(name_of(layer.node.outputs[0]) for layer in layers), *ends]))), []
    for index, sample in enumerate(held):
        found = run(sample)
        for work in works:
            array = found[name_of(work.layer.node.outputs[0])]
            work.wanted.append(work.layer.outputs(array, work.positions[index]))
        reference.append({name: found[name] for name in ends})
    return works, reference


def _fit(rows: Array, vectors: Array, residual: Array, scale: Array, limit: int, dampings: tuple[float, ...]) -> Array:
    """Integers for the rows of a layer.

    Inputs that come later also make up for what rounding the earlier ones did, where there are more than fit into one moment.

    Args:
        rows: [groups, outputs, inputs].
        vectors: float64 [groups, inputs, vectors], as the integer network has them, sample by sample: in float32, sums depend on the
            processor's kernels, and what is rounded near a tie would too.
        residual: float64 [groups, outputs, vectors], what the float network makes of them; it is overwritten.
        scale: [groups, outputs, 1] or [1, 1, 1].
        dampings: as `Look` has them.
    """
    residual -= np.matmul(rows, vectors)
    integers, count = np.empty_like(rows), vectors.shape[2]
    for start in range(0, rows.shape[2], _WIDEST):
        part = slice(start, start + _WIDEST)
        given = vectors[:, part]
        cut = count // 2 if len(dampings) > 1 else count  # one half tries dampings on the other
        halves = [_moment(given[:, :, :cut]), _moment(given[:, :, cut:])]
        seen = (halves[0] * cut + halves[1] * (count - cut)) / count
        moment = _shrunk(seen, count)
        diagonal = np.diagonal(moment, axis1=1, axis2=2)
        strength = np.maximum(diagonal.mean(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
        pull = _raised(moment, _RIDGE * (diagonal + 0.1 * strength))
        cross = np.matmul(residual, given.swapaxes(1, 2)) / count
        fitted = rows[:, :, part] + np.linalg.solve(pull, cross.swapaxes(1, 2)).swapaxes(1, 2)
        fitted *= _amplification(fitted, rows[:, :, part], seen, cross)
        damping = _carrying(fitted, halves, cut, scale, limit, dampings)
        integers[:, :, part] = round_rows(fitted, _damped(moment, damping), scale, limit)
        if part.stop < rows.shape[2]:
            residual += np.matmul((rows[:, :, part] - integers[:, :, part] * scale), given)
    return integers


def _amplification(fitted: Array, rows: Array, moment: Array, cross: Array) -> float:
    """The factor of a layer's fitted rows with which its outputs are nearest to what is wanted.

    Noise in the inputs of a fit draws it towards zero (regression dilution: Fuller 1987, "Measurement Error Models", section 1.1), and `_RIDGE`
    keeps it from following where all outputs have faded: a little in each layer, two per cent behind fifty. One number a layer is known well
    from few vectors.

    Args:
        moment: of the inputs [groups, inputs, inputs].
        cross: of what is left to make up for and the inputs [groups, outputs, inputs].
    """
    wanted = float((fitted * (cross + np.matmul(rows, moment))).sum())
    reached = float((fitted * np.matmul(fitted, moment)).sum())
    return wanted / reached if wanted > _LEAST_ALIKE * reached else 1.0


def _carrying(rows: Array, halves: list[Array], vectors: int, scale: Array, limit: int, dampings: tuple[float, ...]) -> float:
    """The damping with which rounding by the vectors of one half of the samples does best on those of the other, for some of the rows.

    Vectors of one sample are alike: what they have in common by chance is far from what so many independent ones would have.
    """
    if len(dampings) == 1 or not vectors:
        return dampings[-1]
    some = spread(range(rows.shape[1]), _JUDGED)
    few, steps = rows[:, some], scale[:, some] if scale.shape[1] > 1 else scale
    known, other = _shrunk(halves[0], vectors), halves[1]

    def error(damping: float) -> float:
        return float(rounding_error(few, round_rows(few, _damped(known, damping), steps, limit), other, steps).sum())

    return min(dampings, key=error)


def _moment(vectors: Array) -> Array:
    """float64 [groups, inputs, inputs]: the second moment of vectors [groups, inputs, vectors]; zeros where there are none."""
    return np.asarray(np.matmul(vectors, vectors.swapaxes(1, 2)) / max(vectors.shape[2], 1))


def _damped(moment: Array, damping: float) -> Array:
    diagonal = np.diagonal(moment, axis1=1, axis2=2)
    strength = np.maximum(diagonal.mean(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    return _raised(moment, damping * strength)


def _shrunk(moment: Array, vectors: int) -> Array:
    """The moment drawn towards its diagonal, as far as so few vectors make its correlations uncertain.

    The oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero 2010, "Shrinkage Algorithms for MMSE Covariance Estimation",
    equation 23, on the matrix of correlations.
    """
    size = moment.shape[1]
    diagonal = np.diagonal(moment, axis1=1, axis2=2)
    spread = np.sqrt(np.maximum(diagonal, np.finfo(np.float32).tiny))
    squares = np.square(moment / (spread[:, :, None] * spread[:, None, :])).sum(axis=(1, 2))
    share = ((1 - 2 / size) * squares + size**2) / ((vectors + 1 - 2 / size) * np.maximum(squares - size, 1e-9))
    share = np.clip(share, 0.0, 1.0)[:, None]
    return _raised(moment * (1 - share[:, :, None]), share * diagonal)


def _raised(moment: Array, by: Array) -> Array:
    """The moment with `by` [groups, inputs or 1] added to its diagonal."""
    raised = moment.copy()
    np.einsum("gii->gi", raised)[...] += by  # a view
    return raised
