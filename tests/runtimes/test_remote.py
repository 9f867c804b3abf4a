"""The worker over ssh, through a real sshd on loopback: the same numbers, one error for every way to fail, nothing left behind."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Loopback, sshd
from tiny_models import add_int8, onnx_relu

from diagnostics import DataError, RuntimeFailure
from exporter.runtimes import open_session, worker
from exporter.runtimes.probe import probe_model
from exporter.runtimes.remote import sent_files

X = np.arange(12, dtype=np.int8).reshape(1, 2, 2, 3) * 10


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture
def there(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """The machine, which must be as clean afterwards as it was."""
    monkeypatch.setenv("EDGEWRIGHT_SSH", loopback.client)
    yield loopback
    deadline = time.monotonic() + 10
    while list((loopback.folder / "tmp").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list((loopback.folder / "tmp").iterdir()) == []


def name(runtime: str, there: Loopback, python: str | Path = sys.executable) -> str:
    return f"{runtime}@{there.url}?python={python}"


def script(folder: Path, text: str) -> Path:
    """A stand-in for the interpreter there."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_session_there_gives_what_one_here_gives(there: Loopback, tmp_path: Path) -> None:
    path = add_int8(tmp_path / "m.tflite")
    with open_session("litert-ref", path) as here, open_session(name("litert-ref", there), path, keep_tensors=True) as session:
        assert session.inputs == here.inputs
        np.testing.assert_array_equal(session.run({"x": X})["y"], here.run({"x": X})["y"])
        assert "sum" in session.tensors()
        assert len(session.latency({"x": X}, 3)) == 3
        assert session.machine == here.machine
        assert session.machine.package == "ai-edge-litert"


def test_weights_outside_of_the_file_go_along(there: Loopback, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.arange(1024, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1024])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert set(sent_files(path)) == {"m.onnx", "weights.bin"}
    with open_session(name("onnxruntime", there), path) as session:
        np.testing.assert_array_equal(session.run({"x": np.ones(1024, np.float32)})["y"], weights + 1)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "m.onnx").write_bytes(path.read_bytes().replace(b"weights.bin", b"../weig.bin"))
    (tmp_path / "weig.bin").write_bytes((tmp_path / "weights.bin").read_bytes())
    with pytest.raises(DataError, match="no file of its folder"):
        sent_files(tmp_path / "inner" / "m.onnx")


def test_what_a_login_shell_prints_is_no_answer(there: Loopback, tmp_path: Path) -> None:
    noisy = script(tmp_path, f'echo Welcome aboard; exec "{sys.executable}" "$@"')
    with open_session(name("litert-ref", there, noisy), add_int8(tmp_path / "m.tflite")) as session:
        assert session.run({"x": X})["y"].shape == (1, 2, 2, 3)


@pytest.mark.parametrize(("runtime", "suffix"), [("litert-ref", ".tflite"), ("onnxruntime", ".onnx")])
def test_an_artifact_that_the_runtime_refuses_there(there: Loopback, tmp_path: Path, runtime: str, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"no model")
    with pytest.raises(RuntimeFailure, match="could not load") as caught:
        open_session(name(runtime, there), path)
    assert caught.value.code == "EW-R002"


def test_a_missing_runtime_says_what_to_install_there(there: Loopback, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="is not installed") as caught:
        open_session(name("tflite-runtime", there), add_int8(tmp_path / "m.tflite"))
    assert caught.value.code == "EW-R001"
    assert caught.value.fix == f"on {there.url}: {sys.executable} -m pip install tflite-runtime numpy==1.26.4"


def test_another_release_than_the_named_one(there: Loopback, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="is not installed") as caught:
        open_session(name("litert-ref==1.2.0", there), add_int8(tmp_path / "m.tflite"))
    assert "ai-edge-litert" in caught.value.why
    assert "ai-edge-litert==1.2.0" in caught.value.fix


def test_no_python_there(there: Loopback, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"there is no .*nothing on ssh://") as caught:
        open_session(name("litert-ref", there, tmp_path / "nothing"), add_int8(tmp_path / "m.tflite"))
    assert (caught.value.code, "?python=PATH" in caught.value.fix) == ("EW-R001", True)


def test_no_numpy_there(there: Loopback, tmp_path: Path) -> None:
    bare = script(tmp_path, f'exec "{sys.executable}" -I -S "$@"')
    with pytest.raises(RuntimeFailure, match="cannot run a worker") as caught:
        open_session(name("litert-ref", there, bare), add_int8(tmp_path / "m.tflite"))
    assert caught.value.code == "EW-R001"
    assert "numpy is not installed" in caught.value.why
    assert "ai-edge-litert" in caught.value.fix


