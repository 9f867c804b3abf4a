"""The scale of each group of channels that promises the least error, from what a few samples show of its values.

Scales are peak^a / weight^b: all channels get one range with 1, 0; with 0.5, 0.5 values and weights share the difficulty, as in cross-layer
equalization (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", equation 11) and SmoothQuant (Xiao
et al. 2022, equation 4). Which exponents are best depends on both; the expected noise of what is read tells. Where weights have one scale a
tensor, those that make the values share it too: theirs are divided by what the readers' are multiplied with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import log10
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from exporter.graph.float_sums import runs_in_float
from exporter.graph.run import FloatRunner
from exporter.graph.values import attribute, constant, fused_activation, name_of, static_shape
from exporter.ops.base import operator_of
from exporter.quantization.equalization.channels import Absorber, Group, Run, channel_groups

__all__ = ["best_scales"]

Array = np.ndarray[Any, Any]

_EXPONENTS: Final = tuple(product((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5)))
_OF_WRITERS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_LEAST: Final = 1e-3  # of the greatest peak or weight: channels below are as good as silent
_FAINT: Final = 1e-2  # of the mean energy: rows below (padding, silence) are not what is judged
_STEPS: Final = 255


def best_scales(
    model: ir.Model, samples: Sequence[Mapping[str, Array]], per_channel: bool = True
) -> dict[str, tuple[float, tuple[float, ...]]]:
    """For each group that is rounded: the expected gain in dB of the best scale that was tried, and that scale, by the group's name.

    Args:
        per_channel: whether weights have a scale for each output channel, or one a tensor.
    """
    groups = list(channel_groups(model.graph)) if samples else []
    problems = {group.name: problem for group in groups if (problem := _Problem(group, per_channel)).rounded}
    exponents = _EXPONENTS if per_channel else [(*pair, other) for pair in _EXPONENTS for other in _OF_WRITERS]
    run = FloatRunner(model, [name_of(value) for problem in problems.values() for value in problem.values])
    for sample in samples if problems else ():
        found = run(sample)
        for problem in problems.values():
            problem.see(found)
    best = {}
    for name, problem in problems.items():
        candidates = [problem.scale(*chosen) for chosen in exponents]
        errors = [problem.error(scale) for scale in candidates]
        least, before = int(np.argmin(errors)), problem.error(np.ones(problem.count))
        if errors[least] > 0:
            scale = tuple(candidates[least].astype(np.float32).tolist())
            best[name] = 10 * log10(before / errors[least]), scale
    return best


class _Reader:
    """What reads the values of a group, and what it sees of them.

    Attributes:
        peaks: greatest weight between each output and channel [outputs, count], and `entries`: how many there are; None where the value is
            read in float, each channel alike.
    """

    def __init__(self, value: ir.Value, run: Run, count: int, per_channel: bool, absorber: Absorber | None = None) -> None:
        self.value, self.run, self._per_channel = value, run, per_channel
        self.peaks: Array | None = None
        self.worth: Array = np.ones(count)
        self.powers = np.zeros(count)  # mean square of each channel in parts of its row's energy
        self.inverse = 0.0  # mean of one over the energy of a row
        self.seen = 0
        weight = constant(absorber.node.inputs[absorber.index]) if absorber is not None else None
        if absorber is not None and weight is not None:
            outputs = static_shape(absorber.node.outputs[0])[1 if absorber.node.op_type != "MatMul" else -1]
            place = _index_of(absorber.rows, outputs, weight) * count + _index_of(absorber.factor, count, weight)
            magnitude = np.abs(weight.astype(np.float64)).reshape(-1)
            peaks = np.zeros(outputs * count)
            np.maximum.at(peaks, place, magnitude)
            self.peaks = peaks.reshape(outputs, count)
            self.entries = np.bincount(place, minlength=peaks.size).reshape(outputs, count)
            self.worth = np.asarray(np.bincount(place % count, np.square(magnitude), minlength=count), np.float64)

    def see(self, array: Array) -> None:
        squares = np.square(self.run.rows(array), dtype=np.float64)
        energy = squares @ self.worth
        share = 1 / np.maximum(energy, max(_FAINT * float(energy.mean()), 1e-30))
        self.powers += (squares * share[:, None]).mean(axis=0)
        self.inverse += float(share.mean())
        self.seen += 1

    def error(self, scale: Array, steps: float, writers: Sequence[_Writer] = ()) -> float:
        """Noise to signal of what is read, where the values have been rounded to steps of this sum of squares, and made by these weights."""
        worth = np.square(scale) * self.worth
        total = steps * float(worth.sum()) / 12 * self.inverse / self.seen
        total += sum(float(writer.steps(scale) @ worth) for writer in writers) / 12 * self.inverse / self.seen
        if self.peaks is None:
            return total
        step = (self.peaks * scale).max(axis=1) / (_STEPS // 2)
        step = step if self._per_channel else np.full_like(step, step.max())
        return total + float(np.square(step) @ self.entries @ (self.powers / np.square(scale))) / 12 / self.seen


class _Writer:
    """A weight of one scale a tensor that makes values of a group, and what it is multiplied with.

    Attributes:
        source: what the weight is multiplied with.
        peaks: greatest weight that makes each channel [count].
    """

    def __init__(self, absorber: Absorber, count: int) -> None:
        weight, source = constant(absorber.node.inputs[absorber.index]), absorber.node.inputs[0]
        assert weight is not None
        assert source is not None
        self.source = source
        self._groups = int(attribute(absorber.node, "group", 1)) if absorber.node.op_type == "Conv" else 1
        self._place, self._rounded = _index_of(absorber.factor, count, weight), weight != 0  # zeros stay what they are
        self.peaks = np.zeros(count)
        np.maximum.at(self.peaks, self._place, np.abs(weight.astype(np.float64)).reshape(-1))
        self._width = static_shape(absorber.node.outputs[0])[1 if absorber.node.op_type != "MatMul" else -1]
        self._power = np.zeros(self._groups)  # mean square of what each group of a convolution reads
        self._seen = 0

    def see(self, array: Array) -> None:
        squares = np.square(array, dtype=np.float64)
        self._power += squares.mean() if self._groups == 1 else squares.reshape(len(array), self._groups, -1).mean(axis=(0, 2))
        self._seen += 1

    def steps(self, scale: Array) -> Array:
        """Steps whose rounding makes as much noise in each channel, divided by the scale, as that of the weights: their squares [count]."""
        step = float((self.peaks / scale).max()) / (_STEPS // 2)
        power = np.repeat(self._power / self._seen, len(self._rounded) // self._groups if self._groups > 1 else 1)
        each = (power.reshape(-1, *(1,) * (self._rounded.ndim - 1)) * self._rounded).reshape(-1)
        return np.asarray(step**2 * np.bincount(self._place, each, minlength=len(scale)) * len(scale) / self._width)


def _index_of(layout: Callable[[Array], Array], count: int, weight: Array) -> Array:
    """Which of `count` channels each element of a weight belongs to."""
    return np.broadcast_to(layout(np.arange(count)), weight.shape).reshape(-1)


class _Problem:
    """The expected error of one group, as a function of its scale.

    Attributes:
        values: what must be seen of each sample.
        rounded: the values that integers hold, of their own encoding.
    """

    def __init__(self, group: Group, per_channel: bool) -> None:
        self.count = group.count
        self._readers: list[_Reader] = []
        for absorber in group.multiplied:
            value = absorber.node.inputs[0]
            assert value is not None
            self._readers.append(_Reader(value, group.runs[value], group.count, per_channel, absorber))
        read = dict.fromkeys(value for node, index in group.read if (value := node.inputs[index]) is not None)
        self._readers += [_Reader(value, group.runs[value], group.count, per_channel) for value in read]
        self._writers = [_Writer(absorber, group.count) for absorber in group.divided if not per_channel and _is_weight(absorber)]
        self.rounded = [value for value in group.runs if _is_rounded(value)]
        self._runs = dict(group.runs)
        self._low = {value: np.zeros(group.count) for value in self.rounded}
        self._high = {value: np.zeros(group.count) for value in self.rounded}
        seen = [*(reader.value for reader in self._readers), *(writer.source for writer in self._writers)]
        self.values = list(dict.fromkeys([*self.rounded, *seen]))

    def see(self, found: Mapping[str, Array]) -> None:
        for value in self.rounded:
            rows = self._runs[value].rows(found[name_of(value)])
            self._low[value] = np.minimum(self._low[value], rows.min(axis=0))
            self._high[value] = np.maximum(self._high[value], rows.max(axis=0))
        for reader in self._readers:
            reader.see(found[name_of(reader.value)])
        for writer in self._writers:
            writer.see(found[name_of(writer.source)])

    def scale(self, of_peak: float, of_weight: float, of_writer: float = 0.0) -> Array:
        """peak^a / weight^b * writer^c, of geometric mean 1."""
        peaks = [np.maximum(-self._low[value], self._high[value]) for value in self.rounded]
        peak = np.max([_floored(entry) for entry in peaks], axis=0)
        weights = [reader.peaks.max(axis=0) for reader in self._readers if reader.peaks is not None]
        weight = np.max([_floored(entry) for entry in weights], axis=0) if weights else np.ones(self.count)
        writers = [_floored(writer.peaks) for writer in self._writers]
        writer = np.max(writers, axis=0) if writers else np.ones(self.count)
        scale = peak**of_peak / weight**of_weight * writer**of_writer
        return np.asarray(scale / np.exp(np.log(scale).mean()))

    def error(self, scale: Array) -> float:
        """Noise to signal of what is read, summed over the readers: rounding of the values and of the weights."""
        steps = 0.0
        for value in self.rounded:
            span = float((self._high[value] / scale).max() - (self._low[value] / scale).min())
            steps += (span / _STEPS) ** 2
        return sum(reader.error(scale, steps, self._writers) for reader in self._readers)


def _is_weight(absorber: Absorber) -> bool:
    return absorber.index == 1 and absorber.node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")


def _is_rounded(value: ir.Value) -> bool:
    """Whether a kernel that runs in integers writes the value in an encoding of its own, or a reader of it takes it in integers."""
    node = value.producer()
    assert node is not None
    if fused_activation(node) is not None:
        return False
    if runs_in_float(node):
        return any(not runs_in_float(user) for user, _ in value.uses())
    return not operator_of(node).quantize(node).shared


def _floored(entries: Array) -> Array:
    greatest = float(entries.max(initial=0.0))
    return np.maximum(entries / greatest, _LEAST) if greatest > 0 else np.ones_like(entries)
