"""Face crop -> the three test-time views, 224 x 224 pixels each.

Each view sees another part of the crop about its middle, as in training, where a crop is framed at
random: three sizes of one face err less alike than one size three times (docs/experiments.md).

The same crop gives the same views every time: the colour jitter is one fixed shift, not a
random one, so that a verdict can be repeated.

In NumPy, not PyTorch: after an operation PyTorch's threads wait busily for the next one, and would
take the cores from the network that OpenVINO runs right after.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

VIEWS = ("original", "flip", "jitter")
PARTS = (1.0, 0.9, 0.95)  # of the crop's side that each view sees
BRIGHTNESS, CONTRAST, SATURATION = 1.05, 1.05, 0.95  # factors
HUE = 0.01  # of a full turn
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def to_pixels(crop: Image.Image, size: int, part: float = 1.0) -> Pixels:
    """An RGB image of any size -> uint8 (3, size, size), bicubic with anti-aliasing.

    Where it is six times as large or more, pixels are averaged first, which costs less.

    Args:
        part: of its width and height, about its middle, that is seen; above 0 and up to 1.
    """
    x, y = (n * (1 - part) / 2 for n in crop.size)
    box = (x, y, crop.width - x, crop.height - y)
    resized = crop.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def make_views(crop: Image.Image, size: int) -> Pixels:
    """An RGB face crop of any size -> uint8 (3 views, 3, size, size) in the order of ``VIEWS``."""
    original, flip, jitter = (to_pixels(crop, size, part) for part in PARTS)
    return np.stack([original, flip[..., ::-1], _jitter(jitter)])


def _jitter(pixels: Pixels) -> Pixels:
    """Brighter, with more contrast about the mean grey, less colourful, and its hues turned.

    All four are linear in R, G and B, so one matrix does them and one number is added; the last
    two are a rotation and a scaling of I and Q in YIQ, the colour space of NTSC television.
    """
    red, green, blue = pixels.astype(np.float32)
    grey = BRIGHTNESS * float(pixels.mean(axis=(1, 2)) @ TO_YIQ[0])
    matrix = (BRIGHTNESS * CONTRAST * _recolouring()).astype(np.float32)
    added = np.float32((1 - CONTRAST) * grey)  # grey stays grey
    planes = [red * r + green * g + blue * b + added for r, g, b in matrix]
    jittered: Pixels = np.rint(np.stack(planes)).clip(0, 255).astype(np.uint8)
    return jittered


def _recolouring() -> NDArray[np.float64]:
    """The matrix (3, 3) that takes RGB to YIQ, changes saturation and hue there, and comes back."""
    turn = 2 * math.pi * HUE
    cos, sin = SATURATION * math.cos(turn), SATURATION * math.sin(turn)
    change = np.array([[1.0, 0.0, 0.0], [0.0, cos, sin], [0.0, -sin, cos]])
    matrix: NDArray[np.float64] = np.linalg.inv(TO_YIQ) @ change @ TO_YIQ
    return matrix
