"""A bundle is whole or absent, the same inputs give the same bytes, and a changed byte is named."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from diagnostics import DataError, UsageError
from exporter.bundle import bundle as bundle_module
from exporter.bundle.bundle import read_bundle, write_bundle
from exporter.bundle.manifest import GateRecord, Manifest, TensorRecord, digest_path, installed_versions
from exporter.bundle.staging import require_free, require_free_file, staged_directory, write_file

FILES = {"model.tflite": b"\x00artifact", "plan.json": b"{}\n", "firmware/model.c": b"int x;\n"}


def manifest(**changes):
    facts = {
        "model": "net",
        "artifact": "model.tflite",
        "target": {"name": "some-board", "memory": {"sram": 1024}},
        "signature_inputs": (TensorRecord("x", (1, 8, 8, 3), "int8", 0.1, -3, "channels_last", "x", (1, 3, 8, 8)),),
        "signature_outputs": (TensorRecord("y", (1, 10), "float32"),),
        "gates": (GateRecord("sqnr>=20", True, 31.25, "litert-ref"),),
        "command": ("export", "net.onnx", "--target", "some-board"),
    }
    return Manifest(**{**facts, **changes})


def tree(path):
    return {entry.relative_to(path).as_posix(): entry.read_bytes() for entry in path.rglob("*") if entry.is_file()}


def test_what_is_written_is_read_back(tmp_path):
    copied = tmp_path / "large.bin"
    copied.write_bytes(b"large")
    written = write_bundle(tmp_path / "b", {**FILES, "large.bin": copied}, manifest(), measured={"report.json": b"{}"})
    read = read_bundle(tmp_path / "b")
    assert read == written
    assert read.artifact.read_bytes() == FILES["model.tflite"]
    assert {record.name for record in read.manifest.outputs} == {*FILES, "large.bin"}
    assert read.manifest.measured == ("report.json",)
    assert read.manifest.packages == installed_versions()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_the_same_inputs_give_the_same_bytes_whatever_the_order_and_the_measurements(tmp_path):
    write_bundle(tmp_path / "a", FILES, manifest(), measured={"report.json": b"12:00"})
    write_bundle(tmp_path / "b", dict(reversed(FILES.items())), manifest(), measured={"report.json": b"12:01"})
    first, second = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert first.pop("report.json") != second.pop("report.json")
    assert first == second
    assert read_bundle(tmp_path / "a").digest == read_bundle(tmp_path / "b").digest


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_or_missing_file_is_named(tmp_path, name):
    write_bundle(tmp_path / "b", FILES, manifest())
    path = tmp_path / "b" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match=name) as changed:
        read_bundle(tmp_path / "b")
    path.unlink()
    with pytest.raises(DataError, match=name) as missing:
        read_bundle(tmp_path / "b")
    assert changed.value.code == missing.value.code == "EW-G003"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"schema": 1', '"schema": 99'),
        lambda text: text.replace('"seed"', '"sead"'),
        lambda text: text.replace("firmware/model.c", "../../model.c"),
        lambda text: text.replace('"artifact": "model.tflite"', '"artifact": "other.tflite"'),
    ],
)
def test_a_damaged_manifest_is_one_clear_error(tmp_path, damage):
    write_bundle(tmp_path / "b", FILES, manifest())
    path = tmp_path / "b" / "manifest.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError) as caught:
        read_bundle(tmp_path / "b")
    assert caught.value.code == "EW-G003"


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(DataError, match="is not a bundle"):
        read_bundle(tmp_path / "nowhere")


def test_an_existing_bundle_is_replaced_only_when_asked(tmp_path):
    write_bundle(tmp_path / "b", {**FILES, "stale.txt": b""}, manifest())
    with pytest.raises(UsageError, match="--force") as caught:
        write_bundle(tmp_path / "b", FILES, manifest(seed=1))
    assert caught.value.code == "EW-U004"
    assert "stale.txt" in tree(tmp_path / "b")
    write_bundle(tmp_path / "b", FILES, manifest(seed=1), overwrite=True)
    assert set(tree(tmp_path / "b")) == {*FILES, "manifest.json"}
    assert read_bundle(tmp_path / "b").manifest.seed == 1


def test_a_directory_that_is_no_bundle_is_never_removed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(UsageError, match="not a bundle"):
        write_bundle(tmp_path / "photos", FILES, manifest(), overwrite=True)
    assert tree(tmp_path / "photos") == {"cat.jpg": b"meow"}


@pytest.mark.parametrize("fault", ["copy", "write", "first rename", "second rename", "interrupt"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_fault_at_any_step_leaves_the_old_state(tmp_path, monkeypatch, fault, exists):
    destination = tmp_path / "out" / "b"
    if exists:
        write_bundle(destination, FILES, manifest(seed=7))
    before = tree(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def interrupt(*_):
        raise KeyboardInterrupt

    real, calls = os.rename, []

    def rename(source, target):
        calls.append(source)
        if len(calls) == (1 if fault == "first rename" or not exists else 2):
            full()
        real(source, target)

    if fault == "copy":
        monkeypatch.setattr(shutil, "copyfile", full)
    elif fault == "write":
        monkeypatch.setattr(Path, "write_bytes", full)
    elif fault == "interrupt":
        monkeypatch.setattr(bundle_module, "sha256", interrupt)
    else:
        monkeypatch.setattr(os, "rename", rename)
    source = tmp_path / "out.bin" if not exists else destination / "model.tflite"
    if not exists:
        source.touch()
        before = tree(tmp_path)
    with pytest.raises((UsageError, KeyboardInterrupt)):
        write_bundle(destination, {**FILES, "copied": source}, manifest(), overwrite=True)
    monkeypatch.undo()
    assert tree(tmp_path) == before
    assert not list(tmp_path.rglob(".*"))
    if exists:
        assert read_bundle(destination).manifest.seed == 7


def test_a_destination_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for destination in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(UsageError) as caught:
            write_bundle(destination, FILES, manifest())
        assert caught.value.code == "EW-U004"
        with pytest.raises(UsageError):
            require_free(destination)
    require_free(tmp_path / "not" / "yet" / "there")
    for destination in (tmp_path, tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(UsageError) as caught:
            require_free_file(destination)
        assert caught.value.code == "EW-U004"
    require_free_file(tmp_path / "file", overwrite=True)
    with pytest.raises(UsageError, match="is a directory"):
        require_free_file(tmp_path, overwrite=True)


@pytest.mark.parametrize("name", ["../x", "/x", "", "a/../../x", "a//b", "./a", "a\\..\\b", "manifest.json"])
def test_a_name_that_leads_out_of_the_bundle_is_refused(tmp_path, name):
    with pytest.raises(ValueError):  # noqa: PT011 - a mistake of the caller, its text is not an interface
        write_bundle(tmp_path / "b", {**FILES, name: b""}, manifest())
    assert not (tmp_path / "b").exists()


def test_staged_directory_vanishes_when_the_writer_fails(tmp_path):
    def fill():
        with staged_directory(tmp_path / "b") as staging:
            (staging / "half").write_bytes(b"half")
            raise RuntimeError("writer")

    with pytest.raises(RuntimeError):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_write_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "model.tflite"
    write_file(path, b"one")
    with pytest.raises(UsageError):
        write_file(path, b"two")

    def failing(staging):
        staging.write_bytes(b"ha")
        raise RuntimeError("writer")

    with pytest.raises(RuntimeError):
        write_file(path, failing, overwrite=True)
    assert path.read_bytes() == b"one"
    write_file(path, lambda staging: staging.write_bytes(b"two") and None, overwrite=True)
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.tflite"]


def test_digest_of_a_directory_depends_on_names_and_content_only(tmp_path):
    for name, order in (("a", ("1.png", "2.png")), ("b", ("2.png", "1.png"))):
        (tmp_path / name).mkdir()
        for member in order:
            (tmp_path / name / member).write_text(member)
    first, second = digest_path(tmp_path / "a"), digest_path(tmp_path / "b")
    assert (first.sha256, first.bytes) == (second.sha256, 10)
    (tmp_path / "b" / "2.png").rename(tmp_path / "b" / "3.png")
    assert digest_path(tmp_path / "b").sha256 != first.sha256
    with pytest.raises(DataError) as caught:
        digest_path(tmp_path / "c")
    assert caught.value.code == "EW-D001"


def test_the_manifest_refuses_numbers_that_json_cannot_hold():
    with pytest.raises(ValueError, match="JSON compliant"):
        manifest(results={"sqnr": float("inf")}).to_json()
