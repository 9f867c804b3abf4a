"""What the product knows of an operator: one `Operator` a type, its facets as methods, and the registry.

A facet answers one question about one node of the canonical graph (opset 21, channels-first, float):

=============  =======================================================================  =====================
facet          question                                                                 asked by
=============  =======================================================================  =====================
``couple``     which axes of which values are cut together                              pruning
``quantize``   which encodings its values have when it runs in integers                 quantization
``layout``     which order of axes it takes and gives                                   the layout solver
``legalize``   what it becomes where a runtime lacks it (exactly)                       the legalize stage
``lower``      which TFLite operators it is, at which version                           the TFLite writer
``torch``      what it computes, in torch                                               simulation, recovery
``integers``   what its integer kernel computes, to the last bit                        the integer reference
``cost``       how many multiply-accumulates it takes                                   reports, cost model
=============  =======================================================================  =====================

A facet that an operator lacks is an explicit refusal: an entry of ``refuses`` with the reason a user reads.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from exporter.ops.reference import Affine, Stored

__all__ = [
    "FACETS",
    "Channels",
    "Constraint",
    "Cost",
    "Coupling",
    "InputRule",
    "LayoutRule",
    "Lowering",
    "Operator",
    "OutputRule",
    "Port",
    "QuantRule",
    "Refused",
    "Rewriter",
    "Role",
    "Subgraph",
    "all_operators",
    "operator_of",
    "register",
]

# `integers` is none of them: operators that only move, pick or compare numbers need none, see `reference.moved`.
FACETS: Final = ("couple", "quantize", "layout", "legalize", "lower", "torch", "cost")


class Refused(Exception):
    """An operator (or this form of it) lacks a facet. `reason` is a sentence for the user; `node` the node asked about."""

    def __init__(self, node: ir.Node | None, reason: str) -> None:
        super().__init__(reason)
        self.node, self.reason = node, reason


# --- quantize ---------------------------------------------------------------------------------------------------------


class Role(Enum):
    """What an input is to its node when the node runs in integers."""

    ACTIVATION = "activation"  # one encoding a tensor; a constant input gets its own from its values
    WEIGHT = "weight"  # symmetric, zero point 0, per channel along `InputRule.axis` where the target allows
    BIAS = "bias"  # int32 at scale(activation input) * scale(weight)
    PARAMETER = "parameter"  # shapes, axes, indices, bounds: never encoded


@dataclass(frozen=True)
class InputRule:
    """Role of one input. `axis` is the channel axis of a WEIGHT in the ONNX order of its axes.

    With a `tail`, the operator does not tell entries of an ACTIVATION apart that are further than that below the greatest along `axis`.
    With a `floor`, its 8-bit output is the same for all entries of an ACTIVATION up to that number: a clamp's lower bound, or where
    what a sigmoid gives rounds to 0.
    """

    role: Role
    axis: int | None = None
    tail: float | None = None
    floor: float = -inf


@dataclass(frozen=True)
class OutputRule:
    """Encoding of one output: its own from calibration, shared with the activation inputs, or fixed by the kernel.

    An "own" encoding reaches from `least` to `greatest` at most: what the operator gives lies between them, whatever it reads.
    `scale` and `zero_point` (for int8) are set for the kind "fixed" only. int16 has the same greatest magnitude at zero point 0, as TFLite's
    kernels want it: 1 for softmax, logistic and tanh, so 1/32768.
    """

    kind: str = "own"  # "own" | "shared" | "fixed"
    scale: float = 0.0
    zero_point: int = 0
    least: float = -inf
    greatest: float = inf


@dataclass(frozen=True)
class QuantRule:
    """How a node's values are encoded when it runs in integers: one rule an input and one an output.

    Where any output is "shared", all ACTIVATION inputs and all shared outputs have one common encoding
    (the TFLite kernels of concat, pad, reshape, transpose, slice, max pool, resize do not requantize).
    """

    inputs: tuple[InputRule, ...]
    outputs: tuple[OutputRule, ...]
    sums: bool = False  # the output is the sum of the two inputs, saturated once, at the end
    least_range: float = 0.0  # of the output, in parts of its widest input's: kernels have no multiplier for less

    @property
    def shared(self) -> bool:
        return any(rule.kind == "shared" for rule in self.outputs)


# --- layout -----------------------------------------------------------------------------------------------------------


class Port(Enum):
    """What a node wants of the axis order of one of its inputs or outputs (values of rank >= 3 only)."""

    FIRST = "channels_first"  # the canonical order, as the ONNX operator sees it
    LAST = "channels_last"  # the channel axis (1) moved to the end
    NODE = "node"  # either, but the same for all NODE ports of this node; `lower` asks `Lowering.channels_last`
    OTHER = "other"  # an output in the order that the NODE ports do not have: a transpose between the two layouts moves nothing
    ANY = "any"  # memory order does not matter at this port (a reshape of one run of elements, a constant it permutes itself)


@dataclass(frozen=True)
class LayoutRule:
    """Wanted axis order of every input and output, in the node's order. Constants' ports are ignored (they are permuted freely)."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


