"""What kernels take from the arena beside their tensors: scratch while they run, and what they keep from their preparation on.

Reference kernels: tensorflow/lite/micro/kernels. What CMSIS-NN takes instead are its own functions `arm_*_get_buffer_size*` (V.2.3.0), at their
upper bound where they ask for what a file does not say in one place (dilation, the build's compiler). What is kept was measured on
tflite-micro 0.dev20261023182759, whose pointers have 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from exporter.backends.tflite.program import Operator, Program, Stored
from targets.arena import aligned
from targets.schema import Scratch

__all__ = ["kept", "scratch"]

_EFFICIENT_REVERSE: Final = (
    16  # REVERSE_TCOL_EFFICIENT_THRESHOLD: input channels above which a transposed convolution is turned around
)
_CHANNEL_BLOCK: Final = 124  # CH_IN_BLOCK_MVE


def scratch(program: Program, operator: Operator, kernels: Scratch) -> tuple[int, ...]:
    """Bytes of each buffer that an operator's kernel has while it runs."""
    own = (_CMSIS if kernels != "reference" else {}).get(operator.op)
    tensors = [program.tensors[index] if index >= 0 else None for index in operator.inputs]
    output = program.tensors[operator.outputs[0]]
    if own is not None:
        return tuple(size for size in own(tensors, output, kernels == "cmsis-nn-mve") if size)
    unpacked = [tensor.elements for tensor in tensors if tensor is not None and tensor.constant and tensor.dtype == "int4"]
    return tuple(size for size in (*_REFERENCE.get(operator.op, _none)(tensors, output), *unpacked) if size)


def kept(program: Program, operator: Operator) -> int:
    """Bytes that an operator's kernel keeps: parameters, and multipliers and shifts of every output channel."""
    size = _KEPT.get(operator.op, _KEPT_BY_OTHERS)
    weight = program.tensors[operator.inputs[1]] if len(operator.inputs) > 1 and operator.inputs[1] >= 0 else None
    output = program.tensors[operator.outputs[0]]
    if operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        size += 2 * aligned(4 * output.shape[-1])
    elif operator.op == "FULLY_CONNECTED" and weight is not None and weight.scales > 1:
        size += 2 * aligned(4 * weight.scales)
    elif operator.op == "BATCH_MATMUL" and weight is not None:
        size += aligned(weight.bytes)  # the second factor, transposed
    return size


# --- reference kernels ----------------------------------------------------------------------------------------------------

_Tensors = Sequence[Stored | None]


def _none(inputs: _Tensors, output: Stored) -> tuple[int, ...]:
    return ()


def _sums(inputs: _Tensors, output: Stored) -> tuple[int, ...]:
    """An index over the input, the axes, and a sum of 32 bits for every output."""
    source, axes = inputs[0], inputs[1]
    assert source is not None
    assert axes is not None
    return 4 * len(source.shape), 4 * axes.elements, 4 * output.elements


def _extremes(inputs: _Tensors, output: Stored) -> tuple[int, ...]:
    return _sums(inputs, output)[:2]


def _wide_outputs(inputs: _Tensors, output: Stored) -> tuple[int, ...]:
    return ((8 if output.dtype == "int16" else 4) * output.elements,) if output.dtype in ("int8", "int16") else ()


_REFERENCE: Final[Mapping[str, Callable[[_Tensors, Stored], tuple[int, ...]]]] = {
    "MEAN": _sums,
    "SUM": _sums,
    "REDUCE_MAX": _extremes,
    "REDUCE_MIN": _extremes,
    "TRANSPOSE_CONV": _wide_outputs,
}


# --- CMSIS-NN -------------------------------------------------------------------------------------------------------------


