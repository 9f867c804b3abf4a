"""What the kernels of a runtime take in float and in integers: ``python -m tools.kernels litert|onnxruntime`` prints ``targets/kernels``.

Every operator of `tools.kernel_cases` is built alone, in each form that the runtime has of it, and timed on this machine: CPU time of one
thread, medians of paired rounds. `targets.cost` wants factors on what rates say, so the machine's own rates are read off a convolution and a
sum. On a device of your own, run it there and put what differs into the profile's ``[cost] kernels``.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from math import prod
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration import open_samples
from diagnostics import EdgewrightError
from exporter.built import Built
from exporter.frontends import load
from exporter.graph.values import activation_nodes
from exporter.host import processor
from exporter.pipeline import Options, build
from exporter.quantization.apply import precision_of
from exporter.quantization.costs import SKIPPED_NORMALIZATION, bytes_moved, kernel_of, macs_of
from exporter.runtimes.worker import ADAPTERS, Adapter
from targets.loader import load_target
from targets.precision import choose_io, choose_precision, precisions_of
from targets.schema import Cost, Form, Target
from tools.bench.latency_worker import paired_rounds
from tools.kernel_cases import CASES, Case

__all__ = ["UNWRITTEN", "alone", "main", "measured", "measured_rates"]

_FORMS: Final[tuple[Form, ...]] = ("float32", "int8", "int16x8", "dynamic_int8")
# Runtime -> the profile whose artifacts it runs, its package, and how it is opened.
_RUNTIMES: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "litert": ("android-arm64-cpu", "ai-edge-litert", {"kernels": "xnnpack", "threads": 1}),
    "onnxruntime": ("x86-64-cpu", "onnxruntime", {"threads": 1}),
}
# onnxruntime gives every reader of a DequantizeLinear one of its own (its transformer EnsureUniqueDQForNodeUnit).
_DEQUANTIZE_FOR_EACH: Final = frozenset({"onnxruntime"})
# What artifacts for onnxruntime do not have, since it is slow there: its kernel, the operator, and whether that stands behind a sum.
UNWRITTEN: Final = (("PReluKernel", "PRelu", False), (SKIPPED_NORMALIZATION, "LayerNormalization", True))
# Those of which onnxruntime has a vector kernel in int8 for the layout that its convolutions leave, and a plain loop for the other.
_LAYOUT_OF_CONVOLUTIONS: Final = ("MaxPool",)
_BUDGET_S: Final = 0.3
_LEAST: Final = 0.02  # a kernel that does nothing (a reshape in place) has no time to divide by
_CHAIN: Final = 33


@dataclass(frozen=True)
class _Time:
    seconds: float
    macs: int
    bytes_moved: int


def measured(runtime: str) -> str:
    """The TOML of a runtime's kernel table, as this machine has it."""
    profile, package, options = _RUNTIMES[runtime]
    base = load_target(profile)
    found: dict[str, dict[Form, list[_Time]]] = {}
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        bench = _Bench(base, Path(folder), options)
        dispatch = bench.dispatch()
        for case in CASES:
            for form, time in bench.times(case).items():
                found.setdefault(case.kernel, {}).setdefault(form, []).append(time)
        alone = {form: times[0].seconds for form, times in found["Sigmoid"].items()}
        found["Conversion"] = {"int8": [bench.conversion(alone["float32"], alone["int8"])]}
        if runtime == "onnxruntime":
            for kernel, operator, summed in UNWRITTEN:
                found[kernel] = {"float32": [bench.as_it_is(next(case for case in CASES if case.kernel == operator), summed)]}
            for kernel in _LAYOUT_OF_CONVOLUTIONS:
                case = next(case for case in CASES if case.kernel == kernel and "strides" not in case.attributes)
                found[kernel]["int8"] = [bench.behind_convolution(case)]
    floats, integers, bandwidth = _rates(found["Conv"], found["Add"])
    table = {
        kernel: {form: _factor(times, floats if form == "float32" else integers, bandwidth) for form, times in forms.items()}
        for kernel, forms in sorted(found.items())
    }
    lines = [f"{kernel} = {{ {_entries(factors)} }}" for kernel, factors in table.items()]
    head = [
        f"# Written by `python -m tools.kernels {runtime}`; what the figures mean stands in `targets/cost.py`.",
        f"# The machine's rates: {floats / 1e9:.0f} and {integers / 1e9:.0f} GMAC/s in float32 and int8, {bandwidth / 1e9:.0f} GB/s.",
        f'measured_on = "{package} {version(package)}, {platform.system()} {platform.machine()}, {processor()}"',
        f"dispatch_us = {dispatch * 1e6:.2f}",
        f"dequantizes_for_each = {str(runtime in _DEQUANTIZE_FOR_EACH).lower()}",
    ]
    return "\n".join([*head, "", "[factors]", *lines, ""])


