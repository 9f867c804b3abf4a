"""Einsum with a constant equation: transposes, reshapes, products of matrices, sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from exporter.graph.values import attribute, static_shape
from exporter.ops.base import Coupling, QuantRule, Refused, Rewriter, register
from exporter.ops.common import input_of, output_shape
from exporter.ops.composite import Composite
from exporter.ops.indexing import reshaped

__all__ = ["Einsum"]

_ELLIPSIS = "0123456789"  # names of the axes that an ellipsis stands for, counted from the last


@dataclass(frozen=True)
class _Term:
    """A tensor and the letter of each of its axes."""

    value: ir.Value
    letters: str

    @property
    def lengths(self) -> dict[str, int]:
        return dict(zip(self.letters, static_shape(self.value), strict=True))


@register
class Einsum(Composite):
    """Sums of products over the letters of an equation."""

    op_type = "Einsum"
    refuses: ClassVar[Mapping[str, str]] = {
        "lower": "Einsum is written as transposes, products of matrices and sums, which legalize makes"
    }

    def couple(self, node: ir.Node) -> Coupling:
        return Coupling(())

    def quantize(self, node: ir.Node) -> QuantRule:
        raise Refused(node, "Einsum runs in integers in the parts that it is made of")

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Operands are joined from the left, each letter being summed as soon as no other operand has it."""
        if rewriter.runtime != "tflite" or 0 in output_shape(node):
            return None
        left, right = _parse(node)
        terms = [_plain(rewriter, _Term(input_of(node, index), letters)) for index, letters in enumerate(left)]
        found = terms[0]
        for place, other in enumerate(terms[1:], start=1):
            kept = set(right).union(*(term.letters for term in terms[place + 1 :]))
            found = _joined(rewriter, found, other, kept)
        found = _summed(rewriter, found, set(right))
        return [_ordered(rewriter, found, right).value]


def _parse(node: ir.Node) -> tuple[list[str], str]:
    """The letters of each operand and of the output; digits for the axes of an ellipsis.

    Without an arrow, the output has the letters that occur once, in alphabetic order, behind the ellipsis.
    """
    equation = str(attribute(node, "equation")).replace(" ", "")
    inside, arrow, right = equation.partition("->")
    operands = inside.split(",")
    if len(operands) != len(node.inputs):
        raise Refused(node, f"the equation {equation} names {len(operands)} operands of {len(node.inputs)}")
    widest, left = "", []
    for index, letters in enumerate(operands):
        hidden = len(static_shape(input_of(node, index))) - len(letters.replace("...", ""))
        names = _ELLIPSIS[:hidden][::-1]
        widest = max(widest, names, key=len)
        left.append(letters.replace("...", names))
    if not arrow:
        every = "".join(operands).replace(".", "")
        right = "..." + "".join(sorted(letter for letter in set(every) if every.count(letter) == 1))
    return left, right.replace("...", widest)


def _plain(rewriter: Rewriter, term: _Term) -> _Term:
    """The term without letters that occur twice: of those axes, the diagonal."""
    for letter in dict.fromkeys(term.letters):
        while term.letters.count(letter) > 1:
            first = term.letters.index(letter)
            second = term.letters.index(letter, first + 1)
            rest = [axis for axis in range(len(term.letters)) if axis not in (first, second)]
            moved = rewriter.op("Transpose", term.value, perm=(first, second, *rest))
            shape = static_shape(moved)
            flat = reshaped(rewriter, moved, (shape[0] * shape[1], *shape[2:]))
            places = rewriter.const(np.arange(shape[0], dtype=np.int64) * (shape[1] + 1), "diagonal")
            letters = letter + "".join(term.letters[axis] for axis in rest)
            term = _Term(rewriter.op("Gather", flat, places, axis=0), letters)
    return term


def _summed(rewriter: Rewriter, term: _Term, kept: set[str]) -> _Term:
    axes = [axis for axis, letter in enumerate(term.letters) if letter not in kept]
    if not axes:
        return term
    letters = "".join(letter for letter in term.letters if letter in kept)
    return _Term(rewriter.op("ReduceSum", term.value, rewriter.const(np.asarray(axes, np.int64), "axes"), keepdims=0), letters)


def _ordered(rewriter: Rewriter, term: _Term, letters: str) -> _Term:
    """The term's axes in another order; letters that it lacks become axes of length 1."""
    perm = tuple(term.letters.index(letter) for letter in letters if letter in term.letters)
    value = term.value if perm == tuple(range(len(perm))) else rewriter.op("Transpose", term.value, perm=perm)
    lengths = term.lengths
    shape = tuple(lengths.get(letter, 1) for letter in letters)
    return _Term(value if static_shape(value) == shape else reshaped(rewriter, value, shape), letters)


def _joined(rewriter: Rewriter, left: _Term, right: _Term, kept: set[str]) -> _Term:
    """The product of two terms, summed over the letters that nothing else has: [batch, rows, inner] @ [batch, inner, columns]."""
    left, right = _summed(rewriter, left, kept | set(right.letters)), _summed(rewriter, right, kept | set(left.letters))
    lengths = [left.lengths, right.lengths]
    both = [letter for letter in left.letters if letter in right.letters]
    # A letter of length 1 on one side alone is broadcast: it belongs to the other side.
    shared = [letter for letter in both if lengths[0][letter] == lengths[1][letter]]
    batch = "".join(letter for letter in shared if letter in kept)
    inner = "".join(letter for letter in shared if letter not in kept)
    broadcast = [letter for letter in both if letter not in shared]
    if not inner or any(letter not in kept for letter in broadcast):
        every = "".join(dict.fromkeys(left.letters + right.letters))
        sides = [_ordered(rewriter, term, every).value for term in (left, right)]
        return _summed(rewriter, _Term(rewriter.op("Mul", *sides), every), kept)
    rows = "".join(letter for letter in left.letters if letter not in shared and (letter not in both or lengths[0][letter] > 1))
    columns = "".join(
        letter for letter in right.letters if letter not in shared and (letter not in both or lengths[1][letter] > 1)
    )
    size = {**lengths[1], **{letter: max(length, lengths[1].get(letter, 1)) for letter, length in lengths[0].items()}}
    counts = [prod(size[letter] for letter in group) for group in (batch, rows, inner, columns)]
    first, second = (
        _ordered(rewriter, _narrow(rewriter, term, order), order).value
        for term, order in ((left, batch + rows + inner), (right, batch + inner + columns))
    )
    a, b = reshaped(rewriter, first, counts[:3]), reshaped(rewriter, second, (counts[0], *counts[2:]))
    if not batch:
        a, b = reshaped(rewriter, a, counts[1:3]), reshaped(rewriter, b, counts[2:])
    letters = batch + rows + columns
    return _Term(reshaped(rewriter, rewriter.op("MatMul", a, b), tuple(size[letter] for letter in letters)), letters)


def _narrow(rewriter: Rewriter, term: _Term, letters: str) -> _Term:
    """The term without axes of length 1 whose letters are not in `letters`."""
    kept = "".join(letter for letter in term.letters if letter in letters)
    if kept == term.letters:
        return term
    lengths = term.lengths
    return _Term(reshaped(rewriter, term.value, tuple(lengths[letter] for letter in kept)), kept)
