"""Everyday editing of a photo: what it goes through on its way before it is judged."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from deepfake.errors import DataError, DeepfakeError
from deepfake.images import decode
from deepfake.pipeline import Photo
from training.data import Sample

Treatment = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Treatment:
    """Compressed once more."""

    def treat(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return treat


def resized(scale: float) -> Treatment:
    """Reduced, and sent at the smaller size."""

    def treat(image: Image.Image) -> Image.Image:
        size = (max(32, round(image.width * scale)), max(32, round(image.height * scale)))
        return image.resize(size, Image.Resampling.LANCZOS)

    return treat


def blurred(sigma: float) -> Treatment:
    """Gaussian blur, in pixels of the photo."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(sigma))


def sharpened(percent: int) -> Treatment:
    """Unsharp mask of one pixel, as cameras and editors use it."""
    return lambda image: image.filter(ImageFilter.UnsharpMask(1, percent, threshold=0))


def noisy(sigma: float) -> Treatment:
    """Gaussian noise, of 255 levels; the same for the same photo size."""

    def treat(image: Image.Image) -> Image.Image:
        values = np.asarray(image, dtype=np.float32)
        noise = np.random.default_rng(0).normal(0, sigma, values.shape)
        return Image.fromarray(np.clip(values + noise, 0, 255).astype(np.uint8))

    return treat


def brightness(factor: float) -> Treatment:
    """Darker or lighter."""
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def graded(image: Image.Image) -> Image.Image:
    """A warm colour grade with more contrast, as a phone's filter does it."""
    warm = np.asarray(image, dtype=np.float32) * np.array([1.08, 1.0, 0.88], dtype=np.float32)
    toned = Image.fromarray(np.clip(warm, 0, 255).astype(np.uint8))
    return ImageEnhance.Color(ImageEnhance.Contrast(toned).enhance(1.15)).enhance(1.2)


def screenshot(image: Image.Image) -> Image.Image:
    """Enlarged by a quarter on a grey page with a bar above, as JPEG of quality 85."""
    shown = image.resize(
        (round(image.width * 1.25), round(image.height * 1.25)), Image.Resampling.BILINEAR
    )
    edge = round(0.1 * max(shown.size))
    page = Image.new("RGB", (shown.width + 2 * edge, shown.height + 3 * edge), (238, 238, 240))
    page.paste((60, 64, 72), (0, 0, page.width, edge))
    page.paste(shown, (edge, 2 * edge))
    return jpeg(85)(page)


def black_and_white(image: Image.Image) -> Image.Image:
    """Without colour."""
    return image.convert("L").convert("RGB")


def smoothed(image: Image.Image) -> Image.Image:
    """Fine skin as phones make it: where there are no edges a median filter, and somewhat lighter.

    The nearer a pixel is to the median of its 5 x 5 neighbours, the more it becomes that.
    """
    fine = np.asarray(image, dtype=np.float32)
    median = image.filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.GaussianBlur(0.7))
    away = np.asarray(median, dtype=np.float32) - fine
    share = 0.85 * np.exp(-((np.abs(away).mean(axis=-1, keepdims=True) / 18) ** 2))
    return Image.fromarray((255 * ((fine + share * away) / 255) ** 0.92).astype(np.uint8))


def turned(degrees: float) -> Treatment:
    """Turned by hand, about its middle; what comes into the picture is black."""
    return lambda image: image.rotate(degrees, Image.Resampling.BICUBIC)


def vignette(image: Image.Image) -> Image.Image:
    """Darker towards the edges, as lenses and filters do it: 0.4 of the light in the corners."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (image.height, image.width))
    light = 1 - 0.6 * (x**2 + y[:, None] ** 2) / 2
    return Image.fromarray((np.asarray(image) * light[..., None]).astype(np.uint8))


TREATMENTS: dict[str, Treatment] = {
    "as it is": lambda image: image,
    "JPEG quality 90": jpeg(90),
    "JPEG quality 70": jpeg(70),
    "JPEG quality 50": jpeg(50),
    "JPEG quality 30": jpeg(30),
    "size x 0.75": resized(0.75),
    "size x 0.5": resized(0.5),
    "size x 0.25": resized(0.25),
    "blur 1 px": blurred(1),
    "blur 2 px": blurred(2),
    "sharpened": sharpened(150),
    "noise 5": noisy(5),
    "noise 10": noisy(10),
    "brightness x 0.6": brightness(0.6),
    "brightness x 1.4": brightness(1.4),
    "colour grade": graded,
    "black and white": black_and_white,
    "skin smoothed": smoothed,
    "vignette": vignette,
    "turned by 10 degrees": turned(10),
    "screenshot": screenshot,
}
MARGINS = {"crop margin -0.2": -0.2, "crop margin +0.2": 0.2}  # of the face box, every side


def key_of(name: str) -> str:
    """A treatment's name with what tells it from that of another version of this module."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return f"{name} {digest[:12]}"


def treated(sample: Sample, name: str) -> Photo:
    """The sample's photo after the treatment of that name, or the error it gives before."""
    try:
        return TREATMENTS[name](decode(sample.path.read_bytes()))
    except DeepfakeError as error:
        return error
    except OSError as error:
        return DataError(f"{sample.path}: {error.strerror}")
