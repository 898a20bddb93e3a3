"""Face crop -> 224 x 224 pixels -> the three test-time views.

The same crop gives the same views every time: the colour jitter is one fixed shift, not a
random one, so that a verdict can be repeated.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

VIEWS = ("original", "flip", "jitter")
BRIGHTNESS, CONTRAST, SATURATION, HUE = 1.1, 1.1, 0.9, 0.02


def to_pixels(crop: Image.Image, size: int) -> Tensor:
    """An RGB image of any size -> uint8 (3, size, size), bicubic with anti-aliasing."""
    resized = crop.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def make_views(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, S, S) -> uint8 (N, 3 views, 3, S, S) in the order of ``VIEWS``."""
    return torch.stack([pixels, F.horizontal_flip(pixels), _jitter(pixels)], dim=1)


def _jitter(pixels: Tensor) -> Tensor:
    x = F.adjust_brightness(pixels, BRIGHTNESS)
    x = F.adjust_contrast(x, CONTRAST)
    x = F.adjust_saturation(x, SATURATION)
    shifted: Tensor = F.adjust_hue(x, HUE)
    return shifted
