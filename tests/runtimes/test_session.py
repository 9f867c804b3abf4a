"""A runtime may print, hang, crash or refuse: the caller gets an array or one error with its code, never a stuck process."""

from __future__ import annotations

import os
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_models import add_int8, fully_connected_int8, onnx_relu, same_names_float

from diagnostics import DataError, ModelError, RuntimeFailure, UsageError
from exporter.quantization.plan import Encoding
from exporter.runtimes import Session, open_session
from exporter.runtimes.limits import Limits, chosen_limits, limited, parse_bytes

X = np.arange(12, dtype=np.int8).reshape(1, 2, 2, 3) * 10
TFLITE = ("litert-ref", "litert-builtin", "litert-xnnpack", "tflite-micro")

NOISY_WORKER = """
import os, sys, time
import numpy
sys.path.insert(0, {folder!r})
import worker

class Fake(worker.Adapter):
    inputs = [worker._info("x", [1], "float32")]
    outputs = [worker._info("y", [1], "float32")]
    def __init__(self, artifact, options):
        os.write(1, b"noise on descriptor 1\\n")
        print("noise through sys.stdout", flush=True)
        {start}
    def feed(self, arrays):
        self.arrays = arrays
    def invoke(self):
        print("more noise", flush=True)
        {invoke}
    def fetch(self):
        return {{"y": self.arrays["x"] * 2}}

worker.ADAPTERS["onnxruntime"] = Fake
sys.exit(worker.main(sys.argv[1:]))
"""


def fake_session(
    folder: Path, start: str = "pass", invoke: str = "pass", timeout_s: float | None = 20.0, memory_bytes: int | None = None
) -> Session:
    """A session whose runtime is a few lines of Python, in a real worker process."""
    import exporter.runtimes.worker as module

    script = folder / "fake_worker.py"
    script.write_text(textwrap.dedent(NOISY_WORKER).format(folder=str(Path(module.__file__).parent), start=start, invoke=invoke))
    artifact = folder / "model.onnx"
    artifact.write_bytes(b"")
    return open_session("onnxruntime", artifact, timeout_s=timeout_s, memory_bytes=memory_bytes, worker_script=script)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("runtime", TFLITE)
def test_every_tflite_runtime_computes_the_same_integers(runtime: str, tmp_path: Path) -> None:
    # real x = 0.05 (q - 3); plus 1, -1, 0 by channel; relu; encoded with scale 0.03 and zero point -128
    real = np.maximum(0.05 * (X.astype(np.float64) - 3) + np.array([1.0, -1.0, 0.0]), 0)
    with open_session(runtime, add_int8(tmp_path / "m.tflite")) as session:
        y = session.run({"x": X})["y"]
        assert session.inputs[0].scale == pytest.approx(0.05)
        assert (session.inputs[0].zero_point, session.outputs[0].zero_point) == (3, -128)
        assert (session.inputs[0].shape, session.inputs[0].dtype) == ((1, 2, 2, 3), "int8")
    assert y.dtype == np.int8
    # the sum is rounded to steps of 0.06, then the ReLU's output to steps of 0.03
    assert np.abs((y.astype(np.float64) + 128) * 0.03 - real).max() <= 0.06 / 2 + 0.03 / 2 + 1e-6


def test_onnxruntime_takes_any_batch_of_a_dynamic_input(tmp_path: Path) -> None:
    with open_session("onnxruntime", onnx_relu(tmp_path / "m.onnx"), options={"optimize": False}) as session:
        assert session.inputs[0].shape == (-1, 4)
        for batch in (1, 3):
            x = np.linspace(-1, 1, 4 * batch, dtype=np.float32).reshape(batch, 4)
            np.testing.assert_array_equal(session.run({"x": x})["y"], np.maximum(x, 0))


@pytest.mark.parametrize("runtime", ["litert-ref", "tflite-micro"])
def test_kept_tensors_hold_intermediates_with_their_encodings(runtime: str, tmp_path: Path) -> None:
    with open_session(runtime, add_int8(tmp_path / "m.tflite"), keep_tensors=True) as session:
        session.run({"x": X})
        tensors, encodings = session.tensors(), session.encodings()
    assert {"x", "sum", "y"} <= set(tensors)
    assert encodings["sum"] == Encoding("int8", (float(np.float32(0.06)),), (-5,))
    assert tensors["sum"][0, 0, 0, 0] == round((0.05 * (0 - 3) + 0.02 * 50) / 0.06) - 5


def test_per_channel_encodings_carry_their_axis(tmp_path: Path) -> None:
    with open_session("litert-ref", fully_connected_int8(tmp_path / "m.tflite"), keep_tensors=True) as session:
        session.run({"x": np.zeros((1, 3), np.int8)})
        assert session.encodings()["w"] == Encoding("int8", (float(np.float32(0.01)), float(np.float32(0.02))), (0, 0), 0)


def test_tensors_whose_names_repeat_are_told_apart_by_index(tmp_path: Path) -> None:
    with open_session("litert-ref", same_names_float(tmp_path / "m.tflite"), keep_tensors=True) as session:
        session.run({"x": np.array([-2, 3], np.float32)})
        tensors = session.tensors()
    np.testing.assert_array_equal(tensors["1:again"], [2, 3])
    np.testing.assert_array_equal(tensors["2:again"], [-2, -3])


