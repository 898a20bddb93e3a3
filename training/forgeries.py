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
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter
from scipy.ndimage import convolve

from training.data import Sample, read_image

Points = NDArray[np.float64]
"""(5, 2): eyes, nose's tip, mouth's corners, x and y in pixels of the crop."""

Window = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of a picture, pixels."""

# Centre and radii of each part in a frame whose unit is the distance between the eyes: x to the
# picture's right along them, y down, origin midway between them.
PARTS = {
    "left_eye": (-0.5, -0.06, 0.42, 0.30),
    "right_eye": (0.5, -0.06, 0.42, 0.30),
    "nose": (0.0, 0.42, 0.36, 0.50),
    "mouth": (0.0, 1.05, 0.58, 0.32),
}
FACE = (0.0, 0.50, 1.00, 1.15)
KINDS = {"part-swap": 0.6, "face-swap": 0.4, "self-blend": 0.4, "up-sampling": 0.4}
"""Kinds of forgeries, and how often each is made compared with the others that are chosen."""
DEFAULT_KINDS = ("part-swap", "self-blend")
DONORS = 8  # faces that are looked at for a swap; the one that fits best is taken


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

    def make(self, source: str, rng: Generator) -> Image.Image | None:
        """A new forged crop (RGB, of its real face's size); None for a source without faces."""
        faces = self.reals.get(source)
        if not faces:
            return None
        face = faces[rng.integers(len(faces))]
        image, points = read_image(face.path), _points(face)
        kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
        if kind == "self-blend":
            return self_blend(image, points, rng)
        if kind == "up-sampling":
            return up_sampled(image, points, rng)
        donor = min(
            (faces[rng.integers(len(faces))] for _ in range(DONORS)),
            key=lambda other: _misfit(points, _points(other)) if other is not face else math.inf,
        )
        swap = face_swap if kind == "face-swap" else part_swap
        return swap(image, points, read_image(donor.path), _points(donor), rng)


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
    names = list(PARTS)
    chosen = rng.choice(len(names), size=rng.integers(1, len(names) + 1), replace=False)
    mask = Image.new("L", face.size)
    for i in chosen:
        _draw(mask, points, PARTS[names[i]], rng)

    def moved(window: Window) -> Image.Image:
        return _moved(donor, donor_points, points, window)

    return _blend(face, moved, mask, points, rng, colour=rng.uniform(0.7, 1.0))


def face_swap(
    face: Image.Image, points: Points, donor: Image.Image, donor_points: Points, rng: Generator
) -> Image.Image:
    """The donor's whole face, from brows to chin, laid over that of the face.

    Takes and returns what ``part_swap`` does.
    """
    everything = (0, 0, *face.size)
    moved = _moved(donor, donor_points, points, everything)
    if rng.random() < 0.7:  # a network's face has the few pixels that it was trained with
        side = max(16, round(face.width * rng.uniform(0.25, 0.8)))
        down, up = Image.Resampling.BOX, Image.Resampling.BICUBIC
        moved = moved.resize((side, side), down).resize(face.size, up)
    mask = Image.new("L", face.size)
    _draw(mask, points, FACE, rng)
    # Only where there is a donor: of a tight crop, brows or chin may be missing.
    known, edge = Image.new("L", donor.size), round(0.06 * donor.width)
    known.paste(255, (edge, edge, donor.width - edge, donor.height - edge))
    here = _moved(known, donor_points, points, everything, Image.Resampling.NEAREST)
    mask = ImageChops.darker(mask, here)
    return _blend(face, moved.crop, mask, points, rng, colour=rng.uniform(0.7, 1.0))


def self_blend(face: Image.Image, points: Points, rng: Generator) -> Image.Image:
    """A face under a slightly shifted, scaled and recoloured copy of itself; same size, RGB."""
    over, under = _recolour(face, rng), face
    if rng.random() < 0.5:
        over, under = face, over
    scale = math.exp(rng.uniform(-0.04, 0.04))
    centre, reach = points.mean(axis=0), 0.03 * face.width
    shift = rng.uniform(-reach, reach, 2)
    # Output pixel p comes from centre + (p - centre - shift) / scale.
    x, y = centre - (centre + shift) / scale
    matrix = (1 / scale, 0, x, 0, 1 / scale, y)
    mask = Image.new("L", face.size)
    _draw(mask, points, FACE, rng)

    def moved(window: Window) -> Image.Image:
        return _transformed(over, matrix, window)

    return _blend(under, moved, mask, points, rng, colour=0.0)


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
    height, width, _ = padded.shape
    coarse = padded.reshape(height // block, block, width // block, block, 3).mean(axis=(1, 3))
    even, uneven = coarse, coarse
    bilinear = np.outer((1, 2, 1), (1, 2, 1)) / 4
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
        _draw(mask, points, FACE, rng)
    return _blend(face, forged.crop, mask, points, rng, colour=0.0)


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


def _similarity(to: Points, back: Points) -> tuple[float, ...]:
    """PIL's affine coefficients that lay the points ``back`` over ``to``, in least squares.

    The closed form for rotation, scale and shift in the plane (Umeyama 1991, two dimensions).
    """
    a, b = to - to.mean(axis=0), back - back.mean(axis=0)
    norm = max(float((a**2).sum()), 1e-9)
    c = float((a * b).sum()) / norm
    s = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / norm
    shift = back.mean(axis=0) - np.array([[c, -s], [s, c]]) @ to.mean(axis=0)
    return c, -s, float(shift[0]), s, c, float(shift[1])


def _moved(
    donor: Image.Image,
    donor_points: Points,
    points: Points,
    window: Window,
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """The donor turned, scaled and shifted until its landmarks lie over a face's ``points``.

    What of it lies in the window of that face's crop; black where the donor has nothing.
    """
    return _transformed(donor, _similarity(points, donor_points), window, method)


def _transformed(
    image: Image.Image,
    matrix: tuple[float, ...],
    window: Window,
    method: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """A window of what PIL's affine transformation makes of an image."""
    a, b, c, d, e, f = matrix
    x, y, right, bottom = window
    here = (a, b, c + a * x + b * y, d, e, f + d * x + e * y)
    return image.transform((right - x, bottom - y), Image.Transform.AFFINE, here, method)


def _misfit(to: Points, back: Points) -> float:
    """How far landmarks remain apart, in units of ``to``'s size, when laid over one another."""
    c, s1, x, s, _, y = _similarity(back, to)
    moved = back @ np.array([[c, s], [s1, c]]) + np.array([x, y])
    return float(np.abs(moved - to).mean() / max(1.0, float(np.ptp(to))))


def _draw(
    mask: Image.Image, points: Points, part: tuple[float, float, float, float], rng: Generator
) -> None:
    """Add a part to the mask: an ellipse in the face's own frame with a wavering outline."""
    across = points[1] - points[0]
    unit = max(float(np.hypot(*across)), 0.15 * mask.width)  # a profile's eyes nearly meet
    x, y, rx, ry = part
    down = _down(points)
    right = np.array([down[1], -down[0]])
    middle = points[:2].mean(axis=0)
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    waver = 1 + sum(
        rng.normal(0, 0.12 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3)
    )
    size = rng.uniform(0.85, 1.25, 2)
    u = x + rng.normal(0, 0.04) + rx * size[0] * waver * np.cos(angle)
    v = y + rng.normal(0, 0.04) + ry * size[1] * waver * np.sin(angle)
    outline = middle + unit * (u[:, None] * right + v[:, None] * down)
    ImageDraw.Draw(mask).polygon([(float(px), float(py)) for px, py in outline], fill=255)


def _down(points: Points) -> Points:
    """Unit vector from between the eyes to the mouth."""
    along: Points = points[3:].mean(axis=0) - points[:2].mean(axis=0)
    length = float(np.hypot(*along))
    return along / length if length > 1 else np.array([0.0, 1.0])


def _blend(
    under: Image.Image,
    over: Callable[[Window], Image.Image],
    mask: Image.Image,
    points: Points,
    rng: Generator,
    colour: float,
) -> Image.Image:
    """``over`` on ``under`` through the softened mask, after moving its colours by ``colour``.

    Only the window that the mask reaches is asked for and computed.
    """
    unit = max(float(np.hypot(*(points[1] - points[0]))), 0.15 * under.width)
    soft = mask.filter(ImageFilter.GaussianBlur(unit * rng.uniform(0.01, 0.12)))
    strength = rng.uniform(0.6, 0.95) if rng.random() < 0.3 else 1.0
    window = soft.getbbox()
    if window is None:  # landmarks far outside: there is no face to forge
        return under.copy()
    weight = np.asarray(soft.crop(window), dtype=np.float32)[..., None] * (strength / 255)
    a = np.asarray(under.crop(window), dtype=np.float32)
    b = np.asarray(over(window), dtype=np.float32)
    inside = np.asarray(mask.crop(window)) > 127
    if colour and inside.any():
        there, here = a[inside], b[inside]
        gain = 1 + colour * ((there.std(axis=0) + 1) / (here.std(axis=0) + 1) - 1)
        gain = np.clip(gain, 0.6, 1.6)
        mean = here.mean(axis=0) + colour * (there.mean(axis=0) - here.mean(axis=0))
        b = (b - here.mean(axis=0)) * gain + mean
    mixed = a + weight * (b - a)
    blended = under.copy()
    part = Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))
    blended.paste(part, window)
    return blended


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
