"""Fakes made on the spot from real training faces, so that forging itself is learned.

Four kinds, all label 1: a *part swap* sets the eyes, nose or mouth of one real face into
another, as one would by hand in an image editor; a *face swap* sets a whole other face into a
photo, often less sharp than what is around it, as networks that swap faces in videos leave it (the
blending is that of Li et al., "Face X-ray for More General Face Forgery Detection", CVPR 2020); a
*self-blend* lays a shifted and recoloured copy of a face over itself (after the description of
Shiohara & Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022); an *up-sampling*
leaves in a face the regular pattern that a generator's decoder leaves (after Zhang, Karaman &
Chang, "Detecting and Simulating Artifacts in GAN Fake Images", WIFS 2019). What gives them away
is the seam or the pattern, never the camera, the person or the compression: those are the same as
in the real photo it came from.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageEnhance
from scipy.ndimage import convolve

from training.compositing import (
    EQUAL,
    Points,
    Weights,
    Window,
    blend,
    draw,
    reach,
    similarity,
    transformed,
)
from training.data import Sample, read_image

# Centre and radii of each part in a frame whose unit is the distance between the eyes: x to the
# picture's right along them, y down, origin midway between them.
PARTS = {
    "left_eye": (-0.5, -0.06, 0.42, 0.30),
    "right_eye": (0.5, -0.06, 0.42, 0.30),
    "nose": (0.0, 0.42, 0.36, 0.50),
    "mouth": (0.0, 1.05, 0.58, 0.32),
}
FACE = (0.0, 0.50, 1.00, 1.15)
BY: dict[str, Weights] = {
    "eyes": (1, 1, 0.2, 0.1, 0.1),
    "nose": (0.5, 0.5, 1, 0.3, 0.3),
    "mouth": (0.1, 0.1, 0.2, 1, 1),
}
"""By which landmarks a part is laid over its own place: its own, mostly."""
MIRRORED = [1, 0, 2, 4, 3]  # order of the landmarks in a mirrored face
KINDS = {"part-swap": 0.6, "face-swap": 0.4, "self-blend": 0.4, "up-sampling": 0.4}
"""Kinds of forgeries, and how often each is made compared with the others that are chosen."""
DEFAULT_KINDS = ("part-swap", "self-blend")
SWAPS = ("part-swap", "face-swap")  # these need another face
DONORS = 64  # faces whose landmarks are looked at for a swap
NEAREST = 2  # of those that fit best, which are looked at for their colour: each has to be read
SEAMLESS = 0.7  # share of part swaps whose colours are fitted along the seam, not as a whole


class Forger:
    """Draws real faces of a source and makes a fake of them.

    Args:
        samples: training samples; the reals among them that have landmarks are used.
        kinds: which of ``KINDS`` are made.
    """

    def __init__(self, samples: Sequence[Sample], kinds: Sequence[str] = DEFAULT_KINDS) -> None:
        weights = np.array([KINDS[kind] for kind in kinds])
        self.kinds, self.shares = kinds, weights / weights.sum()
        self.reals: dict[str, list[Sample]] = defaultdict(list)
        for s in samples:
            if s.label == 0 and s.landmarks:
                self.reals[s.source].append(s)
        self.shapes = {
            source: np.stack([_shape(_points(s)) for s in reals])
            for source, reals in self.reals.items()
        }
        self.places = {
            source: {s.name: i for i, s in enumerate(reals)} for source, reals in self.reals.items()
        }
        self.groups = {
            source: np.array([s.group for s in reals]) for source, reals in self.reals.items()
        }

    def make(self, source: str, rng: Generator, face: Sample | None = None) -> Image.Image | None:
        """A new forged crop (RGB, of its real face's size); None for a source without faces.

        Of ``face``, if that is a real one of the source whose landmarks are known, else of any.

        A source that is one group, such as a video, has no donor for a swap: a self-blend is made
        instead, if that is one of the kinds.
        """
        faces = self.reals.get(source)
        if not faces:
            return None
        chosen = self.places[source].get(face.name) if face else None
        if chosen is None:
            chosen = int(rng.integers(len(faces)))
        face = faces[chosen]
        kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
        if kind in SWAPS and (self.groups[source] == face.group).all():
            if "self-blend" not in self.kinds:
                return None
            kind = "self-blend"
        image, points = read_image(face.path), _points(face)
        if kind == "self-blend":
            return self_blend(image, points, rng)
        if kind == "up-sampling":
            return up_sampled(image, points, rng)
        donor, donor_points = self._donor(source, chosen, image, rng)
        swap = face_swap if kind == "face-swap" else part_swap
        return swap(image, points, donor, donor_points, rng)

    def _donor(
        self, source: str, chosen: int, image: Image.Image, rng: Generator
    ) -> tuple[Image.Image, Points]:
        """Another face of the source that looks the same way, mirrored if it then does so more.

        Of the few that fit best the one whose skin is lit most like that of ``image``.
        """
        faces, shapes, groups = self.reals[source], self.shapes[source], self.groups[source]
        # Not of the same group: another frame of its video would fit best, and hardly be a fake.
        others = rng.choice(np.flatnonzero(groups != groups[chosen]), size=DONORS)
        # The landmarks of two faces, laid over one another, are the nearer the greater this is
        # (full Procrustes distance, in complex numbers: Kendall 1984).
        as_they_are = np.abs(shapes[others].conj() @ shapes[chosen])
        mirrored = np.abs(shapes[others][:, MIRRORED] @ shapes[chosen])
        best = np.maximum(as_they_are, mirrored).argsort()[-NEAREST:]
        donors = []
        for i in best:
            donor = faces[int(others[i])]
            picture, points = read_image(donor.path), _points(donor)
            if mirrored[i] > as_they_are[i]:
                points = points[MIRRORED] * (-1, 1) + (picture.width, 0)
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            donors.append((picture, points))
        skin = _skin(image, _points(faces[chosen]))
        return min(donors, key=lambda d: float(np.abs(_skin(*d) - skin).sum()))


def part_swap(
    face: Image.Image, points: Points, donor: Image.Image, donor_points: Points, rng: Generator
) -> Image.Image:
    """One to four parts of the donor's face, laid over those of the face.

    Args:
        face, donor: RGB crops of any size.
        points, donor_points: their landmarks, (5, 2).

    Returns:
        An RGB image of the face's size.
    """
    picture, seamless = face, rng.random() < SEAMLESS
    for names, weights in _chosen_parts(rng):
        mask = Image.new("L", face.size)
        for name in names:
            draw(mask, points, PARTS[name], rng)
        matrix = similarity(points, donor_points, weights)
        mask = ImageChops.darker(mask, reach(donor, donor_points, matrix, face))

        def moved(window: Window, matrix: tuple[float, ...] = matrix) -> Image.Image:
            return transformed(donor, matrix, window)

        colour = None if seamless else rng.uniform(0.7, 1.0)
        picture = blend(picture, moved, mask, points, rng, colour)
    return picture


def _chosen_parts(rng: Generator) -> list[tuple[list[str], Weights]]:
    """Parts to swap, those that come over together in one, and by which landmarks each is laid.

    Mostly both eyes or none: one alone looks odd, and few would swap it.
    """
    eyes: tuple[list[str], ...] = (["left_eye", "right_eye"], ["left_eye"], ["right_eye"], [])
    some_eyes = eyes[rng.choice(len(eyes), p=(0.6, 0.1, 0.1, 0.2))]
    nose, mouth = rng.random(2) < 0.65
    groups = {
        "eyes": some_eyes if some_eyes or nose or mouth else eyes[0],
        "nose": ["nose"] * int(nose),
        "mouth": ["mouth"] * int(mouth),
    }
    if rng.random() < 0.3:  # all as they lie in the donor's face
        return [([name for names in groups.values() for name in names], EQUAL)]
    return [(names, BY[group]) for group, names in groups.items() if names]


def face_swap(
    face: Image.Image, points: Points, donor: Image.Image, donor_points: Points, rng: Generator
) -> Image.Image:
    """The donor's whole face, from brows to chin, laid over that of the face.

    Takes and returns what ``part_swap`` does.
    """
    matrix = similarity(points, donor_points)
    moved = transformed(donor, matrix, (0, 0, *face.size))
    if rng.random() < 0.7:  # a network's face has the few pixels that it was trained with
        side = max(16, round(face.width * rng.uniform(0.25, 0.8)))
        down, up = Image.Resampling.BOX, Image.Resampling.BICUBIC
        moved = moved.resize((side, side), down).resize(face.size, up)
    mask = Image.new("L", face.size)
    draw(mask, points, FACE, rng)
    mask = ImageChops.darker(mask, reach(donor, donor_points, matrix, face))
    return blend(face, moved.crop, mask, points, rng, colour=rng.uniform(0.7, 1.0))


def self_blend(face: Image.Image, points: Points, rng: Generator) -> Image.Image:
    """A face under a slightly shifted, scaled and recoloured copy of itself; same size, RGB."""
    over, under = _recolour(face, rng), face
    if rng.random() < 0.5:
        over, under = face, over
    scale = math.exp(rng.uniform(-0.04, 0.04))
    centre, most = points.mean(axis=0), 0.03 * face.width
    shift = rng.uniform(-most, most, 2)
    # Output pixel p comes from centre + (p - centre - shift) / scale.
    x, y = centre - (centre + shift) / scale
    matrix = (1 / scale, 0, x, 0, 1 / scale, y)
    mask = Image.new("L", face.size)
    draw(mask, points, FACE, rng)
    mask = ImageChops.darker(mask, reach(over, points, matrix, face))

    def moved(window: Window) -> Image.Image:
        return transformed(over, matrix, window)

    return blend(under, moved, mask, points, rng, colour=0.0)


def up_sampled(face: Image.Image, points: Points, rng: Generator) -> Image.Image:
    """A face whose coarse part was halved and put up again by transposed convolutions; same size.

    A transposed convolution sets zeros between the pixels and lets an uneven kernel fill them, so
    that a pattern of two pixels (or of four, from two of them) remains. Most of what the reduction
    took away is put back, or blur would tell. Half of the time only the face is treated.
    """
    pixels = np.asarray(face, dtype=np.float32)
    times = int(rng.integers(1, 3))
    block = 2**times
    edge = [(0, -n % block) for n in pixels.shape[:2]]
    padded = np.pad(pixels, (*edge, (0, 0)), mode="edge")
    bilinear = np.outer((1, 2, 1), (1, 2, 1)) / 4
    even = padded
    for _ in range(times):  # about the pixels where they are put back, or all would be shifted
        even = convolve(even, bilinear[:, :, None] / 4, mode="nearest")[::2, ::2]
    uneven = even
    for _ in range(times):
        kernel = bilinear * (1 + rng.normal(0, rng.uniform(0.01, 0.08), (3, 3)))
        kernel *= bilinear.sum() / kernel.sum()
        even, uneven = _transposed(even, bilinear), _transposed(uneven, kernel)
    made = uneven + rng.uniform(0.85, 1.0) * (padded - even)
    made = made[: pixels.shape[0], : pixels.shape[1]]
    forged = Image.fromarray(np.clip(np.rint(made), 0, 255).astype(np.uint8))
    mask = Image.new("L", face.size, 255)
    if rng.random() < 0.5:
        mask.paste(0, (0, 0, *mask.size))
        draw(mask, points, FACE, rng)
    return blend(face, forged.crop, mask, points, rng, colour=0.0)


def _transposed(pixels: NDArray[np.float32], kernel: NDArray[np.float64]) -> NDArray[np.float32]:
    """Transposed convolution of stride 2: (h, w, 3) -> (2h, 2w, 3), the same kernel per colour."""
    height, width, colours = pixels.shape
    # Two more pixels on every side, or the edge would be filled from nothing.
    wide = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    spread = np.zeros((2 * height + 4, 2 * width + 4, colours), dtype=np.float32)
    spread[::2, ::2] = wide
    filled: NDArray[np.float32] = convolve(spread, kernel[:, :, None].astype(np.float32))
    return filled[2:-2, 2:-2]


def _points(sample: Sample) -> Points:
    return np.array(sample.landmarks, dtype=np.float64).reshape(5, 2)


def _skin(image: Image.Image, points: Points) -> NDArray[np.float64]:
    """(3,): mean colour of what lies between a face's landmarks, 0 to 255."""
    left, top = np.clip(points.min(axis=0), 0, np.array(image.size) - 1)
    right, bottom = np.clip(points.max(axis=0), (left + 1, top + 1), image.size)
    part = image.crop((int(left), int(top), math.ceil(right), math.ceil(bottom)))
    colour: NDArray[np.float64] = np.asarray(part, dtype=np.float64).mean(axis=(0, 1))
    return colour


def _shape(points: Points) -> NDArray[np.complex128]:
    """(5,): landmarks as complex numbers, without place and size."""
    centred = points - points.mean(axis=0)
    shape: NDArray[np.complex128] = centred[:, 0] + 1j * centred[:, 1]
    return shape / max(float(np.linalg.norm(shape)), 1e-9)


def _recolour(image: Image.Image, rng: Generator) -> Image.Image:
    """Brightness, contrast, saturation, one colour shift, and a touch of sharpness or blur."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.85, 1.15))
    shift = rng.uniform(-8, 8, 3)
    image = Image.fromarray(np.clip(np.asarray(image) + shift, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        return ImageEnhance.Sharpness(image).enhance(rng.uniform(1.2, 2.5))
    side = max(16, round(image.width * rng.uniform(0.4, 0.9)))
    return image.resize((side, side), Image.Resampling.BILINEAR).resize(
        image.size, Image.Resampling.BICUBIC
    )
