"""Keras files and SavedModels. Those that need tensorflow run where ``$EDGEWRIGHT_TENSORFLOW`` names an interpreter that has it."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from diagnostics import EdgewrightError
from exporter import convert
from exporter.converting import random_sample
from exporter.frontends import load
from exporter.frontends.keras_worker import static_shape
from exporter.graph.run import FloatRunner

TENSORFLOW = os.environ.get("EDGEWRIGHT_TENSORFLOW") or (sys.executable if find_spec("tensorflow") else None)
needs_tensorflow = pytest.mark.skipif(TENSORFLOW is None, reason="no interpreter with tensorflow: set EDGEWRIGHT_TENSORFLOW")

HDF5 = b"\x89HDF\r\n\x1a\n"  # how each such file begins

SCRIPT = """
import sys
import keras
from keras import layers
keras.utils.set_random_seed(0)
net = keras.Sequential([
    keras.Input((8, 8, 3), name="image"), layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(),
    layers.MaxPool2D(), layers.Flatten(), layers.Dropout(0.5), layers.Dense(5, activation="softmax", name="scores"),
])
net.save(sys.argv[1] + "/net.keras")
net.save(sys.argv[1] + "/net.h5")
net.export(sys.argv[1] + "/net_saved")
a, b = keras.Input((6,), name="a"), keras.Input((None, 6), name="b")
mixed = layers.Concatenate()([a, layers.GlobalAveragePooling1D()(b)])
keras.Model([b, a], [layers.Dense(4, name="y")(mixed), layers.Dense(2, name="z")(mixed)]).save(sys.argv[1] + "/two.keras")
steps = keras.Input((5, 3))
both = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(steps)
keras.Model(steps, layers.GRU(3)(both)).save(sys.argv[1] + "/recurrent.keras")
keras.Model(steps, keras.ops.rfft(steps)[0]).save(sys.argv[1] + "/spectrum.keras")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    subprocess.run([TENSORFLOW, "-c", SCRIPT, str(folder)], check=True, capture_output=True, timeout=300)
    return folder


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.keras", "net.h5", "net_saved"])
def test_a_network_in_each_format(saved, tmp_path, name):
    source = load(saved / name)
    assert source.kind == "keras"
    assert [entry.shape for entry in (*source.inputs, *source.outputs)] == [(1, 8, 8, 3), (1, 5)]
    assert {node.op_type for node in source.model.graph} == {
        *("Transpose", "Conv", "Relu", "MaxPool", "Reshape", "Gemm", "Softmax")
    }
    assert convert(source, tmp_path / "out.tflite").sqnr_db > 100
    assert "tensorflow" not in sys.modules


@needs_tensorflow
@pytest.mark.slow
def test_names_stay_and_open_dimensions_are_asked_for(saved):
    with pytest.raises(EdgewrightError, match="two") as error:
        load(saved / "two.keras")
    assert error.value.code == "EW-M004"
    assert "--shape b=" in error.value.why
    source = load(saved / "two.keras", shapes={"b": (1, 7, 6)})
    assert {entry.name: entry.shape for entry in source.inputs} == {"a": (1, 6), "b": (1, 7, 6)}
    assert {entry.name: entry.shape for entry in source.outputs} == {"y": (1, 4), "z": (1, 2)}
    sample = random_sample(source)
    found, wanted = FloatRunner(source.model)(sample), source.reference(sample)
    for name in ("y", "z"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)


@needs_tensorflow
@pytest.mark.slow
def test_recurrent_layers_are_read(saved, tmp_path):
    assert convert(saved / "recurrent.keras", tmp_path / "out.tflite").sqnr_db > 100


@needs_tensorflow
@pytest.mark.slow
def test_what_the_reader_lacks_is_named(saved):
    with pytest.raises(EdgewrightError) as error:
        load(saved / "spectrum.keras")
    assert error.value.code == "EW-M009"
    assert "RFFT2D" in error.value.what


@needs_tensorflow
@pytest.mark.slow
def test_a_file_that_tensorflow_cannot_read(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"x")
    with pytest.raises(EdgewrightError) as error:
        load(tmp_path / "net.keras")
    assert error.value.code == "EW-M004"


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "net.hdf5", "saved/saved_model.pb"])
def test_without_tensorflow_the_message_says_what_to_install(tmp_path, monkeypatch, name):
    monkeypatch.delenv("EDGEWRIGHT_TENSORFLOW", raising=False)
    monkeypatch.setattr("exporter.frontends.keras.find_spec", lambda name: None)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(HDF5)
    with pytest.raises(EdgewrightError) as error:
        load(path.parent if path.suffix == ".pb" else path)
    assert error.value.code == "EW-U005"
    assert "pip install 'edgewright[tensorflow]'" in error.value.fix


def test_an_interpreter_without_tensorflow_says_so(tmp_path, monkeypatch):
    if find_spec("tensorflow"):
        pytest.skip("tensorflow is installed here")
    monkeypatch.setenv("EDGEWRIGHT_TENSORFLOW", sys.executable)
    (tmp_path / "net.h5").write_bytes(HDF5)
    with pytest.raises(EdgewrightError, match="needs tensorflow") as error:
        load(tmp_path / "net.h5")
    assert error.value.code == "EW-U005"


@pytest.mark.parametrize("content", [b"", b"nonsense" * 10, HDF5[:4]])
def test_a_file_that_is_no_keras_file_is_told_without_tensorflow(tmp_path, monkeypatch, content):
    monkeypatch.setattr("exporter.frontends.keras.find_spec", lambda name: None)
    (tmp_path / "net.h5").write_bytes(content)
    with pytest.raises(EdgewrightError, match=r"net\.h5 is not a readable Keras model") as error:
        load(tmp_path / "net.h5")
    assert error.value.code == "EW-M002"


def test_an_interpreter_that_is_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEWRIGHT_TENSORFLOW", str(tmp_path / "python"))
    (tmp_path / "net.h5").write_bytes(HDF5)
    with pytest.raises(EdgewrightError) as error:
        load(tmp_path / "net.h5")
    assert error.value.code == "EW-U005"
    assert str(tmp_path / "python") in error.value.why


def test_an_open_batch_is_one_and_other_open_dimensions_need_a_size():
    assert static_shape("x", [None, 8, 3], {}) == [1, 8, 3]
    assert static_shape("x", [None, None, 3], {"x": (2, 5, 3)}) == [2, 5, 3]
    with pytest.raises(ValueError, match="dimension 1 of the input 'x' is open"):
        static_shape("x", [None, None, 3], {})
    with pytest.raises(ValueError, match="does not fit"):
        static_shape("x", [None, 8, 3], {"x": (1, 8, 4)})
