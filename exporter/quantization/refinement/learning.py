"""Learn the roundings of one block by gradient descent: which way each weight is rounded, the biases, the scales of activations.

Weights are rounded in the forward pass; what is learned is where each lies before that, moved by the sign of its gradient, so that it
gets as far as one step at most (Cheng et al. 2023, "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs";
Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", for the objective). Scales of activations are learned
through their rounding (Esser et al. 2020, "Learned Step Size Quantization"). In each step some of the activations are left unrounded
(Wei et al. 2022, "QDrop"), so that the weights do not learn the very roundings of the few samples that there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, prod
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.values import constant, consumers, name_of, static_shape
from exporter.ops.base import Refused, Role, operator_of
from exporter.quantization.apply import apply_corrections, encode_constant, read_encoding, stores_integers
from exporter.quantization.plan import Plan
from exporter.quantization.refinement.blocks import Block
from exporter.quantization.refinement.correction import bias_index
from exporter.quantization.refinement.rounding import pack_offsets
from exporter.quantization.rescaling import free_groups, rescaled
from exporter.quantization.simulate import Planned, compute, fake_quantize

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Recipe", "Samples", "learnable_weight", "learned"]


_VECTORS: Final = 2  # vectors for each input of a weight's row, at least


@dataclass(frozen=True)
class Recipe:
    """How a block is learned.

    Attributes:
        steps: gradient steps.
        positions: output elements a channel that one step looks at, at least; it takes as many samples as that needs, 32 at most.
        rounding: how far a weight moves in the first step, in steps of its scale; less in each later one, linearly down to nothing.
        bias: the same of a bias, in parts of the mean magnitude of its layer's.
        scale: the same of an activation's scale, as a logarithm; 0: scales stay as they are.
        dropped: share of the activations that a step leaves unrounded.
    """

    steps: int = 100
    positions: int = 2048
    rounding: float = 0.004
    bias: float = 0.001
    scale: float = 0.01
    dropped: float = 0.5


def learnable_weight(node: ir.Node, plan: Plan) -> int | None:
    """Index of the weight of a node that holds it as integers and shares it with no other node, else None."""
    if not stores_integers(node, plan):
        return None
    try:
        rules = operator_of(node).quantize(node).inputs
    except Refused:
        return None
    for index, (rule, value) in enumerate(zip(rules, node.inputs, strict=False)):
        if rule.role is Role.WEIGHT and value is not None and constant(value) is not None and len(consumers(value)) == 1:
            return index if read_encoding(node, index, plan) is not None else None
    return None


def learned(
    graph: ir.Graph,
    block: Block,
    plan: Plan,
    samples: Samples,
    limits: Mapping[str, int],
    *,
    seed: int,
    recipe: Recipe = Recipe(),
) -> Plan:
    """`plan` with what was learned for a block, or as it came where that does not lower the error of the samples held back.

    Args:
        graph: the graph that the plan was made for; `block` is a part of it.
        limits: greatest integer of weights, by dtype.
    """
    import torch

    free = free_groups(graph, plan, block.nodes) if recipe.scale else {}
    form = _Learning(block, plan, free, samples, limits, recipe)
    if not form.parameters or not len(samples.seen):
        return plan
    _descend(block, form, samples, torch.Generator(samples.device).manual_seed(seed), recipe)
    found = form.result(graph)
    before, after = (_error(block, Planned(each, samples.device), samples, samples.back) for each in (plan, found))
    return found if after < before else plan


@dataclass(frozen=True)
class Samples:
    """What a block sees in calibration. All tensors are [samples, *shape], by value name.

    Attributes:
        given: what the block reads, as the plan makes it in front of the block.
        real: the same in the float graph.
        wanted: what the block writes in the float graph.
        seen, back: numbers of the samples to learn from, and of those held back to judge by.
    """

    given: Mapping[str, Tensor]
    real: Mapping[str, Tensor]
    wanted: Mapping[str, Tensor]
    seen: Tensor
    back: Tensor

    @cached_property
    def variances(self) -> Mapping[str, Tensor]:
        """Of each real value in `wanted`."""
        return {name: tensor.var().clamp(min=1e-30) for name, tensor in self.wanted.items() if tensor.is_floating_point()}

    @property
    def device(self) -> str:
        return str(self.seen.device)


class _Learning(Planned):
    """A plan with the roundings of a block on their way.

    Attributes:
        parameters: what is learned, each with the reach of its first step.
        drop: share of the activations that stay unrounded, and what draws them; None rounds all.
    """

    def __init__(
        self,
        block: Block,
        plan: Plan,
        groups: Mapping[str, Sequence[str]],
        samples: Samples,
        limits: Mapping[str, int],
        recipe: Recipe,
    ) -> None:
        import torch

        super().__init__(plan, samples.device)
        self.parameters: list[tuple[Tensor, float]] = []
        self.drop: tuple[float, Generator] | None = None
        self._weights: dict[tuple[ir.Node, int], tuple[Tensor, Tensor, int]] = {}
        self._biases: dict[tuple[ir.Node, int], tuple[Tensor, Tensor]] = {}
        self._roots = {name: root for root, names in groups.items() for name in names}
        self._factors = {root: self._parameter(torch.zeros(()), recipe.scale) for root in groups}
        for node in block.nodes:
            index = learnable_weight(node, plan)
            if index is not None and _is_determined(node, index, len(samples.seen)):
                self._weigh(node, index, limits, recipe)
            index = bias_index(node, plan)
            if index is not None:
                base = super().constant(node, index)
                self._biases[node, index] = base, self._parameter(torch.zeros_like(base), recipe.bias)

    def constant(self, node: ir.Node, index: int) -> Tensor:
        import torch

        if (node, index) in self._weights:
            place, scale, limit = self._weights[node, index]
            inside = place.clamp(-limit, limit)
            return (inside + (torch.round(inside) - inside).detach()) * scale
        if (node, index) in self._biases:
            base, shift = self._biases[node, index]
            return base + shift * base.abs().mean().clamp(min=1e-6)
        return super().constant(node, index)

    def store(self, value: ir.Value, tensor: Tensor) -> Tensor:
        name = name_of(value)
        if name not in self._roots:
            return self.mixed(super().store(value, tensor), tensor)
        factor = self._factors[self._roots[name]].clamp(max=0.0).exp()
        return self.mixed(fake_quantize(tensor, self.plan.encodings[name], factor), tensor)

    def mixed(self, rounded: Tensor, real: Tensor) -> Tensor:
        """What is rounded, with the share that `drop` says taken from what is not."""
        import torch

        if self.drop is None or rounded is real or not real.is_floating_point():
            return rounded
        share, generator = self.drop
        return torch.where(torch.rand(real.shape, generator=generator, device=real.device) < share, real, rounded)

    def result(self, graph: ir.Graph) -> Plan:
        """The plan with everything as it is now."""
        import torch

        roundings, corrections, encodings = dict(self.plan.roundings), dict(self.plan.corrections), {}
        with torch.no_grad():
            for (node, index), (place, _, limit) in self._weights.items():
                value, encoding = node.inputs[index], read_encoding(node, index, self.plan)
                assert value is not None
                assert encoding is not None
                integers = np.asarray(place.round().clamp(-limit, limit).cpu(), np.int64)
                nearest = encoding.quantize(apply_corrections(np.asarray(constant(value)), self.plan, name_of(value)))
                roundings[name_of(value)] = pack_offsets(integers, nearest)
            for node, index in self._biases:
                value = node.inputs[index]
                assert value is not None
                shift = np.asarray(self.constant(node, index).cpu()) - np.asarray(constant(value))
                corrections[name_of(value)] = tuple(np.float32(shift).ravel().tolist())
            for name, root in self._roots.items():
                encoding = self.plan.encodings[name]
                scale = float(np.float32(encoding.scale[0] * exp(min(float(self._factors[root]), 0.0))))
                encodings[name] = replace(encoding, scale=(scale,))
        return rescaled(graph, replace(self.plan, roundings=roundings, corrections=corrections), encodings)

    def _weigh(self, node: ir.Node, index: int, limits: Mapping[str, int], recipe: Recipe) -> None:
        """A weight begins half way from its integer to the real number, so that it can go on to that or back."""
        import torch

        integers, encoding = encode_constant(node, index, self.plan)
        scale = encoding.dequantize(np.ones(integers.shape, np.int8))
        real = np.asarray(constant(node.inputs[index])) / scale
        place = integers + np.clip((real - integers) / 2, -0.45, 0.45)
        parameter = self._parameter(torch.from_numpy(place.astype(np.float32)), recipe.rounding)
        self._weights[node, index] = parameter, torch.from_numpy(scale).to(self.device), limits[encoding.dtype]

    def _parameter(self, start: Tensor, reach: float) -> Tensor:
        parameter = start.to(self.device).requires_grad_()
        self.parameters.append((parameter, reach))
        return parameter


def _is_determined(node: ir.Node, index: int, samples: int) -> bool:
    """Whether samples hold enough of what a node multiplies with each channel of its weight to tell good roundings from lucky ones."""
    weight = constant(node.inputs[index])
    rule = operator_of(node).quantize(node).inputs[index]
    assert weight is not None
    channels = weight.shape[rule.axis] if rule.axis is not None else 1
    return samples * prod(static_shape(node.outputs[0])) / channels >= _VECTORS * weight.size / channels


def _descend(block: Block, form: _Learning, samples: Samples, generator: Generator, recipe: Recipe) -> None:
    """Move the parameters by the signs of their gradients, less far in each step."""
    import torch

    size = _batch(samples, recipe)
    form.drop = (recipe.dropped, generator) if recipe.dropped else None
    parameters = [parameter for parameter, _ in form.parameters]
    for step in range(recipe.steps):
        order = torch.randperm(len(samples.seen), generator=generator, device=samples.device)[:size]
        numbers = samples.seen[order]
        values = {name: form.mixed(tensor[numbers], samples.real[name][numbers]) for name, tensor in samples.given.items()}
        compute(block.nodes, values, form)
        gradients = torch.autograd.grad(_loss(values, samples, numbers), parameters)
        with torch.no_grad():
            for (parameter, reach), gradient in zip(form.parameters, gradients, strict=True):
                parameter -= reach * (1 - step / recipe.steps) * gradient.sign()
    form.drop = None


def _batch(samples: Samples, recipe: Recipe) -> int:
    """How many samples have as many positions as a step looks at."""
    positions = max(tensor[0].numel() // max(tensor.shape[2] if tensor.dim() > 2 else 1, 1) for tensor in samples.wanted.values())
    return min(32, len(samples.seen), -(-recipe.positions // positions))


def _loss(values: Mapping[str, Tensor], samples: Samples, numbers: Tensor) -> Tensor:
    """Squared error of what the block writes, in parts of its variance."""
    import torch

    terms = [
        (values[name] - samples.wanted[name][numbers]).square().mean() / variance for name, variance in samples.variances.items()
    ]
    return torch.stack(terms).sum()


def _error(block: Block, form: Planned, samples: Samples, numbers: Tensor) -> float:
    import torch

    total = 0.0
    with torch.no_grad():
        for number in numbers[:, None]:
            values = {name: tensor[number] for name, tensor in samples.given.items()}
            compute(block.nodes, values, form)
            total += float(_loss(values, samples, number))
    return total
