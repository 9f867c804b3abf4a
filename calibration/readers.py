"""Readers: everything that may be given as calibration or test data becomes `Samples`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration.files import SUFFIXES, array_entries, count_in_file, has_images, is_sample_file, read_file
from calibration.importing import import_callable, user_code
from calibration.preprocess import Preprocess
from calibration.samples import Conformer, Entry, InputSpec, Samples, no_sample
from diagnostics import DataError, UsageError

__all__ = ["open_samples"]

_CALLABLE: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def open_samples(
    spec: object,
    inputs: Sequence[InputSpec],
    preprocess: Preprocess | None = None,
    limit: int | None = None,
) -> Samples:
    """Open data as a re-iterable stream of samples for a model with these `inputs`. One sample is in memory at a time.

    `spec` is one of

    - a folder: every image (png, jpg, jpeg, bmp, webp), .npy, .npz and .wav below it, sorted by path, hidden files left out. An image,
      .npy or .npz is one sample there, a .wav as many as it has frames;
    - a file: a .npy or .npz holds samples along its first axis (or a single one), a .npz one array an input;
    - ``"package.module:callable"``: called without arguments, gives an iterable of samples, on every pass anew;
    - in memory: an array or a mapping of arrays with samples along the first axis, a sequence or other iterable of samples,
      or a callable that gives a fresh iterable. An iterator (a generator) gives its samples once: a second pass is an error.

    A sample in memory is an array, a mapping by input name, a tuple in the order of the inputs, or a PIL image (see `Conformer`).
    Nothing is unpickled. `limit` keeps the first samples only.

    Raises:
        DataError: EW-D001 where `spec` does not exist or holds nothing, EW-D003 where arrays or audio do not fit the inputs, EW-D004
            where a file's header cannot be read, EW-D005 for image files where the input takes no image and `preprocess` is not given.
            While iterating also what `Samples` raises, and EW-D006 for a second pass over an iterator.
        UsageError: EW-U001 where `spec` or `limit` is of no use, EW-U003 where a module:callable cannot be imported or called.
    """
    if limit is not None and limit < 1:
        raise UsageError("EW-U001", f"the limit of samples is {limit}", fix="give a number above 0")
    inputs = tuple(inputs)
    entries, length, origin = _open(spec, inputs, preprocess)
    if length == 0:
        raise no_sample(origin)
    if preprocess is None and len(inputs) == 1 and isinstance(spec, (str, Path)) and has_images(Path(spec)):
        preprocess = Preprocess.default(inputs[0].shape, inputs[0].dtype)
    samples = Samples(entries, Conformer(inputs, preprocess), length, origin, preprocess)
    return samples if limit is None else samples.take(limit)


_Opened = tuple[Callable[[], Iterator[Entry]], int | None, str]


def _open(spec: object, inputs: tuple[InputSpec, ...], preprocess: Preprocess | None) -> _Opened:
    if isinstance(spec, (str, Path)):
        if not str(spec):  # an unset variable of a script; as a path it would be the working directory
            raise DataError("EW-D001", "the data has an empty name", fix="give a folder, a file or package.module:callable")
        path = Path(spec)
        if not path.exists() and _CALLABLE.fullmatch(str(spec)):
            return _stream(import_callable(str(spec), "the data"), str(spec), partial(user_code, f"the data {spec}"))
        return _open_path(path, inputs, preprocess)
    if isinstance(spec, np.ndarray):
        spec = {inputs[0].name: spec} if len(inputs) == 1 else spec
    if isinstance(spec, Mapping):
        arrays = {str(name): np.asarray(array) for name, array in spec.items()}
        listed = array_entries(arrays, inputs, "the given arrays")
        return partial(iter, listed), len(listed), "the given arrays"
    if callable(spec) and not isinstance(spec, Iterable):
        return _stream(spec, f"the callable {getattr(spec, '__name__', type(spec).__name__)}")
    if isinstance(spec, Iterator):
        return partial(_once, spec, []), None, f"the {type(spec).__name__}"
    if isinstance(spec, Sequence) or (hasattr(spec, "__len__") and hasattr(spec, "__getitem__")):
        return partial(_sequence, spec), len(spec), f"the {type(spec).__name__}"
    if isinstance(spec, Iterable):
        return _stream(partial(iter, spec), f"the {type(spec).__name__}")
    raise UsageError(
        "EW-U001",
        f"samples cannot be read from a {type(spec).__name__}",
        fix="give a folder, a file, package.module:callable, arrays, an iterable of samples, or a callable that gives one",
    )


def _open_path(path: Path, inputs: tuple[InputSpec, ...], preprocess: Preprocess | None) -> _Opened:
    if not path.exists():
        raise DataError("EW-D001", f"the data {path} does not exist", fix="give a folder, a file or package.module:callable")
    if path.is_dir():
        files = sorted(
            (file for file in path.rglob("*") if is_sample_file(file.relative_to(path)) and file.is_file()),
            key=lambda file: file.relative_to(path).as_posix(),
        )
        if not files:
            raise DataError(
                "EW-D001",
                f"the folder {path} holds no sample",
                why=f"no file in it or below it is one of {', '.join(SUFFIXES)}",
                fix="give the folder of the images or arrays",
            )
        length = sum(count_in_file(file, inputs, preprocess, whole=True) for file in files)
        return partial(_files, files, inputs, preprocess, True), length, str(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError("EW-D004", f"the file {path} is of no kind that holds samples", fix=f"give one of {', '.join(SUFFIXES)}")
    length = count_in_file(path, inputs, preprocess, whole=False)
    return partial(_files, [path], inputs, preprocess, False), length, str(path)


def _files(files: list[Path], inputs: tuple[InputSpec, ...], preprocess: Preprocess | None, whole: bool) -> Iterator[Entry]:
    for file in files:
        yield from read_file(file, inputs, preprocess, whole=whole)


def _sequence(items: Any) -> Iterator[Entry]:
    for i in range(len(items)):
        yield f"sample {i}", partial(items.__getitem__, i)


def _entries(items: Iterable[object]) -> Iterator[Entry]:
    for i, item in enumerate(items):
        yield f"sample {i}", partial(_given, item)


def _given(item: object) -> object:
    return item


def _once(iterator: Iterator[object], passes: list[int]) -> Iterator[Entry]:
    if passes:
        raise DataError(
            "EW-D006",
            f"the samples come from a {type(iterator).__name__}, which gives them once",
            why="they are wanted a second time (to calibrate and then to verify, or for another target)",
            fix="give a callable that returns a fresh iterator, a list, or a folder",
        )
    passes.append(1)
    yield from _entries(iterator)


def _stream(fresh: Callable[[], object], origin: str, guard: Callable[[], AbstractContextManager[None]] = nullcontext) -> _Opened:
    """Samples of a fresh iterable a pass. `guard` stands around what is not ours: the call, and each step of the iterable."""

    def entries() -> Iterator[Entry]:
        with guard():
            items = fresh()
            if isinstance(items, Mapping) or not isinstance(items, Iterable):
                raise UsageError(
                    "EW-U003",
                    f"{origin} gave a {type(items).__name__}, not an iterable of samples",
                    fix="yield arrays, dicts or tuples",
                )
            for i, (_, read) in enumerate(_entries(items)):
                yield f"sample {i} of {origin}", read

    return entries, None, origin
