"""Photo -> faces: MTCNN on CPU, and the square crop around each face.

Training and serving both cut their crops here, so that nothing can be learned from framing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from deepfake.mtcnn import Cascade

MARGIN = 0.2  # of the box's longer side, added on every side
# Longer sides, in pixels, of the copies MTCNN looks at; the second one where the first shows no
# face. What that costs in small ones: benchmarks/RECALL.md.
DETECT_SIDES = (800, 1600)
MIN_FACE = 20  # pixels on such a copy
MIN_SCORE = 0.9
FILLED_SIDE = 256  # pixels of a copy on which a face that fills the picture is still seen


@dataclass(frozen=True)
class Face:
    """One detected face.

    Attributes:
        box: left, top, right, bottom in pixels of the upright image, inside it.
        score: MTCNN's confidence in [0, 1] that this is a face.
        landmarks: (x, y) of the eyes, the nose's tip and the mouth's corners, the one on the
            picture's left first; pixels of the upright image, may lie outside it.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: tuple[tuple[float, float], ...] = ()

    def scaled(self, factor: float, size: tuple[int, int]) -> Face:
        """The same face in a picture that is so many times as large, its box inside ``size``."""
        box = _clip(factor * np.array(self.box), size)
        return replace(self, box=box, landmarks=_points(factor * np.array(self.landmarks)))


class FaceDetector:
    """Finds faces with MTCNN (Zhang et al. 2016), largest first.

    Args:
        min_score: faces that MTCNN is less sure of than this are left out.
        sides: larger images are reduced to the first longer side (pixels) before MTCNN looks, and
            to the second where it found nothing; its cost grows with the picture's area, and the
            boxes are scaled back.
    """

    def __init__(self, min_score: float = MIN_SCORE, sides: tuple[int, int] = DETECT_SIDES) -> None:
        self.min_score = min_score
        self.sides = sides
        self.network = Cascade(MIN_FACE)

    def __call__(self, image: Image.Image) -> list[Face]:
        """Faces of an RGB image, largest first; an empty list when there is none."""
        first, second = self.sides
        faces = self.look(image, first)
        if not faces and max(image.size) > first:
            faces = self.look(image, second, bordered=False)
        return faces

    def look(self, image: Image.Image, side: int, bordered: bool = True) -> list[Face]:
        """Faces of an RGB image on a copy of this longer side (pixels), largest first.

        A face that fills the whole picture escapes MTCNN, whose windows never exceed the image:
        when nothing is found, the search is repeated with a border of half the size around it,
        unless that was done before (``bordered``).
        """
        copy, scale = _reduce(image, side)
        found = self._detect(copy, offset=(0, 0))
        if not found and bordered:
            copy, scale = _reduce(image, FILLED_SIDE)
            border = max(copy.size) // 2
            framed = Image.new("RGB", (copy.width + 2 * border, copy.height + 2 * border))
            framed.paste(copy, (border, border))
            found = self._detect(framed, offset=(border, border))
        faces = [
            Face(_clip(box / scale, image.size), score, _points(points / scale))
            for box, score, points in found
        ]
        faces = [f for f in faces if min(f.box[2] - f.box[0], f.box[3] - f.box[1]) >= 1]
        return sorted(faces, key=lambda f: _area(f.box), reverse=True)

    def _detect(
        self, image: Image.Image, offset: tuple[int, int]
    ) -> list[tuple[np.ndarray, float, np.ndarray]]:
        """Box (4,), score and landmarks (5, 2) of each face, in the image's pixels less offset."""
        if min(image.size) < MIN_FACE:
            return []  # a strip with no room for a face, on which MTCNN would fail
        boxes, scores, points = self.network(np.asarray(image))
        shift = np.array(offset, dtype=np.float64)
        return [
            (b - np.tile(shift, 2), float(s), p - shift)
            for b, s, p in zip(boxes, scores, points, strict=True)
            if s >= self.min_score
        ]


def crop_square(
    size: tuple[int, int], box: tuple[float, float, float, float], margin: float = MARGIN
) -> tuple[int, int, int]:
    """Where the crop of a face lies in an image: its left, top and side, whole pixels.

    The square's side is ``(1 + 2 * margin) * max(width, height)`` of the box, about the box's
    centre. Where it would leave the image it is moved, and if need be made smaller, so that the
    crop holds real pixels only: an invented border would be something to learn from.

    Args:
        size: width and height of the upright image, pixels.
        box: left, top, right, bottom in pixels.
        margin: fraction of the box's longer side to add on every side.
    """
    left, top, right, bottom = box
    side = (1 + 2 * margin) * max(right - left, bottom - top)
    width, height = size
    whole = max(1, round(min(side, width, height)))
    x = round((left + right - whole) / 2)
    y = round((top + bottom - whole) / 2)
    return min(max(x, 0), width - whole), min(max(y, 0), height - whole), whole


def crop_face(
    image: Image.Image, box: tuple[float, float, float, float], margin: float = MARGIN
) -> Image.Image:
    """Cut the square around a face (``crop_square``) out of an upright RGB image.

    Returns:
        A square RGB image at the image's own resolution.
    """
    x, y, side = crop_square(image.size, box, margin)
    return image.crop((x, y, x + side, y + side))


def _reduce(image: Image.Image, side: int) -> tuple[Image.Image, float]:
    """The image, reduced so that its longer side is at most ``side``, and the scale used."""
    scale = side / max(image.size)
    if scale >= 1:
        return image, 1.0
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX, reducing_gap=2.0), scale


def _clip(box: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    left, right = np.clip(box[[0, 2]], 0, size[0]).tolist()
    top, bottom = np.clip(box[[1, 3]], 0, size[1]).tolist()
    return left, top, right, bottom


def _points(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
