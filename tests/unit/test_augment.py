"""Augmentation: repeatable, varied, and no more than pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from deepfake.faces import Face, crop_face
from training.augment import _erase, _smooth, augment


def draw(crop: Image.Image, seed: object, size: int = 64) -> torch.Tensor:
    return augment(crop, size, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def crop(fake_faces: list[tuple[Image.Image, Face]]) -> Image.Image:
    return fake_faces[0][0]


@pytest.mark.parametrize("crop_side", [16, 50, 250, 600])
@pytest.mark.parametrize("size", [32, 224])
def test_any_crop_becomes_pixels_of_the_wanted_size(
    crop: Image.Image, crop_side: int, size: int
) -> None:
    resized = crop.resize((crop_side, crop_side))
    for seed in range(20):
        pixels = draw(resized, seed, size)
        assert (pixels.shape, pixels.dtype) == ((3, size, size), torch.uint8)


def test_the_same_generator_gives_the_same_picture(crop: Image.Image) -> None:
    torch.manual_seed(1)
    before = [draw(crop, (3, epoch, 5)) for epoch in range(20)]
    torch.manual_seed(2)  # no other source of chance is used
    np.random.seed(2)
    for epoch, pixels in enumerate(before):
        assert torch.equal(pixels, draw(crop, (3, epoch, 5)))


def test_other_generators_give_other_pictures(crop: Image.Image) -> None:
    pictures = {draw(crop, seed).numpy().tobytes() for seed in range(50)}
    assert len(pictures) == 50


def test_the_crop_itself_is_left_as_it_is(crop: Image.Image) -> None:
    before = crop.tobytes()
    for seed in range(20):
        draw(crop, seed)
    assert crop.tobytes() == before


def test_lightly_augmented_crops_keep_their_finest_detail() -> None:
    """A pattern of single pixels survives framing, and is lost to blur and JPEG now and then."""
    fine = np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8)
    crop = Image.fromarray(np.repeat(fine, 3, axis=2))

    def detail(light: float) -> list[float]:
        drawn = [augment(crop, 64, np.random.default_rng(s), light).float() for s in range(60)]
        return sorted(float(p.diff(dim=2).abs().mean()) for p in drawn)

    light, heavy = detail(1.0), detail(0.0)
    assert light[0] > 2 * heavy[3]
    assert np.median(light) > np.median(heavy)
    mixed = detail(0.5)
    assert light[0] > 2 * mixed[0]
    assert np.median(heavy) < np.median(mixed) < np.median(light)


def test_every_kind_of_change_is_among_the_pictures(crop: Image.Image) -> None:
    """Half are mirrored; some are turned grey; brightness goes both ways; some lose detail."""
    plain = np.asarray(crop.resize((64, 64))).astype(float).transpose(2, 0, 1)
    drawn = np.array([draw(crop, seed).numpy() for seed in range(250)]).astype(float)

    def like(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

    mirrored = np.mean([like(p, plain[..., ::-1]) > like(p, plain) for p in drawn])
    assert 0.35 < mirrored < 0.65
    grey = np.mean([np.ptp(p, axis=0).mean() < 2 for p in drawn])
    assert 0.01 < grey < 0.15
    light = drawn.mean(axis=(1, 2, 3)) / plain.mean()
    assert np.percentile(light, 5) < 0.95
    assert np.percentile(light, 95) > 1.05
    detail = np.abs(np.diff(drawn, axis=-1)).mean(axis=(1, 2, 3))
    assert np.percentile(detail, 90) > 1.5 * np.percentile(detail, 10)


def test_a_face_stays_the_one_it_was(fake_faces: list[tuple[Image.Image, Face]]) -> None:
    """Of four faces, a picture is most like the one it was made from, mirrored or not."""

    def small(image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("L").resize((24, 24))).astype(float)

    crops = [crop_face(photo, face.box) for photo, face in fake_faces[:4]]
    plain = [small(crop) for crop in crops]
    right = []
    for n, crop in enumerate(crops):
        for seed in range(40):
            picture = small(Image.fromarray(draw(crop, seed).permute(1, 2, 0).numpy()))
            likeness = [
                max(np.corrcoef(picture.ravel(), p.ravel())[0, 1] for p in (face, face[:, ::-1]))
                for face in plain
            ]
            right.append(int(np.argmax(likeness)) == n)
    assert np.mean(right) > 0.75


def corners_darker_than_edges(light: float) -> np.ndarray:
    """Of white pictures, how much darker the darkest corner is than the middle of the edges."""
    white, found = Image.new("RGB", (200, 200), "white"), []
    for seed in range(300):
        pixels = augment(white, 64, np.random.default_rng(seed), light).float().mean(dim=0)
        corners, edges = pixels[::63, ::63], torch.stack([pixels[::63, 32], pixels[32, ::63]])
        found.append(float(edges.median() - corners.min()))
    return np.array(found)


def test_some_pictures_keep_the_corners_that_turning_gave_them() -> None:
    """Photos turned by hand have black ones: where no real picture does, they would tell fakes."""
    assert 0.03 < np.mean(corners_darker_than_edges(0.0) > 120) < 0.3
    assert np.mean(corners_darker_than_edges(1.0) > 180) == 0


@pytest.mark.parametrize("light", [0.0, 1.0])
def test_some_pictures_are_darker_towards_their_corners(light: float) -> None:
    darker = corners_darker_than_edges(light)
    assert 0.1 < np.mean((darker > 10) & (darker < 180)) < 0.3  # without, pages make 0.06
    assert np.mean(darker < 1) > 0.5


def test_every_row_and_column_can_be_erased() -> None:
    erased = torch.zeros(3, 32, 32, dtype=torch.uint8)
    for seed in range(1000):
        erased |= _erase(torch.zeros_like(erased), np.random.default_rng(seed))
    assert erased.amax(dim=(0, 1)).all()
    assert erased.amax(dim=(0, 2)).all()


def test_some_pictures_lose_texture_and_keep_edges() -> None:
    """As phones make skin fine. Half of the picture is textured, half is not, with an edge."""
    values = np.full((100, 100, 3), 60.0)
    values[:, :50] = 180 + np.random.default_rng(0).normal(0, 6, (100, 50, 1))
    crop = Image.fromarray(values.astype(np.uint8))
    fine = [np.asarray(_smooth(crop, np.random.default_rng(seed))) for seed in range(200)]
    texture = np.array([p[:, 5:45, 0].std() for p in fine])
    edge = np.array([p[:, 48, 0].mean() - p[:, 51, 0].mean() for p in fine], dtype=float)
    assert 0.04 < np.mean(texture < 0.7 * texture.max()) < 0.2
    assert (edge > 100).all()


def test_some_pictures_lie_on_a_page_but_for_lightly_augmented_ones() -> None:
    """A white picture then has an edge of another colour, sharp where it ends."""
    white = Image.new("RGB", (200, 200), "white")

    def on_a_page(light: float) -> float:
        found = []
        for seed in range(200):
            pixels = augment(white, 64, np.random.default_rng(seed), light).float().mean(dim=0)
            profiles = (pixels.median(dim=0).values, pixels.median(dim=1).values)
            found.append(any(float(p.diff().abs().max()) > 25 for p in profiles))
        return float(np.mean(found))

    assert 0.12 < on_a_page(0.0) < 0.4  # without pages, corners of turned ones make 0.05
    assert on_a_page(1.0) == 0


@pytest.mark.parametrize("light", [0.0, 1.0])
def test_colours_are_graded_now_and_then(light: float) -> None:
    """A grey picture gets a tint."""
    grey = Image.new("RGB", (100, 100), (120, 120, 120))
    tints = []
    for seed in range(200):
        pixels = augment(grey, 64, np.random.default_rng(seed), light).float()
        tints.append(float(np.ptp(pixels.flatten(1).median(dim=1).values.numpy())))
    assert 0.2 < np.mean(np.array(tints) > 8) < 0.6


def test_photos_are_sharpened_now_and_then() -> None:
    """A soft edge between two greys then gets a darker and a lighter rim."""
    soft = Image.new("L", (100, 100), 90)
    soft.paste(170, (50, 0, 100, 100))
    soft = soft.filter(ImageFilter.GaussianBlur(0.5)).convert("RGB")
    rims = []
    for seed in range(200):
        pixels = augment(soft, 100, np.random.default_rng(seed), light=1.0).float().mean(dim=0)
        row = pixels.median(dim=0).values
        low, high = row.quantile(0.25), row.quantile(0.75)  # the two greys, in whichever light
        rims.append(float(max(low - row.min(), row.max() - high) / (high - low)))
    assert 0.1 < np.mean(np.array(rims) > 0.1) < 0.3
