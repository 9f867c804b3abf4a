"""The content of a file in parts, so that gigabytes of weights go to disk from where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Content"]


@dataclass(frozen=True)
class Content:
    """Parts in file order, each bytes or a flat view of bytes."""

    parts: tuple[bytes | memoryview, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(len(part) for part in self.parts)

    def write(self, path: Path) -> None:
        """Write the file, part by part. Raises OSError."""
        with path.open("wb") as stream:
            for part in self.parts:
                stream.write(part)

    def __bytes__(self) -> bytes:
        return self.parts[0] if len(self.parts) == 1 and isinstance(self.parts[0], bytes) else b"".join(self.parts)
