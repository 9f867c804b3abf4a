"""Round the rows of a weight together: what rounding one weight costs, the weights rounded after it make up for.

The error that a layer's output gets from rounded weights is ``(q - w) H (q - w)^T`` a row, `H` the second moment of the layer's inputs.
Columns are rounded one after the other, each for the error that those before it have left (Frantar et al. 2022, "GPTQ", as Babai's
nearest plane, by which it needs a Cholesky factor of `H` and no inverse: Chen et al. 2025, "The Geometry of LLM Quantization"). Then each
weight is looked at again with all others in place, and moved where that lowers the error (coordinate descent).

Everything is a numpy array with the groups of a grouped convolution in front: rows [groups, outputs, inputs], moments
[groups, inputs, inputs], scales [groups, outputs, 1], all float64.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any, Final

import numpy as np

from diagnostics import ModelError

__all__ = ["Array", "pack_offsets", "round_rows", "rounding_error", "unpack_offsets"]

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK: Final = 16  # columns whose error is spread at once over all behind them: a product of matrices instead of 16 of vectors
_ALIKE: Final = 2**32  # inputs whose strengths are apart by less than so small a part of the greatest are as strong as each other


def rounding_error(rows: Array, integers: Array, moment: Array, scale: Array) -> Array:
    """``(q - w) H (q - w)^T`` of every row: [groups, outputs, 1]."""
    difference = integers * scale - rows
    return np.asarray(np.sum(np.matmul(difference, moment) * difference, axis=-1, keepdims=True))


def round_rows(rows: Array, moment: Array, scale: Array, limit: Array | int, *, sweeps: int = 2) -> Array:
    """Integers in [-limit, limit] for `rows` in steps of `scale`, with the least ``rounding_error`` that is found.

    No row is worse than rounded to nearest. `moment` must be positive definite.
    """
    nearest = np.clip(np.rint(rows / scale), -limit, limit)
    found = _descend(rows, _with_feedback(rows, moment, scale, limit), moment, scale, limit, sweeps)
    worse = rounding_error(rows, found, moment, scale) > rounding_error(rows, nearest, moment, scale)
    return np.where(worse, nearest, found)


def _with_feedback(rows: Array, moment: Array, scale: Array, limit: Array | int) -> Array:
    """Column by column, those of the strongest inputs first.

    With H = L L^T, L lower triangular, the error is the sum of the squares of (q - w) L: column i of L has only rows from i on. So from the
    last column to the first, each is rounded where those behind it, already rounded, leave its square the least.
    """
    strength = np.diagonal(moment, axis1=1, axis2=2)
    # Inputs as strong as each other keep their order, whatever the last bit of their sums is on this processor.
    order = np.argsort(-np.rint(strength / strength.max(axis=-1, keepdims=True) * _ALIKE), axis=-1, kind="stable")[:, ::-1]
    ordered = moment[np.arange(len(moment))[:, None, None], order[:, :, None], order[:, None, :]]
    lower = np.linalg.cholesky(ordered)
    spread = lower / np.diagonal(lower, axis1=1, axis2=2)[:, None, :]
    wanted = np.take_along_axis(rows, order[:, None, :], axis=2)
    left, integers = wanted.copy(), np.empty_like(wanted)
    for end in range(wanted.shape[2], 0, -_BLOCK):
        start = max(end - _BLOCK, 0)
        for i in range(end - 1, start - 1, -1):
            at = slice(i, i + 1)
            integers[:, :, at] = np.clip(np.rint(left[:, :, at] / scale), -limit, limit)
            left[:, :, start:i] += (wanted[:, :, at] - integers[:, :, at] * scale) * spread[:, at, start:i]
        errors = wanted[:, :, start:end] - integers[:, :, start:end] * scale
        left[:, :, :start] += np.matmul(errors, spread[:, start:end, :start])
    back = np.argsort(order, axis=-1, kind="stable")
    return np.take_along_axis(integers, back[:, None, :], axis=2)


def _descend(rows: Array, integers: Array, moment: Array, scale: Array, limit: Array | int, sweeps: int) -> Array:
    """Each weight to the best integer with all others as they are, `sweeps` times over all columns."""
    found, size = integers.copy(), rows.shape[2]
    diagonal = np.diagonal(moment, axis1=1, axis2=2)[:, None, :]
    gradient = np.matmul(found * scale - rows, moment)
    for _ in range(sweeps):
        for start in range(0, size, _BLOCK):
            end = min(start + _BLOCK, size)
            block = gradient[:, :, start:end].copy()
            moves = np.empty_like(block)
            for i in range(start, end):
                at = slice(i - start, i - start + 1)
                given = found[:, :, i : i + 1]
                best = np.clip(np.rint(given - block[:, :, at] / (diagonal[:, :, i : i + 1] * scale)), -limit, limit)
                moves[:, :, at] = (best - given) * scale
                found[:, :, i : i + 1] = best
                block += moves[:, :, at] * moment[:, i : i + 1, start:end]
            gradient += np.matmul(moves, moment[:, start:end, :])
    return found


def pack_offsets(integers: Array, nearest: Array) -> str:
    """int8 integers as text: their offsets from those rounded to nearest (modulo 256), deflated, in base 64."""
    offsets = (integers.astype(np.int64) - nearest).astype(np.int8)
    # Base 85 would be a fifteenth shorter, but Python takes ten times as long for it than for base 64.
    # Offsets have no repetitions to find, only frequent values: Huffman codes alone are as short, and made in a tenth of the time.
    packer = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return base64.b64encode(packer.compress(offsets.tobytes()) + packer.flush()).decode("ascii")


def unpack_offsets(text: str, nearest: Array) -> Array:
    """The integers that `pack_offsets` was given, with the shape and the dtype (int8) of `nearest`.

    Raises:
        ModelError: EW-Q002, the text is damaged or belongs to another number of weights.
    """
    try:
        offsets = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), np.int8)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise ModelError("EW-Q002", "a rounding of the plan cannot be read", why=str(error), fix="make the plan again") from error
    if offsets.size != nearest.size:
        raise ModelError("EW-Q002", f"the plan rounds {offsets.size} weights where the graph has {nearest.size}")
    return np.asarray((nearest.astype(np.int64) + offsets.reshape(nearest.shape)).astype(np.int8))
