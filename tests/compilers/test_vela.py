"""Vela's answer as we read it: an operator for each of the artifact, where it went and why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diagnostics import CompilerFailure
from exporter.compilers import Task
from exporter.compilers.vela import compile_with_vela


def task(folder: Path, content: bytes, architecture: str = "ethos-u55-128", **options: str) -> Task:
    artifact = folder / "model.tflite"
    artifact.write_bytes(content)
    return Task(artifact, architecture, options, folder, Path(sys.executable), 60)


def test_what_is_no_model_is_refused_with_what_vela_said(tmp_path: Path) -> None:
    with pytest.raises(CompilerFailure) as caught:
        compile_with_vela(task(tmp_path, b"no model at all"), "5.2.0")
    assert caught.value.code == "EW-R007"
    assert caught.value.why


def test_an_unknown_accelerator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompilerFailure) as caught:
        compile_with_vela(task(tmp_path, b"", "ethos-u99-1"), "5.2.0")
    assert caught.value.code == "EW-R007"
    assert "ethos-u99-1" in caught.value.why
