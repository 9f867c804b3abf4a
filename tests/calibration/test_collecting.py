"""Collecting: what is measured, that order, shards and interruptions do not show, that memory stays flat."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from calibration import Checkpoint, Samples, Store, collect, open_samples
from calibration.reservoir import MOST_SAMPLES
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


def bytes_of(store: Store, folder: Path) -> bytes:
    path = folder / "any.npz"
    store.save(path)
    return path.read_bytes()


def varied(count: int) -> list[np.ndarray]:
    return [item * np.float32(1.7**factor) for factor, item in enumerate(data(count), 1)]


def test_the_order_of_samples_does_not_show(tmp_path: Path) -> None:
    items = varied(12)
    shuffled = list(items)
    random.Random(3).shuffle(shuffled)
    one, other = collect(network, samples(items)), collect(network, samples(shuffled))
    for name, column in one.sketches.columns().items():
        np.testing.assert_array_equal(column, other.sketches.columns()[name])
    assert one.data == other.data


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_merged_shards_are_the_whole_to_the_last_byte(shards: int, tmp_path: Path) -> None:
    items = varied(MOST_SAMPLES + 9)
    parts = [collect(network, samples(items), shard=(i, shards)) for i in range(shards, 0, -1)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)
    assert merged.samples == len(items)
    assert bytes_of(merged, tmp_path) == bytes_of(collect(network, samples(items)), tmp_path)


def test_stores_of_other_models_and_values_are_not_merged() -> None:
    one = collect(network, samples(data(1)), model="a")
    with pytest.raises(DataError) as caught:
        one.merged(collect(network, samples(data(1)), model="b"))
    assert caught.value.code == "EW-D007"
    with pytest.raises(DataError) as caught:
        one.merged(collect(lambda _: {}, samples(data(1)), model="a"))
    assert caught.value.code == "EW-D007"


class Killed(Exception):
    pass


@pytest.mark.parametrize("survived", [1, 4, 6])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(survived: int, tmp_path: Path) -> None:
    items, runs = varied(7), []

    def dying(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if len(runs) == survived:
            raise Killed
        runs.append(1)
        return network(sample)

    checkpoint = Checkpoint(tmp_path / "store.npz", seconds=0, resume=True)
    with pytest.raises(Killed):
        collect(dying, samples(items), checkpoint=checkpoint)
    runs.clear()
    resumed = collect(lambda s: runs.append(1) or network(s), samples(items), checkpoint=checkpoint)
    assert len(runs) == 7 - survived
    assert bytes_of(resumed, tmp_path) == bytes_of(collect(network, samples(items)), tmp_path)


def test_resuming_asks_for_the_same_data_and_model(tmp_path: Path) -> None:
    collect(network, samples(data(3)), checkpoint=Checkpoint(tmp_path / "store.npz", seconds=0))
    again = Checkpoint(tmp_path / "store.npz", seconds=0, resume=True)
    for other, model in ((data(5, seed=1), ""), (data(2), ""), (data(5), "b")):
        with pytest.raises(DataError) as caught:
            collect(network, samples(other), checkpoint=again, model=model)
        assert caught.value.code == "EW-D007"


def test_an_activation_that_is_not_a_number_names_value_and_sample() -> None:
    def overflowing(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        poisoned = np.where(sample["x"] > 50, np.float32(np.nan), sample["x"])
        return {"exp_3": poisoned}

    items = data(3)
    items[2][0, 1, 2, 3] = 99
    with pytest.raises(DataError, match="'exp_3'") as caught:
        collect(overflowing, samples(items))
    assert caught.value.code == "EW-D002"
    assert caught.value.where == "sample 2, element [0, 1, 2, 3]"


def test_a_value_that_holds_infinity_keeps_its_extremes_alone_whatever_the_order(tmp_path: Path) -> None:
    def masked(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"mask": np.where(sample["x"] > 50, np.float32(-np.inf), sample["x"])}

    items = data(4)
    items[1][0, 1, 2, 3] = 99
    whole = collect(masked, samples(items))
    stats = whole.values["mask"]
    assert (stats.low, stats.mean, stats.std, stats.histogram.sum()) == (-np.inf, 0.0, 0.0, 0)
    assert stats.high == max(np.where(item > 50, -np.inf, item).max() for item in items)
    for shards in (2, 3):
        first, *others = [collect(masked, samples(items), shard=(i, shards)) for i in range(shards, 0, -1)]
        for other in others:
            first = first.merged(other)
        assert bytes_of(first, tmp_path) == bytes_of(whole, tmp_path)


def test_a_value_that_changes_its_channels_names_value_and_sample() -> None:
    widths = iter([2, 3])
    with pytest.raises(DataError, match="changed") as caught:
        collect(lambda _: {"y": np.ones((1, next(widths)), np.float32)}, samples(data(2)))
    assert (caught.value.code, caught.value.where) == ("EW-D003", "sample 1")
    assert "'y'" in caught.value.why


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
    few, many = (min(peak(count) for _ in range(3)) for count in (MOST_SAMPLES, 1024))  # garbage that waits can only add
    assert many <= 1.05 * few
