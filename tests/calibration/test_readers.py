"""Every way to give samples, and every way in which they can be wrong."""

from __future__ import annotations

import sys
import tracemalloc
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration import Preprocess, held_out, open_samples
from diagnostics import DataError, UsageError


@dataclass(frozen=True)
class Input:
    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


IMAGE = Input("x", (1, 3, 8, 8))
PAIR = (Input("a", (1, 2)), Input("b", (1, 3), "int64"))


def array(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def values(samples, name: str = "x") -> np.ndarray:
    return np.concatenate([sample[name] for sample in samples])


def code_of(action) -> DataError:
    with pytest.raises(DataError) as caught:
        action()
    return caught.value


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_images_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for level, name in ((3, "b/1.png"), (1, "a.bmp"), (2, "a.webp"), (4, "c.PNG")):
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / name, lossless=True)
    (tmp_path / "labels.csv").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    samples = open_samples(str(tmp_path), [IMAGE], Preprocess(scale="1"))
    assert samples.length == 4
    assert [float(sample["x"].max()) for sample in samples] == [1, 2, 3, 4]
    assert [label.rpartition("/")[2] for label, _ in samples.labelled()] == ["a.bmp", "a.webp", "1.png", "c.PNG"]
    assert {sample["x"].shape for sample in samples} == {(1, 3, 8, 8)}


def test_images_without_a_specification_get_the_default_one(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (255, 0, 51)).save(tmp_path / "i.png")
    for spec in (tmp_path / "i.png", str(tmp_path)):
        samples = open_samples(spec, [IMAGE])
        assert samples.preprocess == samples.take(1).preprocess == Preprocess.default(IMAGE.shape)
        (sample,) = samples
        np.testing.assert_allclose(sample["x"][0, :, 0, 0], [1, 0, 0.2], rtol=1e-6)
    assert code_of(lambda: open_samples(tmp_path, [Input("x", (1, 40))])).code == "EW-D005"


@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (1, 3, 8, 8), (3, 8, 8)])
def test_an_npy_holds_samples_along_its_first_axis_or_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "d.npy", array(*shape))
    samples = open_samples(tmp_path / "d.npy", [IMAGE])
    count = shape[0] if len(shape) == 4 else 1
    assert samples.length == count
    np.testing.assert_array_equal(values(samples), array(*shape).reshape(count, 3, 8, 8))
    np.testing.assert_array_equal(values(samples), array(*shape).reshape(count, 3, 8, 8))


def test_an_npy_of_pixels_goes_through_the_specification(tmp_path: Path) -> None:
    for shape, count in (((4, 8, 8, 3), 4), ((8, 8, 3), 1), ((4, 8, 8), 4)):
        np.save(tmp_path / "d.npy", np.full(shape, 255, np.uint8))
        samples = open_samples(tmp_path / "d.npy", [IMAGE], Preprocess())
        assert samples.length == count
        assert values(samples).shape == (count, 3, 8, 8)
        assert values(samples).min() == 1.0


@pytest.mark.parametrize("compressed", [True, False])
def test_an_npz_holds_one_array_an_input(tmp_path: Path, compressed: bool) -> None:
    (np.savez_compressed if compressed else np.savez)(
        tmp_path / "d.npz", a=array(4, 2), b=np.arange(12, dtype=np.int64).reshape(4, 3)
    )
    samples = open_samples(tmp_path / "d.npz", PAIR)
    assert samples.length == 4
    np.testing.assert_array_equal(values(samples, "a"), array(4, 2))
    np.testing.assert_array_equal(values(samples.take(slice(1, None, 2)), "b"), [[3, 4, 5], [9, 10, 11]])


def test_a_lone_array_is_the_lone_input_whatever_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", array(2, 3, 8, 8))
    np.testing.assert_array_equal(values(open_samples(tmp_path / "d.npz", [IMAGE])), array(2, 3, 8, 8))


def test_a_folder_of_arrays_has_one_sample_a_file(tmp_path: Path) -> None:
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", a=array(2) + i, b=np.array([[i, i, i]]))
    np.testing.assert_array_equal(values(open_samples(tmp_path, PAIR), "b")[:, 0], [0, 1, 2])
    for i in range(3):
        (tmp_path / f"{i}.npz").unlink()
        np.save(tmp_path / f"{i}.npy", array(3, 8, 8) + i)
    np.testing.assert_array_equal(values(open_samples(tmp_path, [IMAGE]))[:, 0, 0, 0], [0, 1, 2])


