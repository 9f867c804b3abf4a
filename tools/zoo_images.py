"""Small pictures and faces for the models of the zoo that take them; the calibration sets and the held-out sets share nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tools.fetch import fetch_wheel
from tools.zoo_data import FOOLBOX, Split, photo_file, photos, unseen_photos, varied_photos

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "calibration_faces",
    "calibration_portraits",
    "calibration_scenes",
    "calibration_thumbnails",
    "cifar_pictures",
    "face_labels",
    "held_out_faces",
    "held_out_portraits",
    "held_out_scenes",
    "held_out_thumbnails",
    "portrait_labels",
]

Array = np.ndarray[Any, Any]

# Square crops around a face (left, top, side; pixels of the photo): the sharp portraits that packages carry.
_PORTRAITS: Final = {
    "calibration": ("skimage/data/astronaut.png", (140, 20, 170)),
    "held_out": ("matplotlib/mpl-data/sample_data/grace_hopper.jpg", (160, 90, 230)),
}
_CROPS: Final = 16


def calibration_scenes() -> Iterator[Image.Image]:
    """The 128 crops of `zoo_data.varied_photos`, 224 x 224 RGB, for `zoo.efficientnet_lite0`; any 18 in a row are of 18 photos."""
    return _open(sorted(varied_photos().iterdir()))


def held_out_scenes() -> Iterator[Image.Image]:
    """The 246 crops of `zoo_data.unseen_photos`."""
    return _open(sorted(unseen_photos().iterdir()))


def cifar_pictures() -> tuple[list[Path], Array]:
    """The 20 CIFAR-10 pictures of foolbox, 32 x 32 RGB, and their classes int64 [20]; for tests only."""
    found = sorted((fetch_wheel(FOOLBOX) / "foolbox" / "data").glob("cifar10_*.png"))
    return found, np.asarray([int(path.stem.rsplit("_", 1)[1]) for path in found])


def calibration_thumbnails() -> Iterator[Image.Image]:
    """The 20 CIFAR-100 pictures of foolbox and 108 crops of the photos that calibrate, 32 x 32 RGB, for `zoo.cifar_cnn`.

    Crops alone move the network little: their scores end at 10, those of what it was trained on at 33.
    """
    pictures = sorted((fetch_wheel(FOOLBOX) / "foolbox" / "data").glob("cifar100_*.png"))
    return _open([*pictures, *sorted(photos("calibration", 108, 32).iterdir())])


def held_out_thumbnails() -> Iterator[Image.Image]:
    """`cifar_pictures`."""
    return _open(cifar_pictures()[0])


def calibration_faces() -> Iterator[Image.Image]:
    """50 faces and 50 pieces of background (every second one of scikit-image's lfw_subset), grey, for `zoo.mtcnn_onet`."""
    return (_picture(array) for array in _faces("calibration"))


def held_out_faces() -> Iterator[Image.Image]:
    """The other 50 and 50; `face_labels` tells which are faces."""
    return (_picture(array) for array in _faces("held_out"))


def face_labels() -> Array:
    """Whether each one of `held_out_faces` is a face, bool [100]."""
    return np.arange(100) < 50


def calibration_portraits() -> Iterator[Image.Image]:
    """50 small faces enlarged, 16 crops of one sharp portrait, and 34 pieces of photos without a face, for `zoo.facemesh`."""
    return _portraits("calibration")


def held_out_portraits() -> Iterator[Image.Image]:
    """50 other small faces enlarged, 16 crops of another portrait, and 34 pieces of other photos."""
    return _portraits("held_out")


def portrait_labels() -> Array:
    """Whether each one of `held_out_portraits` is a face, bool [100]."""
    return np.arange(100) < 50 + _CROPS


def _faces(split: Split) -> Array:
    from skimage.data import lfw_subset

    return np.asarray(lfw_subset())[split == "held_out" :: 2]


def _picture(array: Array) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.rint(array * 255).astype(np.uint8)).convert("RGB")


def _portraits(split: Split) -> Iterator[Image.Image]:
    from PIL import Image

    yield from (_picture(face).resize((192, 192), Image.Resampling.BICUBIC) for face in _faces(split)[:50])
    name, (left, top, side) = _PORTRAITS[split]
    photo, random = Image.open(photo_file(name)).convert("RGB"), np.random.default_rng(0)
    for _ in range(_CROPS):
        size = side * random.uniform(0.85, 1.15)
        x, y = left + side * random.uniform(-0.08, 0.08), top + side * random.uniform(-0.08, 0.08)
        box = (max(0.0, x), max(0.0, y), min(photo.width, x + size), min(photo.height, y + size))
        yield photo.resize((192, 192), Image.Resampling.BILINEAR, box)
    yield from _open(sorted(photos(split, 34, 192).iterdir()))


def _open(paths: list[Path]) -> Iterator[Image.Image]:
    from PIL import Image

    return (Image.open(path).convert("RGB") for path in paths)
