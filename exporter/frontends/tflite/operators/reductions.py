"""Many elements into one: sums, extremes and their places, running sums, and what divides by a sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from exporter.frontends.tflite.reading import Reading, first_axis
from exporter.frontends.tflite.registry import reads

__all__: list[str] = []

_REDUCERS: Final[Mapping[str, str]] = {
    "MEAN": "ReduceMean",
    "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd",
    "SUM": "ReduceSum",
}
_L2_FLOOR: Final = 1e-6  # of the sum of squares, in TFLite's kernels of L2_NORMALIZATION


@reads(*_REDUCERS)
def reduce(to: Reading) -> None:
    """The ONNX reduction of the same meaning; without axes, nothing is reduced."""
    _give_reduced(to, _REDUCERS[to.kind])


@reads("REDUCE_ANY", "REDUCE_ALL")
def reduce_logical(to: Reading) -> None:
    """The greatest or the least of zeros and ones."""
    _give_reduced(to, "ReduceMax" if to.kind == "REDUCE_ANY" else "ReduceMin", logical=True)


def _give_reduced(to: Reading, op_type: str, logical: bool = False) -> None:
    keep, count = bool(to.option("keepDims", False)), len(to.shape())
    x, first = to.loose() if keep else (to.input(0), False)
    if not keep and to.prefers_first() and sorted(axis % count for axis in to.ints(1)) == list(range(1, count - 1)):
        x, first = to.input(0, first=True), True  # all pixels of every channel: [N, C] in either order
    axes = [axis % count for axis in to.ints(1)]
    x = to.op("Cast", x, to=ir.DataType.INT32) if logical else x
    mapped = sorted(first_axis(axis, count) if first else axis for axis in axes)
    y = to.op(op_type, x, to.int64(mapped), keepdims=int(keep), noop_with_empty_axes=1)
    to.give(to.op("Cast", y, to=ir.DataType.BOOL) if logical else y, first=first and keep)


@reads("ARG_MAX", "ARG_MIN")
def arg(to: Reading) -> None:
    """The place of the first greatest or least element."""
    kind = {"ARG_MAX": "ArgMax", "ARG_MIN": "ArgMin"}[to.kind]
    y = to.op(kind, to.input(0), axis=to.ints(1)[0], keepdims=0)
    to.give(y if to.output_tensor().dtype == "int64" else to.op("Cast", y, to=ir.DataType.INT32))


@reads("TOPK_V2")
def top_k(to: Reading) -> None:
    values, places = to.ops("TopK", to.input(0), to.int64(to.ints(1)), outputs=2, axis=-1)
    to.give(values)
    to.give(to.op("Cast", places, to=ir.DataType.INT32), 1)


@reads("CUMSUM")
def cumsum(to: Reading) -> None:
    flags = {name: int(bool(to.option(name, False))) for name in ("exclusive", "reverse")}
    to.give(to.op("CumSum", to.input(0), to.const(np.asarray(to.ints(1)[0], np.int32)), **flags))


@reads("SOFTMAX")
def softmax(to: Reading) -> None:
    """Softmax over the last axis of beta times the input."""
    x, first = to.loose()
    beta = float(to.option("beta", 1.0))
    if beta != 1.0:
        x = to.op("Mul", x, to.const(np.asarray(beta, np.float32)))
    to.give(to.op("Softmax", x, axis=1 if first else -1), first=first)


@reads("LOG_SOFTMAX")
def log_softmax(to: Reading) -> None:
    x, first = to.loose()
    to.give(to.op("LogSoftmax", x, axis=1 if first else -1), first=first)


@reads("L2_NORMALIZATION")
def l2_normalization(to: Reading) -> None:
    """The input over its length along the last axis, a length below 1e-3 taken as that."""
    x, first = to.loose()
    squares = to.op("ReduceSum", to.op("Mul", x, x), to.int64([1 if first else -1]), keepdims=1)
    length = to.op("Sqrt", to.op("Max", squares, to.const(np.asarray(_L2_FLOOR, np.float32))))
    to.give(to.op("Div", x, length), first=first)


@reads("LOCAL_RESPONSE_NORMALIZATION")
def local_response_normalization(to: Reading) -> None:
    """LRN; ONNX divides alpha by the number of channels in the window."""
    size = 2 * int(to.option("radius")) + 1
    alpha, beta, bias = (float(to.option(name)) for name in ("alpha", "beta", "bias"))
    to.give(to.op("LRN", to.input(0, first=True), size=size, alpha=alpha * size, beta=beta, bias=bias), first=True)
