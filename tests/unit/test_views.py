"""The three test-time views: what they are, and that they can be repeated."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from deepfake.faces import Face
from deepfake.views import VIEWS, Pixels, make_views, to_pixels


@pytest.fixture(scope="module")
def pixels(fake_faces: list[tuple[Image.Image, Face]]) -> Pixels:
    return np.stack([to_pixels(photo, 96) for photo, _ in fake_faces[:3]])


def test_a_crop_becomes_pixels_in_rgb_order() -> None:
    crop = Image.new("RGB", (300, 300), (10, 120, 250))
    pixels = to_pixels(crop, 224)
    assert (pixels.shape, pixels.dtype) == ((3, 224, 224), np.uint8)
    assert [np.unique(channel).tolist() for channel in pixels] == [[10], [120], [250]]


def test_rows_stay_rows() -> None:
    crop = Image.new("RGB", (40, 40), "black")
    crop.paste("white", (0, 0, 40, 20))
    pixels = to_pixels(crop, 20)
    assert int(pixels[:, :9].min()) > 240
    assert int(pixels[:, 11:].max()) < 15


def test_reduction_does_not_alias() -> None:
    """Stripes of one pixel become an even grey, not stripes of another width."""
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    pixels = to_pixels(Image.fromarray(stripes), 100)[:, 5:-5, 5:-5]
    assert pixels.std() < 5
    assert abs(float(pixels.mean()) - 127.5) < 2


def test_there_are_three_views_of_each_crop(pixels: Pixels) -> None:
    views = make_views(pixels)
    assert VIEWS == ("original", "flip", "jitter")
    assert (views.shape, views.dtype) == ((3, 3, 3, 96, 96), np.uint8)
    np.testing.assert_array_equal(views[:, 0], pixels)


def test_flip_is_the_mirror_image(pixels: Pixels) -> None:
    mirrored = pixels[..., ::-1]
    np.testing.assert_array_equal(make_views(pixels)[:, 1], mirrored)
    assert not np.array_equal(mirrored, pixels)


def test_the_same_crop_gives_the_same_views_every_time(pixels: Pixels) -> None:
    np.random.seed(1)
    before = make_views(pixels)
    np.random.seed(2)
    alone = np.concatenate([make_views(crop[None]) for crop in pixels])
    np.testing.assert_array_equal(before, make_views(pixels))
    np.testing.assert_array_equal(before, alone)


def test_jitter_shifts_the_colours_a_little(pixels: Pixels) -> None:
    jitter = make_views(pixels)[:, 2]
    difference = np.abs(jitter.astype(float) - pixels).mean(axis=(1, 2, 3))
    assert (difference > 1).all()
    assert (difference < 26).all()  # a tenth of the range
    for before, after in zip(pixels, jitter, strict=True):
        assert np.corrcoef(before.flatten(), after.flatten())[0, 1] > 0.95


def test_jitter_is_near_what_torchvision_does_step_by_step(pixels: Pixels) -> None:
    """Which turns hues in HSV, keeping the largest channel instead of the brightness."""
    x = functional.adjust_brightness(torch.from_numpy(pixels), 1.1)
    x = functional.adjust_contrast(x, 1.1)
    x = functional.adjust_saturation(x, 0.9)
    expected = functional.adjust_hue(x, 0.02).numpy().astype(float)
    gap = np.abs(make_views(pixels)[:, 2] - expected).mean()
    assert gap < 0.3 * np.abs(pixels - expected).mean()


def test_jitter_of_a_grey_picture_is_grey_and_brighter() -> None:
    grey = np.full((1, 3, 8, 8), 100, dtype=np.uint8)
    assert np.unique(make_views(grey)[0, 2]).tolist() == [110]


def test_jitter_turns_hues_and_keeps_the_brightness_of_colours() -> None:
    colours = np.array([[160, 90, 90], [90, 160, 90], [90, 90, 160]], dtype=np.uint8)
    picture = colours.T.reshape(1, 3, 3, 1)
    before, after = (v[:, :, 0] / 255 for v in (picture[0], make_views(picture)[0, 2]))
    weights = np.array([0.299, 0.587, 0.114])
    mean = 1.1 * (weights @ before).mean()
    expected = mean + 1.1 * (1.1 * weights @ before - mean)
    np.testing.assert_allclose(weights @ after, expected, atol=0.003)
    for old, new in zip(before.T, after.T, strict=True):
        turned = (colorsys.rgb_to_hsv(*new)[0] - colorsys.rgb_to_hsv(*old)[0] + 0.5) % 1 - 0.5
        assert 0.005 < turned < 0.035
