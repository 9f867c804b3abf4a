"""The file of a store: what is read back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration import Store, collect, open_samples
from calibration.reservoir import MOST_SAMPLES, Reservoir, sample_digest
from diagnostics import DataError, UsageError
from tests.calibration.test_collecting import INPUT, data, network


def store(count: int = 3) -> Store:
    given = open_samples(data(count), [INPUT])
    return collect(lambda s: {**network(s), "vector": s["x"].reshape(-1)}, given, model="ab" * 32)


def test_a_saved_store_reads_back_equal_and_the_bytes_are_the_same_every_time(tmp_path: Path) -> None:
    one = store()
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    one.save(first)
    again = Store.load(first)
    again.save(second)
    assert first.read_bytes() == second.read_bytes()
    assert (again.model, again.data, again.samples) == (one.model, one.data, 3)
    for name, stats in one.values.items():
        for key in vars(stats):
            np.testing.assert_array_equal(getattr(stats, key), getattr(again.values[name], key))
    assert again.values["vector"].channel_mean is None
    kept = sorted(item.tobytes() for item in data(3))
    assert sorted(sample["x"].tobytes() for sample in again.reservoir) == kept
    assert list(tmp_path.iterdir()) == [first, second] or set(tmp_path.iterdir()) == {first, second}


def test_a_loaded_store_merges_as_if_it_had_never_been_written(tmp_path: Path) -> None:
    path, whole = tmp_path / "shard.npz", tmp_path / "whole.npz"
    given = open_samples(data(5), [INPUT])
    collect(network, given, shard=(2, 2)).save(path)
    Store.load(path).merged(collect(network, given, shard=(1, 2))).save(path)
    collect(network, given).save(whole)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_a_file_that_holds_no_store_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "stats.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"stats\.npz") as caught:
        Store.load(path)
    assert caught.value.code == "EW-D004"


def test_another_schema_version_and_missing_or_misfit_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    np.savez(path, schema=np.array(99))
    with pytest.raises(DataError) as caught:
        Store.load(path)
    assert "version 99" in caught.value.why
    np.savez(path, schema=np.array(3))
    with pytest.raises(DataError) as caught:
        Store.load(path)
    assert caught.value.code == "EW-D004"
    store().save(path)
    with np.load(path) as file:
        columns = dict(file)
    np.savez(path, **{**columns, "histogram": columns["histogram"][:-1]})
    with pytest.raises(DataError, match="cannot be read") as caught:
        Store.load(path)
    assert "histogram" in caught.value.why


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        store().save(tmp_path / "file" / "store.npz")
    assert caught.value.code == "EW-U004"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    store().save(tmp_path / "absent" / "store.npz")
    assert [path.name for path in (tmp_path / "absent").iterdir()] == ["store.npz"]


def test_the_reservoir_is_bounded_keeps_the_order_of_the_data_and_depends_on_the_set_alone() -> None:
    items = [{"x": item} for item in data(MOST_SAMPLES + 20)]
    forwards, backwards = Reservoir(), Reservoir()
    for number, item in enumerate(items):
        forwards.add(number, item, sample_digest(item))
    for number, item in reversed(list(enumerate(items))):
        backwards.add(number, item, sample_digest(item))
    assert len(forwards) == MOST_SAMPLES
    assert forwards.data == backwards.data
    chosen = [sample["x"].tobytes() for sample in forwards]
    assert chosen == [sample["x"].tobytes() for sample in backwards]
    least = {sample_digest(item) for item in sorted(items, key=sample_digest)[:MOST_SAMPLES]}
    assert chosen == [item["x"].tobytes() for item in items if sample_digest(item) in least]


def test_the_bytes_of_the_reservoir_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [{"x": item} for item in data(9)]
    monkeypatch.setattr("calibration.reservoir.MOST_BYTES", 4 * items[0]["x"].nbytes + 1)
    held, other = Reservoir(), Reservoir()
    for index, item in enumerate(items):
        (held if index % 2 else other).add(index, item, sample_digest(item))
    assert (len(held), len(other)) == (4, 4)
    held.merge(other)
    assert len(held) == 4


def test_the_digest_of_data_sees_names_shapes_types_and_repetitions() -> None:
    array = np.arange(6, dtype=np.float32)
    forms = [{"x": array}, {"y": array}, {"x": array.reshape(2, 3)}, {"x": array.astype(np.int32)}, {}]
    assert len({sample_digest(form) for form in forms}) == len(forms)
    once, twice = Reservoir(), Reservoir()
    once.add(0, forms[0], sample_digest(forms[0]))
    for number in (5, 3):
        twice.add(number, forms[0], sample_digest(forms[0]))
    assert once.data != twice.data
    assert twice.numbers == [3]
