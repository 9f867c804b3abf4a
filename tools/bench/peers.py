"""The peers that we are measured beside: each pinned, in a virtual environment of its own under ``.envs/``, made at first use."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from diagnostics import RuntimeFailure

__all__ = ["AI_EDGE_QUANTIZER", "LITERT_TORCH", "NNCF", "ONNX2TF", "ONNX2TF_TENSORFLOW", "ROOT", "Peer"]

ROOT: Final = Path(__file__).resolve().parents[2]
_RECORD: Final = "requirements.json"
_LIMIT_S: Final = 3600.0


@dataclass(frozen=True)
class Peer:
    """A converter of others.

    Attributes:
        name: distribution name; version: the one release that is measured.
        beside: further requirements, pinned in the same call of pip.
        extra: of the distribution; with it comes an environment apart.
        python: names of interpreters that it runs on, the most wanted first.
    """

    name: str
    version: str
    beside: tuple[str, ...] = ()
    extra: str = ""
    python: tuple[str, ...] = ("python3.12", "python3.13")

    @property
    def requirements(self) -> tuple[str, ...]:
        return (f"{self.name}{f'[{self.extra}]' if self.extra else ''}=={self.version}", *self.beside)

    def interpreter(self) -> Path:
        """The interpreter of its environment, made where it is not there yet.

        Raises RuntimeFailure EW-R001 where no interpreter fits or pip fails (with its last lines).
        """
        # Resolved, since pip writes the path into the commands that it installs: it must outlive a link to the folder.
        folder = (ROOT / ".envs").resolve() / "-".join(filter(None, (self.name, self.extra, self.version)))
        record, found = folder / _RECORD, folder / "bin" / "python"
        if record.is_file() and json.loads(record.read_text()) == list(self.requirements):
            return found
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        _run([str(self._base()), "-m", "venv", str(folder)], f"the environment of {self.name} cannot be made")
        pip = [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *self.requirements], f"{self.name} cannot be installed")
        record.write_text(json.dumps(self.requirements) + "\n")
        return found

    def _base(self) -> Path:
        for path in _interpreters(self.python):
            return path
        raise RuntimeFailure(
            "EW-R001",
            f"{self.name} {self.version} runs on {' or '.join(self.python)}, and none is on PATH or under pyenv",
            fix=f"install one of them, for example: pyenv install {self.python[0].removeprefix('python')}",
        )


ONNX2TF: Final = Peer("onnx2tf", "2.6.9")
# Without the pin of torch pip takes whichever release litert-torch allows, with another tracer than ours.
LITERT_TORCH: Final = Peer("litert-torch", "0.10.0", ("torch==2.13.0",))
ONNX2TF_TENSORFLOW: Final = Peer("onnx2tf", "2.6.9", extra="tensorflow")  # its elder back-end, through TensorFlow's converter
NNCF: Final = Peer("nncf", "3.4.0", ("onnx==1.20.1", "onnxruntime==1.26.0"))
AI_EDGE_QUANTIZER: Final = Peer("ai-edge-quantizer", "0.10.0")


@cache
def _interpreters(names: tuple[str, ...]) -> tuple[Path, ...]:
    """Interpreters that answer, those on PATH first, then those of pyenv (whose shims are there even where the version is not)."""
    candidates = [Path(found) for name in names if (found := shutil.which(name))]
    for name in names:
        candidates += sorted(
            (Path.home() / ".pyenv" / "versions").glob(f"{name.removeprefix('python')}.*/bin/{name}"), reverse=True
        )
    return tuple(path for path in candidates if subprocess.run([path, "-V"], capture_output=True, check=False).returncode == 0)


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeFailure("EW-R001", what, why="\n".join(done.stderr.strip().splitlines()[-6:]))
