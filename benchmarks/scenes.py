"""The photos that are timed, made from fixtures with a free licence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures"
PEOPLE = ("0010", "0014", "0016", "0028", "0039", "0040")  # photos of one person each


def phone_photo() -> bytes:
    """12 megapixels with one face of about 650 pixels: the astronaut, enlarged, with grain."""
    portrait = Image.open(FIXTURES / "astronaut.jpg").convert("RGB")
    scene = portrait.resize((3000, 3000), Image.Resampling.BICUBIC)
    wide = Image.new("RGB", (4000, 3000))
    wide.paste(scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((0, 0, 1000, 3000)), (0, 0))
    wide.paste(scene, (1000, 0))
    grain = np.random.default_rng(0).normal(0, 4, (3000, 4000, 1)).astype(np.float32)
    pixels = np.clip(np.asarray(wide, dtype=np.float32) + grain, 0, 255)
    return _jpeg(Image.fromarray(pixels.astype(np.uint8)), 90)


def news_photo() -> bytes:
    """1200 x 630, the size of a picture beside a link, with six faces."""
    sheet = Image.new("RGB", (1200, 630))
    for i, name in enumerate(PEOPLE):
        photo = Image.open(FIXTURES / f"t2i_{name}.jpg").convert("RGB")
        face = photo.resize((400, 400), Image.Resampling.BICUBIC)
        sheet.paste(face.crop((0, 40, 400, 355)), (i % 3 * 400, i // 3 * 315))
    return _jpeg(sheet, 90)


def small_crop() -> bytes:
    """256 x 256, one face that fills it."""
    photo = Image.open(sorted(FIXTURES.glob("t2i_*.jpg"))[0]).convert("RGB")
    return _jpeg(photo.resize((256, 256), Image.Resampling.BICUBIC), 90)


SCENES = {
    "12 MP, one face": phone_photo,
    "1200 x 630, six faces": news_photo,
    "256 x 256, one face": small_crop,
}


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
