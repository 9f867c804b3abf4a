"""The zoo's data: what calibrates a model never judges it, every sample fits its model, and metrics measure what they say."""

import importlib
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration import open_samples
from exporter.frontends import load
from tests.conftest import zoo_source
from tools import zoo, zoo_metrics, zoo_text
from tools.zoo_cases import CASES

DEBIAN = ("efficientnet_lite0", "silero_vad", "silero_vad_if")  # packages that apt-get fetches
LARGE = ("facemesh_half", "minilm", "cifar_cnn")
FAST = [pytest.param(name, marks=[pytest.mark.slow] * (name in DEBIAN or name in LARGE)) for name in CASES]


def produced(spec, count=12):
    """The bytes of the first samples that ``module:callable`` yields."""
    module, _, name = spec.partition(":")
    for sample in islice(getattr(importlib.import_module(module), name)(), count):
        parts = sample.values() if isinstance(sample, dict) else [sample]
        yield b"".join(np.asarray(part).tobytes() for part in parts)


def test_every_model_has_a_case():
    assert set(CASES) == {*zoo.MODELS, *zoo.KERAS_MODELS}


@pytest.mark.parametrize("name", FAST)
def test_no_sample_both_calibrates_and_judges(name):
    calibration, held_out = (set(produced(spec)) for spec in (CASES[name].calibration, CASES[name].held_out))
    assert len(calibration) > 8
    assert len(held_out) > 8
    assert not calibration & held_out


@pytest.mark.parametrize("name", [entry for entry in FAST if entry.values[0] != "cifar_cnn"])
def test_samples_are_what_the_model_takes_and_metrics_judge_its_outputs(name):
    case, source = CASES[name], zoo_source(name)
    for spec in (case.calibration, case.held_out):
        [sample] = open_samples(spec, source.inputs, source.preprocess).take(1)
        assert set(source.reference(sample)) == {signature.name for signature in source.outputs}


@pytest.mark.parametrize(
    ("name", "samples", "least"),
    [("digit_cnn", 200, 0.99), ("mtcnn_onet", 100, 1.0), ("facemesh", 100, 0.95), ("basic_pitch", 6, 0.9), ("magika", 254, 1.0)],
)
def test_the_float_original_is_good_at_its_task(name, samples, least):
    assert score(name, samples) >= least


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("silero_vad", 0.997), ("yolox_char", 0.6), ("ocr_det", 0.95), ("minilm", 0.7)])
def test_the_float_original_is_good_at_a_longer_task(name, least):
    assert score(name, CASES[name].test_samples) >= least


def test_the_float_original_reads_without_an_error():
    assert score("ocr_rec", 8) == 0


def score(name, count):
    case, source = CASES[name], zoo_source(name)
    samples = open_samples(case.held_out, source.inputs, source.preprocess).take(count)
    return getattr(zoo_metrics, case.metric.partition(":")[2])(source.reference, samples)


@pytest.mark.parametrize("name", zoo.STATEFUL_MODELS)
def test_what_a_wake_word_remembers_is_handed_over(name):
    source = load(f"tools.zoo:{name}")
    states = [signature for signature in source.inputs if "states" in signature.name]
    after = {signature.name: (signature.shape, signature.dtype) for signature in source.outputs}
    assert len(states) == len(source.inputs) - 1 == len(after) - 1 == 6
    assert all(after[f"{state.name}/next"] == (state.shape, "int8") for state in states)


def test_words_become_the_pieces_of_the_vocabulary():
    sample = zoo_text.tokenize("Hello, world: unaffable")
    ids = [int(entry) for entry in sample["input_ids"][0] if entry]
    assert ids == [101, 7592, 1010, 2088, 1024, 14477, 20961, 3468, 102]
    assert int(sample["attention_mask"].sum()) == len(ids)


def test_bytes_of_a_short_file_are_padded_at_the_far_ends(tmp_path):
    (tmp_path / "file.txt").write_bytes(b"  ab \n")
    row = zoo_text.byte_features(tmp_path / "file.txt")["bytes"][0]
    assert row[:4].tolist() == [97, 98, 32, 10]
    assert row[-4:].tolist() == [32, 32, 97, 98]
    assert set(row[4:-4].tolist()) == {256}


def test_files_and_their_kinds_stay_what_they_were_whatever_is_installed_later(tmp_path, monkeypatch):
    installed = [(tmp_path / f"{number}.txt", number) for number in range(3)]
    for path, number in installed:
        path.write_bytes(bytes([65 + number]) * 80)
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(zoo_text, "_installed_files", lambda split: installed if split == "held_out" else installed[:1])
    files = zoo_text.files.__wrapped__
    assert [part.tolist() for part in (files("held_out")[0][:, 0], files("held_out")[1])] == [[65, 66, 67], [0, 1, 2]]
    del installed[0]
    assert files("held_out")[1].tolist() == [0, 1, 2]
    assert files("calibration")[0].shape == (1, 2048)


def test_paths_of_ctc_are_joined_then_stripped_of_blanks():
    assert zoo_metrics.decode_ctc(np.asarray([0, 1, 1, 0, 1, 2, 2, 0]), "ab") == "aab"


@given(st.text("ab", max_size=6), st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_edit_distance_is_a_metric(one, other, third):
    distance = zoo_metrics.edit_distance
    assert (distance(one, other) == 0) == (one == other)
    assert distance(one, other) == distance(other, one)
    assert distance(one, third) <= distance(one, other) + distance(other, third)
    assert distance(one, "") == len(one)


@settings(deadline=None)  # the first call imports scipy.stats
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12))
def test_area_under_the_curve_counts_ordered_pairs(pairs):
    positives = [score for score, label in pairs if label]
    negatives = [score for score, label in pairs if not label]
    if positives and negatives:
        ordered = np.mean([(p > n) + 0.5 * (p == n) for p in positives for n in negatives])
        scores, labels = (np.asarray(column) for column in zip(*pairs, strict=True))
        assert zoo_metrics.area_under_curve(scores, labels) == pytest.approx(ordered)


def test_a_box_counts_once_and_only_where_it_overlaps_half():
    truth = [(0, 0, 10, 10), (20, 20, 30, 30)]
    assert zoo_metrics.overlap((0, 0, 10, 10), (0, 0, 10, 5)) == pytest.approx(0.5)
    assert zoo_metrics.box_f1([(truth, truth)]) == 1
    assert zoo_metrics.box_f1([([(0, 0, 10, 10), (0, 0, 10, 10)], truth)]) == 0.5
    assert zoo_metrics.box_f1([([(0, 0, 10, 4)], truth)]) == 0
    assert zoo_metrics.box_f1([([], [])]) == 0
