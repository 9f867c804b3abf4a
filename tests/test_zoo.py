"""The zoo hands over what it says, and fetching is safe."""

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from diagnostics import DataError, UsageError
from tools import fetch, zoo


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "zoo"


def wheel_of(entries: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.fixture
def index(monkeypatch):
    """A package index with one wheel: pip's place is taken by a copy of these bytes."""
    served = {"content": wheel_of({"demo/__init__.py": b"answer = 42\n"}), "calls": 0}

    def pip(command, **_):
        served["calls"] += 1
        folder = command[command.index("--dest") + 1]
        with open(f"{folder}/demo-1.0-py3-none-any.whl", "wb") as file:
            file.write(served["content"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    return served


def test_a_wheel_is_fetched_once_and_imported_from_where_it_lies(cache, index):
    wheel = fetch.Wheel("demo", "1.0", hashlib.sha256(index["content"]).hexdigest())
    folder = fetch.fetch_wheel(wheel)
    assert folder == fetch.fetch_wheel(wheel) == cache / "demo-1.0"
    assert index["calls"] == 1
    assert fetch.load_package(folder, "demo").answer == 42


def test_other_bytes_than_expected_are_refused_and_leave_nothing(cache, index):
    with pytest.raises(DataError, match=r"demo==1\.0") as error:
        fetch.fetch_wheel(fetch.Wheel("demo", "1.0", "0" * 64))
    assert error.value.code == "EW-D004"
    assert list(cache.iterdir()) == []


def test_a_failing_download_says_why(cache, monkeypatch):
    def pip(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "looking\nERROR: no route to the index\n")

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    with pytest.raises(DataError) as error:
        fetch.fetch_wheel(fetch.Wheel("demo", "1.0", "0" * 64))
    assert (error.value.code, error.value.why) == ("EW-D001", "ERROR: no route to the index")


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "demo/../../evil.py", "..\\evil.py", "C:/evil.py"])
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, name):
    (tmp_path / "evil.whl").write_bytes(wheel_of({name: b"x"}))
    with pytest.raises(DataError, match="leaves the folder"):
        fetch.unpack(tmp_path / "evil.whl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_in_an_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "evil.tgz", "w:gz") as archive:
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    with pytest.raises(DataError, match="link"):
        fetch.unpack(tmp_path / "evil.tgz", tmp_path / "out")


LARGE = ("facemesh_half", "minilm")  # packages of many megabytes


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in (*zoo.MODELS, *zoo.KERAS_MODELS)]
)
def test_every_model_is_what_load_takes(name):
    from calibration import Preprocess

    returned = getattr(zoo, name)()
    assert set(returned) <= {"model", "inputs", "shapes", "preprocess"}
    assert not isinstance(returned["model"], Path) or returned["model"].is_file()
    Preprocess.from_dict(returned.get("preprocess", {}))


def test_a_wheel_of_another_platform_is_asked_for_by_its_tags(cache, index, monkeypatch):
    asked = []
    pip = fetch.subprocess.run
    monkeypatch.setattr(fetch.subprocess, "run", lambda command, **rest: asked.append(command) or pip(command, **rest))
    sha256 = hashlib.sha256(index["content"]).hexdigest()
    fetch.fetch_wheel(fetch.Wheel("demo", "1.0", sha256, platform="manylinux_2_28_x86_64", python="3.11"))
    assert {"--platform=manylinux_2_28_x86_64", "--python-version=3.11"} < set(asked[0])


def test_digits_are_recognised():
    import torch

    images, labels = zoo.digits("held_out")
    assert images.shape == (9488, 1, 28, 28)
    with torch.no_grad():
        found = zoo.digit_cnn()["model"](torch.from_numpy(images[:1000])).argmax(1).numpy()
    assert (found == labels[:1000]).mean() > 0.99


def test_photos_of_imagenet_are_recognised(efficientnet_lite0):
    from calibration import open_samples

    photos = sorted(zoo.imagenet_photos().iterdir())
    samples = open_samples(zoo.imagenet_photos(), efficientnet_lite0.inputs, efficientnet_lite0.preprocess)
    found = [int(next(iter(efficientnet_lite0.reference(sample).values())).argmax()) for sample in samples]
    assert sum(index == zoo.imagenet_label(photo) for index, photo in zip(found, photos, strict=True)) >= 18


def test_calibration_and_held_out_photos_share_nothing(cache):
    calibration, held_out = zoo.photos("calibration", 20, 64), zoo.photos("held_out", 20, 64)
    stems = [{path.stem.split("_", 1)[1] for path in folder.iterdir()} for folder in (calibration, held_out)]
    assert stems[0] & stems[1] == set()


def test_calibration_and_held_out_digits_share_nothing():
    """All 10,000 are there once; one [1, 1, 28, 28] sample at a time."""
    calibration, held_out = list(zoo.calibration_digits()), list(zoo.held_out_digits())
    assert (len(calibration), len(held_out), calibration[0].shape) == (512, 1000, (1, 1, 28, 28))
    seen = {sample.tobytes() for sample in calibration}
    assert not any(sample.tobytes() in seen for sample in held_out)


def test_crops_are_the_same_each_time(tmp_path, monkeypatch):
    from PIL import Image

    pixels = []
    for name in ("one", "two"):
        monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path / name))
        crops = sorted(zoo.photos("held_out", 6, 32).iterdir())
        assert len(crops) == 6
        pixels.append([np.asarray(Image.open(crop)) for crop in crops])
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert pixels[0][0].shape == (32, 32, 3)


def test_a_debian_package_gives_the_plain_files_of_its_folder_alone(cache, tmp_path, monkeypatch):
    whole = tmp_path / "content.tar"
    with tarfile.open(whole, "w") as archive:
        for name in ("./usr/share/photos/a/one.txt", "./usr/share/other.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("./usr/share/photos/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)

    def run(command, stdout=None, cwd=None, **_):
        if command[1] == "download":
            (Path(cwd) / "demo_1.0_all.deb").write_bytes(b"a deb")
        else:
            stdout.write(whole.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/usr/bin/{name}")
    package = fetch.DebianPackage("demo", "1:1.0", hashlib.sha256(b"a deb").hexdigest(), "usr/share/photos")
    folder = fetch.fetch_debian(package)
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] == ["a/one.txt"]
    with pytest.raises(DataError, match="demo=2"):
        fetch.fetch_debian(fetch.DebianPackage("demo", "2", "0" * 64, "usr"))


def test_where_there_is_no_apt_it_is_said(cache, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="apt-get is needed"):
        fetch.fetch_debian(fetch.DebianPackage("demo", "1", "0" * 64, "usr"))