def write_wav(path: Path, levels: np.ndarray, width: int, rate: int = 16000) -> None:
    """`levels`: [elements, channels] in [-1, 1), exact at 8 bits."""
    integers = np.round(levels * 2 ** (8 * width - 1)).astype("<i8") + (128 if width == 1 else 0)
    data = integers.reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(levels.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_of_every_width_is_cut_into_frames_of_the_input(tmp_path: Path, width: int) -> None:
    levels = (np.arange(-10, 11) / 16)[:, None]
    write_wav(tmp_path / "a.wav", levels, width)
    samples = open_samples(tmp_path / "a.wav", [Input("x", (1, 1, 8))])
    assert samples.length == 2
    np.testing.assert_array_equal(values(samples).reshape(-1), levels[:16, 0])


def test_wav_channels_hop_and_a_short_file(tmp_path: Path) -> None:
    stereo = np.stack([np.full(10, 0.5), np.full(10, -0.25)], axis=1)
    write_wav(tmp_path / "a.wav", stereo, 2)
    mono = open_samples(tmp_path, [Input("x", (1, 4))], Preprocess.from_dict({"audio": {"hop": 2}}))
    assert mono.length == 4
    assert (values(mono) == 0.125).all()
    both = open_samples(tmp_path, [Input("x", (1, 2, 5))], Preprocess.from_dict({"audio": {"mono": False}}))
    np.testing.assert_array_equal(values(both)[0], stereo[:5].T)
    padded = values(open_samples(tmp_path, [Input("x", (1, 16))]))
    np.testing.assert_array_equal(padded[0], [0.125] * 10 + [0] * 6)


def test_wav_of_another_rate_is_refused_with_both_rates(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros((8, 1)), 2, rate=8000)
    spec = Preprocess.from_dict({"audio": {"sample_rate": 16000}})
    error = code_of(lambda: open_samples(tmp_path, [Input("x", (1, 4))], spec))
    assert error.code == "EW-D003"
    assert "8000" in error.what
    assert "16000" in error.what


@pytest.mark.parametrize(
    ("name", "content"), [("a.png", b"no png"), ("a.npy", b"no npy"), ("a.npz", b"no zip"), ("a.wav", b"no wav"), ("a.npz", b"")]
)
@pytest.mark.parametrize("folder", [True, False])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, folder: bool) -> None:
    (tmp_path / name).write_bytes(content)
    error = code_of(lambda: list(open_samples(tmp_path if folder else tmp_path / name, [IMAGE])))
    assert error.code == "EW-D004"
    assert name in error.what


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    np.savez_compressed(tmp_path / "b.npz", np.random.default_rng(0).normal(size=(9, 3, 8, 8)).astype(np.float32))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:1500])
        error = code_of(lambda path=path: list(open_samples(path, [IMAGE])))
        assert (error.code, path.name in error.what) == ("EW-D004", True)


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickles_are_never_loaded(tmp_path: Path, name: str, folder: bool) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    (np.save if name.endswith("npy") else np.savez)(tmp_path / name, objects, allow_pickle=True)
    assert code_of(lambda: list(open_samples(tmp_path if folder else tmp_path / name, [IMAGE]))).code == "EW-D004"


def test_nothing_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "none.npy", np.empty((0, 3, 8, 8), np.float32))
    np.savez(tmp_path / "none.npz", np.empty((0, 3, 8, 8), np.float32))
    for spec in ("empty", "missing", "none.npy", "none.npz"):
        assert code_of(lambda spec=spec: list(open_samples(tmp_path / spec, [IMAGE]))).code == "EW-D001"
    for spec in ([], np.empty((0, 3, 8, 8), np.float32), lambda: iter(())):
        assert code_of(lambda spec=spec: list(open_samples(spec, [IMAGE]))).code == "EW-D001"


def test_files_that_hold_no_samples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert code_of(lambda: open_samples(tmp_path / "a.txt", [IMAGE])).code == "EW-D004"


# --- callables and memory ---------------------------------------------------------------------------------------------


def test_a_module_and_callable_is_called_anew_on_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_samples.py").write_text(
        "import numpy as np\nclass Data:\n    @staticmethod\n    def three():\n"
        "        for i in range(3):\n            yield {'x': np.full((1, 3, 8, 8), i, np.float32)}\nNUMBER = 3\nnone = lambda: 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    samples = open_samples("my_samples:Data.three", [IMAGE])
    assert samples.length is None
    for _ in range(2):
        np.testing.assert_array_equal(values(samples)[:, 0, 0, 0], [0, 1, 2])
    for spec in ("my_samples:absent", "absent_module:f", "my_samples:NUMBER"):
        with pytest.raises(UsageError) as caught:
            open_samples(spec, [IMAGE])
        assert caught.value.code == "EW-U003"
    with pytest.raises(UsageError, match="gave a int"):
        list(open_samples("my_samples:none", [IMAGE]))
    sys.modules.pop("my_samples")


