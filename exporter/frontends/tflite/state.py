"""The state of a streaming model made explicit: what it keeps in variables becomes inputs and outputs, and the caller carries it.

::

    CALL_ONCE(init)                                       inputs:  x, states
    VAR_HANDLE(states) -> READ_VARIABLE -> s              CONCATENATION(s, x) -> ...
    CONCATENATION(s, x) -> ... -> ASSIGN_VARIABLE(t)      outputs: y, states/next

The rewritten file is what is read and what the artifact is compared with: it has the operators of the original, less those of its state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from exporter.frontends.source import Array

__all__ = ["Stateless", "explicit_state"]

_HANDLE, _READ, _ASSIGN, _ONCE = "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"
_STATE: Final = frozenset((_HANDLE, _READ, _ASSIGN, _ONCE))
_IDENTIFIER: Final = b"TFL3"
_NUMPY: Final = {0: np.float32, 2: np.int32, 3: np.uint8, 4: np.int64, 7: np.int16, 9: np.int8}  # TensorType


@dataclass(frozen=True)
class Stateless:
    """A file without variables. `initial`: what each variable starts as, in the stored dtype, by the name of its input."""

    content: bytes
    initial: dict[str, Array] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """What the caller must do, for a person."""
        starts = {name: _said(array) for name, array in self.initial.items()}
        return (
            "the model kept state; it is an input and an output now: after each inference feed NAME/next back as NAME, beginning with "
            + ", ".join(f"{name} = {said}" for name, said in sorted(starts.items()))
        )


def explicit_state(content: bytes) -> Stateless | None:
    """The file with its variables as inputs and outputs; None where it has none, or none of this form.

    The form: variables are read and assigned in the main graph alone, and set from constants by what is called once.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    codes = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    kinds = [{codes[operator.opcodeIndex] for operator in graph.operators or ()} for graph in model.subgraphs]
    once = {
        operator.builtinOptions.initSubgraphIndex
        for operator in model.subgraphs[0].operators
        if codes[operator.opcodeIndex] == _ONCE
    }
    others = [found for index, found in enumerate(kinds) if index and index not in once]
    if (
        not kinds[0] & _STATE
        or any(kinds[index] - {_HANDLE, _ASSIGN} for index in once)
        or any(found & _STATE for found in others)
        or others
    ):
        return None
    initial = {name: array for index in once for name, array in _assigned(model, model.subgraphs[index], codes).items()}
    main = model.subgraphs[0]
    carried = _Carried(main, codes)
    if not carried.explicit(initial):
        return None
    model.subgraphs, model.signatureDefs = [main], None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return Stateless(bytes(builder.Output()), {name: initial[name] for name in carried.read})


def _assigned(model: Any, graph: Any, codes: list[str]) -> dict[str, Array]:
    """Constants that a graph assigns to variables, by the variable's name."""
    handles = _handles(graph, codes)
    found = {}
    for operator in graph.operators:
        if codes[operator.opcodeIndex] == _ASSIGN:
            tensor = graph.tensors[operator.inputs[1]]
            data = model.buffers[tensor.buffer].data
            if data is not None and tensor.type in _NUMPY:
                found[handles[operator.inputs[0]]] = np.asarray(data, np.uint8).view(_NUMPY[tensor.type]).reshape(tensor.shape)
    return found


def _handles(graph: Any, codes: list[str]) -> dict[int, str]:
    """The variable's name by the tensor that refers to it."""
    return {
        int(operator.outputs[0]): (operator.builtinOptions.sharedName or b"").decode("utf-8", "replace")
        for operator in graph.operators
        if codes[operator.opcodeIndex] == _HANDLE
    }


class _Carried:
    """The variables of one graph while it is walked in order."""

    def __init__(self, graph: Any, codes: list[str]) -> None:
        self._graph, self._codes, self._handles = graph, codes, _handles(graph, codes)
        self._now: dict[str, int] = {}  # the tensor that a variable's value is in
        self._same: dict[int, int] = {}  # a further read -> the tensor that it is
        self.read: dict[str, int] = {}
        self._assigned: set[str] = set()

    def explicit(self, initial: dict[str, Array]) -> bool:
        """Edit the graph; whether every variable could be made explicit."""
        graph, kept = self._graph, []
        for operator in graph.operators:
            kind = self._codes[operator.opcodeIndex]
            operator.inputs = np.asarray([self._same.get(int(index), int(index)) for index in operator.inputs], np.int32)
            if kind == _READ:
                self._on_read(self._handles[int(operator.inputs[0])], int(operator.outputs[0]))
            elif kind == _ASSIGN:
                name = self._handles[int(operator.inputs[0])]
                self._now[name] = int(operator.inputs[1])
                self._assigned.add(name)
            elif kind not in _STATE:
                kept.append(operator)
        given = [self._now[name] for name in sorted(self._assigned)]
        outputs = [self._same.get(int(index), int(index)) for index in graph.outputs]
        produced = {int(index) for operator in kept for index in operator.outputs}
        if set(self.read) - set(initial) or len({*given, *outputs}) < len(given) + len(outputs) or not set(given) <= produced:
            return False
        graph.operators = kept
        graph.inputs = np.asarray([*graph.inputs, *(self.read[name] for name in sorted(self.read))], np.int32)
        graph.outputs = np.asarray([*outputs, *given], np.int32)
        for index, name in self._handles.items():  # as a rule a handle has the variable's name, which its value takes over
            graph.tensors[index].name = f"{name}/handle".encode()
        for name, tensor in self.read.items():
            graph.tensors[tensor].name = name.encode()
        for name in self._assigned:
            graph.tensors[self._now[name]].name = f"{name}/next".encode()
        return True

    def _on_read(self, name: str, tensor: int) -> None:
        if name in self._now:
            self._same[tensor] = self._now[name]
        else:
            self._now[name] = self.read[name] = tensor


def _said(array: Array) -> str:
    """One number where all are that, else that there are several."""
    return str(array.reshape(-1)[0]) if array.size and (array == array.reshape(-1)[0]).all() else "the values of the original"