def test_tensors_without_keep_tensors_is_refused_and_the_session_lives_on(tmp_path: Path) -> None:
    with open_session("litert-ref", add_int8(tmp_path / "m.tflite")) as session:
        with pytest.raises(RuntimeFailure, match=r"EW-R002.*refused to tensors") as caught:
            session.tensors()
        assert "keep_tensors" in caught.value.why
        assert session.run({"x": X})["y"].shape == (1, 2, 2, 3)


def test_xnnpack_reports_its_partitions_and_the_builtin_kernels_none(tmp_path: Path) -> None:
    path = add_int8(tmp_path / "m.tflite")
    with open_session("litert-xnnpack", path) as delegated, open_session("litert-builtin", path) as plain:
        assert delegated.report()["delegated"] == 1
        assert plain.report() == {"operators": ["ADD", "RELU"], "delegated": 0}


def test_micro_reports_an_arena_that_is_needed_and_enough(tmp_path: Path) -> None:
    path = add_int8(tmp_path / "m.tflite")
    with open_session("tflite-micro", path) as session:
        report = session.report()
    assert report["arena_total"] == report["arena_head"] + report["arena_tail"]
    assert report["arena_needed"] >= report["arena_total"]
    with open_session("tflite-micro", path, options={"arena_bytes": report["arena_needed"]}) as session:
        assert session.run({"x": X})["y"].dtype == np.int8
    with pytest.raises(RuntimeFailure):
        open_session("tflite-micro", path, options={"arena_bytes": report["arena_needed"] - 32})


def test_latency_gives_one_time_a_repeat(tmp_path: Path) -> None:
    with open_session("litert-ref", add_int8(tmp_path / "m.tflite")) as session:
        seconds = session.latency({"x": X}, 7)
    assert len(seconds) == 7
    assert all(0 < s < 1 for s in seconds)


@pytest.mark.parametrize("bad", [{"x": X[0]}, {"x": X.astype(np.float32)}, {"z": X}, {}], ids=["rank", "dtype", "name", "none"])
def test_inputs_that_do_not_fit_are_refused_before_they_are_sent(bad: dict[str, np.ndarray], tmp_path: Path) -> None:
    with open_session("litert-ref", add_int8(tmp_path / "m.tflite")) as session:
        with pytest.raises(DataError, match="EW-D003"):
            session.run(bad)
        assert "y" in session.run({"x": X})


@pytest.mark.parametrize("runtime", ["onnxruntime", *TFLITE])
@pytest.mark.parametrize("content", [b"", b"garbage" * 40], ids=["empty", "garbage"])
def test_a_garbage_artifact_is_refused_or_crashes_the_worker_alone(runtime: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    with pytest.raises(RuntimeFailure) as caught:
        open_session(runtime, path)
    assert caught.value.code in ("EW-R002", "EW-R003")
    assert caught.value.why


@pytest.mark.parametrize("runtime", TFLITE)
def test_a_truncated_artifact_ends_in_an_error(runtime: str, tmp_path: Path) -> None:
    whole = add_int8(tmp_path / "m.tflite").read_bytes()
    path = tmp_path / "half.tflite"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RuntimeFailure):
        open_session(runtime, path)


def test_an_absent_artifact_and_an_unknown_runtime_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"EW-M001.*gone.tflite"):
        open_session("litert-ref", tmp_path / "gone.tflite")
    with pytest.raises(UsageError, match=r"EW-U001.*no runtime 'tensorrt'"):
        open_session("tensorrt", tmp_path / "gone.tflite")


def test_a_runtime_that_is_not_installed_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path))  # no environments of their own
    with pytest.raises(RuntimeFailure, match="EW-R001") as caught:
        open_session("tflite-runtime", add_int8(tmp_path / "m.tflite"))
    assert caught.value.fix == "edgewright runtimes add tflite-runtime==2.14.0"


def test_an_interpreter_without_the_runtime_says_how_to_get_it(tmp_path: Path) -> None:
    import sys

    with pytest.raises(RuntimeFailure, match="EW-R001") as caught:
        open_session("tflite-runtime", add_int8(tmp_path / "m.tflite"), python=sys.executable)
    assert "tflite_runtime" in caught.value.why


def test_what_a_runtime_prints_does_not_reach_the_protocol(tmp_path: Path) -> None:
    with fake_session(tmp_path) as session:
        np.testing.assert_array_equal(session.run({"x": np.ones(1, np.float32)})["y"], [2])


def test_a_crash_names_the_signal_and_what_was_printed(tmp_path: Path) -> None:
    crash = "sys.stderr.write('arena exhausted\\n'); sys.stderr.flush(); os.abort()"
    with fake_session(tmp_path, invoke=crash) as session:
        with pytest.raises(RuntimeFailure, match=r"EW-R003.*SIGABRT") as caught:
            session.run({"x": np.ones(1, np.float32)})
        assert "arena exhausted" in caught.value.why
        with pytest.raises(RuntimeFailure, match="EW-R003"):
            session.run({"x": np.ones(1, np.float32)})


