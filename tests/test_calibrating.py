"""Calibrating once and planning later: the public calls, the command, a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from diagnostics import DataError, TargetError, UsageError
from exporter import Plan, Store, calibrate, export, merge_stores
from exporter.calibrating import parse_shard
from exporter.cli.main import main
from targets import list_targets
from tests.quantization.planned import residual_net

TARGET = "x86-64-cpu"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    ir.save(residual_net(), path)
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "samples.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "test.npy"
    np.save(path, np.random.default_rng(1).normal(size=(4, 3, 16, 16)).astype(np.float32))
    return path


def test_a_plan_from_a_store_is_the_plan_from_the_data(model, data, other, tmp_path) -> None:
    calibrate(model, TARGET, data, out=tmp_path / "store.npz")
    given = {"model": model, "targets": [TARGET], "test": other, "test_samples": 2}
    (stored,) = export(**given, store=tmp_path / "store.npz", out=tmp_path / "a")
    (direct,) = export(**given, calibration=data, out=tmp_path / "b")
    assert stored.bundle.artifact.read_bytes() == direct.bundle.artifact.read_bytes()
    plans = [Plan.load(outcome.bundle.path / "plan.json") for outcome in (stored, direct)]
    assert plans[0] == plans[1]
    assert plans[0].corrections


def test_shards_by_the_command_merge_to_the_bytes_of_one_run(model, data, tmp_path, capsys) -> None:
    def run(*arguments: str) -> dict:
        assert main(["calibrate", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    shards = [str(tmp_path / f"{i}.npz") for i in (1, 2, 3)]
    for i, shard in enumerate(shards, 1):
        facts = run(model, "--target", TARGET, "--calib", str(data), "--out", shard, "--shard", f"{i}/3")
        assert facts["samples"] == (14, 13, 13)[i - 1]
    merged = run("merge", *reversed(shards), "-o", str(tmp_path / "merged.npz"))
    whole = run(model, "--target", TARGET, "--calib", str(data), "--out", str(tmp_path / "whole.npz"))
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert {**merged, "path": whole["path"]} == whole
    assert not list(tmp_path.glob("*.partial"))


def test_a_store_of_another_model_is_refused_and_so_is_one_without_data_to_verify_with(model, data, other, tmp_path) -> None:
    store = calibrate(model, TARGET, data, samples=2)
    changed = residual_net().clone()
    weight = changed.graph.initializers["w1"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.5), name="w1")
    ir.save(changed, tmp_path / "changed.onnx")
    with pytest.raises(DataError, match="another model") as caught:
        export(tmp_path / "changed.onnx", [TARGET], store=store, test=other, out=tmp_path / "a")
    assert caught.value.code == "EW-D007"
    with pytest.raises(DataError) as caught:
        export(model, [TARGET], store=store, out=tmp_path / "a")
    assert caught.value.code == "EW-D001"
    with pytest.raises(UsageError, match="both"):
        export(model, [TARGET], store=store, calibration=data, out=tmp_path / "a")


def test_a_shard_twice_and_a_file_that_is_no_store_are_refused(model, data, tmp_path) -> None:
    calibrate(model, TARGET, data, out=tmp_path / "a.npz", shard=(1, 2))
    with pytest.raises(DataError, match="of the same samples") as caught:
        merge_stores([tmp_path / "a.npz", tmp_path / "a.npz"], tmp_path / "b.npz")
    assert caught.value.code == "EW-D007"
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    for other in (data, tmp_path / "arrays.npz", tmp_path / "absent.npz"):
        with pytest.raises(DataError) as caught:
            merge_stores([tmp_path / "a.npz", other], tmp_path / "b.npz")
        assert caught.value.code == "EW-D004"
    assert not (tmp_path / "b.npz").exists()


def test_what_a_killed_run_left_half_written_goes_with_the_next(model, data, tmp_path) -> None:
    left = [tmp_path / ".a.npz.partial.123", tmp_path / "a.npz.partial"]
    for path in left:
        path.write_bytes(b"half")
    calibrate(model, TARGET, data, out=tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_what_is_of_no_use_is_refused_before_the_model_runs(model, data, tmp_path) -> None:
    with pytest.raises(TargetError, match="takes no calibration"):
        calibrate(model, next(target for target in list_targets() if not target.artifact.calibrated), data)
    with pytest.raises(UsageError, match="--out"):
        calibrate(model, TARGET, data, resume=True)
    (tmp_path / "there.npz").touch()
    for call in (lambda path: calibrate(model, TARGET, data, out=path), lambda path: merge_stores(["absent"], path)):
        with pytest.raises(UsageError, match="exists"):
            call(tmp_path / "there.npz")
        for path in (tmp_path, tmp_path / "there.npz" / "below.npz"):
            with pytest.raises(UsageError) as caught:
                call(path)
            assert caught.value.code == "EW-U004"
    with pytest.raises(UsageError):
        merge_stores([])
    for text in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(UsageError) as caught:
            parse_shard(text)
        assert caught.value.code == "EW-U001"


def test_killed_and_resumed_gives_the_same_bytes(model, data, tmp_path) -> None:
    """A real kill -9, in the middle of the data (a slow reader gives the time to aim)."""
    (tmp_path / "slow.py").write_text(
        "import os, time\nimport numpy as np\n"
        f"def samples():\n    for row in np.load({str(data)!r}):\n"
        "        time.sleep(float(os.environ['PAUSE']))\n        yield row[None]\n"
    )
    out = tmp_path / "store.npz"
    command = [sys.executable, "-m", "exporter.cli.main", "calibrate", model, "--target", TARGET, "--calib", "slow:samples"]
    command += ["--out", str(out), "--checkpoint", "0"]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])
    environment = {**os.environ, "PYTHONPATH": paths, "PAUSE": "0.1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd=tmp_path)
    partial = out.with_name("store.npz.partial")
    deadline = time.monotonic() + 60
    while not (partial.exists() and Store.load(partial).samples >= 3):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= Store.load(partial).samples < 40
    assert not out.exists()
    subprocess.run([*command, "--resume"], env={**environment, "PAUSE": "0"}, check=True, capture_output=True, cwd=tmp_path)
    assert not partial.exists()
    calibrate(model, TARGET, data, out=tmp_path / "whole.npz")
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
