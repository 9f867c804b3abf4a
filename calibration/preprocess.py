"""The preprocessing specification: what happens between an image or audio file and the model's input, kept in the bundle."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diagnostics import DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Audio", "Preprocess"]

Positive = Annotated[int, Field(gt=0)]
Size = Positive | tuple[Positive, Positive]
Level = float | tuple[float, ...]

_CHANNELS: Final = {"RGB": 3, "BGR": 3, "GRAY": 1}


class Audio(BaseModel):
    """How a .wav file becomes frames: PCM scaled to [-1, 1), cut into frames of the input's length.

    Attributes:
        sample_rate: the rate the model was trained at, in Hz; a file of another rate is refused. None: any.
        mono: average the channels. Else the input must hold `channels x frame` elements.
        frame: elements a frame; None: as many as the model's input holds.
        hop: elements from one frame to the next; None: a frame.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sample_rate: Positive | None = None
    mono: bool = True
    frame: Positive | None = None
    hop: Positive | None = None


class Preprocess(BaseModel):
    """Image (H x W x 3, uint8 RGB) to model input, in this order: colour, resize, crop, scale, mean, std, layout, dtype.

    ``output = (pixel * scale - mean) / std``, in float32. With ``scale = "1/255"`` (the default) `mean` and `std` are in units of
    0..1, as torchvision and timm give them; with ``scale = "1"`` they are in units of 0..255, as Caffe and TensorFlow models give them.

    Attributes:
        color: order of the channels of the output, and so of `mean` and `std`. GRAY is PIL's "L" (ITU-R 601-2 luma).
        resize: an integer: the shorter side gets that length, the aspect is kept (the longer one rounded down);
            [height, width]: exactly that. Antialiased when shrinking (PIL; `nearest` has no antialiasing).
        letterbox: with resize = [height, width]: keep the aspect, fit inside, fill the rest around it with `fill` (0..255).
        interpolation: bilinear, bicubic or nearest.
        crop: the central [height, width] (one integer: a square) after resizing.
        mean, std: a number, or one a channel.
        layout: order of the output's axes: NCHW gives [C, H, W], NHWC gives [H, W, C]; the batch axis is added by the reader.
        dtype: of the output; uint8 hands the pixels on as they are (scale "1", mean 0, std 1).
        audio: for .wav files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    color: Literal["RGB", "BGR", "GRAY"] = "RGB"
    resize: Size | None = None
    letterbox: bool = False
    fill: Annotated[int, Field(ge=0, le=255)] = 0
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    crop: Size | None = None
    scale: Literal["1", "1/255"] = "1/255"
    mean: Level = 0.0
    std: Level = 1.0
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    audio: Audio = Audio()

    @model_validator(mode="after")
    def _consistent(self) -> Preprocess:
        channels = _CHANNELS[self.color]
        for key in ("mean", "std"):
            level = getattr(self, key)
            if isinstance(level, tuple) and len(level) != channels:
                raise ValueError(f"{key}: {len(level)} numbers for {channels} channels of color {self.color}")
            if not np.isfinite(level).all():
                raise ValueError(f"{key}: numbers must be finite")
        if not np.all(np.asarray(self.std) > 0):
            raise ValueError("std: numbers must be above 0")
        if self.letterbox and not isinstance(self.resize, tuple):
            raise ValueError("letterbox: needs resize = [height, width]")
        if self.dtype == "uint8" and (
            self.scale != "1" or np.any(np.asarray(self.mean) != 0) or np.any(np.asarray(self.std) != 1)
        ):
            raise ValueError('dtype: uint8 needs scale = "1", mean = 0 and std = 1')
        if self.crop is not None and self.resize is not None:
            crop, size = _pair(self.crop), _pair(self.resize)
            if crop[0] > size[0] or crop[1] > size[1]:
                raise ValueError(f"crop: {list(crop)} is more than resize leaves ({self.resize})")
        return self

    @classmethod
    def default(cls, shape: Sequence[int], dtype: str = "float32") -> Preprocess:
        """What images get when nothing is said: the shorter side resized to max(H, W) (bilinear), the centre H x W cut out, x / 255.

        `shape` is the model's input, [N, C, H, W] or [N, H, W, C] with 1 (gray) or 3 (RGB) channels. Where its `dtype` is uint8 the
        pixels stay as they are.
        Raises DataError EW-D005 where it is neither.
        """
        layout: Literal["NCHW", "NHWC"]
        if len(shape) == 4 and shape[1] in (1, 3):
            layout, channels, height, width = "NCHW", shape[1], shape[2], shape[3]
        elif len(shape) == 4 and shape[3] in (1, 3):
            layout, channels, height, width = "NHWC", shape[3], shape[1], shape[2]
        else:
            raise DataError(
                "EW-D005",
                f"an input of shape {list(shape)} does not take an image",
                why="without a preprocessing specification it must be [N, C, H, W] or [N, H, W, C] with 1 or 3 channels",
                fix="give arrays (.npy, .npz, module:callable) instead of images",
            )
        color: Literal["RGB", "GRAY"] = "GRAY" if channels == 1 else "RGB"
        geometry = cls(color=color, resize=max(height, width), crop=(height, width), layout=layout)
        return geometry.model_copy(update={"scale": "1", "dtype": "uint8"}) if dtype == "uint8" else geometry

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "") -> Preprocess:
        """Check plain data. Raises DataError EW-D005 that names every wrong key and what it may be; `where` is the file."""
        try:
            return cls.model_validate(_tuples(data))
        except ValidationError as error:
            problems = "; ".join(dict.fromkeys(_problem(entry) for entry in error.errors()))
            raise DataError(
                "EW-D005",
                f"the preprocessing specification is invalid: {problems}",
                where=where,
                fix="the README lists the keys, calibration.Preprocess says what each does",
            ) from error

    @classmethod
    def read(cls, given: Preprocess | Mapping[str, Any] | str | Path | None) -> Preprocess | None:
        """One of these forms as itself. Raises DataError EW-D005, see `from_dict` and `from_file`."""
        if given is None or isinstance(given, Preprocess):
            return given
        return cls.from_dict(given) if isinstance(given, Mapping) else cls.from_file(given)

    @classmethod
    def from_file(cls, path: str | Path) -> Preprocess:
        """Read a .toml or .json file. Raises DataError EW-D005 where it is absent, not of these formats, or invalid."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise DataError(
                "EW-D005", f"the preprocessing file {path} cannot be read", why=str(error), fix="give a TOML or JSON file"
            ) from error
        if not isinstance(data, dict):
            raise DataError(
                "EW-D005",
                f"the preprocessing file {path} holds no table of keys",
                fix="the README lists the keys, calibration.Preprocess says what each does",
            )
        return cls.from_dict(data, str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every key, defaults included, for JSON; `from_dict` reads it back."""
        return self.model_dump(mode="json", exclude_none=True)

    def apply_image(self, image: Image.Image | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The model's input without its batch axis, of a PIL image or uint8 pixels [H, W, 3] (RGB), [H, W, 1] or [H, W].

        Raises DataError EW-D003 where the pixels are not such an array, or the image is smaller than the crop.
        """
        picture = self._crop(self._resize(_to_pil(image, "L" if self.color == "GRAY" else "RGB")))
        pixels = np.asarray(picture)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.color == "BGR":
            pixels = pixels[:, :, ::-1]
        if self.dtype != "uint8":
            levels = pixels.astype(np.float32)
            if self.scale == "1/255":
                levels /= np.float32(255)
            pixels = ((levels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)).astype(self.dtype)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if self.layout == "NCHW" else pixels)

    def _resize(self, picture: Image.Image) -> Image.Image:
        from PIL import Image

        if self.resize is None:
            return picture
        method = {
            "bilinear": Image.Resampling.BILINEAR,
            "bicubic": Image.Resampling.BICUBIC,
            "nearest": Image.Resampling.NEAREST,
        }[self.interpolation]
        width, height = picture.size
        if isinstance(self.resize, int):
            short = min(width, height)
            return picture.resize((width * self.resize // short, height * self.resize // short), method)
        wanted_height, wanted_width = self.resize
        if not self.letterbox:
            return picture.resize((wanted_width, wanted_height), method)
        ratio = min(wanted_width / width, wanted_height / height)
        inner = (min(wanted_width, max(1, round(width * ratio))), min(wanted_height, max(1, round(height * ratio))))
        canvas = Image.new(picture.mode, (wanted_width, wanted_height), self.fill if picture.mode == "L" else (self.fill,) * 3)
        canvas.paste(picture.resize(inner, method), ((wanted_width - inner[0]) // 2, (wanted_height - inner[1]) // 2))
        return canvas

    def _crop(self, picture: Image.Image) -> Image.Image:
        if self.crop is None:
            return picture
        width, height = picture.size
        wanted_height, wanted_width = _pair(self.crop)
        if wanted_height > height or wanted_width > width:
            raise DataError(
                "EW-D003",
                f"an image of {height} x {width} is smaller than the crop of {wanted_height} x {wanted_width}",
                fix="set resize in the preprocessing specification, or leave the image out",
            )
        left, top = (width - wanted_width) // 2, (height - wanted_height) // 2
        return picture.crop((left, top, left + wanted_width, top + wanted_height))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _to_pil(image: Image.Image | np.ndarray[Any, Any], mode: str) -> Image.Image:
    from PIL import Image

    if isinstance(image, np.ndarray):
        pixels = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
        if image.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
            raise DataError(
                "EW-D003",
                f"an image is {image.dtype} of shape {list(image.shape)}",
                why="pixels are uint8 [H, W, 3] (RGB), [H, W, 1] or [H, W]",
            )
        image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.mode[0] in "IF":
        raise DataError(
            "EW-D003",
            f"the image has mode {image.mode}: more than 8 bits a channel",
            why="how such levels become 0..255 is not defined",
            fix="convert it to 8 bits, or give arrays instead of images",
        )
    return image.convert(mode)


def _tuples(data: Any) -> Any:
    """TOML and JSON know lists alone; the fields are tuples, which is what makes the model hashable."""
    if isinstance(data, Mapping):
        return {key: tuple(entry) if isinstance(entry, list) else _tuples(entry) for key, entry in data.items()}
    return data


def _problem(entry: Any) -> str:
    """One of pydantic's errors as a phrase: the key, what is wrong, the allowed values."""
    path = [str(part) for part in entry["loc"]]
    model: type[BaseModel] = Audio if path[:1] == ["audio"] else Preprocess
    known = list(model.model_fields)
    key = ".".join(path[: 2 if model is Audio else 1])
    if entry["type"] == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], known, 1)
        return f"{key}: no such key; {f'did you mean {close[0]}? ' if close else ''}allowed: {', '.join(known)}"
    if entry["type"] == "value_error":
        return str(entry["ctx"]["error"])
    message = entry["msg"][0].lower() + entry["msg"][1:]
    return f"{key}: {message}, not {entry['input']!r}"
