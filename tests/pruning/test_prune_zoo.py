"""Pruning real trained networks: the cut is exact, the numbers are right, and what comes out is an ordinary model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
from pruning_graphs import difference, exact_difference, silence, some_of_each

from exporter.frontends import Source
from exporter.graph.passes import canonicalize, check, legalize
from exporter.graph.values import attribute, static_shape
from exporter.pruning import Pruned, find_groups, prune, replay
from exporter.pruning.cut import cut

EXACT = 1e-11  # float64 sums in another order, of the greatest output; measured: at most 3e-14
ROUNDING = 1e-5  # the same in float32; measured: at most 1e-6
CONSTANTS = 2e-5  # legalizing brings in constants like 1/6 that float32 rounds; measured: at most 2e-6

# Of the channels that convolutions and matrix products make: the share that pruning may touch. The rest makes the models' outputs.
PRUNABLE = {"efficientnet_lite0": 0.92, "digit_cnn": 0.97, "mtcnn_onet": 0.97, "yolox_char": 0.99, "ocr_det": 0.999}


@pytest.fixture
def network(zoo_model: Source) -> ir.Model:
    return canonical_of(zoo_model.name, lambda: canonicalize(zoo_model.model))


_MODELS: dict[str, ir.Model] = {}


def canonical_of(name: str, make: Callable[[], ir.Model]) -> ir.Model:
    if name not in _MODELS:
        _MODELS[name] = make()
    return _MODELS[name]


@cache
def pruned_of(name: str) -> Pruned:
    return prune(_MODELS[name], macs=0.8, tile=8)


def convolution_macs(model: ir.Model) -> int:
    """MACs by the textbook, from weights and shapes alone: apart from the operators' own cost rule."""
    total = 0
    for node in model.graph:
        weight = static_shape(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else ()
        out = static_shape(node.outputs[0])
        if node.op_type == "Conv":
            total += int(np.prod(out)) * int(np.prod(weight[1:]))
        elif node.op_type == "ConvTranspose":
            total += int(np.prod(static_shape(node.inputs[0]))) * int(np.prod(weight[1:]))
        elif node.op_type in ("Gemm", "MatMul"):
            depth = weight[1] if attribute(node, "transB", 0) else weight[-2]
            total += int(np.prod(out)) * depth
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_cutting_what_nothing_reads_leaves_the_outputs(network: ir.Model, seed: int) -> None:
    groups = find_groups(network)
    removed = some_of_each(groups, seed, share=0.3)
    silenced, smaller = silence(network, groups, removed), cut(network, groups, removed)
    assert exact_difference(network, silenced) > 1e-3, "the channels counted before: the comparison says something"
    assert exact_difference(silenced, smaller) <= EXACT
    assert difference(silenced, smaller) <= ROUNDING


def test_most_channels_are_prunable(network: ir.Model, zoo_model: Source) -> None:
    groups = find_groups(network)
    assert groups.prunable / groups.produced >= PRUNABLE[zoo_model.name], groups.blocked


def test_a_pruned_network_meets_its_goal_in_whole_tiles(network: ir.Model, zoo_model: Source) -> None:
    pruned = pruned_of(zoo_model.name)
    assert pruned.macs_before == convolution_macs(network)
    assert pruned.macs_after == convolution_macs(pruned.model) <= 0.8 * pruned.macs_before
    assert all(len(indices) % 8 == 0 for indices in pruned.kept.values())
    before, after = (
        [(value.name, value.shape) for value in (*m.graph.inputs, *m.graph.outputs)] for m in (network, pruned.model)
    )
    assert before == after


def test_a_recorded_decision_gives_the_same_network(network: ir.Model, zoo_model: Source) -> None:
    pruned = pruned_of(zoo_model.name)
    again = replay(network, pruned.kept)
    assert difference(pruned.model, again) == 0.0


@pytest.mark.parametrize("runtime", ["tflite", "onnx"])
def test_a_pruned_network_legalizes(network: ir.Model, zoo_model: Source, runtime: str) -> None:
    pruned = pruned_of(zoo_model.name)
    legal = legalize(pruned.model, runtime)
    check(legal, "legalize")
    assert exact_difference(pruned.model, legal) <= CONSTANTS
