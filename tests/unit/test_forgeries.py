"""Fakes forged from real faces: what they change, what they leave alone, and who is used."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepfake.faces import Face, crop_square
from training.batches import TrainingCrops
from training.compositing import Points, membrane, similarity
from training.data import Sample, read_image
from training.forgeries import (
    Forger,
    face_swap,
    part_swap,
    self_blend,
    up_sampled,
)

Portrait = tuple[Image.Image, Points]
Swap = Callable[[Image.Image, Points, Image.Image, Points, np.random.Generator], Image.Image]


@pytest.fixture(scope="module")
def portraits(fake_faces: list[tuple[Image.Image, Face]]) -> list[Portrait]:
    """Crops of faces with their landmarks."""
    found = []
    for photo, face in fake_faces:
        x, y, side = crop_square(photo.size, face.box)
        crop = photo.crop((x, y, x + side, y + side))
        found.append((crop, np.array(face.landmarks) - (x, y)))
    return found


@pytest.fixture(scope="module")
def tight(portraits: list[Portrait]) -> Portrait:
    """A white crop of a face whose eyes are half of its width apart, as of some videos."""
    _, points = portraits[0]
    width = 2 * float(np.hypot(*(points[1] - points[0])))
    points = points - points.mean(axis=0) + width / 2
    return Image.new("RGB", (round(width), round(width)), (255, 255, 255)), points


def changed(before: Image.Image, after: Image.Image) -> NDArray[np.bool_]:
    """Where two pictures differ by more than a trace."""
    assert before.size == after.size
    assert after.mode == "RGB"
    difference = np.abs(np.asarray(before).astype(int) - np.asarray(after).astype(int))
    mask: NDArray[np.bool_] = difference.max(axis=2) > 6
    return mask


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_part_swap_changes_the_face_and_not_what_is_around_it(
    portraits: list[Portrait],
) -> None:
    for seed, (crop, points) in enumerate(portraits):
        donor, donor_points = portraits[(seed + 1) % len(portraits)]
        mask = changed(crop, part_swap(crop, points, donor, donor_points, random(seed)))
        middle, reach = points.mean(axis=0), 2.2 * np.hypot(*(points[1] - points[0]))
        rows, columns = np.nonzero(mask)
        assert 0.005 < mask.mean() < 0.5
        assert np.hypot(columns - middle[0], rows - middle[1]).max() < reach


def test_a_part_swap_brings_the_donors_part_to_its_place(portraits: list[Portrait]) -> None:
    """A donor of one colour shows where its parts end up: on the face's own landmarks."""
    crop, points = portraits[0]
    blue = Image.new("RGB", (300, 300), (0, 0, 255))
    elsewhere = points * 0.5 + 80
    places = set()
    for seed in range(40):
        mask = changed(crop, part_swap(crop, points, blue, elsewhere, random(seed)))
        near = [mask[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4] for x, y in points]
        places |= {i for i, patch in enumerate(near) if patch.mean() > 0.5}
    assert places == {0, 1, 2, 3, 4}


def test_a_face_swapped_with_itself_stays_as_it_is(portraits: list[Portrait]) -> None:
    """The landmarks are laid over one another exactly, and colours already match."""
    crop, points = portraits[0]
    for seed in range(10):
        assert changed(crop, part_swap(crop, points, crop, points, random(seed))).mean() < 0.001


def test_a_face_swap_brings_the_whole_face(portraits: list[Portrait]) -> None:
    """A donor of one colour covers all landmarks, and nothing outside the face."""
    crop, points = portraits[0]
    blue = Image.new("RGB", (300, 300), (0, 0, 255))
    middle, reach = points.mean(axis=0), 2.2 * np.hypot(*(points[1] - points[0]))
    for seed in range(10):
        mask = changed(crop, face_swap(crop, points, blue, points * 0.5 + 80, random(seed)))
        assert all(mask[round(y), round(x)] for x, y in points)
        rows, columns = np.nonzero(mask)
        assert np.hypot(columns - middle[0], rows - middle[1]).max() < reach


