"""The version and options that an operator needs for the integer form of the tensors that it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from exporter.backends.tflite.container import Tensor
from exporter.ops.base import Refused
from exporter.ops.forms import hybrid_version, int16_version, narrow_version

__all__ = ["in_form"]

_DYNAMIC: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")
_ASYMMETRIC: Final = ("FULLY_CONNECTED", "BATCH_MATMUL")  # the option is theirs; the convolutions' kernels always are

_FREE_SCALE: Final = ("ADD", "SUB")  # in int16 their scales are powers of two unless the option says otherwise


def in_form(
    op: str, version: int, options: Mapping[str, Any], read: Sequence[Tensor], written: Sequence[Tensor]
) -> tuple[int, dict[str, Any]]:
    """`version` and `options` of an operator, raised to what its tensors ask for.

    Raises Refused where the operator has no kernel for them.
    """
    given = dict(options)
    if op == "DEQUANTIZE":
        return _dequantize(read[0]), given
    if op == "QUANTIZE":
        return 2 if "int16" in (read[0].dtype, written[0].dtype) else 1, given
    if any(tensor.dtype == "int16" and tensor.encoding is not None for tensor in (*read, *written)):
        return _int16(op, version), given | ({"pot_scale_int16": False} if op in _FREE_SCALE else {})
    if read and read[0].dtype == "int8" and any(tensor.dtype == "int4" for tensor in read[1:]):
        return _narrow(op, version), given
    if op in _DYNAMIC and read[0].dtype == "float32" and read[1].encoding is not None:
        encoding = read[1].encoding
        needed = hybrid_version(op, per_channel=encoding.axis is not None, blocks=encoding.block > 0)
        if needed is None:
            raise Refused(None, f"{op} has no kernel for float activations with this form of {read[1].dtype} weights")
        return max(version, needed), given | ({"asymmetric_quantize_inputs": True} if op in _ASYMMETRIC else {})
    return version, given


def _int16(op: str, version: int) -> int:
    needed = int16_version(op)
    if needed is None:
        raise Refused(None, f"{op} has no int16 kernel")
    return max(version, needed)


def _narrow(op: str, version: int) -> int:
    needed = narrow_version(op)
    if needed is None:
        raise Refused(None, f"{op} has no kernel for int8 activations with int4 weights")
    return max(version, needed)


def _dequantize(tensor: Tensor) -> int:
    if tensor.dtype == "int4":
        return 6
    per_channel = tensor.encoding is not None and tensor.encoding.axis is not None
    return {"int8": 5 if per_channel else 2, "int16": 3, "float16": 3}.get(tensor.dtype, 1)