# --- prune ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Channels:
    """A run of channels on one axis of one of a node's values.

    Channel ``c`` owns the indices ``offset + (o * count + c) * repeat + r`` of `axis`, for o in range(outer) and r in range(repeat):
    ``repeat > 1`` where a flatten spreads a channel over its pixels, ``offset > 0`` behind other inputs of a concat,
    ``outer > 1`` where the channels come round again (a flatten of channels-last pixels, the groups of a grouped convolution).
    """

    side: str  # "in" | "out"
    index: int
    axis: int
    count: int  # number of channels in the run
    offset: int = 0
    repeat: int = 1
    outer: int = 1


@dataclass(frozen=True)
class Coupling:
    """Which channels of a node's values live and die together.

    `ties`: each a set of runs with the same `count`; cutting channel c of one cuts channel c of all. Any axis may be tied, not the
    channel axis alone (a transpose moves it). Ties that overlap on an axis are alternatives (a reshape that merges C, H and W lists one
    tie for each of them): the first whose channels may be cut is used, the others' runs stay whole.
    `free_outputs`: indices into `ties` that the node *produces* (cutting them shrinks the node itself: conv filters).
    `blocked`: runs that must stay whole, to say so aloud: what no tie mentions stays whole anyway.
    A tie without a run on an output is where channels end: summed with the constants in it as weights, or left out (by a slice).
    An operator that joins channels without weights (softmax, a mean over them) must not tie them.
    `update(node, kept)` mends attributes and shape constants after the cut (group of a depthwise conv): `kept` holds, for every tie,
    the channel numbers in ``range(count)`` that stayed; values have their new shapes by then. A constant that it changes it replaces
    by a new initializer of the node's graph, since other nodes may share it.
    """

    ties: tuple[tuple[Channels, ...], ...]
    free_outputs: tuple[int, ...] = ()
    blocked: tuple[Channels, ...] = ()
    update: Callable[[ir.Node, tuple[Sequence[int], ...]], None] | None = None


# --- cost -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Work of one node: multiply-accumulates and other elementwise operations (bytes follow from shapes and dtypes)."""

    macs: int = 0
    elementwise: int = 0


# --- legalize and lower: the services a facet is given ----------------------------------------------------------------


class Rewriter(Protocol):
    """Builds the replacement of one node on the canonical graph. New values get shapes and dtypes by inference."""

    runtime: str  # "tflite" | "onnx": whose operators the graph is legalized for
    loops: bool  # whether an operator may become a loop: its body runs in float, which a device may lack

    def runs(self, builtin: str, version: int = 1) -> bool:
        """Whether the oldest runtime that the artifact must run on has a TFLite builtin at that version, and runs it well.

        Where it has not, an operator becomes older ones that compute the same, or stays and is refused by name when it is written.
        """
        ...

    def op(self, op_type: str, *inputs: ir.Value | None, outputs: int = 1, name: str = "", **attributes: Any) -> ir.Value: ...

    def const(self, array: np.ndarray[Any, Any], name: str = "") -> ir.Value: ...

    def body(
        self,
        inputs: Sequence[tuple[Sequence[int], ir.DataType]],
        build: Callable[[Rewriter, Sequence[ir.Value]], Sequence[ir.Value]],
    ) -> ir.Graph:
        """A graph for an attribute of a new node (a Scan): `build` gives its outputs, from its inputs of these shapes and dtypes alone."""
        ...


class Subgraph(Protocol):
    """A TFLite subgraph that an operator's `lower` writes beside the main one. Handles are of the subgraph; nothing in it has an encoding."""

    def constant(self, array: np.ndarray[Any, Any]) -> int:
        """Handle of a constant tensor of the array's own dtype."""
        ...

    def tensor(self, shape: Sequence[int], dtype: str) -> int:
        """Handle of a new tensor."""
        ...

    def emit(self, op: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any) -> None:
        """Append a builtin operator, as `Lowering.emit` does."""
        ...

    def graph(self, body: ir.Graph, inputs: Sequence[int], outputs: Sequence[ir.Value]) -> list[int]:
        """Write a legalized graph on the tensors `inputs`; handles of some of its outputs, distinct and none of them a constant."""
        ...

    def close(self, inputs: Sequence[int], outputs: Sequence[int]) -> int:
        """End it; its index in the file."""
        ...


