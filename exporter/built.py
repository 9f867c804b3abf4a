"""What the stages up to writing hand on: the artifact, with the graph and the plan it was written from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from calibration import Statistics
from exporter.backends.tflite.floor import Emitted
from exporter.compilers.base import Compiled
from exporter.content import Content
from exporter.frontends.source import Source
from exporter.quantization.plan import Encoding, Plan
from targets.schema import Target

__all__ = ["Built", "Written"]


@dataclass(frozen=True)
class Written:
    """An artifact, not yet on disk.

    Attributes:
        file: its content; `content` in one piece.
        layouts: "channels_last" or "keep" of every input and output.
        encodings: of the integer inputs and outputs.
        emitted: operators in execution order, with their nodes; release: the first TFLite release that runs them; TFLite only.
        beside: further files that the artifact names, by name (the weights of an ONNX model over 2 GB).
        transposed: bytes moved by TRANSPOSE operators that the layout made necessary, by value name.
    """

    file: Content
    suffix: str
    layouts: dict[str, str] = field(default_factory=dict)
    encodings: dict[str, Encoding] = field(default_factory=dict)
    emitted: tuple[Emitted, ...] = ()
    release: str = ""
    transposed: dict[str, int] = field(default_factory=dict)
    beside: dict[str, Content] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.file.size + sum(content.size for content in self.beside.values())

    def write(self, path: Path) -> None:
        """Write the artifact to `path`, and what belongs beside it to the same folder. Raises OSError."""
        for name, content in self.beside.items():
            content.write(path.parent / name)
        self.file.write(path)

    @property
    def content(self) -> bytes:
        return bytes(self.file)

    @property
    def operators(self) -> tuple[tuple[str, int], ...]:
        """(builtin, version) in execution order."""
        return tuple((entry.op, entry.version) for entry in self.emitted)


@dataclass(frozen=True)
class Built:
    """All that the stages up to compiling made for one target.

    Attributes:
        graph: the legalized graph that `plan` is about.
        artifact: what was written from them, and is verified.
        compiled: what the target's compiler made of it, one an architecture; `not_compiled`: why there is none although the target
            names a compiler, and how to get it.
    """

    source: Source
    target: Target
    graph: ir.Model
    plan: Plan
    artifact: Written
    statistics: Statistics | None
    compiled: tuple[Compiled, ...] = ()
    not_compiled: str = ""
