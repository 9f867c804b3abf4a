"""Inputs and outputs of an artifact that somebody else made, matched to those of the original: by name, else by place; layout by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diagnostics import RuntimeFailure
from exporter.runtimes.session import TensorInfo

__all__ = ["Matched", "match"]


class _Signature(Protocol):
    """What is used of a `frontends.Signature`."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Any: ...


@dataclass(frozen=True)
class Matched:
    """How an artifact's tensors are called and lie.

    Attributes:
        names: the artifact's name -> the original's, of those that differ.
        layouts: "channels_last", by the original's name, where the artifact holds [N, ..., C] of the original's [N, C, ...].
        notes: what was taken for what, in words.
    """

    names: Mapping[str, str]
    layouts: Mapping[str, str]
    notes: tuple[str, ...] = ()


def match(found: Sequence[TensorInfo], wanted: Sequence[_Signature], kind: str) -> Matched:
    """Pair the tensors that an artifact has with those of the original; `kind` is "input" or "output".

    Equal names are a pair; what remains of both is paired in order, where it is as many. Outputs that the original has not are left alone,
    and so are inputs of the original that the artifact does not take.
    Raises RuntimeFailure EW-R005 where they cannot be paired, or a shape is neither the original's nor its channels-last form.
    """
    known = {entry.name: entry for entry in wanted}
    named = {info.name for info in found if info.name in known}
    others = [info for info in found if info.name not in known]
    left = [entry for entry in wanted if entry.name not in named]
    needed = others if kind == "input" else left
    if needed and len(others) != len(left):
        raise RuntimeFailure(
            "EW-R005",
            f"the artifact's {kind}s cannot be matched to the original's",
            why=f"it has {_listed(found)}; the original has {_listed(wanted)}",
            fix="give an artifact that takes and gives what the original does, or rename them alike",
        )
    names = {info.name: entry.name for info, entry in zip(others, left, strict=True)} if needed else {}
    notes = [f"the artifact's {kind} {own} is taken for the original's {name}, by its place" for own, name in names.items()]
    layouts = {}
    for info in found:
        entry = known.get(names.get(info.name, info.name))
        if entry is None or _fits(info.shape, entry.shape):
            continue
        if len(entry.shape) < 3 or not _fits(info.shape, (entry.shape[0], *entry.shape[2:], entry.shape[1])):
            raise RuntimeFailure(
                "EW-R005",
                f"the artifact's {kind} {info.name} has shape {list(info.shape)}",
                why=f"the original's {entry.name} has shape {list(entry.shape)}",
                fix="give the original at the artifact's shape (--shape), or an artifact of this shape",
            )
        layouts[entry.name] = "channels_last"
        notes.append(f"the artifact holds the {kind} {entry.name} channels-last, by its shape {list(info.shape)}")
    return Matched(names, layouts, tuple(notes))


def _fits(found: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(found) == len(wanted) and all(one in (other, -1) for one, other in zip(found, wanted, strict=True))


def _listed(entries: Sequence[Any]) -> str:
    return ", ".join(f"{entry.name} {list(entry.shape)}" for entry in entries)
