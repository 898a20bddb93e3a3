"""Photos with more pixels than the detector looks at: decoded small where that is enough."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from deepfake.checkpoint import Checkpoint
from deepfake.images import decode, full_size
from deepfake.pipeline import CROP_SIDE, Pipeline
from tests.unit.judged import verdict_of

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture(scope="module")
def pipeline(make_checkpoint: MakeCheckpoint) -> Pipeline:
    return Pipeline(make_checkpoint(), runtime="torch")


def saved(image: Image.Image, kind: str = "JPEG", orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=95, exif=exif)
    return buffer.getvalue()


def on_a_wall(portrait: Image.Image, side: int, size: tuple[int, int]) -> Image.Image:
    """The portrait, so many pixels wide, in the middle of a larger grey picture."""
    wall = Image.new("RGB", size, (120, 120, 110))
    small = portrait.resize((side, side), Image.Resampling.LANCZOS)
    wall.paste(small, ((size[0] - side) // 2, (size[1] - side) // 2))
    return wall


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((4000, 3000), (1000, 750)),
        ((3000, 4032), (750, 1008)),
        ((1999, 900), (1999, 900)),
        ((8001, 2001), (1001, 251)),
    ],
)
def test_a_jpeg_is_decoded_no_smaller_than_asked_for(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image = decode(saved(Image.new("RGB", size)), least_side=1000)
    assert image.size == expected
    assert full_size(image) == size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_photo_is_turned_as_the_whole_one(
    astronaut: Image.Image, orientation: int
) -> None:
    blob = saved(astronaut.resize((2200, 1400)), orientation=orientation)
    whole, reduced = decode(blob), decode(blob, least_side=500)
    assert full_size(reduced) == full_size(whole) == whole.size
    assert max(reduced.size) == 550
    small = np.asarray(whole.resize(reduced.size, Image.Resampling.BOX), dtype=float)
    assert np.abs(small - np.asarray(reduced, dtype=float)).mean() < 3


def test_only_jpegs_are_reduced() -> None:
    image = decode(saved(Image.new("RGB", (2200, 1400)), "PNG"), least_side=500)
    assert image.size == (2200, 1400)


def test_what_a_file_says_of_itself_ends_with_decoding(astronaut: Image.Image) -> None:
    buffer = io.BytesIO()
    astronaut.save(buffer, "PNG", icc_profile=b"a profile", dpi=(300, 300))
    assert set(decode(buffer.getvalue()).info) == {"deepfake full size"}


def test_a_part_of_a_decoded_photo_is_a_photo_of_its_own(
    pipeline: Pipeline, astronaut: Image.Image
) -> None:
    """Pillow hands on what a picture says of itself when it is cut or resized."""
    photo = decode(saved(astronaut, "PNG"))
    for part in (photo.resize((300, 300)), photo.crop((60, 0, 420, 360))):
        verdict = verdict_of(pipeline, part)
        assert (verdict.width, verdict.height) == part.size
        assert verdict.faces[0].face.box == pipeline.detector(part)[0].box


def test_boxes_are_in_pixels_of_the_photo_that_was_sent(
    pipeline: Pipeline, astronaut: Image.Image
) -> None:
    photo = on_a_wall(astronaut, 2000, (4001, 3001))
    verdict = verdict_of(pipeline, saved(photo))
    expected = verdict_of(pipeline, photo)  # not a file: nothing is reduced in decoding
    assert (verdict.width, verdict.height) == (4001, 3001)
    assert len(verdict.faces) == len(expected.faces) == 1
    mine, theirs = verdict.faces[0].face, expected.faces[0].face
    assert mine.box == pytest.approx(theirs.box, abs=25)  # of a face 700 pixels wide
    assert np.abs(np.array(mine.landmarks) - np.array(theirs.landmarks)).max() < 25


def test_a_small_face_is_cut_out_of_the_whole_photo(
    pipeline: Pipeline, astronaut: Image.Image
) -> None:
    """At a quarter of the size its crop would have 50 pixels; the network wants 64."""
    blob = saved(on_a_wall(astronaut, 420, (4000, 3000)))
    assert decode(blob, least_side=1000).size == (1000, 750)
    verdict = verdict_of(pipeline, blob)
    assert verdict.faces[0].crop.width >= 64
    whole = decode(blob)
    x, y = (round(v) for v in verdict.faces[0].face.box[:2])
    crop, around = verdict.faces[0].crop, whole.crop((x - 150, y - 150, x + 350, y + 350))
    assert found_in(crop, around)


def found_in(crop: Image.Image, image: Image.Image) -> bool:
    """Whether the crop is a part of the image, pixel for pixel."""
    wanted, there = np.asarray(crop), np.asarray(image)
    side = crop.width
    return any(
        np.array_equal(wanted, there[y : y + side, x : x + side])
        for y in range(there.shape[0] - side)
        for x in range(there.shape[1] - side)
        if np.array_equal(wanted[0, 0], there[y, x])
    )


def test_a_large_face_gets_nearly_the_probability_of_the_whole_photo(
    pipeline: Pipeline, astronaut: Image.Image
) -> None:
    photo = on_a_wall(astronaut, 2400, (4000, 3000))
    reduced, whole = verdict_of(pipeline, saved(photo)), verdict_of(pipeline, photo)
    assert reduced.faces[0].fake_probability == pytest.approx(
        whole.faces[0].fake_probability, abs=0.1
    )


def test_crops_of_large_faces_are_shown_reduced(pipeline: Pipeline, astronaut: Image.Image) -> None:
    shown = verdict_of(pipeline, astronaut.resize((2400, 2400))).faces[0].crop
    assert shown.size == (CROP_SIDE, CROP_SIDE)


def test_faces_that_fill_a_large_photo_are_found(
    pipeline: Pipeline, astronaut: Image.Image
) -> None:
    """Their copy is small, so that the border around it costs little."""
    face = verdict_of(pipeline, astronaut).faces[0].face
    left, top, right, bottom = (round(v) for v in face.box)
    filled = astronaut.crop((left + 8, top + 8, right - 8, bottom - 8)).resize((1500, 1900))
    verdict = verdict_of(pipeline, filled)
    box = verdict.faces[0].face.box
    assert (box[2] - box[0]) * (box[3] - box[1]) > 0.5 * 1500 * 1900


def test_a_strip_thinner_than_the_reduction_is_decoded() -> None:
    """JPEG's reduction is asked for as a size, which must not be nothing."""
    image = decode(saved(Image.new("RGB", (65000, 40), "grey")), least_side=800)
    assert image.width < 65000
    assert full_size(image) == (65000, 40)