class Lowering(Protocol):
    """What `Operator.lower` is given for one node. Tensors are integer handles.

    Handles of inputs and outputs already have the node's dtype (quantized or float) and axis order; where a producer disagrees,
    the writer has inserted DEQUANTIZE, QUANTIZE or TRANSPOSE before the node is lowered.
    """

    channels_last: bool  # the label of this node's NODE ports
    activation: str  # "NONE", "RELU", "RELU6", "RELU_N1_TO_1": the activation fused behind this node
    quantized: bool  # the node runs in integers

    def input(self, index: int) -> int:
        """Handle of an activation input in the node's order; constants of role ACTIVATION are permuted and quantized."""
        ...

    def output(self, index: int = 0) -> int:
        """Handle of an output (of the fused activation's output where there is one)."""
        ...

    def input_last(self, index: int) -> bool:
        """Whether a computed input is channels-last as the node reads it; of use where its port is ANY."""
        ...

    def output_last(self, index: int = 0) -> bool:
        """Whether the node writes an output channels-last."""
        ...

    def weight(self, index: int, perm: Sequence[int] | None = None, reshape: Sequence[int] | None = None) -> int:
        """Handle of the constant input `index` of role WEIGHT, transposed by `perm`, then reshaped; quantized by the plan.

        The encoding's channel axis is carried through `perm`; after a `reshape` it is the axis of the same length counted from the end
        (the reshapes in use only add or drop axes of length 1, or fold a depthwise multiplier).
        """
        ...

    def bias(self, index: int, length: int) -> int:
        """Handle of the bias input `index` (zeros of `length` where it is absent): int32 by the plan, or float."""
        ...

    def ints(self, array: Sequence[int] | np.ndarray[Any, Any]) -> int:
        """Handle of a constant int32 tensor (axes, shapes, paddings, permutations)."""
        ...

    def floats(self, array: np.ndarray[Any, Any]) -> int:
        """Handle of a constant float32 tensor."""
        ...

    def temp(self, like: int, shape: Sequence[int]) -> int:
        """Handle of a new intermediate tensor with dtype and encoding of `like` and the given shape."""
        ...

    def constant(self, array: np.ndarray[Any, Any]) -> int:
        """Handle of a constant tensor of the array's own dtype."""
        ...

    def tensor(self, shape: Sequence[int], dtype: str) -> int:
        """Handle of a new intermediate tensor without encoding."""
        ...

    def subgraph(self, name: str) -> Subgraph:
        """A new subgraph of the file, for a WHILE or IF to run."""
        ...

    def shape(self, handle: int) -> tuple[int, ...]:
        """Shape of a tensor, in the order it is stored."""
        ...

    def scale(self, handle: int) -> float:
        """Scale of a tensor with one encoding (0.0 for a float one): some op versions depend on it."""
        ...

    def clamps(self, handle: int, low: float, high: float) -> bool:
        """Whether an integer tensor's encoding reaches from `low` to `high` at most: what is written into it is clamped to them."""
        ...

    def alias(self, index: int, handle: int) -> None:
        """Output `index` is the tensor `handle` itself (same stored shape, dtype and encoding): nothing is computed."""
        ...

    def axis(self, axis: int, rank: int) -> int:
        """An axis of the ONNX operator (negative allowed) as an axis of the stored tensor of that rank."""
        ...

    def emit(self, op: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any) -> None:
        """Append a builtin operator, for example ``emit("CONV_2D", [x, w, b], [y], version=3, padding="SAME", stride_w=1, ...)``.

        `options` are the fields of the operator's options table in the TFLite schema, in snake case; enum fields take the name of the member.
        """
        ...


# --- the operator itself ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constraint:
    """A condition on a node for one runtime. The function's docstring is the sentence that a user reads when it rejects a node."""

    runtime: str  # "tflite" | "onnx", or the `Artifact.runtime` of profiles that it is about ("qnn")
    holds: Callable[[ir.Node], bool]

    @property
    def sentence(self) -> str:
        return " ".join((self.holds.__doc__ or self.holds.__name__).split())


