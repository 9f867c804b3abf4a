"""Which integer forms TFLite's builtin operators have beside int8, and the version that each needs.

int16: activations of 16 bits with 8-bit weights. Hybrid: float activations, which the kernel quantizes as it runs, with integer weights.
Versions are those of TensorFlow's op_version.cc; that the kernels compute what they should was measured on LiteRT 2.3.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx_ir as ir

from exporter.ops.base import Operator

__all__ = ["BLOCK", "ROWWISE", "hybrid_version", "int16_version", "lacking", "narrow_version"]

BLOCK: Final = 32  # elements of a row that share a scale where a kernel takes blocks: XNNPACK wants a multiple of 32

# Hybrid kernels that quantize each row of their input by itself; the convolutions' take a whole image at once, as a static encoding does.
ROWWISE: Final = frozenset({"FULLY_CONNECTED", "BATCH_MATMUL"})

# Operators that only move elements, and have taken int16 since their first version, are in here with that.
_INT16: Final[Mapping[str, int]] = {
    "ABS": 3,
    "ADD": 3,
    "AVERAGE_POOL_2D": 3,
    "BATCH_MATMUL": 3,
    "BROADCAST_TO": 3,
    "CONCATENATION": 3,
    "CONV_2D": 4,
    "DEPTHWISE_CONV_2D": 5,
    "DEQUANTIZE": 3,
    "EXP": 2,
    "EXPAND_DIMS": 1,
    "FULLY_CONNECTED": 7,
    "GATHER": 4,
    "GATHER_ND": 3,
    "LEAKY_RELU": 2,
    "LOGISTIC": 3,
    "MAXIMUM": 4,
    "MAX_POOL_2D": 3,
    "MEAN": 3,
    "MINIMUM": 4,
    "MIRROR_PAD": 3,
    "MUL": 4,
    "PACK": 3,
    "PAD": 3,
    "PADV2": 3,
    "QUANTIZE": 2,
    "REDUCE_MAX": 3,
    "REDUCE_MIN": 3,
    "RELU": 3,
    "RELU6": 3,
    "RESHAPE": 1,
    "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "SLICE": 4,
    "SOFTMAX": 3,
    "SPLIT": 4,
    "SQUEEZE": 1,
    "SPLIT_V": 2,
    "STRIDED_SLICE": 4,
    "SUB": 5,
    "TANH": 3,
    "TOPK_V2": 3,
    "TRANSPOSE": 5,
    "TRANSPOSE_CONV": 3,
    "UNPACK": 4,
}
# int8 activations with int4 weights. DEPTHWISE_CONV_2D is left out: LiteRT 2.3.0 has version 7 in one of its sets of kernels only.
_NARROW: Final[Mapping[str, int]] = {"CONV_2D": 7, "FULLY_CONNECTED": 10}
# (operator, per channel) -> version. DEPTHWISE_CONV_2D with one scale a tensor is left out: LiteRT 2.3.0 reads scales behind the first.
_HYBRID: Final[Mapping[tuple[str, bool], int]] = {
    ("CONV_2D", False): 2,
    ("CONV_2D", True): 5,
    ("DEPTHWISE_CONV_2D", True): 6,
    ("FULLY_CONNECTED", False): 9,
    ("FULLY_CONNECTED", True): 12,
    ("BATCH_MATMUL", False): 4,
}
# Blocks came without a version of their own, and kernels that do not know them compute nonsense without an error. Version 14 came later
# than they did, so that a runtime which loads the file has them.
_HYBRID_BLOCKS: Final[Mapping[str, int]] = {"FULLY_CONNECTED": 14}


def int16_version(op: str) -> int | None:
    """The lowest version of a builtin operator whose kernel takes int16 activations; None: it has none."""
    return _INT16.get(op)


def narrow_version(op: str) -> int | None:
    """The lowest version of a builtin operator whose kernel takes int8 activations with int4 weights; None: it has none."""
    return _NARROW.get(op)


def lacking(operator: Operator, node: ir.Node, dtype: str, runtime: str) -> str:
    """Why a node that runs in integers has none of `dtype` ("int8", "int16") on a runtime, as a sentence; "" where it has."""
    # onnxruntime computes between QuantizeLinear and DequantizeLinear in float where it has no integer kernel.
    if runtime != "tflite" or operator.runs_in(node, dtype):
        return ""
    return f"{node.op_type} has no {dtype} kernel"


def hybrid_version(op: str, *, per_channel: bool, blocks: bool = False) -> int | None:
    """The version of a builtin operator whose kernel takes float activations with integer weights of that form; None: it has none."""
    return _HYBRID_BLOCKS.get(op) if blocks else _HYBRID.get((op, per_channel))
