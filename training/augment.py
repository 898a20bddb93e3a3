"""Training augmentation of one face crop, applied alike to both classes.

What a photo goes through on its way to us (framing, compression, reduction, light) must not
tell the classes apart, so each is drawn at random here. Every choice comes from the generator
that is passed in: the same generator state gives the same picture.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from deepfake.views import to_pixels

_RESAMPLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def augment(crop: Image.Image, size: int, rng: Generator, light: float = 0.0) -> Tensor:
    """An RGB crop of any size -> augmented pixels, uint8 (3, size, size).

    Args:
        light: share of the crops that are only framed, flipped, recoloured and now and then
            sharpened or darkened at the edges, so that traces as fine as a pixel, which the rest
            loses, can be learned too.
    """
    gentle = rng.random() < light
    crop = _vignette(_sharpen(crop, rng), rng)
    if gentle:
        image = _resized_crop(crop, size, rng, least=0.75)
    else:
        sent = _passed_on(_on_a_page(crop, rng), rng)
        image = _degrade(_resized_crop(_rotate(_smooth(sent, rng), rng), size, rng), rng)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(to_pixels(_grade(_jitter(image, rng), rng), size))
    return pixels if gentle else _erase(pixels, rng)


def _sharpen(image: Image.Image, rng: Generator) -> Image.Image:
    """Sometimes an unsharp mask on the photo's own pixels, as cameras and editors use it."""
    if rng.random() < 0.8:
        return image
    mask = ImageFilter.UnsharpMask(rng.uniform(0.5, 2), int(rng.integers(50, 201)), threshold=0)
    return image.filter(mask)


def _vignette(image: Image.Image, rng: Generator) -> Image.Image:
    """Sometimes darker towards the edges, as lenses and filters do it; about any centre."""
    if rng.random() < 0.85:
        return image
    x, y = (np.linspace(-1, 1, n, dtype=np.float32) - rng.uniform(-0.4, 0.4) for n in image.size)
    depth, steep = rng.uniform(0.2, 0.8), rng.uniform(0.7, 2)
    distance = (x**2 + y[:, None] ** 2) / 2  # 1 in the corners about the middle
    light = 1 - depth * np.minimum(distance, 1) ** steep
    return Image.fromarray((np.asarray(image) * light[..., None]).astype(np.uint8))


def _smooth(image: Image.Image, rng: Generator) -> Image.Image:
    """Sometimes without its finest texture but with its edges, as phones make skin fine."""
    if rng.random() < 0.9:
        return image
    fine = np.asarray(image, dtype=np.float32)
    smooth = np.asarray(image.filter(ImageFilter.MedianFilter(int(rng.choice([3, 5])))), np.float32)
    edges = np.abs(fine - smooth).mean(axis=-1, keepdims=True)
    share = rng.uniform(0.5, 1) * np.exp(-((edges / rng.uniform(10, 30)) ** 2))
    return Image.fromarray((fine + share * (smooth - fine)).astype(np.uint8))


def _on_a_page(image: Image.Image, rng: Generator) -> Image.Image:
    """Sometimes on a plain page somewhat larger than it, as a screenshot or an album shows it."""
    if rng.random() < 0.75:
        return image
    width, height = (round(n * rng.uniform(1.02, 1.4)) for n in image.size)
    side = max(width, height)
    grey, tint = rng.uniform(0, 255), rng.uniform(-12, 12, 3)
    colour = tuple(int(v) for v in np.clip(grey + tint, 0, 255))
    page = Image.new("RGB", (side, side), colour)
    x, y = rng.integers(side - image.width + 1), rng.integers(side - image.height + 1)
    page.paste(image, (int(x), int(y)))
    return page


def _passed_on(image: Image.Image, rng: Generator) -> Image.Image:
    """What a messenger or a screenshot does before the photo comes to us: another size, JPEG.

    Unlike ``_degrade`` it works on the photo's own pixels, and enlarges as well as reduces.
    """
    if rng.random() < 0.6:
        return image
    scale = math.exp(rng.uniform(math.log(0.4), math.log(1.6)))
    width, height = (max(32, round(n * scale)) for n in image.size)
    method = _RESAMPLING[rng.integers(len(_RESAMPLING))]
    sent = image.resize((width, height), method)
    return _jpeg(sent, int(rng.integers(40, 96)), int(rng.integers(0, 3)))


