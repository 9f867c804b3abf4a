"""A streaming model's state as inputs and outputs: carried by the caller, it computes what the original computes, frame by frame."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from diagnostics import ModelError
from exporter import convert
from exporter.frontends.tflite import load_tflite
from exporter.frontends.tflite.state import explicit_state
from tools.fetch import Wheel, fetch_wheel

WAKE_WORDS = Wheel("pymicro-wakeword", "2.5.0", "3869f536402b1254e3be3549d3a462ecd6ed21ce2c3e77ec8eb501c3c700417c")
FRAMES = 30


def wake_word(name: str) -> Path:
    return fetch_wheel(WAKE_WORDS) / "pymicro_wakeword" / "models" / f"{name}.tflite"


def reference_kernels(path: Path) -> Interpreter:
    interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    return interpreter


@pytest.mark.parametrize("name", ["okay_nabu", "alexa"])
def test_frames_give_what_the_stateful_original_gives(tmp_path, name):
    """Bit for bit, on the reference kernels, over as many frames as fill every buffer."""
    path = wake_word(name)
    done = convert(path, tmp_path / "model.tflite")
    assert done.steps == 0
    assert "stream_6/states = -128" in done.notes[0]
    original, artifact = reference_kernels(path), reference_kernels(tmp_path / "model.tflite")
    stateless = explicit_state(path.read_bytes())
    assert stateless is not None
    run = artifact.get_signature_runner()
    (heard,) = set(run.get_input_details()) - set(stateless.initial)
    states = dict(stateless.initial)
    random = np.random.default_rng(0)
    for _ in range(FRAMES):
        frame = random.integers(-128, 128, original.get_input_details()[0]["shape"]).astype(np.int8)
        original.set_tensor(original.get_input_details()[0]["index"], frame)
        original.invoke()
        wanted = original.get_tensor(original.get_output_details()[0]["index"])
        found = run(**{heard: frame, **states})
        (answer,) = [array for output, array in found.items() if not output.endswith("/next")]
        states = {state: found[f"{state}/next"] for state in states}
        np.testing.assert_array_equal(answer, wanted)
    assert any((array != stateless.initial[state]).any() for state, array in states.items())


def test_a_model_without_state_is_left_alone(tmp_path):
    from tests.conftest import zoo_source

    convert(zoo_source("digit_cnn"), tmp_path / "model.tflite")
    assert explicit_state((tmp_path / "model.tflite").read_bytes()) is None


def test_state_of_another_form_is_refused_with_every_operator_named(tmp_path):
    """What is called once computes its values instead of assigning constants: nobody knows what they are."""
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf(wake_word("okay_nabu").read_bytes(), 0)
    once = model.subgraphs[1]
    for operator in once.operators:
        if len(operator.inputs) == 2:
            model.buffers[once.tensors[operator.inputs[1]].buffer].data = None
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "unknown.tflite"
    path.write_bytes(bytes(builder.Output()))
    with pytest.raises(ModelError) as refused:
        load_tflite(path)
    assert refused.value.code == "EW-M009"
    for operator in ("ASSIGN_VARIABLE", "CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE"):
        assert operator in str(refused.value)


def test_the_original_file_is_not_touched(tmp_path):
    copy = tmp_path / "okay_nabu.tflite"
    shutil.copy(wake_word("okay_nabu"), copy)
    load_tflite(copy)
    assert copy.read_bytes() == wake_word("okay_nabu").read_bytes()
