"""What the nodes of a graph take on a target, by the form that each runs in: work read off the graph, times from `targets.cost`."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Final

import onnx_ir as ir

from exporter.graph.values import is_constant, static_shape
from exporter.ops.base import Refused, operator_of
from exporter.quantization.plan import Effort
from targets.cost import CostModel
from targets.schema import Form, Target

__all__ = [
    "LARGE_MODEL_MACS",
    "SKIPPED_NORMALIZATION",
    "affordable",
    "bytes_moved",
    "constant_bytes",
    "kernel_of",
    "macs_of",
    "model_macs",
    "node_us",
    "slow_builtins",
]

# Form -> bytes of a number of its activations, and of its constants.
_WIDTHS: Final[dict[Form, tuple[int, int]]] = {"float32": (4, 4), "int8": (1, 1), "int16x8": (2, 1), "dynamic_int8": (4, 1)}

# Models of more multiply-accumulates than this have so many positions, or outputs, in each sample that what is chosen by, or fitted to,
# calibration samples carries over to others without a check on samples left out, which would take seconds there.
LARGE_MODEL_MACS: Final = 2**27
# Multiply-accumulates that one choice among plans may spend on looking at samples: about a second, and ten.
_SPENT: Final[Mapping[Effort, int]] = {"fast": 2**32, "balanced": 2**35, "best": 2**35}
# What onnxruntime makes of a sum that is normalized.
SKIPPED_NORMALIZATION: Final = "SkipLayerNormalization"
# Format -> what the artifact, or its runtime, may hold -> its kernel, and those it is written out with, each with the numbers that it reads and
# writes for one of its output.
_Part = tuple[str, int]
_WRITTEN_OUT: Final[Mapping[str, Mapping[str, tuple[_Part, tuple[_Part, ...]]]]] = {
    "tflite": {"HARD_SWISH": (("HardSwish", 2), (("Add", 2), ("Mul", 3)))},
    "onnx": {
        "PRelu": (("PReluKernel", 2), (("Relu", 2), ("Min", 2), ("Mul", 2), ("Add", 3))),
        SKIPPED_NORMALIZATION: ((SKIPPED_NORMALIZATION, 3), (("Add", 3), ("LayerNormalization", 2))),
    },
}
_LOOKUPS: Final = frozenset({"Gather", "GatherElements", "GatherND"})
_MANY: Final = 1 << 16  # numbers: kernels are compared at their work, not at what it costs to call them


def slow_builtins(target: Target) -> frozenset[str]:
    """TFLite builtins, or operators of onnxruntime, that on `target` take longer than what they are written out as: builtins in integers,
    operators of onnxruntime in float, since it computes those without an integer kernel in float as well.
    """
    if target.artifact.format == "tflite" and not target.artifact.calibrated:
        return frozenset()
    model = CostModel(target)
    form: Form = "int8" if target.artifact.format == "tflite" else "float32"

    def us(kernel: str, numbers: int) -> float:
        return model.node_us(kernel, 0, numbers * _WIDTHS[form][0] * _MANY, form)

    candidates = _WRITTEN_OUT[target.artifact.format].items()
    return frozenset(name for name, (whole, parts) in candidates if us(*whole) > sum(us(*part) for part in parts))


def model_macs(model: ir.Model) -> int:
    """Multiply-accumulates of one run of the graph."""
    return sum(macs_of(node) for node in model.graph)


def affordable(model: ir.Model, runs: int, effort: Effort = "balanced") -> int:
    """On how many samples a choice can be made that runs the model so many times on each: what happens rarely decides on small models, and
    there many samples take no time.
    """
    return _SPENT[effort] // max(runs * model_macs(model), 1)


def node_us(model: CostModel, node: ir.Node, form: Form) -> float:
    """Estimated microseconds of a node, with the activation that is fused into it, in one form."""
    return model.node_us(kernel_of(node), macs_of(node), bytes_moved(node, form), form)


def kernel_of(node: ir.Node) -> str:
    """The name under which `targets/kernels` lists a node."""
    try:
        return operator_of(node).kernel(node)
    except Refused:
        return node.op_type


def macs_of(node: ir.Node) -> int:
    """Multiply-accumulates of a node; 0 where nothing is known of its cost."""
    try:
        return operator_of(node).cost(node).macs
    except Refused:
        return 0


def bytes_moved(node: ir.Node, form: Form) -> int:
    """Bytes of the floating-point numbers that a node reads and writes, held as `form` holds them.

    Of a table that is looked up, what is read are the rows that are written.
    """
    return sum(_moved(node, form))


def constant_bytes(node: ir.Node, form: Form) -> int:
    """Those of `bytes_moved` that are of constants."""
    return _moved(node, form)[1]


def _moved(node: ir.Node, form: Form) -> tuple[int, int]:
    """Bytes of activations and of constants."""
    widths = _WIDTHS[form]
    most = sum(_elements(value) for value in node.outputs) if node.op_type in _LOOKUPS else None
    found = [0, 0]
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype is not None and value.dtype.is_floating_point():
            elements = _elements(value) if most is None else min(_elements(value), most)
            found[is_constant(value)] += elements * widths[is_constant(value)]
    return found[0], found[1]


def _elements(value: ir.Value) -> int:
    return value.const_value.size if value.const_value is not None else prod(static_shape(value))
