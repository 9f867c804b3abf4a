"""Sums whose result does not depend on the order or grouping of their terms: what makes statistics of shards equal those of the whole."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

__all__ = ["LIMBS", "ExactSums"]

Array = np.ndarray[Any, Any]

_BITS: Final = 32
_LEAST: Final = -320  # exponent of the last digit's unit: below the square of the least float32
LIMBS: Final = 19  # digits up to 2**288: above 2**31 squares of the greatest float32
_CARRY_EVERY: Final = 1 << 30  # additions after which a digit, grown by at most 2**32 each time, could leave int64


class ExactSums:
    """A vector of sums of float64 numbers, held in fixed point: integers of 608 bits in digits of 32.

    A number is cut into its digits without error (Demmel and Nguyen 2015, "Parallel Reproducible Summation", section 4, with fixed
    bins), so adding is adding integers: associative, commutative, exact. Only what a term has below 2**-321 is rounded away,
    from that term alone. Terms must be finite and below 2**256.

    Args:
        size: length of the vector.
        limbs: int64 [LIMBS, size], the digits as `digits` gave them; default: zeros.
    """

    def __init__(self, size: int, limbs: Array | None = None) -> None:
        self._limbs = np.zeros((LIMBS, size), np.int64) if limbs is None else np.array(limbs, np.int64)
        self._added = 0

    def add(self, terms: Array) -> None:
        """Add float64 [size]."""
        rest = np.array(terms, np.float64)
        largest = float(np.abs(rest).max(initial=0.0))
        if largest == 0.0:
            return
        first = min(LIMBS - 1, max(0, (int(np.frexp(largest)[1]) - _LEAST) // _BITS))
        for level in range(first, -1, -1):
            unit = 2.0 ** (_BITS * level + _LEAST)
            digit = np.rint(rest / unit)
            self._limbs[level] += digit.astype(np.int64)
            rest -= digit * unit
            if not rest.any():
                break
        self._added += 1
        if self._added >= _CARRY_EVERY:
            self._limbs, self._added = self.digits(), 0

    def merge(self, other: ExactSums) -> None:
        """Add the sums of another vector of this size."""
        self._limbs, self._added = self.digits() + other.digits(), 2

    def digits(self) -> Array:
        """int64 [LIMBS, size]: the sums in base 2**32, least first, all but the last in [0, 2**32). Equal sums have equal digits."""
        limbs = self._limbs.copy()
        for level in range(LIMBS - 1):
            carry = limbs[level] >> _BITS
            limbs[level] -= carry << _BITS
            limbs[level + 1] += carry
        return limbs

    def clear(self, where: Array) -> None:
        """Set the sums of a mask to zero."""
        self._limbs[:, where] = 0

    def values(self) -> Array:
        """float64 [size], each within one rounding of the exact sum."""
        total = np.zeros(self._limbs.shape[1])
        for level, digit in reversed(list(enumerate(self.digits()))):
            total += digit * 2.0 ** (_BITS * level + _LEAST)
        return total
