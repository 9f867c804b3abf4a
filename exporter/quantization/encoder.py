"""The encodings of one graph, collected group by group from the rules of its integer nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
import onnx_ir as ir

from diagnostics import DataError, ModelError
from exporter.graph.values import constant, fused_activation, is_constant, name_of
from exporter.ops.base import OutputRule, QuantRule, Role
from exporter.quantization.apply import node_name
from exporter.quantization.clipping import Floored, Histogram, Method, choose_range
from exporter.quantization.plan import Encoding, integer_range
from exporter.quantization.ranges import (
    MAX_BIAS,
    activation_encoding,
    bias_encoding,
    fixed_encoding,
    weight_encoding,
)
from targets.schema import Quantization

__all__ = ["LEAST_RATIO", "Encoder", "ValueStatistics", "is_float"]

# scale_in * scale_w / scale_out below this cannot change an output by one step in any accumulation that fits int32;
# runtimes that hold the ratio as a 31-bit multiplier and a shift refuse much smaller ones (XNNPACK: 2^-32).
LEAST_RATIO: Final = 2.0**-26
# Roles whose encodings' scales multiply in an accumulator.
_FACTORS: Final = (Role.ACTIVATION, Role.WEIGHT)


class ValueStatistics(Protocol):
    """What planning needs of `calibration.Store`: statistics by value name."""

    @property
    def values(self) -> Mapping[str, Any]: ...


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is present and real-valued: what an encoding can be given to."""
    return value is not None and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)


