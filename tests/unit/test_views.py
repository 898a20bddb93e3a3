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

PARTS = {"original": 1.0, "flip": 0.9, "jitter": 0.95}


@pytest.fixture(scope="module")
def photos(fake_faces: list[tuple[Image.Image, Face]]) -> list[Image.Image]:
    return [photo for photo, _ in fake_faces[:3]]


def views_of(photos: list[Image.Image], view: str) -> tuple[Pixels, Pixels]:
    """(N, 3, 96, 96): the views, and what they were made of."""
    views = np.stack([make_views(photo, 96)[VIEWS.index(view)] for photo in photos])
    return views, np.stack([to_pixels(photo, 96, PARTS[view]) for photo in photos])


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


def test_of_a_part_the_middle_is_seen() -> None:
    crop = Image.new("RGB", (100, 100), "black")
    crop.paste("white", (20, 20, 80, 80))
    assert int(to_pixels(crop, 40, 0.6)[:, 1:-1, 1:-1].min()) == 255
    wider = to_pixels(crop, 40, 0.75)
    assert int(wider[:, [0, 0, -1, -1], [0, -1, 0, -1]].max()) == 0
    np.testing.assert_array_equal(wider, wider[:, ::-1, ::-1])


def test_there_are_three_views_of_each_crop(photos: list[Image.Image]) -> None:
    views = make_views(photos[0], 96)
    assert VIEWS == ("original", "flip", "jitter")
    assert (views.shape, views.dtype) == ((3, 3, 96, 96), np.uint8)
    np.testing.assert_array_equal(views[0], to_pixels(photos[0], 96))


def test_flip_is_the_mirror_image_of_the_middle(photos: list[Image.Image]) -> None:
    flipped, of_it = views_of(photos, "flip")
    np.testing.assert_array_equal(flipped, of_it[..., ::-1])
    assert not np.array_equal(flipped, of_it)
    assert not np.array_equal(of_it[0], to_pixels(photos[0], 96))


def test_the_same_crop_gives_the_same_views_every_time(photos: list[Image.Image]) -> None:
    np.random.seed(1)
    before = make_views(photos[0], 96)
    np.random.seed(2)
    np.testing.assert_array_equal(before, make_views(photos[0], 96))


def test_jitter_shifts_the_colours_a_little(photos: list[Image.Image]) -> None:
    jitter, pixels = views_of(photos, "jitter")
    difference = np.abs(jitter.astype(float) - pixels).mean(axis=(1, 2, 3))
    assert (difference > 1).all()
    assert (difference < 26).all()  # a tenth of the range
    for before, after in zip(pixels, jitter, strict=True):
        assert np.corrcoef(before.flatten(), after.flatten())[0, 1] > 0.95


def test_jitter_is_near_what_torchvision_does_step_by_step(photos: list[Image.Image]) -> None:
    """Which turns hues in HSV, keeping the largest channel instead of the brightness."""
    jitter, pixels = views_of(photos, "jitter")
    x = functional.adjust_brightness(torch.from_numpy(pixels), 1.05)
    x = functional.adjust_contrast(x, 1.05)
    x = functional.adjust_saturation(x, 0.95)
    expected = functional.adjust_hue(x, 0.01).numpy().astype(float)
    gap = np.abs(jitter - expected).mean()
    assert gap < 0.3 * np.abs(pixels - expected).mean()


def test_jitter_of_a_grey_picture_is_grey_and_brighter() -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    assert np.unique(make_views(grey, 8)[2]).tolist() == [105]


def test_jitter_turns_hues_and_keeps_the_brightness_of_colours() -> None:
    """Up to the contrast: brightness is moved away from its mean."""
    stripes = Image.new("RGB", (90, 90))
    for i, colour in enumerate([(160, 90, 90), (90, 160, 90), (90, 90, 160)]):
        stripes.paste(colour, (30 * i, 0, 30 * (i + 1), 90))
    before, after = (v[0][:, 48] / 255 for v in reversed(views_of([stripes], "jitter")))
    weights = np.array([0.299, 0.587, 0.114])
    mean = 1.05 * (weights @ before).mean()
    expected = mean + 1.05 * (1.05 * weights @ before - mean)
    np.testing.assert_allclose(weights @ after, expected, atol=0.003)
    for old, new in zip(before.T[[10, 48, 85]], after.T[[10, 48, 85]], strict=True):
        turned = (colorsys.rgb_to_hsv(*new)[0] - colorsys.rgb_to_hsv(*old)[0] + 0.5) % 1 - 0.5
        assert 0.0025 < turned < 0.0175
