"""Laying a part of one face over another: where it goes, its mask, and how its colours fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Points = NDArray[np.float64]
"""(5, 2): eyes, nose's tip, mouth's corners, x and y in pixels of the crop."""

Window = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of a picture, pixels."""

Weights = tuple[float, float, float, float, float]
"""How much each landmark counts where one face is laid over another."""

EQUAL: Weights = (1, 1, 1, 1, 1)
SOFTEST = 0.12  # standard deviation of the mask's edge, in distances between the eyes


def similarity(to: Points, back: Points, weights: Weights = EQUAL) -> tuple[float, ...]:
    """PIL's affine coefficients that lay the points ``back`` over ``to``, in least squares.

    The closed form for rotation, scale and shift in the plane (Umeyama 1991, two dimensions).
    """
    w = np.array(weights)[:, None] / sum(weights)
    middle, old = (w * to).sum(axis=0), (w * back).sum(axis=0)
    a, b = to - middle, back - old
    norm = max(float((w * a**2).sum()), 1e-9)
    c = float((w * a * b).sum()) / norm
    s = float((w[:, 0] * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])).sum()) / norm
    shift = old - np.array([[c, -s], [s, c]]) @ middle
    return c, -s, float(shift[0]), s, c, float(shift[1])


def reach(
    donor: Image.Image, points: Points, matrix: tuple[float, ...], face: Image.Image
) -> Image.Image:
    """Mask (L, of the face's size) of where there is a donor: a tight crop has no brows or chin.

    Less a margin, since the mask is softened afterwards, the more the larger the face.
    """
    edge = round(max(0.05 * donor.width, 2.5 * SOFTEST * _unit(points, donor.width)))
    known = Image.new("L", donor.size)
    known.paste(255, (edge, edge, max(edge, donor.width - edge), max(edge, donor.height - edge)))
    return transformed(known, matrix, (0, 0, *face.size), Image.Resampling.NEAREST)


def _unit(points: Points, width: int) -> float:
    """The distance between the eyes in pixels; of a profile, whose eyes nearly meet, a guess."""
    return max(float(np.hypot(*(points[1] - points[0]))), 0.15 * width)


def transformed(
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


def draw(
    mask: Image.Image, points: Points, part: tuple[float, float, float, float], rng: Generator
) -> None:
    """Add a part to the mask: an ellipse in the face's own frame with a wavering outline."""
    unit = _unit(points, mask.width)
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


def blend(
    under: Image.Image,
    over: Callable[[Window], Image.Image],
    mask: Image.Image,
    points: Points,
    rng: Generator,
    colour: float | None,
) -> Image.Image:
    """``over`` on ``under`` through the softened mask, after its colours were fitted.

    Only the window that the mask reaches is asked for and computed.

    Args:
        colour: how far mean and deviation of its colours are moved to those of ``under``, 0 to 1;
            None: they are moved so that there is no step along the mask's edge.
    """
    unit = _unit(points, under.width)
    soft = mask.filter(ImageFilter.GaussianBlur(unit * rng.uniform(0.01, SOFTEST)))
    strength = rng.uniform(0.6, 0.95) if rng.random() < 0.3 else 1.0
    window = soft.getbbox()
    if window is None:  # landmarks far outside: there is no face to forge
        return under.copy()
    weight = np.asarray(soft.crop(window), dtype=np.float32)[..., None] * (strength / 255)
    a = np.asarray(under.crop(window), dtype=np.float32)
    b = np.asarray(over(window), dtype=np.float32)
    inside = np.asarray(mask.crop(window)) > 127
    if colour is None:
        b = b + membrane(a - b, ~inside)
    elif colour and inside.any():
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


def membrane(
    values: NDArray[np.float32], known: NDArray[np.bool_], rounds: int = 8
) -> NDArray[np.float32]:
    """Values (h, w, 3) where they are known (h, w), and between them as even as can be.

    The correction of seamless cloning (Perez et al., "Poisson Image Editing", 2003, eq. 5), from
    coarse to fine, in as many rounds on each grid.
    """
    height, width = known.shape
    filled = np.where(known[..., None], values, 0)
    if min(height, width) > 4:
        even = [(0, height % 2), (0, width % 2)]
        weight = np.pad(known.astype(np.float32), even)
        total = np.pad(filled, (*even, (0, 0)))
        grid = (weight.shape[0] // 2, 2, weight.shape[1] // 2, 2)
        count = weight.reshape(grid).sum(axis=(1, 3))
        total = total.reshape(*grid, 3).sum(axis=(1, 3))
        coarse = membrane(total / np.maximum(count, 1)[..., None], count > 0, rounds)
        fine = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
        filled = np.where(known[..., None], values, fine)
    for _ in range(rounds):
        near = np.pad(filled, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (near[:-2, 1:-1] + near[2:, 1:-1] + near[1:-1, :-2] + near[1:-1, 2:]) / 4
        filled = np.where(known[..., None], values, mean)
    return filled
