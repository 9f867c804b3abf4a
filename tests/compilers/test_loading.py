"""A compiler that works while an adapter loads: its report and files come back, and what is missing of them is an error with a code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diagnostics import CompilerFailure
from exporter.compilers import Task
from exporter.compilers.loading import compile_by_loading
from exporter.runtimes.probe import probe_model


def task(folder: Path, content: bytes) -> Task:
    artifact = folder / "model.onnx"
    artifact.write_bytes(content)
    return Task(artifact, "any", {}, folder, Path(sys.executable), 60)


def test_the_report_and_the_files_come_back(tmp_path: Path) -> None:
    content = probe_model("onnxruntime")[1]
    loaded = compile_by_loading(task(tmp_path, content), "onnxruntime", {}, ["model.onnx"], label="cc", version="1")
    assert loaded.report["providers"] == ["CPUExecutionProvider"]
    assert loaded.files == {"model.onnx": content}
    assert not any(line.startswith("{") for line in loaded.said)


@pytest.mark.parametrize(("files", "content", "said"), [(["none"], None, "cannot be read"), ([], b"no model", "did not compile")])
def test_what_was_not_written_or_not_taken_has_a_code(files: list[str], content: bytes | None, said: str, tmp_path: Path) -> None:
    given = task(tmp_path, content or probe_model("onnxruntime")[1])
    with pytest.raises(CompilerFailure, match=said) as caught:
        compile_by_loading(given, "onnxruntime", {}, files, label="cc", version="1")
    assert caught.value.code == "EW-R007"