def test_a_module_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples_beside.py").write_text("import numpy as np\ndef one():\n    return [np.zeros((3, 8, 8), np.float32)]\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    assert len(list(open_samples("samples_beside:one", [IMAGE]))) == 1
    sys.modules.pop("samples_beside")


@pytest.mark.parametrize(
    "spec",
    [
        [array(3, 8, 8)] * 2,
        (array(1, 3, 8, 8),) * 2,
        np.stack([array(3, 8, 8)] * 2),
        {"x": np.stack([array(3, 8, 8)] * 2)},
        lambda: iter([array(3, 8, 8)] * 2),
        [{"x": array(3, 8, 8)}] * 2,
        [(array(3, 8, 8).astype(np.float64),)] * 2,
    ],
)
def test_samples_in_memory(spec: object) -> None:
    samples = open_samples(spec, [IMAGE])
    for _ in range(2):
        np.testing.assert_array_equal(values(samples), [array(3, 8, 8)] * 2)
        assert values(samples).dtype == np.float32


def test_an_iterator_is_read_once_and_says_so_the_second_time() -> None:
    samples = open_samples((array(3, 8, 8) for _ in range(2)), [IMAGE])
    assert len(list(samples)) == 2
    error = code_of(lambda: list(samples))
    assert error.code == "EW-D006"
    assert "callable" in error.fix


def test_pil_images_and_pixels_in_memory() -> None:
    image = Image.new("RGB", (8, 8), (255, 255, 255))
    pixels = np.asarray(image)
    for spec in ([image], [pixels], pixels[None]):
        assert values(open_samples(spec, [IMAGE], Preprocess())).min() == 1.0
    assert values(open_samples([image], [IMAGE])).min() == 1.0


def test_a_data_set_with_length_and_items_is_read_item_by_item() -> None:
    class Data:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> np.ndarray:
            assert index % 2 == 1, "samples that were not chosen are not read"
            return array(3, 8, 8) + index

    samples = open_samples(Data(), [IMAGE]).take(slice(1, None, 2))
    assert samples.length == 2
    np.testing.assert_array_equal(values(samples)[:, 0, 0, 0], [1, 3])


@pytest.mark.parametrize("spec", [3, None, 2.5])
def test_what_cannot_give_samples_is_a_usage_error(spec: object) -> None:
    with pytest.raises(UsageError) as caught:
        open_samples(spec, [IMAGE])
    assert caught.value.code == "EW-U001"


def test_limit_keeps_the_first_and_must_be_positive() -> None:
    assert len(list(open_samples([array(3, 8, 8)] * 5, [IMAGE], limit=2))) == 2
    assert open_samples([array(3, 8, 8)] * 5, [IMAGE], limit=9).length == 5
    with pytest.raises(UsageError):
        open_samples([array(3, 8, 8)], [IMAGE], limit=0)


# --- checks of a sample -----------------------------------------------------------------------------------------------


def test_a_wrong_shape_says_got_wanted_and_how_to_mend() -> None:
    error = code_of(lambda: list(open_samples([array(3, 8, 8), array(8, 8, 3)], [IMAGE])))
    assert error.code == "EW-D003"
    assert "[8, 8, 3]" in error.what
    assert "[1, 3, 8, 8]" in error.what
    assert error.where == "sample 1"
    assert "channels-last" in error.fix
    assert "channels-first" in code_of(lambda: list(open_samples([array(3, 8, 8)], [Input("x", (1, 8, 8, 3))]))).fix


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_the_sample_and_the_element(bad: float) -> None:
    poisoned = array(3, 8, 8)
    poisoned[2, 1, 0] = bad
    error = code_of(lambda: list(open_samples([array(3, 8, 8), poisoned], [IMAGE])))
    assert (error.code, error.where) == ("EW-D002", "sample 1, element [0, 2, 1, 0]")


def test_nan_in_a_file_names_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "poisoned.npy", np.full((3, 8, 8), np.nan, np.float32))
    assert "poisoned.npy" in code_of(lambda: list(open_samples(tmp_path, [IMAGE]))).where


def test_a_float64_beyond_float32_is_infinity() -> None:
    assert code_of(lambda: list(open_samples([np.full((3, 8, 8), 1e300)], [IMAGE]))).code == "EW-D002"


