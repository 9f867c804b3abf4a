"""What every compiler takes and gives back.

A compiler takes the written artifact and the options of a profile's ``[compile]`` table, and gives back what the device loads, with the
unit that each operator landed on and why, figures, and its log. What is verified is the artifact that went in: the log and the
figures are evidence of the compiler, not of a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Compiled", "Compiler", "OperatorPlacement", "Task"]

Kind = Literal["cpu", "gpu", "npu"]  # of a unit, as `targets.schema.Unit.kind`
Option = str | int | float | bool


@dataclass(frozen=True)
class Task:
    """One artifact to compile for one architecture.

    Attributes:
        artifact: the file, by a name without a folder of its own in `folder`, and beside it all files that it names.
        architecture: one of the profile's `[compile] architectures`.
        options: the profile's `[compile] options`, whose names and types the schema has checked.
        folder: empty but for the artifact, the working folder of the compiler; what it leaves there is thrown away.
        python: an interpreter that has the compiler's package.
        timeout_s: wall seconds that it may take.
    """

    artifact: Path
    architecture: str
    options: Mapping[str, Option]
    folder: Path
    python: Path
    timeout_s: float


@dataclass(frozen=True)
class OperatorPlacement:
    """Where the compiler put one operator of the artifact.

    Attributes:
        output: name of the operator's first output in the artifact.
        op_type: the operator, as the compiler names it.
        unit: kind of the unit that runs it.
        reasons: why it is not on the accelerator; empty where it is.
        figures: what the compiler says of it, by name with its unit (``cycles``, ``macs``, ``sram_bytes``).
    """

    output: str
    op_type: str
    unit: Kind
    reasons: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Compiled:
    """What a compiler made of an artifact for one architecture: the same bytes whenever it is given the same, unless it says otherwise.

    Attributes:
        compiler, version: its name in `COMPILERS`, and the release of its package.
        architecture: as in the task.
        options: as in the task, with what the compiler chose by itself.
        files: by name; the first is what the device loads.
        log: what it printed, without times of this run and without paths of this machine.
        placements: one for each operator that it reported, in the order of execution.
        figures: of the whole, by name with its unit: ``cycles``, ``sram_bytes`` and ``flash_bytes`` (what a profile's memory limits),
            ``estimated_seconds`` (the compiler's own model of the device, never a measurement).
        reproducible: whether the same artifact gives the same bytes; of a compiler that does not, the manifest holds no hashes.
    """

    compiler: str
    version: str
    architecture: str
    options: Mapping[str, Option]
    files: Mapping[str, bytes]
    log: str
    placements: tuple[OperatorPlacement, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    reproducible: bool = True

    @property
    def left_out(self) -> tuple[OperatorPlacement, ...]:
        """The operators that stay on the CPU."""
        return tuple(placement for placement in self.placements if placement.unit == "cpu")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the bundle: everything but the bytes of the files and the log."""
        data = asdict(self)
        del data["log"]
        return {**data, "files": {name: len(content) for name, content in self.files.items()}}


@dataclass(frozen=True)
class Compiler:
    """One compiler, installed or not.

    Attributes:
        name: as profiles write it: a key of `targets.schema.COMPILER_OPTIONS`.
        package: distribution name whose presence and version is asked for.
        purpose: what it is for, one phrase.
        how_to_get: the command that installs it.
        compile: the work itself. Raises CompilerFailure: EW-R007 refused, EW-R008 crashed, EW-R009 time limit.
    """

    name: str
    package: str
    purpose: str
    how_to_get: str
    compile: Callable[[Task, str], Compiled]
