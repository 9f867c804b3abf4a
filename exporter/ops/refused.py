"""Operators that no artifact holds. They are known so that a refusal says why, and are not expanded to their definitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from exporter.ops.base import FACETS, Operator, register

__all__ = ["REASONS"]

_RANDOM: Final = (
    "draws random numbers: no artifact gives twice what its original gave once; draw them outside and make them an input"
)
_TEXT: Final = "works on text, of which TFLite has no tensors; do it before the model"
_SEQUENCE: Final = "handles a sequence whose length or positions depend on data; only a structure of constants can be resolved"
_OPTIONAL: Final = "handles a value that may be absent; give the model a value that is there, or none"

# Operator -> why, as the end of a sentence that begins with its name.
REASONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        _RANDOM,
    ),
    **dict.fromkeys(("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"), _TEXT),
    "TfIdfVectorizer": "counts n-grams by a table of text or numbers, which no TFLite kernel does; do it before the model",
    "ImageDecoder": "decodes a file; decode it before the model",
    "If": "chooses between sequences or optional values by data; only tensors can be chosen",
    **dict.fromkeys(
        (
            *("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
            *("SequenceLength", "SequenceMap", "SplitToSequence"),
        ),
        _SEQUENCE,
    ),
    **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement"), _OPTIONAL),
}


def _refuse(op_type: str, why: str) -> None:
    reasons = {facet: f"{op_type} {why}" for facet in FACETS if facet != "legalize"}
    register(type(op_type, (Operator,), {"__doc__": f"{op_type} {why}.", "op_type": op_type, "refuses": reasons}))


for _op_type, _why in REASONS.items():
    _refuse(_op_type, _why)