def test_a_worker_that_exits_while_it_loads_is_a_crash(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match=r"EW-R003.*exit status 7"):
        fake_session(tmp_path, start="os._exit(7)")


@pytest.mark.parametrize("when", ["start", "invoke"])
def test_a_hang_ends_at_the_limit_with_its_whole_process_group(when: str, tmp_path: Path) -> None:
    spawn = f"pid = os.fork(); open({str(tmp_path / 'pid')!r}, 'w').write(str(pid or os.getpid())); time.sleep(60)"
    begun = time.monotonic()
    with pytest.raises(RuntimeFailure, match="EW-R004"), fake_session(tmp_path, **{when: spawn}, timeout_s=1.5) as session:
        session.run({"x": np.ones(1, np.float32)})
    assert time.monotonic() - begun < 10
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not alive(pid) or "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            break
        time.sleep(0.02)
    else:
        pytest.fail("a process of the worker's group is still running")


def test_leaving_the_session_reaps_its_process(tmp_path: Path) -> None:
    with fake_session(tmp_path) as session:
        pid = session._worker.pid
        assert alive(pid)
    assert not alive(pid)


@pytest.mark.parametrize("when", ["start", "invoke"])
def test_a_worker_that_eats_memory_is_ended(when: str, tmp_path: Path) -> None:
    eat = "self.big = [bytes([1]) * 2**26 for _ in range(8)]; time.sleep(60)"
    start = time.monotonic()
    with (
        pytest.raises(RuntimeFailure, match="held more than 268,435,456 bytes and was ended") as caught,
        fake_session(tmp_path, **{when: eat}, memory_bytes=2**28) as session,
    ):
        session.run({"x": np.ones(1, np.float32)})
    assert caught.value.code == "EW-R011"
    assert time.monotonic() - start < 20


def test_memory_that_is_only_reserved_is_none_that_is_held(tmp_path: Path) -> None:
    with fake_session(tmp_path, start="import mmap; self.big = mmap.mmap(-1, 2**31)", memory_bytes=2**29) as session:
        assert session.run({"x": np.ones(1, np.float32)})["y"] == 2


def test_the_users_own_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_WORKER_MEMORY", "256MiB")
    with pytest.raises(RuntimeFailure, match="EW-R011"):
        fake_session(tmp_path, start="self.big = bytes([1]) * 2**29; time.sleep(60)")
    monkeypatch.setenv("EDGEWRIGHT_WORKER_SECONDS", "1.5")
    with pytest.raises(RuntimeFailure, match=r"did not answer within 1\.5 s"):
        fake_session(tmp_path, start="time.sleep(60)", timeout_s=None)
    monkeypatch.setenv("EDGEWRIGHT_WORKER_SECONDS", "soon")
    with pytest.raises(UsageError, match="no number of seconds"):
        fake_session(tmp_path)


def test_limits_that_are_given_come_before_those_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWRIGHT_WORKER_SECONDS", "soon")
    with pytest.raises(UsageError), limited(Limits(memory_bytes=2**30)):
        chosen_limits()
    monkeypatch.setenv("EDGEWRIGHT_WORKER_SECONDS", "600")
    with limited(Limits(seconds=1.5)):
        assert chosen_limits() == Limits(1.5, None)
        with pytest.raises(RuntimeFailure, match=r"did not answer within 1\.5 s"):
            fake_session(tmp_path, start="time.sleep(60)", timeout_s=None)
    assert chosen_limits() == Limits(600.0, None)


@pytest.mark.parametrize(("text", "found"), [("1", 1), ("512MiB", 2**29), ("4g", 2**32), ("2 TB", 2**41), ("8KiB", 2**13)])
def test_amounts_of_memory(text: str, found: int) -> None:
    assert parse_bytes(text) == found


@pytest.mark.parametrize("text", ["", "-1", "much", "1.5GiB", "4GiBs"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(UsageError, match="no amount of memory"):
        parse_bytes(text)


@pytest.mark.parametrize(
    "said",
    [
        b"Loading the model, please wait...\n",
        b"\x05\0\0\0\0\0\0\0hello",
        b"\x04\0\0\0\0\0\0\0PK\x03\x04",
        b"\0\0\0\0\0\0\0\0",
    ],
)
def test_garbage_instead_of_a_message_is_a_crash(said: bytes, tmp_path: Path) -> None:
    script = tmp_path / "garbage.py"
    script.write_text(f"import os, time\nos.write(1, {said!r})\ntime.sleep(60)\n")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(RuntimeFailure, match="sent what is no message of a worker") as caught:
        open_session("onnxruntime", tmp_path / "model.onnx", worker_script=script, timeout_s=20)
    assert caught.value.code == "EW-R003"


def test_thread_variables_reach_the_runtime(tmp_path: Path) -> None:
    start = "assert os.environ['OMP_NUM_THREADS'] == '1'"
    with fake_session(tmp_path, start=start) as session:
        assert session.runtime == "onnxruntime"