class Encoder:
    """Collects the encodings of one graph. `activations` must have run before `constants`."""

    def __init__(
        self,
        stats: ValueStatistics,
        scheme: Quantization,
        method: Method | Mapping[str, Method],
        rules: Mapping[ir.Node, QuantRule],
        dtype: str = "int8",
        floors: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.encodings: dict[str, Encoding] = {}
        self.requantize: dict[str, Encoding] = {}
        self._stats, self._scheme, self._method, self._rules = stats, scheme, method, rules
        self._dtype, self._floors = dtype, floors
        self._symmetric, self._shifts = scheme.symmetric(dtype), scheme.scales == "power_of_two"
        self._parent: dict[str, str] = {}
        self._fixed: dict[str, Encoding] = {}
        self._shared: set[str] = set()
        for node, rule in rules.items():
            self._tie(node, rule)
        self._limited = {self._written(node)[0][0]: node for node, rule in rules.items() if rule.least_range}

    def boundary(self, graph: ir.Graph) -> None:
        """Encode the graph's own inputs and outputs too: the artifact takes and gives integers."""
        for value in (*graph.inputs, *graph.outputs):
            if is_float(value):
                self._find(name_of(value))

    def activations(self) -> None:
        """Encode every computed value that an integer node reads or writes, group by group of those that share an encoding."""
        groups: dict[str, list[str]] = {}
        for name in self._parent:
            groups.setdefault(self._find(name), []).append(name)
        readers: dict[str, list[tuple[ir.Node, int, ir.Value]]] = {}
        for node, rule in self._rules.items():
            if rule.shared:
                root = self._find(self._written(node)[0][0])
                for index, value in _inputs(node, rule, Role.ACTIVATION):
                    readers.setdefault(root, []).append((node, index, value))
        for root, names in groups.items():
            self._group(names, readers.get(root, []))

    def constants(self, node: ir.Node) -> None:
        """Encode the constant inputs of one node: activations by their own values, then weights, then biases."""
        rule = self._rules[node]
        if not rule.shared:
            for index, value in _inputs(node, rule, Role.ACTIVATION):
                array = constant(value)
                if array is not None:
                    low, high = self._bounds(value)
                    self._put(node, index, self._encode(min(low, 0.0), max(high, 0.0)))
        biases = [array for _, value in _inputs(node, rule, Role.BIAS) if (array := constant(value)) is not None]
        for index, value in _inputs(node, rule, Role.WEIGHT):
            axis = rule.inputs[index].axis if self._scheme.per_channel else None
            array = constant(value)
            if array is not None:
                least = self._least_scale(node, axis, biases)
                reduced = self._scheme.weights_range == "reduced"
                encoding = weight_encoding(array, axis, reduced=reduced, least_scale=least, power_of_two=self._shifts)
                self._put(node, index, encoding)
        for index, value in _inputs(node, rule, Role.BIAS):
            first, second = [self._read(node, i) for i, given in enumerate(rule.inputs) if given.role in _FACTORS][:2]
            self._put(
                node, index, bias_encoding(first, second, len(value.shape or (0,)) - 1, self._scheme.biases_beside(first.dtype))
            )

    # Union-find over value names: values of one tree share an encoding.

    def _find(self, name: str) -> str:
        self._parent.setdefault(name, name)
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def _tie(self, node: ir.Node, rule: QuantRule) -> None:
        read = [name_of(value) for _, value in _inputs(node, rule, Role.ACTIVATION) if not is_constant(value)]
        written = self._written(node)
        for name in (*read, *(name for name, _ in written)):
            self._find(name)
        for name, given in written:
            if given.kind == "fixed":
                self._fixed[name] = self._fixed_encoding(given)
            elif given.kind == "shared":
                self._shared.add(name)
                for other in read:
                    self._parent[self._find(other)] = self._find(name)

    def _written(self, node: ir.Node) -> list[tuple[str, OutputRule]]:
        outputs = list(node.outputs)
        behind = fused_activation(node)
        if behind is not None:
            outputs[0] = behind.outputs[0]
        return [
            (name_of(value), given) for value, given in zip(outputs, self._rules[node].outputs, strict=False) if is_float(value)
        ]

    # One encoding from another.

    def _group(self, names: list[str], readers: list[tuple[ir.Node, int, ir.Value]]) -> None:
        constants = [value for _, _, value in readers if (array := constant(value)) is not None and array.size]
        sources = [name for name in names if name not in self._shared]
        fixed = {self._fixed[name] for name in sources if name in self._fixed}
        if len(fixed) == 1 and not constants and all(name in self._fixed for name in sources):
            common = next(iter(fixed))
        else:
            ranges = [self._range(name) for name in names] + [self._bounds(value) for value in constants]
            low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
            common = self._encode(low, max(high, low + max(map(self._least_range, sources), default=0.0)))
        for name in names:
            self.encodings[name] = self._fixed.get(name, common)
        for node, index, value in readers:
            if is_constant(value) or self.encodings[name_of(value)] != common:
                self.requantize[f"{node_name(node)}:{index}"] = common

    def _least_range(self, name: str) -> float:
        """How wide the encoding of a value has to be for the kernel that writes it: what cancels out is finer than kernels can tell."""
        found = [
            (node, rule.least_range)
            for node, rule in self._rules.items()
            if rule.least_range and self._written(node)[0][0] == name
        ]
        return max(
            (share * self._width(value) for node, share in found for value in node.inputs if value is not None), default=0.0
        )

    def _width(self, value: ir.Value) -> float:
        if is_constant(value):
            low, high = self._bounds(value)
        elif (fixed := self._fixed.get(name_of(value))) is not None:
            return 256 * fixed.scale[0]
        else:
            low, high = self._range(name_of(value))
        return max(high, 0.0) - min(low, 0.0)

    def _bounds(self, value: ir.Value) -> tuple[float, float]:
        """Extremes of a constant, as far as they matter."""
        array, floor = constant(value), self._floors.get(name_of(value), -np.inf)
        assert array is not None
        return max(float(array.min(initial=np.inf)), floor), max(float(array.max(initial=-np.inf)), floor)

    def _range(self, name: str) -> tuple[float, float]:
        stats: Histogram | None = self._stats.values.get(name)
        if stats is None:
            raise ModelError("EW-Q002", f"value {name} has no statistics", where=name, fix="calibrate this very graph")
        floor = self._floors.get(name, -np.inf)
        if floor > stats.low and np.isfinite(stats.high):
            stats = Floored(stats, floor)
        if not (np.isfinite(stats.low) and np.isfinite(stats.high)):
            raise DataError("EW-D002", f"value {name} was not finite in calibration: [{stats.low}, {stats.high}]", where=name)
        low, high = integer_range(self._dtype)
        method = self._method if isinstance(self._method, str) else self._method.get(name, "minmax")
        return choose_range(stats, method, symmetric=self._symmetric, steps=high - low)

    def _encode(self, low: float, high: float) -> Encoding:
        return activation_encoding(low, high, dtype=self._dtype, symmetric=self._symmetric, power_of_two=self._shifts)

    def _fixed_encoding(self, given: OutputRule) -> Encoding:
        if self._dtype == "int16" or not self._symmetric:
            return fixed_encoding(given.scale, given.zero_point, self._dtype, symmetric=self._symmetric)
        return self._encode((-128 - given.zero_point) * given.scale, (127 - given.zero_point) * given.scale)

    def _least_scale(self, node: ir.Node, axis: int | None, biases: list[np.ndarray[Any, Any]]) -> float | np.ndarray[Any, Any]:
        """The least scale of a node's weight: biases stay in int32, and the ratio to the output's scale within a runtime's multiplier."""
        scale_in = self._read(node, next(index for index, _ in _inputs(node, self._rules[node], Role.ACTIVATION))).scale[0]
        least: Any = LEAST_RATIO * self.encodings[self._written(node)[0][0]].scale[0] / scale_in
        greatest = MAX_BIAS[self._scheme.biases_beside(self._dtype)]
        for bias in biases:
            needed = np.abs(bias.astype(np.float64)).ravel() / (scale_in * greatest)
            least = np.maximum(least, needed.max(initial=0.0) if axis is None else needed)
        return np.asarray(least)

    def _read(self, node: ir.Node, index: int) -> Encoding:
        value = node.inputs[index]
        override = self.requantize.get(f"{node_name(node)}:{index}")
        return override or self.encodings[name_of(value) if value is not None else ""]

    def _put(self, node: ir.Node, index: int, encoding: Encoding) -> None:
        """Store a constant's encoding: under its name, or for this node alone where another node encodes the constant otherwise."""
        value = node.inputs[index]
        if value is not None and self.encodings.setdefault(name_of(value), encoding) != encoding:
            self.requantize[f"{node_name(node)}:{index}"] = encoding


def _inputs(node: ir.Node, rule: QuantRule, role: Role) -> Iterator[tuple[int, ir.Value]]:
    """The float inputs of one role that are present, with their index."""
    for index, (given, value) in enumerate(zip(rule.inputs, node.inputs, strict=False)):
        if given.role is role and value is not None and is_float(value):
            yield index, value
