"""The encodings of one graph, collected group by group from the rules of its integer nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
import onnx_ir as ir

from diagnostics import DataError, ModelError
from exporter.graph.values import constant, fused_activation, is_constant, name_of
from exporter.ops.base import OutputRule, QuantRule, Role, operator_of
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
# Of int16 ranges: what calibration did not see saturates first, and one bit of sixteen is less than that costs (digit_cnn: 23 dB).
_HEADROOM: Final = 2.0
_GREATEST: Final = float(np.finfo(np.float32).max)
# Roles whose encodings' scales multiply in an accumulator.
_FACTORS: Final = (Role.ACTIVATION, Role.WEIGHT)


class ValueStatistics(Protocol):
    """What planning needs of `calibration.Store`: statistics by value name."""

    @property
    def values(self) -> Mapping[str, Any]: ...


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is present and real-valued: what an encoding can be given to."""
    return value is not None and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)


_Key = tuple[str, str]  # a value, as it is held in a dtype


class Encoder:
    """Collects the encodings of one graph. `activations` must have run before `constants`.

    A value that nodes of 8 bits and nodes of 16 bits share has an encoding in each dtype: it is stored as its writer has it, and the others
    read it requantized. What no integer node writes is stored in 16 bits where any node reads it so.

    Args:
        dtype: of the activations, but for those of the nodes `wide`, which are int16.
    """

    def __init__(
        self,
        stats: ValueStatistics,
        scheme: Quantization,
        method: Method | Mapping[str, Method],
        rules: Mapping[ir.Node, QuantRule],
        dtype: str = "int8",
        floors: Mapping[str, float] = MappingProxyType({}),
        wide: Collection[str] = (),
    ) -> None:
        self.encodings: dict[str, Encoding] = {}
        self.requantize: dict[str, Encoding] = {}
        self._stats, self._scheme, self._rules = stats, scheme, rules
        self._method: Method | None = method if isinstance(method, str) else None
        self._methods: Mapping[str, Method] = {} if isinstance(method, str) else method
        self._dtype, self._floors, self._wide = dtype, floors, frozenset(wide)
        self._shifts = scheme.scales == "power_of_two"
        self._parent: dict[_Key, _Key] = {}
        self._fixed: dict[_Key, Encoding] = {}
        self._shared: set[_Key] = set()
        self._found: dict[_Key, Encoding] = {}
        self._limits: dict[_Key, tuple[float, float]] = {}  # what its node can write at least and at most
        self._writers: dict[str, str] = {}  # name -> the dtype of the node that writes the value
        self._read_wide: set[str] = set()
        for node, rule in rules.items():
            self._tie(node, rule)

    def boundary(self, graph: ir.Graph) -> None:
        """Encode the graph's own inputs and outputs too: the artifact takes and gives integers."""
        for value in (*graph.inputs, *graph.outputs):
            if is_float(value):
                self._find((name_of(value), self._home(name_of(value))))

    def activations(self) -> None:
        """Encode every computed value that an integer node reads or writes, group by group of those that share an encoding."""
        groups: dict[_Key, list[_Key]] = {}
        for key in self._parent:
            groups.setdefault(self._find(key), []).append(key)
        readers: dict[_Key, list[tuple[ir.Node, int, ir.Value]]] = {}
        for node, rule in self._rules.items():
            if rule.shared:
                root = self._find(self._written(node)[0][0])
                for index, value in _inputs(node, rule, Role.ACTIVATION):
                    readers.setdefault(root, []).append((node, index, value))
        for root, keys in groups.items():
            self._group(keys, readers.get(root, []))
        self.encodings.update({name: found for (name, dtype), found in self._found.items() if dtype == self._home(name)})
        for node, rule in self._rules.items():
            for index, value in _inputs(node, rule, Role.ACTIVATION):
                if not is_constant(value) and self._home(name_of(value)) != (dtype := self._dtype_of(node)):
                    self.requantize.setdefault(f"{node_name(node)}:{index}", self._found[name_of(value), dtype])

    def constants(self, node: ir.Node) -> None:
        """Encode the constant inputs of one node: activations by their own values, then weights, then biases."""
        rule = self._rules[node]
        if not rule.shared:
            for index, value in _inputs(node, rule, Role.ACTIVATION):
                array = constant(value)
                if array is not None:
                    low, high = self._bounds(value)
                    self._put(node, index, self._encode(min(low, 0.0), max(high, 0.0), self._dtype_of(node)))
        biases = [array for _, value in _inputs(node, rule, Role.BIAS) if (array := constant(value)) is not None]
        for index, value in _inputs(node, rule, Role.WEIGHT):
            whole = not self._scheme.per_channel or node.op_type in self._scheme.per_tensor
            axis = None if whole else rule.inputs[index].axis
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

    def _home(self, name: str) -> str:
        """The dtype in which the value `name` is stored."""
        return self._writers.get(name, "int16" if name in self._read_wide else self._dtype)

    def _dtype_of(self, node: ir.Node) -> str:
        return "int16" if node_name(node) in self._wide else self._dtype

    # Union-find over values as they are held: those of one tree share an encoding.

    def _find(self, key: _Key) -> _Key:
        self._parent.setdefault(key, key)
        while self._parent[key] != key:
            self._parent[key] = self._parent[self._parent[key]]
            key = self._parent[key]
        return key

    def _tie(self, node: ir.Node, rule: QuantRule) -> None:
        dtype = self._dtype_of(node)
        read = [(name_of(value), dtype) for _, value in _inputs(node, rule, Role.ACTIVATION) if not is_constant(value)]
        written = self._written(node)
        for key in (*read, *(key for key, _ in written)):
            self._find(key)
        self._read_wide |= {name for name, _ in read if dtype == "int16"}
        behind = fused_activation(node)
        if behind is not None and written:
            clamp = operator_of(behind).quantize(behind).outputs[0]
            self._limits[written[0][0]] = clamp.least, clamp.greatest
        for key, given in written:
            self._writers[key[0]] = dtype
            self._limits.setdefault(key, (given.least, given.greatest))
            if given.kind == "fixed":
                self._fixed[key] = self._fixed_encoding(given, dtype)
            elif given.kind == "shared":
                self._shared.add(key)
                for other in read:
                    self._parent[self._find(other)] = self._find(key)

    def _written(self, node: ir.Node) -> list[tuple[_Key, OutputRule]]:
        outputs, dtype = list(node.outputs), self._dtype_of(node)
        behind = fused_activation(node)
        if behind is not None:
            outputs[0] = behind.outputs[0]
        return [
            ((name_of(value), dtype), given)
            for value, given in zip(outputs, self._rules[node].outputs, strict=False)
            if is_float(value)
        ]

    # One encoding from another.

    def _group(self, keys: list[_Key], readers: list[tuple[ir.Node, int, ir.Value]]) -> None:
        constants = [value for _, _, value in readers if (array := constant(value)) is not None and array.size]
        sources = [key for key in keys if key not in self._shared]
        fixed = {self._fixed[key] for key in sources if key in self._fixed}
        dtype = keys[0][1]
        if len(fixed) == 1 and not constants and all(key in self._fixed for key in sources):
            common = next(iter(fixed))
        else:
            ranges = [self._limited(self._range(key), sources) for key in keys] + [self._bounds(value) for value in constants]
            low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
            common = self._encode(low, max(high, low + max(map(self._least_range, sources), default=0.0)), dtype)
        for key in keys:
            self._found[key] = self._fixed.get(key, common)
        for node, index, value in readers:
            if is_constant(value) or self._found[name_of(value), dtype] != common:
                self.requantize[f"{node_name(node)}:{index}"] = common

    def _limited(self, found: tuple[float, float], sources: list[_Key]) -> tuple[float, float]:
        """A range, without what lies beyond all that the values `sources` can be: a clamp whose encoding goes further is no clamp."""
        limits = [self._limits.get(key, (-np.inf, np.inf)) for key in sources]
        least, greatest = min((low for low, _ in limits), default=-np.inf), max((high for _, high in limits), default=np.inf)
        return max(found[0], least), min(found[1], greatest)

    def _least_range(self, key: _Key) -> float:
        """How wide the encoding of a value has to be for the kernel that writes it: what cancels out is finer than kernels can tell."""
        found = [
            (node, rule.least_range)
            for node, rule in self._rules.items()
            if rule.least_range and self._written(node)[0][0] == key
        ]
        return max(
            (share * self._width(value, key[1]) for node, share in found for value in node.inputs if value is not None),
            default=0.0,
        )

    def _width(self, value: ir.Value, dtype: str) -> float:
        key = (name_of(value), dtype)
        if is_constant(value):
            low, high = self._bounds(value)
        elif (fixed := self._fixed.get(key)) is not None:
            least, greatest = integer_range(dtype)
            return (greatest - least + 1) * fixed.scale[0]
        else:
            low, high = self._range(key)
        return max(high, 0.0) - min(low, 0.0)

    def _bounds(self, value: ir.Value) -> tuple[float, float]:
        """Extremes of a constant, as far as they matter."""
        array, floor = constant(value), self._floors.get(name_of(value), -np.inf)
        assert array is not None
        return max(float(array.min(initial=np.inf)), floor), max(float(array.max(initial=-np.inf)), floor)

    def _range(self, key: _Key) -> tuple[float, float]:
        name, dtype = key
        stats: Histogram | None = self._stats.values.get(name)
        if stats is None:
            raise ModelError("EW-Q002", f"value {name} has no statistics", where=name, fix="calibrate this very graph")
        floor = self._floors.get(name, -np.inf)
        if floor > stats.low and np.isfinite(stats.high):
            stats = Floored(stats, floor)
        if not (np.isfinite(stats.low) and np.isfinite(stats.high)):
            raise DataError("EW-D002", f"value {name} was not finite in calibration: [{stats.low}, {stats.high}]", where=name)
        least, greatest = integer_range(dtype)
        # Methods were chosen for the steps of the artifact's own dtype; 16 bits have some to spare for what lies far out.
        methods = self._methods if dtype == self._dtype else {}
        method = self._method or methods.get(name, "minmax")
        low, high = choose_range(stats, method, symmetric=self._scheme.symmetric(dtype), steps=greatest - least)
        room = _HEADROOM if dtype == "int16" else 1.0
        return max(room * low, -_GREATEST), min(room * high, _GREATEST)

    def _encode(self, low: float, high: float, dtype: str) -> Encoding:
        return activation_encoding(low, high, dtype=dtype, symmetric=self._scheme.symmetric(dtype), power_of_two=self._shifts)

    def _fixed_encoding(self, given: OutputRule, dtype: str) -> Encoding:
        if dtype == "int16" or not self._scheme.symmetric(dtype):
            return fixed_encoding(given.scale, given.zero_point, dtype, symmetric=self._scheme.symmetric(dtype))
        return self._encode((-128 - given.zero_point) * given.scale, (127 - given.zero_point) * given.scale, dtype)

    def _least_scale(self, node: ir.Node, axis: int | None, biases: list[np.ndarray[Any, Any]]) -> float | np.ndarray[Any, Any]:
        """The least scale of a node's weight: biases stay in int32, and the ratio to the output's scale within a runtime's multiplier."""
        scale_in = self._read(node, next(index for index, _ in _inputs(node, self._rules[node], Role.ACTIVATION))).scale[0]
        scale_out, sums = self._found[self._written(node)[0][0]].scale[0], self._greatest_sum(node)
        least: Any = max(LEAST_RATIO, -integer_range("int8")[0] / sums) * scale_out / scale_in  # outputs saturate before sums do
        greatest = min(MAX_BIAS[self._scheme.biases_beside(self._dtype_of(node))], sums / 2)
        for bias in biases:
            needed = np.abs(bias.astype(np.float64)).ravel() / (scale_in * greatest)
            least = np.maximum(least, needed.max(initial=0.0) if axis is None else needed)
        return np.asarray(least)

    def _greatest_sum(self, node: ir.Node) -> float:
        """What an accumulator of a node holds at most, where the target's are narrow."""
        bits = self._scheme.accumulators
        return 2.0 ** (bits - 1) if bits < 32 and self._dtype_of(node) == "int8" else np.inf

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
