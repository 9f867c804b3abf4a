"""The machine on which a runtime ran, as it describes itself: what a figure measured there is a figure of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final

from exporter.runtimes import landing

__all__ = ["Machine", "this_machine"]

# Implementer and part number of an Arm core -> its name, as Linux lists them (arch/arm64/include/asm/cputype.h).
_ARM: Final[Mapping[str, str]] = {
    "0x41:0xd03": "Cortex-A53",
    "0x41:0xd04": "Cortex-A35",
    "0x41:0xd05": "Cortex-A55",
    "0x41:0xd07": "Cortex-A57",
    "0x41:0xd08": "Cortex-A72",
    "0x41:0xd09": "Cortex-A73",
    "0x41:0xd0a": "Cortex-A75",
    "0x41:0xd0b": "Cortex-A76",
    "0x41:0xd0c": "Neoverse-N1",
    "0x41:0xd0d": "Cortex-A77",
    "0x41:0xd40": "Neoverse-V1",
    "0x41:0xd41": "Cortex-A78",
    "0x41:0xd42": "Cortex-A78AE",
    "0x41:0xd44": "Cortex-X1",
    "0x41:0xd46": "Cortex-A510",
    "0x41:0xd47": "Cortex-A710",
    "0x41:0xd48": "Cortex-X2",
    "0x41:0xd49": "Neoverse-N2",
    "0x41:0xd4d": "Cortex-A715",
    "0x41:0xd4e": "Cortex-X3",
    "0x41:0xd4f": "Neoverse-V2",
    "0x41:0xd80": "Cortex-A520",
    "0x41:0xd81": "Cortex-A720",
    "0x41:0xd82": "Cortex-X4",
}


@dataclass(frozen=True)
class Machine:
    """Facts of a machine and of the runtime on it; "" and None where it does not tell. It has no name: that is nobody's business.

    Attributes:
        board: what the firmware calls it, "Raspberry Pi 5 Model B Rev 1.0".
        processor: name of its CPU, or of each kind of core that it has.
        cores: number of them; memory_bytes: of RAM.
        system: kernel, its release and the instruction set, "Linux 6.6.31 aarch64".
        python, numpy: versions there.
        package, version: of the runtime.
    """

    board: str = ""
    processor: str = ""
    cores: int | None = None
    memory_bytes: int | None = None
    system: str = ""
    python: str = ""
    numpy: str = ""
    package: str = ""
    version: str | None = None

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Machine:
        """From what `landing.machine` gives."""
        cores = [_ARM.get(part, part) for part in facts["parts"]]
        return cls(
            board=facts["board"],
            processor=" + ".join(cores) or facts["processor"],
            cores=facts["cores"],
            memory_bytes=facts["memory_bytes"],
            system=facts["system"],
            python=facts["python"],
            numpy=facts["numpy"],
            package=facts["package"],
            version=facts["version"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return asdict(self)

    def __str__(self) -> str:
        cores = f"{self.cores} cores" if self.cores else ""
        runtime = f"{self.package} {self.version}" if self.version else ""
        python = f"Python {self.python}" if self.python else ""
        return ", ".join(part for part in (self.board, self.processor, cores, self.system, python, runtime) if part)


@cache
def this_machine(package: str = "") -> Machine:
    """The one that edgewright runs on, with the version of a package here."""
    return Machine.from_facts(landing.machine(package))
