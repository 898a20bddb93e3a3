"""Face crop -> 224 x 224 pixels -> the three test-time views.

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
BRIGHTNESS, CONTRAST, SATURATION = 1.1, 1.1, 0.9  # factors
HUE = 0.02  # of a full turn
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def to_pixels(crop: Image.Image, size: int) -> Pixels:
    """An RGB image of any size -> uint8 (3, size, size), bicubic with anti-aliasing."""
    resized = crop.resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def make_views(pixels: Pixels) -> Pixels:
    """uint8 (N, 3, S, S) -> uint8 (N, 3 views, 3, S, S) in the order of ``VIEWS``."""
    return np.stack([pixels, pixels[..., ::-1], _jitter(pixels)], axis=1)


def _jitter(pixels: Pixels) -> Pixels:
    """Brighter, with more contrast about the mean grey, less colourful, and its hues turned.

    All four are linear in R, G and B, so one matrix does them and one number is added; the last
    two are a rotation and a scaling of I and Q in YIQ, the colour space of NTSC television.
    """
    x = pixels.astype(np.float32)
    grey = BRIGHTNESS * (x.mean(axis=(2, 3)) @ TO_YIQ[0])
    matrix = (BRIGHTNESS * CONTRAST * _recolouring()).astype(np.float32)
    added = ((1 - CONTRAST) * grey).astype(np.float32)[:, None, None]  # grey stays grey
    planes = [x[:, 0] * r + x[:, 1] * g + x[:, 2] * b + added for r, g, b in matrix]
    jittered: Pixels = np.rint(np.stack(planes, axis=1)).clip(0, 255).astype(np.uint8)
    return jittered


def _recolouring() -> NDArray[np.float64]:
    """The matrix (3, 3) that takes RGB to YIQ, changes saturation and hue there, and comes back."""
    turn = 2 * math.pi * HUE
    cos, sin = SATURATION * math.cos(turn), SATURATION * math.sin(turn)
    change = np.array([[1.0, 0.0, 0.0], [0.0, cos, sin], [0.0, -sin, cos]])
    matrix: NDArray[np.float64] = np.linalg.inv(TO_YIQ) @ change @ TO_YIQ
    return matrix
