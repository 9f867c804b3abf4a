"""Original beside artifact: samples are walked once, artifacts take and give what the canonical graph does."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_models import add_int8

from diagnostics import DataError, RuntimeFailure, UsageError
from exporter.quantization.plan import Encoding
from exporter.runtimes import TensorInfo, open_session
from exporter.verification import Agreement, ArtifactRunner, TaskScore, compare, equal_outputs, evaluate
from exporter.verification.metric import judges_unlabelled, scores_of
from exporter.verification.runner import to_channels_first, to_channels_last

Sample = Mapping[str, np.ndarray]


class FakeSession:
    """Gives its inputs back under the outputs' names, in order."""

    def __init__(self, inputs: list[TensorInfo], outputs: list[TensorInfo], noise: int = 0) -> None:
        self.inputs, self.outputs, self.noise = tuple(inputs), tuple(outputs), noise
        self.seen: Sample = {}

    def run(self, inputs: Sample) -> dict[str, np.ndarray]:
        self.seen = dict(inputs)
        return {out.name: inputs[entry.name] + np.int8(self.noise) for entry, out in zip(self.inputs, self.outputs, strict=True)}


def int8(name: str, shape: tuple[int, ...] = (1, 2, 2, 3), scale: float = 0.5, zero_point: int = 10) -> TensorInfo:
    return TensorInfo(name, shape, "int8", scale, zero_point)


def samples(count: int) -> Iterator[Sample]:
    for seed in range(count):
        yield {"x": np.random.default_rng(seed).normal(size=(1, 3, 2, 2)).astype(np.float32)}


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=5), elements=st.floats(-9, 9, width=32)))
def test_layouts_are_inverse(array: np.ndarray) -> None:
    np.testing.assert_array_equal(to_channels_first(to_channels_last(array)), array)
    if array.ndim >= 3:
        assert to_channels_last(array).shape == (array.shape[0], *array.shape[2:], array.shape[1])


def test_the_runner_quantizes_and_transposes_both_ways() -> None:
    session = FakeSession([int8("x")], [int8("y")])
    runner = ArtifactRunner(session, {"x": "channels_last", "y": "channels_last"})
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2) * 0.5 - 5
    found = runner({"x": x})["y"]
    assert session.seen["x"].dtype == np.int8
    assert session.seen["x"].shape == (1, 2, 2, 3)
    assert session.seen["x"][0, 0, 0].tolist() == [0, 4, 8]  # -5 is integer 0, one channel further is four steps of 0.5
    np.testing.assert_array_equal(found, x)
    assert found.dtype == np.float32


def test_the_runner_saturates_and_rounds_to_even() -> None:
    session = FakeSession([int8("x", (3,), 1.0, 0)], [int8("y", (3,), 1.0, 0)])
    assert ArtifactRunner(session)({"x": np.array([1e9, -1e9, 2.5], np.float32)})["y"].tolist() == [127, -128, 2]


def test_the_runner_narrows_indices_only_where_nothing_is_lost() -> None:
    session = FakeSession([TensorInfo("ids", (2,), "int32")], [TensorInfo("y", (2,), "int32")])
    runner = ArtifactRunner(session)
    assert runner.encode({"ids": np.array([7, -1])})["ids"].dtype == np.int32
    with pytest.raises(DataError, match=r"EW-D003.*ids"):
        runner.encode({"ids": np.array([2**40, 1])})


def test_integer_inputs_of_an_onnx_artifact_take_their_encodings_from_the_caller() -> None:
    session = FakeSession([TensorInfo("x", (2,), "uint8")], [TensorInfo("y", (2,), "uint8")])
    x = np.array([0.0, 1.0], np.float32)
    with pytest.raises(DataError, match=r"EW-D003.*encoded"):
        ArtifactRunner(session)({"x": x})
    encoding = Encoding("uint8", (0.5,), (128,))
    np.testing.assert_array_equal(ArtifactRunner(session, encodings={"x": encoding, "y": encoding})({"x": x})["y"], x)
    assert session.seen["x"].tolist() == [128, 130]


def test_a_missing_input_is_named() -> None:
    with pytest.raises(DataError, match=r"EW-D003.*input x"):
        ArtifactRunner(FakeSession([int8("x")], [int8("y")]))({"image": np.zeros(1, np.float32)})


