"""LSTM and RNN operators whose state TFLite keeps: read as layers that start from zero, as LiteRT computes them once its variables are reset."""

import numpy as np
import pytest
from tflite_bench import File, both, read, sample_of

from diagnostics import ModelError
from exporter import convert

STEPS, BATCH, WIDTH, HIDDEN = 5, 2, 3, 4
RELU, TANH, SIGN_BIT = 1, 4, 5
LSTM, RNN = "SEQUENCE_LSTM", "SEQUENCE_RNN"


class Sequence:
    """One sequence operator. `without`: inputs that are absent; `more`: constants that are present, by place."""

    def __init__(self, kind, peepholes=False, without=(), more=None, steps=STEPS, **options):
        self.file, self.random = File(), np.random.default_rng(3)
        self.both, self.time_major = kind.startswith("BI"), options.get("timeMajor", False)
        gates, places = (4, 48 if self.both else 24) if kind.endswith(LSTM) else (1, 12 if self.both else 5)
        shape = (steps, BATCH) if self.time_major else (BATCH, steps)
        inputs = [-1] * places
        inputs[0] = x = self.file.tensor("x", (*shape, WIDTH))
        for at in self.weights(kind):
            for gate in range(gates):
                inputs[at + gate] = self.constant(HIDDEN, WIDTH)
                inputs[at + gates + gate] = self.constant(HIDDEN, HIDDEN)
                inputs[at + (11 if gates == 4 else 2) + gate] = self.constant(HIDDEN)
            for index in range(at + 8, at + 11) if peepholes else ():
                inputs[index] = self.constant(HIDDEN)
        for index in self.states(kind):
            inputs[index] = self.file.tensor(f"state_{index}", (BATCH, HIDDEN), isVariable=True)
        for index in without:
            inputs[index] = -1
        for index, array in (more or {}).items():
            inputs[index] = self.file.constant(array)
        merged = options.get("mergeOutputs", False)
        shapes = [(*shape, 2 * HIDDEN)] if merged else [(*shape, HIDDEN)] * (2 if self.both else 1)
        outputs = [self.file.tensor(f"y{index}", entry) for index, entry in enumerate(shapes)]
        table = {
            f"UNIDIRECTIONAL_{LSTM}": "UnidirectionalSequenceLSTM",
            f"BIDIRECTIONAL_{LSTM}": "BidirectionalSequenceLSTM",
            f"UNIDIRECTIONAL_{RNN}": "SequenceRNN",
            f"BIDIRECTIONAL_{RNN}": "BidirectionalSequenceRNN",
        }[kind]
        options = {"fusedActivationFunction": TANH, "timeMajor": False, **options}
        self.file.operator(kind, inputs, outputs, table, **options)
        self.content = self.file.finish([x], outputs)

    def constant(self, *shape):
        return self.file.constant((self.random.normal(size=shape) / 2).astype(np.float32))

    @staticmethod
    def weights(kind):
        return {"UNI": [1], "BID": [1, 18] if kind.endswith(LSTM) else [1, 5]}[kind[:3]]

    @staticmethod
    def states(kind):
        if kind.endswith(LSTM):
            return [18, 19] if kind.startswith("UNI") else [35, 36, 37, 38]
        return [4] if kind.startswith("UNI") else [4, 8]


CASES = [
    (f"UNIDIRECTIONAL_{LSTM}", {}),
    (f"UNIDIRECTIONAL_{LSTM}", {"timeMajor": True, "fusedActivationFunction": RELU}),
    (f"UNIDIRECTIONAL_{LSTM}", {"peepholes": True}),
    (f"BIDIRECTIONAL_{LSTM}", {}),
    (f"BIDIRECTIONAL_{LSTM}", {"mergeOutputs": True, "peepholes": True, "timeMajor": True}),
    (f"UNIDIRECTIONAL_{RNN}", {}),
    (f"UNIDIRECTIONAL_{RNN}", {"timeMajor": True, "fusedActivationFunction": RELU}),
    (f"BIDIRECTIONAL_{RNN}", {"timeMajor": True}),
    (f"BIDIRECTIONAL_{RNN}", {"mergeOutputs": True}),
]


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_a_sequence_operator_is_a_layer_that_starts_from_zero(tmp_path, kind, form):
    source = read(tmp_path, Sequence(kind, **form).content)
    assert any("start from zero" in note for note in source.notes)
    for seed in (0, 1):
        sample = sample_of(source, seed=seed)
        first, second = source.reference(sample), source.reference(sample)
        for name, array in first.items():
            np.testing.assert_array_equal(second[name], array)
        for wanted, found in both(tmp_path, source, sample):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    done = convert(tmp_path / "model.tflite", tmp_path / "again.tflite")
    assert any("start from zero" in note for note in done.notes)


REFUSED = [
    ({"without": (1, 5, 12)}, "coupled"),
    ({"more": {16: np.ones((2, HIDDEN), np.float32)}}, "projected"),
    ({"cellClip": 1.0}, "clipped"),
    ({"more": {9: np.ones(HIDDEN, np.float32)}}, "peepholes"),
    ({"more": {20 + gate: np.ones(HIDDEN, np.float32) for gate in range(4)}}, "normalized"),
    ({"more": {1: np.ones((HIDDEN, WIDTH), np.int8)}}, "float32"),
    ({"fusedActivationFunction": SIGN_BIT}, "activation 5"),
    ({"steps": 1}, "one step in each inference"),
    ({"more": {18: np.ones((BATCH, HIDDEN), np.float32)}}, "no variable"),
]


@pytest.mark.parametrize(("form", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_other_forms_are_refused_with_their_reason(tmp_path, form, reason):
    with pytest.raises(ModelError, match=f"UNIDIRECTIONAL_{LSTM} cannot be read") as error:
        read(tmp_path, Sequence(f"UNIDIRECTIONAL_{LSTM}", **form).content)
    assert error.value.code == "EW-M009"
    assert reason in error.value.why