@pytest.mark.parametrize("swap", [face_swap, part_swap])
def test_a_swap_takes_nothing_from_outside_the_donor(portraits: list[Portrait], swap: Swap) -> None:
    """Of a donor whose crop ends below the eyes, only what there is: no black forehead."""
    crop, points = portraits[0]
    white = Image.new("RGB", crop.size, (255, 255, 255))
    top = round(points[:2, 1].max()) + 5
    donor = white.crop((0, top, *white.size))
    for seed in range(20):
        made = swap(white, points, donor, points - (0, top), random(seed))
        assert np.asarray(made).min() > 250


def test_a_self_blend_of_a_face_that_fills_its_crop_has_no_black_edge(
    tight: Portrait,
) -> None:
    """Where the shifted copy ends, the face below it stays."""
    white, points = tight
    for seed in range(40):
        # A recoloured copy is greyer by 15 % and 8 levels at most.
        assert np.asarray(self_blend(white, points, random(seed))).min() > 200


@pytest.mark.parametrize("swap", [face_swap, part_swap])
def test_nor_has_a_swap_of_such_faces(tight: Portrait, swap: Swap) -> None:
    white, points = tight
    turned = points + np.array([0.06, -0.05]) * white.width
    for seed in range(40):
        assert np.asarray(swap(white, points, white, turned, random(seed))).min() > 245


def test_between_what_is_known_the_membrane_is_even() -> None:
    """A plane is its own solution; a hole in it is filled as if it were not there."""
    y, x = np.mgrid[:40, :60].astype(np.float32)
    plane = np.stack([x, y, 2 * x - y], axis=2)
    known = np.hypot(x - 30, y - 20) > 12
    filled = membrane(np.where(known[..., None], plane, 99).astype(np.float32), known, rounds=50)
    assert np.abs(filled - plane).max() < 2
    np.testing.assert_array_equal(filled[known], plane[known])


def test_a_seamless_swap_leaves_no_step_in_colour(portraits: list[Portrait]) -> None:
    """A much darker copy of the face fits in without a step, in most forgeries."""
    crop, points = portraits[0]
    dark = crop.point(lambda v: v // 3)
    steps = []
    for seed in range(30):
        made = part_swap(crop, points, dark, points, random(seed))
        difference = np.asarray(crop.convert("L")).astype(float) - np.asarray(made.convert("L"))
        steps.append(np.abs(np.diff(difference, axis=1)).max())
    assert np.median(steps) < 45


@pytest.mark.parametrize("angle", [0, 0.4, -1.2, math.pi])
def test_landmarks_are_laid_over_one_another(angle: float) -> None:
    points = random(1).uniform(0, 200, (5, 2))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    moved = 1.7 * points @ turn.T + (30, -12)
    a, b, c, d, e, f = similarity(points, moved)
    found = points @ np.array([[a, d], [b, e]]) + (c, f)
    np.testing.assert_allclose(found, moved, atol=1e-9)


def test_a_self_blend_is_the_same_face_with_a_seam(portraits: list[Portrait]) -> None:
    """Inside or outside the seam the picture is another; it still looks alike as a whole."""
    for seed, (crop, points) in enumerate(portraits):
        blended = self_blend(crop, points, random(seed))
        assert changed(crop, blended).mean() > 0.01
        a, b = (np.asarray(i.convert("L")).astype(float).ravel() for i in (crop, blended))
        assert np.corrcoef(a, b)[0, 1] > 0.8


def test_an_up_sampling_leaves_a_pattern_of_two_or_four_pixels(portraits: list[Portrait]) -> None:
    """What was changed repeats every other or every fourth pixel; the picture stays as it is."""
    for seed, (crop, points) in enumerate(portraits):
        made = up_sampled(crop, points, random(seed))
        assert made.size == crop.size
        before, after = (np.asarray(i.convert("L")).astype(float) for i in (crop, made))
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.99
        side = min(crop.size) // 4 * 4
        strength = np.abs(np.fft.fft2((after - before)[:side, :side]))
        strength[0, 0] = 0
        quarter = side // 4
        peak = strength[::quarter, ::quarter].max()  # of periods of two and four pixels
        assert peak > 5 * np.median(strength)


def test_an_up_sampling_shifts_nothing() -> None:
    """What is left of its coarse part lies where it was, or its direction would tell."""
    across = np.broadcast_to(np.arange(0, 256, 4)[:, None], (64, 64, 3)).astype(np.uint8)
    points = np.array([[20, 24], [44, 24], [32, 34], [24, 46], [40, 46]], dtype=float)
    off = []
    for seed in range(30):
        made = up_sampled(Image.fromarray(across), points, random(seed))
        off.append((np.asarray(made).astype(float) - across)[12:-12, 12:-12].mean())
    assert abs(np.mean(off)) < 0.05


def test_the_same_generator_gives_the_same_forgery(portraits: list[Portrait]) -> None:
    (crop, points), (donor, donor_points) = portraits[:2]
    swaps = [part_swap(crop, points, donor, donor_points, random(s)).tobytes() for s in (1, 1, 2)]
    blends = [self_blend(crop, points, random(s)).tobytes() for s in (1, 1, 2)]
    patterns = [up_sampled(crop, points, random(seed)).tobytes() for seed in (1, 1, 2)]
    for first, again, other in (swaps, blends, patterns):
        assert first == again
        assert first != other


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), 40.0),  # all in one place
        np.array([[-30, -30], [300, -20], [150, 400], [-50, 500], [320, 520]], dtype=float),
        np.array([[60, 50], [61, 50], [60, 70], [60, 90], [61, 90]], dtype=float),  # a profile
    ],
)
def test_odd_landmarks_still_give_a_picture(portraits: list[Portrait], points: Points) -> None:
    donor, donor_points = portraits[1]
    crop = portraits[0][0].resize((100, 100))
    for seed in range(10):
        assert part_swap(crop, points, donor, donor_points, random(seed)).size == (100, 100)
        assert part_swap(donor, donor_points, crop, points, random(seed)).size == donor.size
        assert face_swap(crop, points, donor, donor_points, random(seed)).size == (100, 100)
        assert face_swap(donor, donor_points, crop, points, random(seed)).size == donor.size
        assert self_blend(crop, points, random(seed)).size == (100, 100)
        assert up_sampled(crop, points, random(seed)).size == (100, 100)


