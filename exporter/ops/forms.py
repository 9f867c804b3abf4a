"""Which integer forms TFLite's builtin operators have beside int8, and the version that each needs.

int16: activations of 16 bits with 8-bit weights. Hybrid: float activations, which the kernel quantizes as it runs, with integer weights.
Versions are those of TensorFlow's op_version.cc; that the kernels compute what they should was measured on LiteRT 2.3.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["BLOCK", "hybrid_version"]

BLOCK: Final = 32  # elements of a row that share a scale where a kernel takes blocks: XNNPACK wants a multiple of 32

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


def hybrid_version(op: str, *, per_channel: bool, blocks: bool = False) -> int | None:
    """The version of a builtin operator whose kernel takes float activations with integer weights of that form; None: it has none."""
    return _HYBRID_BLOCKS.get(op) if blocks else _HYBRID.get((op, per_channel))
