"""What a TFLite artifact asks of its runtime, operator by operator, against the oldest release that it must run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from diagnostics import TargetError
from exporter.backends.tflite.container import Tensor
from exporter.graph.alike import alike
from targets.floor import Floor
from targets.releases.tflite import UNKNOWN_RELEASE, release_key, release_of

__all__ = ["Emitted", "require_floor"]

# Kernels that broadcast over four axes at most in 2.14, where more end the process, and over more in LiteRT 2.x: they grew without a new
# version (found by `python -m tools.floors`). Which release did it is not on record, so the newest is asked for.
_FOUR_AXES: Final = frozenset(
    (
        *("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"),
        *("LOGICAL_AND", "LOGICAL_OR", "BITWISE_XOR", "RIGHT_SHIFT", "FLOOR_MOD", "FLOOR_DIV", "POW", "ATAN2"),
    )
)
_MOST_AXES: Final = {**dict.fromkeys(_FOUR_AXES, 4), "SELECT_V2": 5}
_YOUNG_DTYPES: Final = {"SELECT_V2": frozenset({"uint64"})}  # the same of dtypes


@dataclass(frozen=True)
class Emitted:
    """One operator of an artifact and the tensors it reads.

    `node` is the graph's node it was written for; "output NAME" for what stands behind the last one.
    """

    node: str
    op: str
    version: int
    inputs: tuple[Tensor, ...] = ()

    @property
    def release(self) -> str:
        """The first TFLite release that runs it."""
        shapes = {tensor.shape for tensor in self.inputs}
        broadcasts = len(shapes) > 1 and max(map(len, shapes)) > _MOST_AXES.get(self.op, 99)
        young = any(tensor.dtype in _YOUNG_DTYPES.get(self.op, ()) for tensor in self.inputs)
        return UNKNOWN_RELEASE if broadcasts or young else release_of(self.op, self.version)


def require_floor(emitted: Sequence[Emitted], floor: Floor, target: str) -> None:
    """Raise TargetError EW-T005 with every operator that is younger than `floor`: node, builtin, version and first release."""
    younger = [entry for entry in emitted if not floor.covers(entry.release)]
    if not younger:
        return
    first = max((entry.release for entry in younger), key=release_key)
    said = ((entry.node, f"{entry.op} version {entry.version} needs {entry.release}") for entry in younger)
    lines = alike((node, "", (needs,)) for node, needs in dict.fromkeys(said))
    raise TargetError(
        "EW-T005",
        f"the artifact needs TFLite {first}, target {target} promises {floor}",
        why="\n".join(lines),
        fix="raise the floor (--runtime), if the devices have that release, or change these operators in the model",
    )