@pytest.fixture
def samples(portraits: list[Portrait], tmp_path: Path) -> list[Sample]:
    """Two reals of a, one real without landmarks and one fake of b."""
    made = []
    for i, (label, source, known) in enumerate(
        [(0, "a", True), (0, "a", True), (0, "b", False), (1, "b", True)]
    ):
        crop, points = portraits[i]
        path = tmp_path / f"{i}.png"
        crop.save(path)
        landmarks = tuple(points.ravel().tolist()) if known else ()
        made.append(Sample(path, path.name, label, source, group=path.name, landmarks=landmarks))
    return made


def test_only_reals_with_landmarks_are_forged(samples: list[Sample]) -> None:
    forger = Forger(samples)
    sizes = {read_image(s.path).size for s in samples[:2]}
    for seed in range(10):
        made = forger.make("a", random(seed))
        assert made is not None
        assert made.size in sizes
    assert forger.make("b", random(0)) is None
    assert forger.make("unknown", random(0)) is None


def test_a_given_face_is_forged(samples: list[Sample]) -> None:
    """The pattern leaves a face nearly as it was, so one sees whose it is."""
    forger = Forger(samples, ["up-sampling"])
    for seed in range(6):
        wanted, other = samples[seed % 2], samples[1 - seed % 2]
        made = forger.make("a", random(seed), wanted)
        assert made is not None
        assert distance(made, wanted) < distance(made, other)
    for unknown in samples[2:]:  # without landmarks, and of another source: any is forged
        assert forger.make("a", random(0), unknown) is not None


def distance(made: Image.Image, sample: Sample) -> float:
    """Mean difference from a face, in levels, at one size."""
    one, other = (np.asarray(i.resize((64, 64)), float) for i in (made, read_image(sample.path)))
    return float(np.abs(one - other).mean())