def _columns(kernel: Sequence[int], channels: int, helium: bool) -> int:
    """`arm_convolve_s8_get_buffer_size`: two columns of 16 bits, or four of 8 with Helium."""
    elements = kernel[0] * kernel[1] * channels
    return 4 * (-(-elements // 16) * 16) if helium else 2 * 2 * (-(-elements // 4) * 4)


def _cmsis_conv(inputs: _Tensors, output: Stored, helium: bool) -> tuple[int, ...]:
    source, weight = inputs[0], inputs[1]
    assert source is not None
    assert weight is not None
    if weight.shape[1:3] == (1, 1):
        return (0 if helium else 2 * 2 * source.shape[-1],)  # Arm's compiler; none with others
    return (_columns(weight.shape[1:3], source.shape[-1], helium),)


def _cmsis_depthwise(inputs: _Tensors, output: Stored, helium: bool) -> tuple[int, ...]:
    source, weight = inputs[0], inputs[1]
    assert source is not None
    assert weight is not None
    kernel = weight.shape[1:3]
    if source.shape[-1] != output.shape[-1] or (kernel == (3, 3) and not helium):
        return ()
    return (4 * _CHANNEL_BLOCK * kernel[0] * kernel[1] if helium else 2 * source.shape[-1] * kernel[0] * kernel[1],)


def _cmsis_average(inputs: _Tensors, output: Stored, helium: bool) -> tuple[int, ...]:
    return (0 if helium else 4 * output.shape[-1],)


def _cmsis_transposed(inputs: _Tensors, output: Stored, helium: bool) -> tuple[int, ...]:
    """Inputs: the output's shape, weight, image. The strides are those by which the output is larger."""
    weight, source = inputs[1], inputs[2]
    assert weight is not None
    assert source is not None
    kernel = weight.shape[1:3]
    strides = [max(1, after // before) for before, after in zip(source.shape[1:3], output.shape[1:3], strict=True)]
    if max(strides) <= 2 and source.shape[-1] > _EFFICIENT_REVERSE:
        return _columns(kernel, source.shape[-1], helium), weight.elements
    width = ((source.shape[2] - 1) * strides[1] + max(kernel[1], strides[0])) * output.shape[-1]
    return (4 * width * max(kernel[0], strides[0]),)


_CMSIS: Final[Mapping[str, Callable[[_Tensors, Stored, bool], tuple[int, ...]]]] = {
    "AVERAGE_POOL_2D": _cmsis_average,
    "CONV_2D": _cmsis_conv,
    "DEPTHWISE_CONV_2D": _cmsis_depthwise,
    "TRANSPOSE_CONV": _cmsis_transposed,
}

# --- what is kept ---------------------------------------------------------------------------------------------------------

# Options of the operator, of RESHAPE and CONV_2D at their own size as many of them behind one another show, and data of the kernel at a
# multiple of 16 bytes; without what goes by channels.
_KEPT: Final[Mapping[str, int]] = {
    "ABS": 48,
    "ADD": 80,
    "AVERAGE_POOL_2D": 80,
    "BATCH_MATMUL": 176,
    "CONCATENATION": 96,
    "CONV_2D": 108,
    "DEPTHWISE_CONV_2D": 112,
    "DEPTH_TO_SPACE": 32,
    "ELU": 272,
    "FULLY_CONNECTED": 112,
    "GATHER": 32,
    "HARD_SWISH": 32,
    "LEAKY_RELU": 48,
    "LOGISTIC": 32,
    "LOG_SOFTMAX": 48,
    "MAXIMUM": 0,
    "MAX_POOL_2D": 80,
    "MEAN": 64,
    "MINIMUM": 0,
    "MUL": 48,
    "PAD": 80,
    "PADV2": 80,
    "PRELU": 48,
    "QUANTIZE": 48,
    "REDUCE_MAX": 64,
    "REDUCE_MIN": 64,
    "RESHAPE": 36,
    "RESIZE_BILINEAR": 16,
    "RESIZE_NEAREST_NEIGHBOR": 16,
    "SLICE": 0,
    "SOFTMAX": 96,
    "SPACE_TO_DEPTH": 32,
    "SPLIT": 16,
    "SUB": 64,
    "SUM": 64,
    "TANH": 32,
    "TRANSPOSE": 16,
    "TRANSPOSE_CONV": 128,
}
_KEPT_BY_OTHERS: Final = 64