class Operator:
    """Base of all operators: every facet refuses until a subclass says otherwise.

    Subclass, set `op_type`, override facets, list the missing ones in `refuses`, decorate with `@register`.
    """

    op_type: ClassVar[str] = ""
    domain: ClassVar[str] = ""
    refuses: ClassVar[Mapping[str, str]] = {}
    constraints: ClassVar[tuple[Constraint, ...]] = ()
    fuses_activation: ClassVar[bool] = False  # its TFLite kernels clamp their output for free
    bias_index: ClassVar[int | None] = None  # the input that may hold one bias a channel (axis 1 of the output)
    # Dtypes of activations that the TFLite kernels of an operator with a `quantize` facet take.
    kernel_dtypes: ClassVar[tuple[str, ...]] = ("int8",)
    references_int16: ClassVar[bool] = False  # whether `integers` also says what the kernel computes with int16 activations
    # Inputs that may be held as integers where they are constants, beside those of role WEIGHT: index -> channel axis.
    weight_only: ClassVar[Mapping[int, int | None]] = {}

    def activation(self, node: ir.Node) -> str:
        """The TFLite fused-activation name that this node is when it follows a fusing operator ("RELU6"), else "NONE"."""
        return "NONE"

    def couple(self, node: ir.Node) -> Coupling:
        raise Refused(node, self._reason("couple"))

    def runs_in(self, node: ir.Node, dtype: str) -> bool:
        """Whether a node that has a quantize rule runs in integers of `dtype` ("int8", "int16") on TFLite."""
        return dtype in self.kernel_dtypes

    def quantize(self, node: ir.Node) -> QuantRule:
        raise Refused(node, self._reason("quantize"))

    def hybrid(self, node: ir.Node) -> str:
        """The TFLite builtin whose kernel takes float activations with the node's weight in integers ("" where it has no such form)."""
        return ""

    def layout(self, node: ir.Node) -> LayoutRule:
        raise Refused(node, self._reason("layout"))

    def legalize(self, node: ir.Node, rewriter: Rewriter) -> Sequence[ir.Value] | None:
        """Values that replace the node's outputs, or None where the node stays as it is (the default: nothing to rewrite)."""
        return None

    def lower(self, node: ir.Node, to: Lowering) -> None:
        raise Refused(node, self._reason("lower"))

    def torch(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Any]:
        """Outputs for torch tensors `inputs` (None where an optional input is absent)."""
        raise Refused(node, self._reason("torch"))

    def integers(
        self, node: ir.Node, inputs: Sequence[Stored | None], outputs: Sequence[Affine | None]
    ) -> Sequence[np.ndarray[Any, Any]]:
        """Integers of the outputs, at the encodings `outputs`, as TFLite's reference kernel computes them (`exporter.ops.reference`).

        Raises Refused where no reference is known.
        """
        raise Refused(node, f"{self.op_type} has no integer reference")

    def agrees(self, node: ir.Node, inputs: Sequence[Affine | None], outputs: Sequence[Affine | None]) -> bool:
        """Whether tflite-micro's kernel gives the integers of LiteRT's reference kernel at these encodings, whatever it reads.

        Of a node that runs in integers; also True where other encodings would change nothing (`exporter.ops.agreement`).
        """
        return True

    def cost(self, node: ir.Node) -> Cost:
        raise Refused(node, self._reason("cost"))

    def kernel(self, node: ir.Node) -> str:
        """The name under which `targets/kernels` lists what runtimes take for this node: its type, where kernels differ by no more."""
        return self.op_type

    def has(self, facet: str) -> bool:
        """Whether the operator provides a facet (`legalize` counts as provided: the default rewrites nothing)."""
        return facet == "legalize" or getattr(type(self), facet) is not getattr(Operator, facet)

    def _reason(self, facet: str) -> str:
        return self.refuses.get(facet, f"{self.op_type} has no {facet} rule")


_REGISTRY: dict[tuple[str, str], Operator] = {}

_Op = TypeVar("_Op", bound=type[Operator])


def register(cls: _Op) -> _Op:
    """Class decorator: enter an operator into the registry. Registering a type twice raises ValueError."""
    key = (cls.domain, cls.op_type)
    if key in _REGISTRY:
        raise ValueError(f"operator {cls.op_type} is registered twice: {type(_REGISTRY[key]).__module__} and {cls.__module__}")
    _REGISTRY[key] = cls()
    return cls


def operator_of(node: ir.Node) -> Operator:
    """The operator of a node. Raises Refused where the product does not know its type."""
    _load_all()
    found = _REGISTRY.get((_domain(node.domain), node.op_type))
    if found is None:
        raise Refused(node, f"{node.domain + '.' if node.domain else ''}{node.op_type} is not an operator that edgewright knows")
    return found


def all_operators() -> Mapping[tuple[str, str], Operator]:
    """The whole registry, by (domain, op_type), sorted."""
    _load_all()
    return dict(sorted(_REGISTRY.items()))


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


_loaded = False


def _load_all() -> None:
    """Import every module of this package once: adding an operator is adding a file."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    package = importlib.import_module("exporter.ops")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"exporter.ops.{module.name}")
