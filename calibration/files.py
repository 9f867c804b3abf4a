"""Data files: what each kind holds, read one sample at a time. Nothing is unpickled, no file is held whole."""

from __future__ import annotations

import io
import math
import wave
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from calibration.preprocess import Audio, Preprocess
from calibration.samples import Entry, InputSpec, is_pixels
from diagnostics import DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SUFFIXES", "array_entries", "count_in_file", "has_images", "is_sample_file", "read_file"]

_IMAGES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SUFFIXES: Final = (*_IMAGES, ".npy", ".npz", ".wav")


def is_sample_file(path: Path) -> bool:
    """Whether a path inside of a data folder names a file of samples (hidden files and folders do not)."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__")) for part in path.parts)


def has_images(path: Path) -> bool:
    """Whether a path is an image file or a folder with one in it."""
    if not path.is_dir():
        return path.suffix.lower() in _IMAGES
    return any(file.suffix.lower() in _IMAGES and is_sample_file(file.relative_to(path)) for file in path.rglob("*"))


def count_in_file(path: Path, inputs: Sequence[InputSpec], preprocess: Preprocess | None, *, whole: bool) -> int:
    """Number of samples in a file, from its header. Raises DataError EW-D003, EW-D004."""
    if path.suffix.lower() == ".wav":
        return len(_wav_starts(path, inputs, preprocess or Preprocess()))
    if whole or path.suffix.lower() in _IMAGES:
        return 1
    return len(list(read_file(path, inputs, preprocess, whole=whole)))


def read_file(path: Path, inputs: Sequence[InputSpec], preprocess: Preprocess | None, *, whole: bool) -> Iterator[Entry]:
    """The samples of a file, unread. `whole`: a .npy or .npz is one sample, as in a folder of them; else its first axis counts samples.

    Raises DataError EW-D003 where arrays or audio do not fit the inputs, EW-D004 where the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in _IMAGES:
        yield str(path), partial(_read_image, path)
    elif suffix == ".wav":
        for start in _wav_starts(path, inputs, preprocess or Preprocess()):
            yield f"{path} at frame {start}", partial(_read_wav, path, inputs, preprocess or Preprocess(), start)
    elif whole:
        yield str(path), partial(_read_arrays, path, inputs)
    elif suffix == ".npy":
        yield from array_entries({inputs[0].name: _read_npy(path)}, inputs, str(path))
    else:
        yield from _npz_entries(path, inputs)


# --- arrays -----------------------------------------------------------------------------------------------------------


def array_entries(arrays: Mapping[str, np.ndarray[Any, Any]], inputs: Sequence[InputSpec], origin: str) -> list[Entry]:
    """Samples along the first axis of the arrays, one array an input. Raises DataError EW-D003 where they disagree."""
    steps = {name: _step(array.shape, array.dtype, _spec_of(name, arrays, inputs, origin)) for name, array in arrays.items()}
    count = _common_count({name: array.shape for name, array in arrays.items()}, steps, origin)
    if count is None:
        return [(origin, partial(dict, arrays))]
    return [
        (
            f"sample {i} of {origin}",
            partial(_slices, arrays, {name: slice(i * step, (i + 1) * step) for name, step in steps.items()}),
        )
        for i in range(count)
    ]


def _slices(arrays: Mapping[str, np.ndarray[Any, Any]], where: Mapping[str, slice]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.array(array[where[name]]) for name, array in arrays.items()}


def _spec_of(name: str, names: Mapping[str, object], inputs: Sequence[InputSpec], origin: str) -> InputSpec:
    for spec in inputs:
        if spec.name == name:
            return spec
    raise DataError(
        "EW-D003",
        f"the data has the arrays {sorted(names)}, the model the inputs {sorted(spec.name for spec in inputs)}",
        where=origin,
        fix="give one array an input, named as the input is",
    )


def _step(shape: Sequence[int], dtype: np.dtype[Any], spec: InputSpec) -> int:
    """How many rows of the first axis are one sample; 0 where the array is a single sample without a batch axis."""
    if len(shape) == len(spec.shape):
        return max(1, spec.shape[0])
    return 1 if is_pixels(shape[1:], dtype) and not is_pixels(shape, dtype) else 0


def _common_count(shapes: Mapping[str, Sequence[int]], steps: Mapping[str, int], origin: str) -> int | None:
    """Number of samples that all arrays hold; None where they are one sample without a batch axis."""
    counts = {name: math.ceil(shape[0] / steps[name]) if steps[name] else None for name, shape in shapes.items()}
    if len(set(counts.values())) > 1:
        raise DataError("EW-D003", f"the arrays hold different numbers of samples: {counts}", where=origin)
    return next(iter(counts.values()), 0)


def _read_npy(path: Path) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error