def measured_rates(runtime: str) -> Cost:
    """The rates of one thread of this machine with a runtime, as a profile's ``[cost]``: those that the factors of its table are relative to."""
    profile, package, options = _RUNTIMES[runtime]
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        bench = _Bench(load_target(profile), Path(folder), options)
        cases = [next(case for case in CASES if case.kernel == kernel) for kernel in ("Conv", "Add")]
        conv, add = ({form: [time] for form, time in bench.times(case).items()} for case in cases)
    floats, integers, bandwidth = (rate / 1e9 for rate in _rates(conv, add))
    where = f"one thread of {processor()}, {package} {version(package)}"
    return Cost(gmacs_float=floats, gmacs_int8=integers, bandwidth=bandwidth, measured=where)


def _rates(conv: Mapping[Form, list[_Time]], add: Mapping[Form, list[_Time]]) -> tuple[float, float, float]:
    """Multiply-accumulates a second in float32 and in int8 of the first convolution, bytes a second of the first sum."""
    floats, integers, total = conv["float32"][0], conv["int8"][0], add["float32"][0]
    return floats.macs / floats.seconds, integers.macs / integers.seconds, total.bytes_moved / total.seconds


def _factor(times: list[_Time], rate: float, bandwidth: float) -> float:
    return geometric_mean(max(time.seconds / (time.macs / rate + time.bytes_moved / bandwidth), _LEAST) for time in times)


def _entries(factors: Mapping[Form, float]) -> str:
    return ", ".join(f"{form} = {factor:.2f}" for form, factor in factors.items())