@pytest.mark.parametrize(
    ("given", "wanted", "fits"),
    [
        (np.float16([[1, 2]]), "float32", True),
        (np.float64([[1, 2]]), "float32", True),
        (np.int64([[1, 2]]), "int32", True),
        (np.uint8([[1, 2]]), "int64", True),
        (np.int64([[1, 300]]), "uint8", False),
        (np.int64([[1, -1]]), "uint8", False),
        (np.uint8([[1, 2]]), "float32", False),
        (np.int64([[1, 2]]), "float32", False),
        (np.float32([[1, 2]]), "int32", False),
        (np.array([["a", "b"]]), "float32", False),
    ],
)
def test_only_safe_conversions_of_dtype_happen(given: np.ndarray, wanted: str, fits: bool) -> None:
    samples = open_samples([given], [Input("x", (1, 2), wanted)])
    if fits:
        (sample,) = samples
        assert sample["x"].dtype == wanted
        np.testing.assert_array_equal(sample["x"], given)
    else:
        assert code_of(lambda: list(samples)).code == "EW-D003"


@pytest.mark.parametrize(
    "sample",
    [{"a": array(2)}, {"a": array(2), "b": np.arange(3), "c": array(1)}, (array(2),), (array(2), np.arange(3), 7), array(2)],
)
def test_the_arrays_of_a_sample_must_be_the_inputs(sample: object) -> None:
    assert code_of(lambda: list(open_samples([sample], PAIR))).code == "EW-D003"


def test_arrays_of_different_lengths_or_names_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "lengths.npz", a=array(4, 2), b=np.zeros((3, 3), np.int64))
    np.savez(tmp_path / "names.npz", a=array(4, 2), c=np.zeros((4, 3), np.int64))
    for name in ("lengths", "names"):
        assert code_of(lambda name=name: open_samples(tmp_path / f"{name}.npz", PAIR)).code == "EW-D003"


# --- splitting and memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_held_out_samples_are_disjoint_and_together_all(known: bool) -> None:
    items = [np.full((3, 8, 8), i, np.float32) for i in range(11)]
    calibration, test = held_out(open_samples(items if known else lambda: iter(items), [IMAGE]), every=4)
    seen = [values(part)[:, 0, 0, 0].tolist() for part in (calibration, test)]
    assert seen == [[0, 1, 2, 4, 5, 6, 8, 9, 10], [3, 7]]
    assert (calibration.length, test.length) == ((9, 2) if known else (None, None))


def test_too_few_samples_to_hold_one_out() -> None:
    assert code_of(lambda: held_out(open_samples([array(3, 8, 8)] * 3, [IMAGE]), every=4)).code == "EW-D001"
    with pytest.raises(ValueError, match="at least 2"):
        held_out(open_samples([array(3, 8, 8)] * 3, [IMAGE]), every=1)


def test_bounds_of_a_selection_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="negative"):
        open_samples([array(3, 8, 8)] * 3, [IMAGE]).take(slice(-1, None))


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_large_file_is_never_held_whole(tmp_path: Path, kind: str) -> None:
    whole = np.zeros((400, 3, 32, 32), np.float32)
    path = tmp_path / f"d.{kind}"
    (np.save if kind == "npy" else np.savez_compressed)(path, whole)
    samples = open_samples(path, [Input("x", (1, 3, 32, 32))])
    next(iter(samples))
    tracemalloc.start()
    assert sum(1 for _ in samples) == 400
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < whole.nbytes / 4


def test_flags_and_scalars_keep_their_dtype_and_shape():
    inputs = (Input("flag", (1,), "bool"), Input("gain", (), "float32"))
    (sample,) = open_samples([{"flag": np.array([True]), "gain": np.float64(0.5)}], inputs)
    assert (sample["flag"].dtype, sample["flag"].shape) == (np.dtype(bool), (1,))
    assert (sample["gain"].dtype, sample["gain"].shape) == (np.dtype(np.float32), ())


def test_a_flag_is_nothing_but_0_or_1():
    error = code_of(lambda: list(open_samples([np.array([3])], (Input("flag", (1,), "bool"),))))
    assert error.code == "EW-D003"


def test_data_that_fails_on_its_way_is_an_error_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "users_samples.py").write_text(
        "import numpy as np\n\ndef broken():\n    yield np.zeros((1, 2), np.float32)\n    raise ValueError('disk on fire')\n"
    )
    monkeypatch.chdir(tmp_path)
    samples = open_samples("users_samples:broken", [Input("x", (1, 2), "float32")])
    with pytest.raises(UsageError, match="disk on fire") as caught:
        list(samples)
    assert (caught.value.code, caught.value.where) == ("EW-U003", f"line 5 of {tmp_path / 'users_samples.py'}")


def test_text_is_no_sample():
    with pytest.raises(DataError, match="not an array of numbers") as caught:
        list(open_samples(["a", "b"], [Input("x", (1, 2), "float32")]))
    assert caught.value.code == "EW-D003"
