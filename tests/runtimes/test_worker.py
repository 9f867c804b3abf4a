"""The worker by itself, as another environment or a board would run it: by path, one message after another."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_models import add_int8

from exporter.runtimes import worker
from exporter.runtimes.probe import probe_model


@given(
    st.dictionaries(
        st.text(max_size=8),
        hnp.arrays(
            st.sampled_from([np.int8, np.uint8, np.float32, np.int64, np.bool_]), hnp.array_shapes(min_dims=0, min_side=0)
        ),
        max_size=4,
    )
)
def test_messages_carry_any_name_shape_and_dtype(arrays: dict[str, np.ndarray]) -> None:
    stream = io.BytesIO()
    worker.send(stream, {"request": "run"}, arrays)
    stream.seek(0)
    received = worker.receive(stream)
    assert received is not None
    meta, found = received
    assert meta["request"] == "run"
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    assert worker.receive(stream) is None


def test_objects_do_not_pass() -> None:
    stream = io.BytesIO()
    worker.send(stream, {}, {"evil": np.array([object()], dtype=object)})
    stream.seek(0)
    with pytest.raises(ValueError, match="allow_pickle"):
        worker.receive(stream)


def test_a_conversation_by_hand(tmp_path: Path) -> None:
    artifact = add_int8(tmp_path / "m.tflite")
    command = [sys.executable, "-I", str(Path(worker.__file__)), "litert", str(artifact), '{"kernels": "ref"}']
    requests = io.BytesIO()
    worker.send(requests, {"request": "describe"})
    worker.send(requests, {"request": "sing"})
    worker.send(requests, {"request": "run"}, {"x": np.zeros((1, 2, 2, 3), np.int8)})
    done = subprocess.run(command, input=requests.getvalue(), capture_output=True, check=True, timeout=60)
    answers = io.BytesIO(done.stdout)
    hello, described, refused, ran = (worker.receive(answers) for _ in range(4))
    assert worker.receive(answers) is None
    assert hello[0]["inputs"] == described[0]["inputs"]
    assert described[0]["outputs"][0]["name"] == "y"
    assert "sing" in refused[0]["error"]
    assert ran[1]["y"].shape == (1, 2, 2, 3)


def test_names_are_kept_where_they_tell_tensors_apart() -> None:
    assert worker._unique_names(["x", "", "y", "y"]) == ["x", "1:", "2:y", "3:y"]


@pytest.mark.parametrize(("runtime", "suffix"), [("onnxruntime", ".onnx"), ("litert-ref", ".tflite")])
def test_the_probe_is_the_runtimes_own_format(runtime: str, suffix: str) -> None:
    found, content = probe_model(runtime)
    assert found == suffix
    assert 0 < len(content) < 1024


def test_the_length_is_little_endian() -> None:
    stream = io.BytesIO()
    worker.send(stream, {})
    raw = stream.getvalue()
    assert struct.unpack("<Q", raw[:8])[0] == len(raw) - 8
    assert raw[8:10] == b"PK"  # an npz is a zip archive
