"""Collecting and storing: what is measured, that it is the same every time, that memory stays flat."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from calibration import Samples, Statistics, collect, open_samples
from diagnostics import DataError


@dataclass(frozen=True)
class Input:
    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


INPUT = Input("x", (1, 3, 16, 16))


def data(count: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(count)]


def samples(items: object) -> Samples:
    return open_samples(items, [INPUT])


def network(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = sample["x"]
    return {
        "relu": np.maximum(x, 0),
        "pool": x.mean(axis=(2, 3)),
        "argmax": x.argmax(axis=1),
        "nothing": np.empty((1, 0), np.float32),
    }


def test_floating_values_and_the_inputs_have_statistics_and_progress_counts() -> None:
    seen: list[int] = []
    statistics = collect(network, samples(data(4)), seen.append)
    assert list(statistics.values) == ["pool", "relu", "x"]
    assert statistics.samples == 4
    assert seen == [1, 2, 3, 4]
    whole = np.concatenate(data(4))
    assert statistics.values["x"].low == whole.min()
    assert statistics.values["relu"].low == 0
    assert statistics.values["pool"].channel_high.shape == (3,)
    np.testing.assert_allclose(statistics.values["x"].channel_mean, whole.mean(axis=(0, 2, 3), dtype=np.float64), atol=1e-7)


def test_the_order_of_samples_does_not_matter() -> None:
    items = [item * np.float32(factor) for factor, item in enumerate(data(12), 1)]
    shuffled = list(items)
    random.Random(3).shuffle(shuffled)
    one, other = collect(network, samples(items)), collect(network, samples(shuffled))
    for name, stats in one.values.items():
        again = other.values[name]
        assert (stats.low, stats.high, stats.exponent, stats.origin) == (again.low, again.high, again.exponent, again.origin)
        assert stats.percentile(99.9) == again.percentile(99.9)
        np.testing.assert_array_equal(stats.histogram, again.histogram)
        np.testing.assert_allclose(stats.channel_mean, again.channel_mean, atol=1e-12)


def test_saved_statistics_read_back_equal_and_the_bytes_are_the_same_every_time(tmp_path: Path) -> None:
    statistics = collect(lambda s: {**network(s), "vector": s["x"].reshape(-1)}, samples(data(3)))
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    statistics.save(first)
    Statistics.load(first).save(second)
    assert first.read_bytes() == second.read_bytes()
    again = Statistics.load(first)
    assert again.samples == 3
    assert list(again.values) == list(statistics.values)
    for name, stats in statistics.values.items():
        for key in vars(stats):
            np.testing.assert_array_equal(getattr(stats, key), getattr(again.values[name], key))
    assert again.values["vector"].channel_mean is None


@pytest.mark.parametrize("content", [None, b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_a_file_that_holds_no_statistics_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "stats.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"stats\.npz") as caught:
        Statistics.load(path)
    assert caught.value.code == "EW-D004"


def test_another_schema_version_and_missing_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    np.savez(path, schema=np.array(99))
    with pytest.raises(DataError) as caught:
        Statistics.load(path)
    assert "version 99" in caught.value.why
    np.savez(path, schema=np.array(1))
    with pytest.raises(DataError) as caught:
        Statistics.load(path)
    assert caught.value.code == "EW-D004"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_activation_that_is_not_finite_names_value_and_sample(bad: float) -> None:
    def overflowing(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        poisoned = np.where(sample["x"] > 50, np.float32(bad), sample["x"])
        return {"exp_3": poisoned}

    items = data(3)
    items[2][0, 1, 2, 3] = 99
    with pytest.raises(DataError, match="'exp_3'") as caught:
        collect(overflowing, samples(items))
    assert caught.value.code == "EW-D002"
    assert caught.value.where == "sample 2, element [0, 1, 2, 3]"


def test_a_value_that_changes_its_channels_names_value_and_sample() -> None:
    widths = iter([2, 3])
    with pytest.raises(DataError, match="'y'") as caught:
        collect(lambda _: {"y": np.ones((1, next(widths)), np.float32)}, samples(data(2)))
    assert (caught.value.code, caught.value.where) == ("EW-D003", "sample 1")


def test_no_sample_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        collect(network, samples(lambda: iter(())))
    assert caught.value.code == "EW-D001"


def peak(count: int) -> int:
    def stream():
        generator = np.random.default_rng(0)
        for _ in range(count):
            yield generator.normal(size=(1, 3, 16, 16)).astype(np.float32)

    tracemalloc.start()
    collect(network, samples(stream))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used


def test_peak_memory_does_not_grow_with_the_number_of_samples() -> None:
    peak(2)  # imports and caches are not the samples'
    assert peak(512) <= 1.05 * peak(32)