def test_a_pair_is_a_face_and_its_forgery_augmented_alike(samples: list[Sample]) -> None:
    fake = replace(samples[3], source="a")
    crops = [fake, samples[0], fake, samples[1]]

    def apart(pairs: bool, forged: float) -> list[float]:
        """How far the two of each pair are from one another, over some epochs."""
        forger = Forger(samples, ["up-sampling"])
        rows = []
        for epoch in range(8):
            made = TrainingCrops(crops, 64, (0, epoch), forger, forged, 0.5, pairs)
            pixels = [made[i][0].float() for i in range(4)]
            rows += [float((pixels[i] - pixels[i + 1]).abs().mean()) for i in (0, 2)]
            assert [made[i][1] for i in range(4)] == [1, 0, 1, 0]
        return rows

    assert max(apart(pairs=True, forged=1)) < 12  # levels of 255
    assert np.mean(apart(pairs=True, forged=0)) > 24
    assert np.mean(apart(pairs=False, forged=1)) > 24


def test_only_the_chosen_kinds_are_made(samples: list[Sample]) -> None:
    """The pattern alone leaves a face nearly as it was; swaps and blends do not."""
    faces = [np.asarray(read_image(s.path)).astype(float) for s in samples[:2]]

    def distance(made: Image.Image | None) -> float:
        assert made is not None
        pixels = np.asarray(made).astype(float)
        return min(np.abs(pixels - face).mean() for face in faces if face.shape == pixels.shape)

    pattern = [distance(Forger(samples, ["up-sampling"]).make("a", random(s))) for s in range(8)]
    blends = [distance(Forger(samples, ["self-blend"]).make("a", random(s))) for s in range(8)]
    assert 0 < np.mean(pattern) < np.mean(blends)


def test_a_donor_looks_the_same_way(tmp_path: Path) -> None:
    """Of faces turned left and right, and a mirror image counts: its picture is mirrored too."""
    ahead = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], dtype=float)
    left, right = (ahead + np.array([0, 0, turn, 0, 0])[:, None] * (1, 0) for turn in (-18, 18))
    half_red = Image.new("RGB", (100, 100))
    half_red.paste((255, 0, 0), (0, 0, 50, 100))
    made = []
    for i, points in enumerate([right, *[ahead] * 6, left]):
        path = tmp_path / f"{i}.png"
        half_red.save(path)
        landmarks = tuple(points.ravel().tolist())
        made.append(Sample(path, path.name, 0, "a", group=path.name, landmarks=landmarks))
    forger = Forger(made)
    for seed in range(10):
        donor, points = forger._donor("a", 0, half_red, random(seed))
        turned = bool(np.allclose(points, right))
        assert turned or np.allclose(points, ahead)
        assert (donor.getpixel((10, 10)) == (0, 0, 0)) is turned  # mirrored with its landmarks


def test_a_donor_is_no_other_frame_of_the_same_video(tmp_path: Path) -> None:
    """It would fit best of all, and what comes of it would hardly be a fake."""
    points = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], dtype=float)
    made = []
    for i, (group, turn) in enumerate([("video", 0), ("video", 0), ("video", 1), ("else", 20)]):
        Image.new("RGB", (100, 100)).save(tmp_path / f"{i}.png")
        landmarks = tuple((points + np.array([0, 0, turn, 0, 0])[:, None] * (1, 0)).ravel())
        path = tmp_path / f"{i}.png"
        made.append(Sample(path, path.name, 0, "a", group=group, landmarks=landmarks))
    black = Image.new("RGB", (100, 100))
    for seed in range(10):
        _, found = Forger(made)._donor("a", 0, black, random(seed))
        assert abs(found[2, 0] - 50) == pytest.approx(20)


def test_a_video_by_itself_has_no_donor_for_a_swap(samples: list[Sample]) -> None:
    """A swap with itself would be the real photo, called a fake."""
    frames = [replace(s, group="video") for s in samples[:2]]
    faces = [np.asarray(read_image(s.path)) for s in frames]
    for seed in range(10):
        made = Forger(frames).make("a", random(seed))
        assert made is not None
        pixels = np.asarray(made)
        assert all(f.shape != pixels.shape or np.abs(f - pixels).max() > 1 for f in faces)
        assert Forger(frames, ["part-swap", "face-swap"]).make("a", random(seed)) is None
