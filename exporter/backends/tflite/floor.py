"""What a TFLite artifact asks of its runtime, operator by operator, against the oldest release that it must run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diagnostics import TargetError
from exporter.backends.tflite.releases import release_of
from targets.floor import Floor

__all__ = ["Emitted", "require_floor"]


@dataclass(frozen=True)
class Emitted:
    """One operator of an artifact. `node` is the graph's node it was written for; "output NAME" for what stands behind the last one."""

    node: str
    op: str
    version: int

    @property
    def release(self) -> str:
        """The first TFLite release that runs it."""
        return release_of(self.op, self.version)


def require_floor(emitted: Sequence[Emitted], floor: Floor, target: str) -> None:
    """Raise TargetError EW-T005 with every operator that is younger than `floor`: node, builtin, version and first release."""
    younger = [entry for entry in emitted if not floor.covers(entry.release)]
    if not younger:
        return
    first = max((entry.release for entry in younger), key=lambda release: tuple(map(int, release.split("."))))
    lines = dict.fromkeys(f"{entry.node}: {entry.op} version {entry.version} needs {entry.release}" for entry in younger)
    raise TargetError(
        "EW-T005",
        f"the artifact needs TFLite {first}, target {target} promises {floor}",
        why="; ".join(lines),
        fix="raise the floor, if the devices have that release, or change these operators in the model",
    )
