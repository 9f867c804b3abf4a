"""`export --on` and `verify --on`: the deciding runtime on another machine, through a real sshd on loopback."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from exporter.cli.main import main
from tests.runtimes.loopback import sshd
from tests.runtimes.tiny_models import onnx_relu


def test_export_and_verify_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = tmp_path / "data.npy", str(onnx_relu(tmp_path / "relu.onnx"))
    np.save(data, np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))
    shape = ("--shape", "x=1,4")
    with sshd(tmp_path) as there:
        monkeypatch.setenv("EDGEWRIGHT_SSH", there.client)
        place = f"{there.url}?python={sys.executable}"
        options = ["--target", "android-arm64-cpu", "--precision", "float32", "--test", str(data), "--out", str(tmp_path), *shape]
        assert main(["export", model, *options, "--on", place, "--json"]) == 0
        [exported] = json.loads(capsys.readouterr().out)["bundles"]
        remote, here = f"litert-xnnpack@{place}", "litert-xnnpack"
        assert list(exported["runtimes"]) == [remote, here, "litert-ref"]
        report = json.loads((Path(exported["path"]) / "report.json").read_text())
        places = {row["runtime"]: row["machine"] for row in report["latency"]}
        assert places[remote] == report["machines"][remote] != ""
        assert places["original"] == places[here] == ""
        assert "ai-edge-litert" in places[remote]
        page = (Path(exported["path"]) / "report.html").read_text()
        assert "Latency measured on" in page

        checked = ["verify", exported["path"], "--against", model, "--data", str(data), *shape, "--on"]
        assert main([*checked, place, "--json"]) == 0
        verified = json.loads(capsys.readouterr().out)
        assert verified["agreement"] == {"max_lsb": 0.0, "mismatches": 0, "elements": 16}
        assert verified["latency"][remote]["median_s"] > 0
        assert main([*checked, place]) == 0
        printed = capsys.readouterr().out
        assert f"{remote} and {here} give the same outputs, bit for bit" in printed
        assert main([*checked, "ssh://nobody.invalid"]) == 5
        assert "EW-R010" in capsys.readouterr().err
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_place_that_is_none_is_found_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "absent", "--against", "absent", "--data", "absent", "--on", "pi5"]) == 2
    assert "EW-U001" in capsys.readouterr().err
