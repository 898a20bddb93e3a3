"""Face crop -> 224 x 224 pixels -> the three test-time views.

The same crop gives the same views every time: the colour jitter is one fixed shift, not a
random one, so that a verdict can be repeated.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

VIEWS = ("original", "flip", "jitter")
BRIGHTNESS, CONTRAST, SATURATION = 1.1, 1.1, 0.9  # factors
HUE = 0.02  # of a full turn
TO_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
)


def to_pixels(crop: Image.Image, size: int) -> Tensor:
    """An RGB image of any size -> uint8 (3, size, size), bicubic with anti-aliasing."""
    resized = crop.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def make_views(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, S, S) -> uint8 (N, 3 views, 3, S, S) in the order of ``VIEWS``."""
    return torch.stack([pixels, pixels.flip(-1), _jitter(pixels)], dim=1)


def _jitter(pixels: Tensor) -> Tensor:
    """Brighter, with more contrast about the mean grey, less colourful, and its hues turned.

    All four are linear in R, G and B, so one matrix does them; the last two are a rotation and a
    scaling of I and Q in YIQ, the colour space of NTSC television.
    """
    x = pixels.float() * BRIGHTNESS
    grey = torch.einsum("c,nchw->n", TO_YIQ[0], x) / x[0, 0].numel()
    x = grey.view(-1, 1, 1, 1) * (1 - CONTRAST) + x * CONTRAST
    x = torch.einsum("dc,nchw->ndhw", _recolouring(), x)
    return x.round_().clamp_(0, 255).byte()


def _recolouring() -> Tensor:
    """The matrix (3, 3) that takes RGB to YIQ, changes saturation and hue there, and comes back."""
    turn = 2 * math.pi * HUE
    cos, sin = SATURATION * math.cos(turn), SATURATION * math.sin(turn)
    change = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, sin], [0.0, -sin, cos]])
    matrix: Tensor = torch.linalg.inv(TO_YIQ) @ change @ TO_YIQ
    return matrix
