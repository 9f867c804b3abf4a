"""A float output that an integer node computes has numbers of its encoding alone: whatever else comes out, a runtime has left out a rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from diagnostics import RuntimeFailure
from exporter.graph.values import fused_into, name_of
from exporter.quantization.apply import runs_in_integers
from exporter.quantization.plan import Encoding, Plan, integer_range

__all__ = ["require_within"]


def require_within(graph: ir.Graph, plan: Plan, runs: Iterable[Mapping[str, np.ndarray[Any, Any]]], runtime: str) -> None:
    """Hold the outputs of an artifact's runs on `runtime` to the ranges of their encodings, to half a step.

    Seen of QNN 2.51: of ``float -> Quantize -> Relu -> Dequantize -> float`` nothing is left, negative numbers pass.

    Raises RuntimeFailure EW-R005.
    """
    encodings = {name_of(value): found for value in graph.outputs if (found := _encoding(value, plan)) is not None}
    for outputs in runs:
        for name in set(outputs) & set(encodings):
            least, greatest = _limits(encodings[name])
            low, high = float(outputs[name].min(initial=np.inf)), float(outputs[name].max(initial=-np.inf))
            if low < least or high > greatest:
                raise RuntimeFailure(
                    "EW-R005",
                    f"output {name} on {runtime} is outside of what its encoding can hold",
                    where=name,
                    why=f"it reaches from {low:.6g} to {high:.6g}, the encoding from {least:.6g} to {greatest:.6g}: {runtime} left out "
                    "the rounding of a value that is quantized and dequantized again with nothing between that it has to compute",
                    fix="leave out of the model what only clamps or moves its input, or give it something to compute",
                )


def _encoding(value: ir.Value, plan: Plan) -> Encoding | None:
    """The encoding through which an output went before it was a float again; None where it was not, or is an integer."""
    node = value.producer()
    if node is None or not runs_in_integers(fused_into(node) or node, plan) or plan.io_dtype_of(name_of(value)) != "float32":
        return None
    return plan.encodings.get(name_of(value))


def _limits(encoding: Encoding) -> tuple[float, float]:
    """The least and greatest number, widened by half a step for what a runtime's float arithmetic adds."""
    (scale,), (zero_point,) = encoding.scale, encoding.zero_point
    low, high = integer_range(encoding.dtype)
    return scale * (low - zero_point - 0.5), scale * (high - zero_point + 0.5)
