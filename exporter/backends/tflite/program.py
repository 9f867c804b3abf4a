"""The main subgraph of a TFLite artifact as memory sees it: tensors by size, operators in order, and how long each tensor exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from exporter.graph.artifacts import ArtifactFacts
from targets.arena import Buffer, aligned

__all__ = ["Operator", "Program", "Stored", "buffers_of", "program_of"]

_UNSEEN: Final = -1  # the step of a tensor that no operator touches


@dataclass(frozen=True)
class Stored:
    """One tensor: `dtype` a numpy name ("int4" aside), `scales` how many it has, `constant` whether the file holds its content."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False
    scales: int = 0

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return (self.elements + 1) // 2 if self.dtype == "int4" else self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Operator:
    """A builtin operator and its tensors by index; -1 stands for an absent optional input."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Operators run in their order."""

    tensors: tuple[Stored, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def reordered(self, order: Sequence[int]) -> Program:
        """The same operators in another order."""
        return Program(self.tensors, tuple(self.operators[index] for index in order), self.inputs, self.outputs)


def program_of(facts: ArtifactFacts) -> Program:
    """The program of a .tflite that `read_tflite` read."""
    index = {tensor.name: position for position, tensor in enumerate(facts.tensors)}
    index[""] = -1
    return Program(
        tuple(Stored(entry.name, entry.shape, entry.dtype, entry.bytes > 0, len(entry.scale)) for entry in facts.tensors),
        tuple(
            Operator(node.op_type, tuple(index[name] for name in node.inputs), tuple(index[name] for name in node.outputs))
            for node in facts.nodes
        ),
        tuple(index[name] for name in facts.inputs),
        tuple(index[name] for name in facts.outputs),
    )


def buffers_of(program: Program) -> dict[int, Buffer]:
    """Every tensor that takes memory when the program runs, by index, with its lifetime; the operator at position i is step i + 1.

    As TensorFlow Lite Micro counts (tensorflow/lite/micro/micro_allocation_info.cc): inputs exist from step 0, outputs to the end.
    """
    first = dict.fromkeys((*program.inputs, *program.outputs), 0)
    last = dict(first)
    for step, operator in enumerate(program.operators, 1):
        first |= dict.fromkeys(operator.outputs, step)
        last |= dict.fromkeys((*operator.inputs, *operator.outputs), step)
    last |= dict.fromkeys(program.outputs, len(program.operators))
    return {
        index: Buffer(tensor.name, aligned(tensor.bytes), first.get(index, _UNSEEN), last.get(index, _UNSEEN))
        for index, tensor in enumerate(program.tensors)
        if not tensor.constant and tensor.bytes
    }