@pytest.mark.parametrize(
    ("settings", "why", "fix"),
    [
        ({"UserKnownHostsFile": "/dev/null"}, "Host key verification failed", "compare the fingerprint"),
        ({"IdentityFile": "{folder}/stranger"}, "Permission denied", "ssh-copy-id"),
        ({"Port": "1"}, "Connection refused", "check the port"),
    ],
)
def test_a_machine_that_cannot_be_entered(
    there: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], why: str, fix: str
) -> None:
    known = {key: value.format(folder=there.folder) for key, value in settings.items()}
    line = (there.folder / "client.conf").read_text()
    for key, value in known.items():
        line = "\n".join(f"{key} {value}" if entry.startswith(key) else entry for entry in line.splitlines())
    (tmp_path / "client.conf").write_text(line + "\n")
    monkeypatch.setenv("EDGEWRIGHT_SSH", f"ssh -F {tmp_path / 'client.conf'}")
    url = there.url.replace(str(there.port), known["Port"]) if "Port" in known else there.url
    with pytest.raises(RuntimeFailure, match="cannot be reached") as caught:
        open_session(f"litert-ref@{url}", add_int8(tmp_path / "m.tflite"))
    assert caught.value.code == "EW-R010"
    assert why in caught.value.why
    assert fix in caught.value.fix


def test_another_host_key_than_the_known_one(there: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{there.port} {(there.folder / 'stranger.pub').read_text()}")
    (tmp_path / "client.conf").write_text(
        (there.folder / "client.conf").read_text().replace(str(there.folder / "known"), str(known))
    )
    monkeypatch.setenv("EDGEWRIGHT_SSH", f"ssh -F {tmp_path / 'client.conf'}")
    with pytest.raises(RuntimeFailure) as caught:
        open_session(name("litert-ref", there), add_int8(tmp_path / "m.tflite"))
    assert (caught.value.code, "ssh-keygen -R" in caught.value.fix) == ("EW-R010", True)


def test_no_ssh_here(there: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_SSH", str(tmp_path / "ssh"))
    with pytest.raises(RuntimeFailure, match="cannot be started") as caught:
        open_session(name("litert-ref", there), add_int8(tmp_path / "m.tflite"))
    assert caught.value.code == "EW-R001"


FAKE = """
import importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location("worker", {worker!r})
worker = importlib.util.module_from_spec(spec)
sys.modules["worker"] = worker
spec.loader.exec_module(worker)

class Fake(worker.Adapter):
    inputs = [worker._info("x", [1], "float32")]
    outputs = [worker._info("y", [1], "float32")]
    def __init__(self, artifact, options):
        {start}
    def feed(self, arrays):
        self.arrays = arrays
    def invoke(self):
        {invoke}
    def fetch(self):
        return {{"y": self.arrays["x"] * 2}}

worker.ADAPTERS["onnxruntime"] = Fake
sys.exit(worker.main(sys.argv[1:]))
"""


def fake(there: Loopback, folder: Path, start: str = "pass", invoke: str = "pass", timeout_s: float = 30):
    path = folder / "fake.py"
    path.write_text(FAKE.format(worker=worker.__file__, start=start, invoke=invoke))
    (folder / "probe.onnx").write_bytes(probe_model("onnxruntime")[1])
    return open_session(name("onnxruntime", there), folder / "probe.onnx", worker_script=path, timeout_s=timeout_s)


ONE = {"x": np.ones(1, np.float32)}


def test_a_crash_there(there: Loopback, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeFailure, match="by signal SIGSEGV") as caught,
        fake(there, tmp_path, invoke="print('last words', flush=True); os.kill(os.getpid(), signal.SIGSEGV)") as session,
    ):
        session.run(ONE)
    assert (caught.value.code, "last words" in caught.value.why) == ("EW-R003", True)


def test_an_exit_there(there: Loopback, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="exit status 254") as caught:
        fake(there, tmp_path, start="os._exit(255)")
    assert caught.value.code == "EW-R003"


def test_a_worker_that_hangs_there_is_ended_on_both_sides(there: Loopback, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hang = f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    start = time.monotonic()
    with fake(there, tmp_path, invoke=hang) as session:
        session._timeout_s = 1.0
        with pytest.raises(RuntimeFailure, match="did not answer within 1 s") as caught:
            session.run(ONE)
    assert caught.value.code == "EW-R004"
    number = int(pid.read_text())
    while time.monotonic() - start < 20:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the worker there lives on")


def test_a_worker_that_eats_memory_there_is_ended(there: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_WORKER_MEMORY", "256MiB")
    with (
        pytest.raises(RuntimeFailure, match="held more than 268,435,456 bytes") as caught,
        fake(there, tmp_path, invoke="self.big = bytes([1]) * 2**29; time.sleep(60)") as session,
    ):
        session.run(ONE)
    assert caught.value.code == "EW-R011"


def test_a_lost_connection_is_an_error_and_no_hang(there: Loopback, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeFailure, match="cannot be reached, or was lost") as caught,
        fake(
            # the grandparent of the worker: sshd's process of this connection
            there,
            tmp_path,
            invoke="line = open('/proc/%d/stat' % os.getppid()).read(); os.kill(int(line.rpartition(')')[2].split()[1]), 9); time.sleep(60)",
        ) as session,
    ):
        session.run(ONE)
    assert caught.value.code == "EW-R010"


def test_the_relu_of_a_model_with_an_open_batch(there: Loopback, tmp_path: Path) -> None:
    with open_session(name("onnxruntime", there), onnx_relu(tmp_path / "m.onnx")) as session:
        x = np.linspace(-1, 1, 400_000, dtype=np.float32).reshape(-1, 4)  # more than pipes and windows hold
        np.testing.assert_array_equal(session.run({"x": x})["y"], np.maximum(x, 0))
