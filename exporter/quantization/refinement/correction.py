"""Empirical bias correction: give every quantized layer the mean output that it has in float, channel by channel.

Rounding the weights of a layer shifts the mean of each of its output channels, and the shifts add up through the network
(Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2; here in its empirical form,
appendix D). The layers are corrected one after the other, each behind those that already are: correcting all at once would count
an early layer's shift again in every layer behind it, and diverges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from calibration.reservoir import spread
from exporter.backends.onnx.qdq import insert_qdq, stored_constant
from exporter.graph.columns import by_columns, column_groups
from exporter.graph.values import constant, consumers, name_of, static_shape
from exporter.ops.base import Refused, Role, operator_of
from exporter.quantization.apply import node_name, runs_in_integers
from exporter.quantization.plan import Plan
from exporter.quantization.refinement.segments import Runner, output_means, outputs_of
from targets.schema import Target

__all__ = ["SAMPLES", "Correction", "bias_index", "correct_biases", "ensure_biases", "planned_sqnr", "sqnr"]

SAMPLES: Final = 32  # samples used at most: means settle early, and the activations of all samples are held between two layers

_Outputs = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Correction:
    """What `correct_biases` did: the plan to use, and the SQNR (dB) of the outputs on the samples before and after.

    Where nothing was gained, `plan` is the plan as it came and `after` equals `before`; both are NaN where nothing was to be done.
    """

    plan: Plan
    before: float
    after: float


def ensure_biases(model: ir.Model) -> ir.Model:
    """Give each node with a weight a bias of its own, in place: zeros where it has none, a copy where nodes share one.

    A correction needs somewhere to go, and a bias encoding belongs to one input scale. Call it before calibrating.
    """
    taken: set[ir.Value] = set()
    for node in model.graph:
        found = _bias_slot(node)
        if found is None:
            continue
        index, channels = found
        value = node.inputs[index] if index < len(node.inputs) else None
        array = constant(value)
        if value is not None and (array is None or value not in taken):
            taken.add(value)
            continue
        name = f"{node_name(node)}_bias"
        while name in model.graph.initializers:
            name += "_"
        given = np.zeros(channels, np.float32) if array is None else array
        bias = ir.val(name, const_value=ir.tensor(given, name=name))
        model.graph.register_initializer(bias)
        taken.add(bias)
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, bias)
    return model


def correct_biases(
    model: ir.Model,
    plan: Plan,
    target: Target,
    samples: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Correction:
    """Fill the plan's `corrections` from `SAMPLES` of the samples. Takes about three runs of the float model a sample.

    The corrected plan is kept only where its outputs on these samples have a higher SQNR than those of the plan as it came.

    Args:
        model: the graph that the plan was made for.
        samples: inputs by name, one sample each, as calibration saw them.
        progress: called with (layers done, layers) after each layer.
    """
    held = [dict(sample) for sample in spread(samples, SAMPLES)]
    layers = [(node, index) for node in model.graph if (index := bias_index(node, plan)) is not None]
    if not held or not layers:
        return Correction(plan, float("nan"), float("nan"))
    wanted = output_means(model, [name_of(node.outputs[0]) for node, _ in layers], held)
    inside = replace(plan, io_dtype="float32", corrections={})
    quantized = model.clone()
    insert_qdq(quantized, inside, target.quantization.activations)
    runner = Runner(quantized, held)
    corrections: dict[str, tuple[float, ...]] = {}
    for done, (node, index) in enumerate(layers, 1):
        bias = node.inputs[index]
        assert bias is not None
        shift = wanted[name_of(node.outputs[0])] - runner.mean_of(node_name(node))
        corrections[name_of(bias)] = tuple(np.float32(shift).ravel().tolist())
        inside = replace(inside, corrections=corrections)
        runner.replace(*stored_constant(node, index, inside))
        if progress is not None:
            progress(done, len(layers))
    before, after = planned_sqnr(model, [plan, inside], target, held)
    return (
        Correction(replace(plan, corrections=corrections), before, after) if after > before else Correction(plan, before, before)
    )


def bias_index(node: ir.Node, plan: Plan) -> int | None:
    """Index of the node's bias where it runs in integers and no other node uses that bias, else None."""
    if not runs_in_integers(node, plan):
        return None
    for index, rule in enumerate(operator_of(node).quantize(node).inputs[: len(node.inputs)]):
        value = node.inputs[index]
        if rule.role is Role.BIAS and value is not None and constant(value) is not None and len(consumers(value)) == 1:
            return index
    return None


def planned_sqnr(
    model: ir.Model, plans: Sequence[Plan], target: Target, samples: Sequence[Mapping[str, np.ndarray[Any, Any]]]
) -> list[float]:
    """The SQNR (dB, of the worst float output or part of one) of the graph under each of the plans beside the graph in float."""
    reference, found = outputs_of(model, samples), []
    for plan in plans:
        quantized = model.clone()
        insert_qdq(quantized, replace(plan, io_dtype="float32"), target.quantization.activations)
        found.append(sqnr(model, reference, outputs_of(quantized, samples)))
    return found


def sqnr(model: ir.Model, reference: Sequence[_Outputs], given: Sequence[_Outputs]) -> float:
    """Signal to quantization noise in dB of the worst float output, or part of one, over outputs by name, sample by sample.

    A mean would sell the score of a face for its mesh.
    """
    columns = column_groups(model)
    reference, given = ([by_columns(outputs, columns) for outputs in each] for each in (reference, given))
    ratios = []
    for name, first in reference[0].items():
        if first.dtype != np.float32:
            continue
        signal = sum(float(np.square(sample[name], dtype=np.float64).sum()) for sample in reference)
        pairs = zip(reference, given, strict=True)
        noise = sum(float(np.square(np.subtract(a[name], b[name], dtype=np.float64)).sum()) for a, b in pairs)
        ratios.append(10 * np.log10(max(signal, 1e-300) / max(noise, 1e-300)))
    return float(min(ratios, default=0.0))


def _bias_slot(node: ir.Node) -> tuple[int, int] | None:
    """Index of the bias input and number of channels of a node with a constant weight, where its operator has a bias."""
    try:
        index = operator_of(node).bias_index
    except Refused:  # an operator without rules runs in float, where the target has that
        return None
    if index is None or constant(node.inputs[1]) is None:
        return None
    return index, static_shape(node.outputs[0])[1]
