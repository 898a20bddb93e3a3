"""The square around a face, and that the detector finds the faces there are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deepfake.faces import Face, FaceDetector, crop_face
from tests.conftest import montage

Box = tuple[float, float, float, float]


def numbered(width: int, height: int) -> Image.Image:
    """An image whose pixels say where they are: red is the column, green the row."""
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[..., 0] = np.arange(width)
    values[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(values)


def place(crop: Image.Image) -> tuple[int, int]:
    """Where the crop of a numbered image begins, after checking that it is one cut."""
    values = np.asarray(crop).astype(int)
    x, y = values[0, 0, :2]
    np.testing.assert_array_equal(
        values[..., 0], np.broadcast_to(x + np.arange(crop.width), crop.size[::-1])
    )
    np.testing.assert_array_equal(
        values[..., 1].T, np.broadcast_to(y + np.arange(crop.height), crop.size)
    )
    return int(x), int(y)


def random_boxes(width: int, height: int, count: int = 200) -> list[Box]:
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(count):
        left, right = np.sort(rng.uniform(0, width, 2))
        top, bottom = np.sort(rng.uniform(0, height, 2))
        boxes.append((float(left), float(top), float(right), float(bottom)))
    return boxes


@pytest.mark.parametrize("size", [(200, 120), (120, 200), (150, 150)])
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
def test_any_crop_is_a_square_of_the_right_size_inside_the_photo(
    size: tuple[int, int], margin: float
) -> None:
    image = numbered(*size)
    for left, top, right, bottom in random_boxes(*size):
        crop = crop_face(image, (left, top, right, bottom), margin)
        assert crop.width == crop.height
        wanted = (1 + 2 * margin) * max(right - left, bottom - top)
        assert abs(crop.width - min(wanted, *size)) <= 1  # to the nearest pixel, at least one
        x, y = place(crop)
        assert x + crop.width <= size[0]
        assert y + crop.height <= size[1]
        # As near to the box's centre as the photo allows.
        for start, middle, extent in (
            (x, (left + right) / 2, size[0]),
            (y, (top + bottom) / 2, size[1]),
        ):
            nearest = np.clip(middle - crop.width / 2, 0, extent - crop.width)
            assert abs(start - nearest) <= 1


def test_crop_adds_the_margin_on_every_side() -> None:
    crop = crop_face(numbered(200, 200), (80, 70, 120, 110), margin=0.25)
    assert crop.size == (60, 60)
    assert place(crop) == (70, 60)


def test_crop_of_a_tall_box_is_as_wide_as_it_is_high() -> None:
    crop = crop_face(numbered(200, 200), (90, 60, 110, 140), margin=0.0)
    assert crop.size == (80, 80)
    assert place(crop) == (60, 60)


@pytest.mark.parametrize(
    ("box", "corner"),
    [
        ((0, 0, 40, 40), (0, 0)),
        ((160, 0, 200, 40), (144, 0)),
        ((0, 80, 40, 120), (0, 64)),
        ((160, 80, 200, 120), (144, 64)),
    ],
)
def test_crop_at_a_border_is_moved_and_keeps_its_size(box: Box, corner: tuple[int, int]) -> None:
    crop = crop_face(numbered(200, 120), box, margin=0.2)
    assert crop.size == (56, 56)
    assert place(crop) == corner


def test_crop_larger_than_the_photo_is_made_smaller() -> None:
    crop = crop_face(numbered(200, 120), (60, 5, 160, 115), margin=0.5)
    assert crop.size == (120, 120)
    assert place(crop) == (50, 0)


def test_a_portrait_has_its_one_face(detector: FaceDetector, astronaut: Image.Image) -> None:
    faces = detector(astronaut)
    assert len(faces) == 1
    left, top, right, bottom = faces[0].box
    assert left < 220 < right
    assert top < 120 < bottom
    assert 60 < right - left < 130
    assert 0.9 <= faces[0].score <= 1


def test_landmarks_are_the_eyes_the_nose_and_the_mouth(
    detector: FaceDetector, astronaut: Image.Image
) -> None:
    """As seen by eye on the portrait, left before right; and turned when it is mirrored."""
    expected = np.array([[203, 101], [247, 103], [224, 129], [204, 141], [244, 142]])
    found = np.array(detector(astronaut)[0].landmarks)
    np.testing.assert_allclose(found, expected, atol=5)
    mirrored = astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = np.array(detector(mirrored)[0].landmarks)[[1, 0, 2, 4, 3]]
    np.testing.assert_allclose(512 - turned[:, 0], found[:, 0], atol=4)


def test_landmarks_are_of_the_photo_also_where_a_copy_was_looked_at(
    detector: FaceDetector, astronaut: Image.Image
) -> None:
    """A reduced copy of a large photo, and a framed one of a tight crop."""
    face = detector(astronaut)[0]
    side, points = face.box[3] - face.box[1], np.array(face.landmarks)
    large = detector(astronaut.resize((2048, 2048), Image.Resampling.BICUBIC))[0]
    np.testing.assert_allclose(np.array(large.landmarks) / 4, points, atol=0.08 * side)
    corner = np.round(face.box[:2])
    tight = detector(astronaut.crop(tuple(round(v) for v in face.box)))[0]
    np.testing.assert_allclose(np.array(tight.landmarks) + corner, points, atol=0.12 * side)


@pytest.mark.parametrize("scale", [2, 4])
def test_boxes_are_of_the_photo_however_large_it_is(
    detector: FaceDetector, astronaut: Image.Image, scale: int
) -> None:
    """Four times is 2048 pixels: more than the detector looks at."""
    small = np.array(detector(astronaut)[0].box)
    enlarged = astronaut.resize((512 * scale, 512 * scale), Image.Resampling.BICUBIC)
    faces = detector(enlarged)
    assert len(faces) == 1
    side = (small[3] - small[1]) * scale
    np.testing.assert_allclose(faces[0].box, small * scale, atol=0.08 * side)


@pytest.mark.parametrize("inset", [0, 0.1])
def test_a_face_that_fills_the_photo_is_found(
    detector: FaceDetector, astronaut: Image.Image, inset: float
) -> None:
    """Even one that the photo cuts off: such crops are what people save."""
    left, top, right, bottom = detector(astronaut)[0].box
    dx, dy = (right - left) * inset, (bottom - top) * inset
    tight = astronaut.crop(tuple(round(v) for v in (left + dx, top + dy, right - dx, bottom - dy)))
    faces = detector(tight)
    assert len(faces) == 1
    left, top, right, bottom = faces[0].box
    assert 0 <= left < right <= tight.width
    assert 0 <= top < bottom <= tight.height
    assert (right - left) * (bottom - top) > 0.6 * tight.width * tight.height


def test_all_faces_of_a_group_are_found_largest_first(
    detector: FaceDetector, fake_faces: list[tuple[Image.Image, Face]]
) -> None:
    photos = [photo for photo, _ in fake_faces]
    sheet = montage(photos[:6], columns=3, cell=250)
    large = photos[6].resize((500, 500))
    group = Image.new("RGB", (750, 1000))
    group.paste(sheet, (0, 0))
    group.paste(large, (125, 500))
    faces = detector(group)
    assert len(faces) == 7
    areas = [(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in faces]
    assert areas == sorted(areas, reverse=True)
    first = faces[0].box
    assert first[1] > 500  # the enlarged one, below the others
    cells = {
        (int((f.box[0] + f.box[2]) / 500), int((f.box[1] + f.box[3]) / 500)) for f in faces[1:]
    }
    assert cells == {(x, y) for x in range(3) for y in range(2)}


def test_a_small_face_that_is_alone_in_a_large_photo_is_found(
    detector: FaceDetector, astronaut: Image.Image
) -> None:
    """As of a person in a landscape: of 3,000 pixels its face has 50."""
    left, top, right, bottom = detector(astronaut)[0].box
    scale = 50 / (right - left)
    person = astronaut.resize((round(512 * scale), round(512 * scale)))
    photo = Image.new("RGB", (3000, 2000), "darkgreen")
    photo.paste(person, (1900, 700))
    (face,) = detector(photo)
    assert abs((face.box[0] + face.box[2]) / 2 - (1900 + scale * (left + right) / 2)) < 10
    assert abs((face.box[1] + face.box[3]) / 2 - (700 + scale * (top + bottom) / 2)) < 10


def test_a_detector_that_is_never_sure_enough_finds_nothing(astronaut: Image.Image) -> None:
    assert FaceDetector(min_score=1.01)(astronaut) == []


@pytest.mark.parametrize("size", [(256, 256), (32, 32), (33, 48), (32, 2000), (4000, 40)])
def test_no_face_is_seen_where_there_is_none(detector: FaceDetector, size: tuple[int, int]) -> None:
    ramp = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3)
    assert detector(Image.fromarray(ramp.astype(np.uint8))) == []