class _Bench:
    """Builds small models for one runtime and times them."""

    def __init__(self, base: Target, folder: Path, options: dict[str, Any]) -> None:
        self._base, self._folder, self._options = base, folder, options
        self._made = 0

    def times(self, case: Case) -> dict[Form, _Time]:
        """By form; forms that the runtime or the operator does not have are left out."""
        samples = [case.sample(seed) for seed in range(2)]
        source = load(case.write(self._path("case.onnx")))
        work: dict[Form, tuple[int, int]] = {}
        adapters = []
        for form in (form for form in _FORMS if form in precisions_of(self._base)):
            try:
                built = build(source, alone(self._base, form), open_samples(samples, source.inputs, None), Options(refine=False))
            except EdgewrightError:
                continue
            ours = [node for node, _ in activation_nodes(built.graph.graph) if kernel_of(node) == case.kernel]
            if len(ours) == 1 and precision_of(ours[0], built.plan) == form:
                work[form] = macs_of(ours[0]), bytes_moved(ours[0], form)
                adapters.append(self._opened(built, case))
        rounds = paired_rounds(adapters, _BUDGET_S)
        return {form: _Time(median(seconds), *work[form]) for form, seconds in zip(work, rounds, strict=True)}

    def conversion(self, float_s: float, integer_s: float) -> _Time:
        """Of a tensor from 8 bits to float or back: the greater of two halves. What a Sigmoid between convolutions takes longer in float than
        the same two alone, and what one takes longer with float inputs and outputs.

        Args:
            float_s, integer_s: seconds of a Sigmoid of that size alone.
        """
        image = next(case for case in CASES if case.kernel == "Conv" and case.constants[0].shape[2:] == (1, 1))
        (weight, bias), shape = image.constants, image.inputs[0]
        stored = {"w": weight, "b": bias}
        nodes = [
            helper.make_node("Conv", ["x0", *stored], ["a"]),
            helper.make_node("Sigmoid", ["a"], ["s"]),
            helper.make_node("Conv", ["s", *stored], ["y0"]),
        ]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x0", "y0")]
        tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
        graph = helper.make_graph(nodes, "between", ends[:1], ends[1:], tensors)
        path = self._path("between.onnx")
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
        source, adapters = load(path), []
        for factor in (0.01, 100.0):  # so that it runs in integers, and so that it does not
            target = choose_precision(self._base, "int8")
            target = target.model_copy(update={"cost": target.cost.model_copy(update={"kernels": {"Sigmoid": {"int8": factor}}})})
            built = build(source, target, open_samples([image.sample(0)], source.inputs, None), Options(refine=False))
            adapters.append(self._opened(built, image))
        sigmoid = next(case for case in CASES if case.kernel == "Sigmoid")
        source, integers_only = load(sigmoid.write(self._path("case.onnx"))), alone(self._base, "int8")
        for target in (integers_only, choose_io(integers_only, "float32")):
            built = build(source, target, open_samples([sigmoid.sample(0)], source.inputs, None), Options(refine=False))
            adapters.append(self._opened(built, sigmoid))
        inside, outside, integers, floats = map(median, paired_rounds(adapters, _BUDGET_S))
        return _Time(max(outside - inside - float_s + integer_s, floats - integers) / 2, 0, 5 * prod(shape))

    def as_it_is(self, case: Case, summed: bool) -> _Time:
        """Of an operator in float32 as a model's own file has it; where `summed` with a sum in front, which the runtime may fuse with it."""
        names = ["x0", "x1"] if summed else ["x0"]
        stored = [numpy_helper.from_array(array, f"c{index}") for index, array in enumerate(case.constants)]
        inputs = ["sum" if summed else "x0", *(entry.name for entry in stored)]
        nodes = [helper.make_node("Add", names, ["sum"])] if summed else []
        nodes.append(helper.make_node(case.op_type, inputs, ["y0"], **case.attributes))
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, case.inputs[0]) for name in (*names, "y0")]
        graph = helper.make_graph(nodes, "as_it_is", ends[:-1], ends[-1:], stored)
        path = self._path("as_it_is.onnx")
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
        adapter, sample = ADAPTERS[self._base.artifact.runtime](str(path), self._options), case.sample(0)["x0"]
        adapter.feed(dict.fromkeys(names, sample))
        return _Time(median(paired_rounds([adapter], _BUDGET_S)[0]), 0, len(ends) * sample.nbytes)

    def behind_convolution(self, case: Case) -> _Time:
        """Of an operator in int8 that leaves sizes as they are: what a convolution takes longer with it behind."""
        weight, bias = next(case for case in CASES if case.kernel == "Conv" and case.constants[0].shape[2:] == (1, 1)).constants
        stored = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
        front = helper.make_node("Conv", ["x0", "w", "b"], ["a"])
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, case.inputs[0]) for name in ("x0", "a", "y0")]
        adapters, moved = [], 0
        for nodes, last in (
            ([front, helper.make_node(case.op_type, ["a"], ["y0"], **case.attributes)], ends[2]),
            ([front], ends[1]),
        ):
            graph = helper.make_graph(nodes, "behind", ends[:1], [last], stored)
            path = self._path("behind.onnx")
            onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
            source = load(path)
            samples = open_samples([case.sample(0)], source.inputs, None)
            built = build(source, alone(self._base, "int8"), samples, Options(refine=False))
            moved = moved or sum(bytes_moved(node, "int8") for node in built.graph.graph if kernel_of(node) == case.kernel)
            adapters.append(self._opened(built, case))
        whole, alone_s = map(median, paired_rounds(adapters, _BUDGET_S))
        return _Time(whole - alone_s, 0, moved)

    def dispatch(self) -> float:
        """Seconds of a node that does next to nothing: what a chain of them takes beyond a single one, for each."""
        adapters = []
        for length in (1, _CHAIN):
            names = [f"v{index}" for index in range(length + 1)]
            nodes = [helper.make_node("Tanh", [a], [b]) for a, b in pairwise(names)]
            ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8)) for name in (names[0], names[-1])]
            path = self._path("chain.onnx")
            graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
            onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
            built = build(load(path), alone(self._base, "float32"), None)
            adapters.append(self._opened(built, Case("Tanh", "Tanh", ((1, 8),))))
        one, many = paired_rounds(adapters, _BUDGET_S)
        return max(median(many) - median(one), 0.0) / (_CHAIN - 1)

    def _opened(self, built: Built, case: Case) -> Adapter:
        """An artifact, loaded and fed; integers as if they were of both signs, since some kernels branch on that."""
        path = self._path(f"model{built.artifact.suffix}")
        built.artifact.write(path)
        adapter = ADAPTERS[self._base.artifact.runtime](str(path), self._options)
        random = np.random.default_rng(0)
        ranges = {"int8": (-100, 100), "uint8": (28, 228), "int16": (-30000, 30000)}
        floats = list(case.sample(2).values())
        adapter.feed(
            {
                info["name"]: random.integers(*ranges[info["dtype"]], info["shape"]).astype(info["dtype"])
                if info["dtype"] in ranges
                else array.reshape(info["shape"])
                for info, array in zip(adapter.inputs, floats, strict=True)
            }
        )
        return adapter

    def _path(self, name: str) -> Path:
        self._made += 1
        return self._folder / f"{self._made}_{name}"


def alone(base: Target, form: Form) -> Target:
    """The profile for one operator in one form: integers from end to end, so that neither conversions nor a retreat to float are timed.

    All kernels are as fast as the rates say, so that none is written out as others.
    """
    data = base.model_dump()
    io_dtype = {"int8": base.quantization.activations, "int16x8": "int16"}.get(form, "float32")
    artifact = {**data["artifact"], "precision": form, "io_dtype": io_dtype}
    quantization = {**data["quantization"], "float_fallback": form not in ("int8", "int16x8")}
    cost = {**data["cost"], "kernels": {case.kernel: dict.fromkeys(_FORMS, 1.0) for case in CASES}}
    return Target.model_validate({**data, "artifact": artifact, "quantization": quantization, "cost": cost})


def main(arguments: list[str]) -> int:
    """Print the table of the runtime that is named."""
    if len(arguments) != 1 or arguments[0] not in _RUNTIMES:
        print(f"usage: python -m tools.kernels {'|'.join(_RUNTIMES)}", file=sys.stderr)
        return 2
    np.seterr(all="ignore")
    print(measured(arguments[0]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
