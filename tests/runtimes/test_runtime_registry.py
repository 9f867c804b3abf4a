"""The table of runtimes: whole, consistent with the worker, and cheap to ask."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diagnostics import UsageError
from exporter.runtimes import all_runtimes, available
from exporter.runtimes.registry import RUNTIMES
from exporter.runtimes.worker import ADAPTERS


def test_every_entry_has_an_adapter_and_every_adapter_an_entry() -> None:
    assert {runtime.adapter for runtime in RUNTIMES} == set(ADAPTERS)
    assert len({runtime.name for runtime in RUNTIMES}) == len(RUNTIMES)


def test_availability_tells_version_or_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path))  # no environments of their own
    found = {entry.name: entry for entry in all_runtimes()}
    assert found["onnxruntime"].present
    assert found["onnxruntime"].version
    assert not found["tflite-runtime"].present
    assert all(
        entry.how_to_get.startswith(("pip install ", "edgewright runtimes add ")) and entry.purpose for entry in found.values()
    )


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        available("openvx")
    assert "litert-ref" in caught.value.fix


def test_asking_imports_no_runtime() -> None:
    code = (
        "import sys; from exporter.runtimes import all_runtimes; all_runtimes();"
        "print([m for m in ('onnxruntime', 'ai_edge_litert', 'tflite_micro', 'torch', 'onnx') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_worker_imports_nothing_of_the_package() -> None:
    import exporter.runtimes.worker as worker

    text = Path(worker.__file__).read_text(encoding="utf-8")
    assert "import exporter" not in text
    assert "from exporter" not in text
    assert "diagnostics" not in text
