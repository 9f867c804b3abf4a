"""Arm cores that qemu emulates: real aarch64 runtimes with their NEON kernels, on any machine. Their time is no device's.

An environment of platform ``aarch64`` holds a root file system with Python, the runtime's packages, and for each core a prefix that shows
programs a ``/proc/cpuinfo`` of that core: runtimes choose their kernels by it, and crash where it contradicts what qemu emulates.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from exporter.runtimes.environments import python_in

__all__ = [
    "CORES",
    "DEFAULT_CORE",
    "PLATFORM",
    "Core",
    "emulator",
    "emulator_version",
    "how_to_get_emulator",
    "launcher",
    "write_cores",
]

PLATFORM: Final = "aarch64"
DEFAULT_CORE: Final = "cortex-a76"
_PROGRAMS: Final = ("qemu-aarch64-static", "qemu-aarch64")
_NEON: Final = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_DOT: Final = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


@dataclass(frozen=True)
class Core:
    """A core as qemu and Linux name it.

    Attributes:
        name: behind ``@`` in a runtime's name.
        title: what people call it, with what matters for kernels.
        model: of qemu's option ``-cpu``.
        part: "CPU part" of its identification register; features: its hardware capabilities, as Linux lists both.
    """

    name: str
    title: str
    model: str
    part: str
    features: str


# Scalable matrix extension (SME) stays off: XNNPACK's SME kernels give wrong sums in qemu 7.2, by 135 steps of an int8 output. Pointer
# authentication with qemu's own cipher instead of the architecture's costs a fraction of the time.
_MAX: Final = f"{_DOT} sha3 sve asimdfhm i8mm bf16"
CORES: Final[Mapping[str, Core]] = {
    core.name: core
    for core in (
        Core("cortex-a53", "Cortex-A53 (NEON)", "cortex-a53", "0xd03", _NEON),
        Core("cortex-a72", "Cortex-A72 (NEON)", "cortex-a72", "0xd08", _NEON),
        Core("cortex-a76", "Cortex-A76 (NEON, dot products)", "cortex-a76", "0xd0b", _DOT),
        Core("armv9", "Armv9 (NEON, dot products, int8 matrix products, SVE)", "max,pauth-impdef=on,sme=off", "0xd4d", _MAX),
    )
}


def emulator() -> str | None:
    """qemu's program for user-mode aarch64, or None."""
    return next((path for name in _PROGRAMS if (path := shutil.which(name)) is not None), None)


def how_to_get_emulator() -> str:
    """The command that installs it."""
    return "apt-get install qemu-user-static"


@cache
def emulator_version() -> str:
    """ "qemu 7.2.22", or "qemu" where it does not say."""
    path = emulator()
    if path is None:
        return "qemu"
    printed = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.search(r"version ([0-9.]+)", printed)
    return f"qemu {found[1]}" if found else "qemu"


def launcher(folder: Path, core: Core) -> list[str]:
    """The command line that starts Python of the environment in `folder` on a core.

    Site packages of the system are not looked for (``-S``): a path that the root file system lacks is the host's.
    """
    prefix = folder / "cores" / core.name
    return [
        emulator() or _PROGRAMS[0],
        "-cpu",
        core.model,
        "-L",
        str(prefix),
        "-E",
        f"PYTHONPATH={folder / 'site'}",
        str(python_in(folder, PLATFORM)),
        "-S",
    ]


def write_cores(folder: Path) -> None:
    """The prefix of every core beside the root file system in `folder`: links to its directories, and ``/proc/cpuinfo``."""
    for core in CORES.values():
        prefix = folder / "cores" / core.name
        (prefix / "proc").mkdir(parents=True)
        (prefix / "proc" / "cpuinfo").write_text("".join(_cpuinfo(core, index) for index in range(4)))
        for path in sorted((folder / "root").iterdir()):
            if path.is_dir():
                (prefix / path.name).symlink_to(Path("../../root") / path.name)


def _cpuinfo(core: Core, index: int) -> str:
    facts = {
        "processor": str(index),
        "BogoMIPS": "48.00",
        "Features": core.features,
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": "0x1",
        "CPU part": core.part,
        "CPU revision": "0",
    }
    return "".join(f"{key}\t: {value}\n" for key, value in facts.items()) + "\n"