def _rotate(image: Image.Image, rng: Generator, degrees: float = 15.0) -> Image.Image:
    """Turn the picture; keep its corners, of a plain colour, or the largest square without them."""
    if rng.random() < 0.7:
        return image
    angle = rng.uniform(-degrees, degrees)
    if rng.random() < 0.5:
        plain = (0, 255, int(rng.integers(256)))[rng.integers(3)]
        return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(plain,) * 3)
    radians = math.radians(abs(angle))
    keep = 1 / (math.cos(radians) + math.sin(radians))
    turned = image.rotate(angle, Image.Resampling.BICUBIC)
    dx, dy = image.width * (1 - keep) / 2, image.height * (1 - keep) / 2
    return turned.crop((round(dx), round(dy), round(image.width - dx), round(image.height - dy)))


def _resized_crop(image: Image.Image, size: int, rng: Generator, least: float = 0.6) -> Image.Image:
    """A random square of ``least`` to all of the area, slightly stretched, as size x size."""
    area = rng.uniform(least, 1.0)
    stretch = math.sqrt(math.exp(rng.uniform(math.log(0.87), math.log(1.15))))
    width = min(image.width, image.width * math.sqrt(area) * stretch)
    height = min(image.height, image.height * math.sqrt(area) / stretch)
    x, y = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    box = (x, y, x + width, y + height)
    return image.resize((size, size), _RESAMPLING[rng.integers(len(_RESAMPLING))], box=box)


def _degrade(image: Image.Image, rng: Generator) -> Image.Image:
    """Reduction, blur, noise and JPEG, each now and then, in the order a camera has them."""
    size = image.size
    if rng.random() < 0.3:
        side = max(16, round(size[0] * rng.uniform(0.35, 0.9)))
        down, up = rng.integers(len(_RESAMPLING), size=2)
        image = image.resize((side, side), _RESAMPLING[down]).resize(size, _RESAMPLING[up])
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
    if rng.random() < 0.15:
        noise = rng.normal(0, rng.uniform(1, 8), (size[1], size[0], 3))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        image = _jpeg(image, int(rng.integers(35, 96)), int(rng.integers(0, 3)))
    return image


def _jpeg(image: Image.Image, quality: int, subsampling: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(buffer).convert("RGB")


def _jitter(image: Image.Image, rng: Generator) -> Image.Image:
    """Brightness, contrast and saturation, each by up to 25 %; sometimes no colour at all."""
    if rng.random() < 0.6:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(rng.uniform(0.75, 1.25))
    if rng.random() < 0.1:
        image = image.convert("L").convert("RGB")
    return image


def _grade(image: Image.Image, rng: Generator) -> Image.Image:
    """Sometimes other levels, and another gain and gamma for each colour: filters, white balance,
    automatic contrast."""
    if rng.random() < 0.6:
        return image
    black, white = rng.uniform(-0.1, 0.1), rng.uniform(0.9, 1.1)
    level = np.clip((np.arange(256) / 255 - black) / (white - black), 0, 1)
    gains, gammas = rng.uniform(0.8, 1.2, 3), np.exp(rng.uniform(-0.25, 0.25, 3))
    curves = [np.clip(gain * level**gamma, 0, 1) for gain, gamma in zip(gains, gammas, strict=True)]
    return image.point([round(255 * float(v)) for curve in curves for v in curve])


def _erase(pixels: Tensor, rng: Generator) -> Tensor:
    """Random erasing (Zhong et al. 2020): a rectangle of 2 to 15 % becomes noise."""
    if rng.random() < 0.75:
        return pixels
    size = pixels.shape[-1]
    area, ratio = rng.uniform(0.02, 0.15) * size * size, math.exp(rng.uniform(-1, 1))
    height = min(size - 1, max(1, round(math.sqrt(area * ratio))))
    width = min(size - 1, max(1, round(math.sqrt(area / ratio))))
    y, x = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    patch = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    pixels[:, y : y + height, x : x + width] = torch.from_numpy(patch)
    return pixels
