"""What can stand in a model instead of a node that a device does not run well: data, tried against a target's rules by `remedies`.

All of them change what the model computes: they are for whoever trains it, and none is applied by a stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import onnx_ir as ir

from exporter.graph.values import attribute

__all__ = ["SUBSTITUTES", "Substitute", "substitutes_of"]

Attribute = str | int | float


@dataclass(frozen=True)
class Substitute:
    """An operator on the same data input, with the same output shape.

    Attributes:
        op_type: ONNX type of the substitute.
        name: as a user reads it.
        attributes: of the substitute; those of the node itself are kept where it stays of its type.
        constants: scalars behind the data input.
    """

    op_type: str
    name: str
    attributes: Mapping[str, Attribute] = field(default_factory=lambda: MappingProxyType({}))
    constants: tuple[float, ...] = ()


def _other(op_type: str, name: str = "", **attributes: Attribute) -> Substitute:
    return Substitute(op_type, name or op_type, MappingProxyType(attributes))


_RELU: Final = _other("Relu")
_RELU6: Final = Substitute("Clip", "Relu6", constants=(0.0, 6.0))
_HARD_TANH: Final = Substitute("Clip", "a clamp to [-1, 1]", constants=(-1.0, 1.0))
_LEAKY: Final = _other("LeakyRelu", alpha=0.1)
_HARD_SIGMOID: Final = _other("HardSigmoid", alpha=1 / 6, beta=0.5)
_HARD_SWISH: Final = _other("HardSwish")

# Operator -> what comes nearest to it, the nearest first.
SUBSTITUTES: Final[Mapping[str, tuple[Substitute, ...]]] = {
    "Celu": (_other("Elu"), _LEAKY, _RELU),
    "Elu": (_LEAKY, _RELU),
    "Erf": (_other("Tanh"), _HARD_TANH),
    "Gelu": (_HARD_SWISH, _RELU6, _RELU),
    "HardSigmoid": (_other("Sigmoid"),),
    "HardSwish": (_RELU6, _RELU),
    "LeakyRelu": (_RELU,),
    "LogSoftmax": (_other("Softmax"),),
    "Mish": (_HARD_SWISH, _RELU6, _RELU),
    "PRelu": (_LEAKY, _RELU),
    "Selu": (_other("Elu"), _LEAKY, _RELU),
    "Sigmoid": (_HARD_SIGMOID,),
    "Softplus": (_RELU,),
    "Softsign": (_other("Tanh"), _HARD_TANH),
    "Swish": (_HARD_SWISH, _RELU6, _RELU),
    "Tanh": (_HARD_TANH,),
    "ThresholdedRelu": (_RELU,),
}

# (operator, attribute, its default, value) -> values that come near it.
_SETTINGS: Final[Mapping[tuple[str, str, Attribute, Attribute], tuple[Attribute, ...]]] = {
    ("AveragePool", "ceil_mode", 0, 1): (0,),
    ("AveragePool", "count_include_pad", 0, 1): (0,),
    ("Gelu", "approximate", "none", "none"): ("tanh",),
    ("MaxPool", "ceil_mode", 0, 1): (0,),
    ("Resize", "coordinate_transformation_mode", "half_pixel", "half_pixel"): ("asymmetric", "align_corners"),
    ("Resize", "coordinate_transformation_mode", "half_pixel", "pytorch_half_pixel"): (
        "half_pixel",
        "asymmetric",
        "align_corners",
    ),
    ("Resize", "coordinate_transformation_mode", "half_pixel", "align_corners"): ("half_pixel", "asymmetric"),
    ("Resize", "mode", "nearest", "cubic"): ("linear", "nearest"),
    ("Resize", "mode", "nearest", "linear"): ("nearest",),
}


def substitutes_of(node: ir.Node) -> tuple[Substitute, ...]:
    """What may be tried instead of a node, the nearest first; settings of its own come before other operators."""
    settings = []
    for (op_type, name, default, value), others in _SETTINGS.items():
        if node.op_type == op_type and attribute(node, name, default) == value:
            settings += [
                Substitute(op_type, f"{op_type} with {name} {other}", MappingProxyType({name: other})) for other in others
            ]
    return (*settings, *SUBSTITUTES.get(node.op_type, ()))