def test_compare_measures_a_real_artifact(tmp_path: Path) -> None:
    def original(sample: Sample) -> dict[str, np.ndarray]:
        return {"y": np.maximum(sample["x"] + np.array([1, -1, 0], np.float32).reshape(1, 3, 1, 1), 0)}

    with open_session("litert-ref", add_int8(tmp_path / "m.tflite")) as session:
        runner = ArtifactRunner(session, {"x": "channels_last", "y": "channels_last"})
        steps: list[int] = []
        found = compare(original, runner, samples(6), ["y"], progress=steps.append)
    assert found.samples == 6
    assert steps == [1, 2, 3, 4, 5, 6]
    # input step 0.05, sum step 0.06, output step 0.03, half of each
    assert found.outputs["y"].max_abs <= (0.05 + 0.06 + 0.03) / 2 + 1e-6
    assert 25 < found.outputs["y"].sqnr_db < 45
    assert found.outputs["y"].elements == 72


def test_compare_without_a_sample_or_without_an_output() -> None:
    same = lambda sample: dict(sample)  # noqa: E731
    with pytest.raises(DataError, match="EW-D001"):
        compare(same, same, [], ["x"])
    with pytest.raises(RuntimeFailure, match=r"EW-R005: the original gives no output y"):
        compare(same, same, samples(1), ["y"])


def test_the_worst_output_is_the_one_that_a_gate_sees() -> None:
    def original(sample: Sample) -> dict[str, np.ndarray]:
        return {"fine": sample["x"], "poor": sample["x"]}

    def artifact(sample: Sample) -> dict[str, np.ndarray]:
        return {"fine": sample["x"], "poor": sample["x"] + 1}

    found = compare(original, artifact, samples(2), ["fine", "poor"])
    assert found.worst("sqnr_db")[0] == found.worst("max_abs")[0] == "poor"
    assert found.worst("top1_agreement") is None
    assert found.to_dict()["outputs"]["fine"]["sqnr_db"] == "inf"


def test_reference_kernels_and_micro_agree_bit_for_bit(tmp_path: Path) -> None:
    path = add_int8(tmp_path / "m.tflite")
    with open_session("litert-ref", path) as one, open_session("tflite-micro", path) as other:
        found = equal_outputs(one, other, samples(8), {"x": "channels_last"})
    assert found == Agreement(max_lsb=0, mismatches=0, elements=96)


def test_outputs_that_differ_are_counted() -> None:
    one, other = FakeSession([int8("x")], [int8("y")]), FakeSession([int8("x")], [int8("y")], noise=2)
    assert equal_outputs(one, other, samples(1), {"x": "channels_last"}) == Agreement(2, 12, 12)
    with pytest.raises(DataError, match="EW-D001"):
        equal_outputs(one, other, [])


METRIC = """
def mean_output(run, samples):
    return sum(float(run(sample)["y"].mean()) for sample in samples)

def several(run, samples):
    return {"low": min(float(run(s)["y"].min()) for s in samples), "one": 1}

def text(run, samples):
    return "high"

def agreement(run, samples, original):
    return sum(float((run(s)["y"] == original(s)["y"]).mean()) for s in samples)

def either(run, samples, original=None):
    return sum(float(run(s)["y"].mean()) for s in samples) - (0 if original is None else sum(float(original(s)["y"].mean()) for s in samples))

number = 3
"""


def test_a_users_metric_scores_original_and_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metric.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    data = [{"x": np.ones(2)}, {"x": np.ones(2)}]
    runs = (lambda s: {"y": s["x"]}), (lambda s: {"y": s["x"] * 0.5})
    score = evaluate("own_metric:mean_output", *runs, data)["mean_output"]
    assert (score.original, score.artifact, score.drop) == (2.0, 1.0, 1.0)
    assert {name: score.artifact for name, score in evaluate("own_metric:several", *runs, data).items()} == {"low": 0.5, "one": 1}
    # The original, where the metric asks for it; where it can do without, it is for samples without labels.
    assert evaluate("own_metric:agreement", *runs, data)["agreement"] == TaskScore(2.0, 0.0)
    assert evaluate("own_metric:either", *runs, data)["either"] == TaskScore(2.0, 1.0)
    assert scores_of("own_metric:either", runs[1], data, runs[0]) == {"either": -1.0}
    assert [judges_unlabelled(f"own_metric:{name}") for name in ("agreement", "either", "several")] == [True, True, False]
    for spec in ("own_metric:text", "own_metric:number", "own_metric:absent", "own_metric", "no_such_module:f", ":f"):
        with pytest.raises(UsageError, match="EW-U003"):
            evaluate(spec, *runs, data)
