"""What the preprocessing specification computes, pixel by pixel, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from calibration import Preprocess
from diagnostics import DataError

PIXELS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))
LEVELS = st.tuples(*[st.floats(0.125, 4.0, width=32)] * 3)


def ramp(height: int, width: int) -> np.ndarray:
    return np.stack(np.broadcast_arrays(np.arange(height)[:, None], np.arange(width)[None, :], np.uint8(7)), axis=-1).astype(
        np.uint8
    )


@given(PIXELS, LEVELS, LEVELS, st.sampled_from(["1", "1/255"]))
def test_arithmetic_is_scale_then_mean_then_std_a_channel(pixels: np.ndarray, mean: tuple, std: tuple, scale: str) -> None:
    output = Preprocess(mean=mean, std=std, scale=scale, layout="NHWC").apply_image(pixels)
    exact = (pixels.astype(np.float64) / (255 if scale == "1/255" else 1) - np.array(mean)) / np.array(std)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, exact, rtol=1e-6, atol=1e-5)


@given(PIXELS)
def test_layout_and_color_permute_and_nothing_else(pixels: np.ndarray) -> None:
    plain = Preprocess(layout="NHWC").apply_image(pixels)
    np.testing.assert_array_equal(Preprocess().apply_image(pixels), plain.transpose(2, 0, 1))
    np.testing.assert_array_equal(Preprocess(layout="NHWC", color="BGR").apply_image(pixels), plain[:, :, ::-1])
    np.testing.assert_array_equal(Preprocess(scale="1", dtype="uint8", layout="NHWC").apply_image(pixels), pixels)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_the_shorter_side_gets_the_length_and_the_longer_one_is_rounded_down(height: int, width: int, side: int) -> None:
    output = Preprocess(resize=side).apply_image(np.zeros((height, width, 3), np.uint8))
    short = min(height, width)
    assert output.shape == (3, height * side // short, width * side // short)


def test_the_centre_is_cut_out() -> None:
    output = Preprocess(crop=(2, 4), scale="1", layout="NHWC").apply_image(ramp(6, 8))
    np.testing.assert_array_equal(output[:, 0, 0], [2, 3])
    np.testing.assert_array_equal(output[0, :, 1], [2, 3, 4, 5])


def test_letterbox_keeps_the_aspect_and_fills_the_rest() -> None:
    pixels = np.full((10, 20, 3), 200, np.uint8)
    output = Preprocess(resize=(20, 20), letterbox=True, fill=114, scale="1").apply_image(pixels)
    assert output.shape == (3, 20, 20)
    assert (output[:, 5:15] == 200).all()
    assert (output[:, :5] == 114).all()
    assert (output[:, 15:] == 114).all()


def test_shrinking_is_antialiased_but_for_nearest() -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    for interpolation in ("bilinear", "bicubic"):
        output = Preprocess(resize=(4, 4), interpolation=interpolation).apply_image(stripes)
        assert np.abs(output[:, :, 1:3] - 0.5).max() < 0.1
    assert set(np.unique(Preprocess(resize=(4, 4), interpolation="nearest").apply_image(stripes))) <= {0.0, 1.0}


def test_gray_is_one_channel_and_gray_pixels_become_three() -> None:
    assert Preprocess(color="GRAY").apply_image(ramp(3, 4)).shape == (1, 3, 4)
    assert Preprocess().apply_image(np.zeros((3, 4), np.uint8)).shape == (3, 3, 4)
    assert Preprocess().apply_image(np.zeros((3, 4, 1), np.uint8)).shape == (3, 3, 4)
    assert Preprocess().apply_image(Image.new("RGBA", (4, 3), (1, 2, 3, 0))).shape == (3, 3, 4)


@pytest.mark.parametrize(
    ("shape", "layout", "color", "output"),
    [
        ((1, 3, 24, 32), "NCHW", "RGB", (3, 24, 32)),
        ((1, 24, 32, 3), "NHWC", "RGB", (24, 32, 3)),
        ((1, 1, 28, 28), "NCHW", "GRAY", (1, 28, 28)),
    ],
)
def test_default_makes_any_image_fit_the_input(shape: tuple, layout: str, color: str, output: tuple) -> None:
    preprocess = Preprocess.default(shape)
    assert (preprocess.layout, preprocess.color) == (layout, color)
    for size in ((50, 90), (90, 50), (7, 7)):
        image = preprocess.apply_image(np.full((*size, 3), 255, np.uint8))
        assert image.shape == output
        assert image.max() == 1.0


def test_default_of_a_uint8_input_keeps_the_pixels_and_an_input_that_is_no_image_is_refused() -> None:
    assert Preprocess.default((1, 3, 8, 8), "uint8").apply_image(ramp(8, 8)).dtype == np.uint8
    with pytest.raises(DataError) as caught:
        Preprocess.default((1, 40, 3))
    assert caught.value.code == "EW-D005"


def test_plain_data_and_files_read_back_equal(tmp_path: Path) -> None:
    spec = Preprocess.from_dict(
        {"resize": [48, 64], "letterbox": True, "mean": [1, 2.5, 3], "std": 58.0, "scale": "1", "audio": {"sample_rate": 16000}}
    )
    assert Preprocess.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert hash(spec) == hash(Preprocess.from_dict(spec.to_dict()))
    as_json, as_toml = tmp_path / "p.json", tmp_path / "p.toml"
    as_json.write_text(json.dumps(spec.to_dict()))
    as_toml.write_text(
        'resize = [48, 64]\nletterbox = true\nmean = [1, 2.5, 3]\nstd = 58.0\nscale = "1"\n[audio]\nsample_rate = 16000\n'
    )
    assert Preprocess.from_file(as_json) == Preprocess.from_file(as_toml) == spec


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"color": "RBG"}, ["color", "'RGB', 'BGR' or 'GRAY'", "'RBG'"]),
        ({"meen": 1.0}, ["meen", "did you mean mean?", "letterbox"]),
        ({"audio": {"sample_rte": 1}}, ["audio.sample_rte", "did you mean sample_rate?"]),
        ({"mean": [1.0, 2.0]}, ["mean", "2 numbers for 3 channels"]),
        ({"std": 0.0}, ["std", "above 0"]),
        ({"std": float("nan")}, ["std", "finite"]),
        ({"letterbox": True, "resize": 5}, ["letterbox", "[height, width]"]),
        ({"dtype": "uint8"}, ["dtype", "uint8 needs"]),
        ({"crop": 10, "resize": 8}, ["crop", "more than resize leaves"]),
        ({"resize": -1}, ["resize", "greater than 0", "-1"]),
        ({"resize": "224"}, ["resize", "integer", "'224'"]),
        ({"scale": 255}, ["scale", "'1' or '1/255'"]),
    ],
)
def test_a_wrong_key_is_named_with_what_it_may_be(data: dict, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        Preprocess.from_dict(data, "spec.toml")
    assert caught.value.code == "EW-D005"
    assert caught.value.where == "spec.toml"
    for word in words:
        assert word in caught.value.what


@pytest.mark.parametrize(("name", "text"), [("p.toml", "color = "), ("p.json", "{"), ("p.json", "[1]"), ("p.toml", None)])
def test_a_file_that_is_absent_or_no_table_is_refused(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        Preprocess.from_file(tmp_path / name)
    assert caught.value.code == "EW-D005"
    assert name in caught.value.what


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4), np.uint8), np.zeros(4, np.uint8), Image.new("I;16", (4, 4))]
)
def test_what_is_no_8_bit_image_is_refused(image: object) -> None:
    with pytest.raises(DataError) as caught:
        Preprocess().apply_image(image)
    assert caught.value.code == "EW-D003"


def test_an_image_smaller_than_the_crop_is_refused_with_both_sizes() -> None:
    with pytest.raises(DataError, match="4 x 9 is smaller than the crop of 8 x 8") as caught:
        Preprocess(crop=8).apply_image(ramp(4, 9))
    assert caught.value.code == "EW-D003"
