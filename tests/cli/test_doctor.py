"""`edgewright doctor` says what is there and how to get what is not, and can prove that a runtime really starts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from exporter.cli.main import main


def test_json_names_every_runtime_with_version_or_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {"onnxruntime", "litert-ref", "tflite-micro", "tflite-runtime", "torch", "vela", "gcc"} <= set(entries)
    assert entries["litert-ref"]["present"]
    assert all((entry["version"] is not None) == entry["present"] for entry in entries.values())
    assert all(entry["purpose"] and entry["how_to_get"] for entry in entries.values())
    assert not any("run" in entry for entry in entries.values())


def test_text_says_how_to_get_what_is_absent_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for head, detail in zip(lines[::2], lines[1::2], strict=True):
        assert head.startswith("no ") == ("; get it: " in detail)


def test_run_starts_each_installed_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--run"]) == 0
    entries = json.loads(capsys.readouterr().out)
    runs = {entry["name"]: entry.get("run") for entry in entries if entry["kind"] == "runtime"}
    present = {entry["name"] for entry in entries if entry["kind"] == "runtime" and entry["present"]}
    assert runs == {name: "ok" if name in present else None for name in runs}


def test_looking_imports_no_runtime() -> None:
    code = (
        "import sys; from exporter.cli.main import main; main(['doctor', '--json']);"
        "print([m for m in ('onnxruntime', 'ai_edge_litert', 'tflite_micro', 'torch', 'onnx') if m in sys.modules], file=sys.stderr)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.strip() == "[]"