def _read_arrays(path: Path, inputs: Sequence[InputSpec]) -> object:
    if path.suffix.lower() == ".npy":
        return np.array(_read_npy(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            return _renamed({name: file[name] for name in file.files}, inputs)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _renamed(arrays: dict[str, Any], inputs: Sequence[InputSpec]) -> dict[str, Any]:
    """A lone array is the lone input, whatever it is called."""
    return {inputs[0].name: next(iter(arrays.values()))} if len(arrays) == len(inputs) == 1 else arrays


def _npz_entries(path: Path, inputs: Sequence[InputSpec]) -> Iterator[Entry]:
    """Samples of a .npz, each read on from where the one before ended: its members are decompressed as a stream, never whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            headers = {}
            for name, member in members.items():
                with archive.open(member) as stream:
                    headers[name] = _npy_header(stream)
            members, headers = _renamed(members, inputs), _renamed(headers, inputs)
            steps = {
                name: _step(shape, dtype, _spec_of(name, headers, inputs, str(path))) for name, (shape, dtype) in headers.items()
            }
            count = _common_count({name: shape for name, (shape, _) in headers.items()}, steps, str(path))
            if count is None:
                yield str(path), partial(_read_arrays, path, inputs)
                return
            cursors = {
                name: _Cursor(path, member, headers[name][0][1:], headers[name][1], steps[name])
                for name, member in members.items()
            }
            for i in range(count):
                yield f"sample {i} of {path}", partial(_read_at, cursors, i)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _read_at(cursors: Mapping[str, _Cursor], index: int) -> dict[str, np.ndarray[Any, Any]]:
    return {name: cursor.read(index) for name, cursor in cursors.items()}


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read: Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[Any]]]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not loaded")
    if fortran and len(shape) > 1:
        raise ValueError("an array is in Fortran order and cannot be read as a stream: save numpy.ascontiguousarray of it")
    return shape, dtype


class _Cursor:
    """Reads rows of one member of a .npz in ascending order; the decompressed stream is never wound back."""

    def __init__(self, path: Path, member: str, row: tuple[int, ...], dtype: np.dtype[Any], step: int) -> None:
        self._path, self._member, self._row, self._dtype, self._step = path, member, row, dtype, step
        self._archive: zipfile.ZipFile | None = None
        self._stream: IO[bytes] = io.BytesIO()
        self._at = 0

    def read(self, index: int) -> np.ndarray[Any, Any]:
        size = self._dtype.itemsize * math.prod(self._row) * self._step
        try:
            if self._archive is None:
                self._archive = zipfile.ZipFile(self._path)
                self._stream = self._archive.open(self._member)
                _npy_header(self._stream)
            while self._at < index:
                self._stream.read(size)
                self._at += 1
            data = self._stream.read(size)
            self._at += 1
            return np.frombuffer(data, self._dtype).reshape(-1, *self._row)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _unreadable(self._path, error) from error


# --- images and audio -------------------------------------------------------------------------------------------------


def _read_image(path: Path) -> Image.Image:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _frame(audio: Audio, inputs: Sequence[InputSpec], channels: int, path: Path) -> int:
    """Elements of one channel in a frame."""
    if len(inputs) != 1:
        raise DataError(
            "EW-D003", f"audio is one input, the model has {len(inputs)}", where=str(path), fix="give .npz files instead"
        )
    return audio.frame or max(1, math.prod(inputs[0].shape[1:]) // channels)


@contextmanager
def _open_wav(path: Path, audio: Audio) -> Iterator[wave.Wave_read]:
    try:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() not in (1, 2, 3, 4):
                raise wave.Error(f"{file.getsampwidth()} bytes an element; PCM of 1 to 4 bytes is read")
            if audio.sample_rate not in (None, file.getframerate()):
                raise DataError(
                    "EW-D003",
                    f"the audio is sampled at {file.getframerate()} Hz, the preprocessing specification says {audio.sample_rate} Hz",
                    where=str(path),
                    fix=f"resample the file to {audio.sample_rate} Hz",
                )
            yield file
    except (OSError, EOFError, wave.Error) as error:
        raise _unreadable(path, error) from error


def _wav_starts(path: Path, inputs: Sequence[InputSpec], preprocess: Preprocess) -> range:
    """First element of every frame. A rest shorter than a frame is left out, unless it is all there is (then zeros follow it)."""
    audio = preprocess.audio
    with _open_wav(path, audio) as file:
        length = _frame(audio, inputs, 1 if audio.mono else file.getnchannels(), path)
        if file.getnframes() == 0:
            return range(0)
        return range(0, max(1, file.getnframes() - length + 1), audio.hop or length)


def _read_wav(path: Path, inputs: Sequence[InputSpec], preprocess: Preprocess, start: int) -> np.ndarray[Any, Any]:
    audio = preprocess.audio
    with _open_wav(path, audio) as file:
        channels, width = file.getnchannels(), file.getsampwidth()
        length = _frame(audio, inputs, 1 if audio.mono else channels, path)
        file.setpos(start)
        data = file.readframes(length)
    levels = _pcm(data[: len(data) // (width * channels) * width * channels], width).reshape(-1, channels)
    levels = np.pad(levels, ((0, length - len(levels)), (0, 0)))
    if audio.mono:
        levels = levels.mean(axis=1, keepdims=True, dtype=np.float32)
    levels = levels.T if preprocess.layout == "NCHW" else levels
    wanted = inputs[0].shape
    return levels.reshape(1, *wanted[1:]) if levels.size == math.prod(wanted[1:]) else levels


def _pcm(data: bytes, width: int) -> np.ndarray[Any, Any]:
    """Little-endian PCM (RIFF WAVE: 8 bits unsigned, wider ones signed) as float32 in [-1, 1)."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / np.float32(128)
    if width == 3:
        high = np.zeros((len(data) // 3, 4), np.uint8)
        high[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return (high.view("<i4").reshape(-1) >> 8).astype(np.float32) / np.float32(2**23)
    integers = np.frombuffer(data, f"<i{width}")
    return integers.astype(np.float32) / np.float32(2 ** (8 * width - 1))


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError("EW-D004", f"the file {path} cannot be read", why=str(error), fix="mend the file or take it out of the data")
