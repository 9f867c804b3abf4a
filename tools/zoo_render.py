"""Rendered text for the models that find and read it: lines, pages, and glyphs on photos, each with its truth.

The fonts are those that matplotlib carries; words and seeds of the two splits differ, and so do the photos behind the glyphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tools.zoo_data import Split, photos
from tools.zoo_text import words

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Rendered",
    "calibration_glyphs",
    "calibration_lines",
    "calibration_pages",
    "glyphs",
    "held_out_glyphs",
    "held_out_lines",
    "held_out_pages",
    "lines",
    "pages",
]

_FONTS: Final = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "DejaVuSerif-Bold")
_LINE: Final = (320, 48)  # width and height of what `zoo.ocr_rec` reads
_PAGE: Final = 640
_CANVAS: Final = 416
_GLYPHS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


@dataclass(frozen=True)
class Rendered:
    """A picture, the text on it, and the box (left, top, right, bottom; pixels) of every piece of it."""

    image: Image.Image
    texts: tuple[str, ...]
    boxes: tuple[tuple[float, float, float, float], ...]


def lines(split: Split, count: int) -> Iterator[Rendered]:
    """One to three words and a number on one line of 320 x 48 pixels, dark on light or light on dark, a little noisy."""
    from PIL import Image, ImageDraw

    random = _random(split, "lines")
    for _ in range(count):
        font = _font(random, 26, 34)
        text = _text(random, split, font, _LINE[0] - 16)
        ink, paper = _colours(random)
        image = Image.new("RGB", _LINE, paper)
        draw = ImageDraw.Draw(image)
        draw.text((8, _LINE[1] / 2), text, ink, font, anchor="lm")
        yield Rendered(
            _noisy(image, random), (text,), (tuple(map(float, draw.textbbox((8, _LINE[1] / 2), text, font, anchor="lm"))),)
        )


def pages(split: Split, count: int) -> Iterator[Rendered]:
    """Six to ten lines at random places of a page of 640 x 640 pixels."""
    from PIL import Image, ImageDraw

    random = _random(split, "pages")
    for _ in range(count):
        ink, paper = _colours(random)
        image = Image.new("RGB", (_PAGE, _PAGE), paper)
        draw = ImageDraw.Draw(image)
        texts, boxes, top = [], [], 24.0
        for _ in range(int(random.integers(6, 11))):
            font = _font(random, 20, 34)
            text = _text(random, split, font, _PAGE - 160)
            place = (float(random.uniform(16, 140)), top)
            boxes.append(tuple(map(float, draw.textbbox(place, text, font))))
            texts.append(text)
            draw.text(place, text, ink, font)
            top += 36 + float(random.uniform(16, 28))
        yield Rendered(_noisy(image, random), tuple(texts), tuple(boxes))


def glyphs(split: Split, count: int) -> Iterator[Rendered]:
    """Three to six turned letters and digits, apart from each other, on a photo of 416 x 416 pixels."""
    from PIL import Image, ImageDraw

    random = _random(split, "glyphs")
    backgrounds = sorted(photos(split, 24, _CANVAS).iterdir())
    for index in range(count):
        image = Image.open(backgrounds[index % len(backgrounds)]).convert("RGB")
        texts, boxes = [], []
        cells = random.permutation(9)[: int(random.integers(3, 7))]
        for cell in cells:
            text = _GLYPHS[int(random.integers(len(_GLYPHS)))]
            stamp = Image.new("L", (128, 128))
            ImageDraw.Draw(stamp).text((64, 64), text, 255, _font(random, 56, 90), anchor="mm")
            stamp = stamp.rotate(float(random.uniform(-25, 25)))
            left, top = (int(cell) % 3 * 139 + int(random.integers(0, 8)), int(cell) // 3 * 139 + int(random.integers(0, 8)))
            image.paste(tuple(int(part) for part in random.integers(0, 256, 3)), (left, top), stamp)
            inner = stamp.getbbox()
            assert inner is not None
            boxes.append((float(left + inner[0]), float(top + inner[1]), float(left + inner[2]), float(top + inner[3])))
            texts.append(text)
        yield Rendered(image, tuple(texts), tuple(boxes))


def calibration_lines() -> Iterator[Image.Image]:
    """64 lines that calibrate `zoo.ocr_rec`."""
    return (entry.image for entry in lines("calibration", 64))


def held_out_lines() -> Iterator[Image.Image]:
    """64 lines of other words."""
    return (entry.image for entry in lines("held_out", 64))


def calibration_pages() -> Iterator[Image.Image]:
    """16 pages that calibrate `zoo.ocr_det`."""
    return (entry.image for entry in pages("calibration", 16))


def held_out_pages() -> Iterator[Image.Image]:
    """12 pages of other words."""
    return (entry.image for entry in pages("held_out", 12))


def calibration_glyphs() -> Iterator[Image.Image]:
    """24 photos with glyphs that calibrate `zoo.yolox_char`."""
    return (entry.image for entry in glyphs("calibration", 24))


def held_out_glyphs() -> Iterator[Image.Image]:
    """24 other photos with glyphs."""
    return (entry.image for entry in glyphs("held_out", 24))


def _random(split: Split, kind: str) -> np.random.Generator:
    return np.random.default_rng(list(f"{split} {kind}".encode()))


def _font(random: np.random.Generator, least: int, most: int) -> Any:
    return _load_font(_FONTS[int(random.integers(len(_FONTS)))], int(random.integers(least, most + 1)))


@cache
def _load_font(name: str, size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def _text(random: np.random.Generator, split: Split, font: Any, width: float) -> str:
    """As many of up to three words and a number as fit into `width` pixels; at least one word."""
    vocabulary = words(split)
    parts = [vocabulary[int(random.integers(len(vocabulary)))] for _ in range(int(random.integers(1, 4)))]
    parts.append(str(int(random.integers(10, 10_000))))
    while len(parts) > 1 and font.getlength(" ".join(parts)) > width:
        parts.pop()
    return " ".join(parts)


def _colours(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ink and paper, far apart in brightness."""
    dark = tuple(int(part) for part in random.integers(0, 80, 3))
    light = tuple(int(part) for part in random.integers(176, 256, 3))
    return (dark, light) if random.random() < 0.75 else (light, dark)


def _noisy(image: Image.Image, random: np.random.Generator) -> Image.Image:
    from PIL import Image, ImageFilter

    blurred = image.filter(ImageFilter.GaussianBlur(float(random.uniform(0.0, 0.7))))
    pixels = np.asarray(blurred, np.float64) + random.normal(0.0, float(random.uniform(0.0, 6.0)), (image.height, image.width, 1))
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
