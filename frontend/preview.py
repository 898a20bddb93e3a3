"""The photo, and heat maps of its faces, as the page shows them."""

from __future__ import annotations

import base64
import io
import threading
from typing import Any

from PIL import Image, ImageColor, ImageOps
from PIL.ExifTags import Base

# Those that the detector reads: others of Pillow's may see another picture in the same file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
MAX_SIDE = 1280  # pixels
QUALITY = 85  # JPEG
STRIP = 256  # rows of a large photo that are converted at a time
PATIENCE = 10.0  # seconds to wait for the photos before this one; the page answers in 75
HEAT_SIDE = 320  # pixels
# From nothing to most: dark blue, purple, red, orange, pale yellow. Brightness rises all the way,
# so that the map can be read in grey as well. result.css has the same colours for the key.
HEAT_COLOURS = ("#0b0724", "#57106e", "#bc3754", "#f98e09", "#fcffa4")

# A photo of 50 million pixels takes 300 MB while it is decoded, as WebP 750: one at a time, since
# as many as the page holds (frontend/slots.py) would not fit into its container.
_one_at_a_time = threading.Lock()


def data_uri(blob: bytes) -> str | None:
    """Re-encode a photo for display, in memory.

    Browsers do not show every format that the detector reads (TIFF, for one), and leaving the
    original's metadata and size behind keeps the page light.

    Args:
        blob: an image file that the detector has accepted, so its size is known to be sane.

    Returns:
        A data: URI of an upright JPEG of at most 1280 pixels on its longer side, or None if
        Pillow cannot make one, or others took too long before it.
    """
    if not _one_at_a_time.acquire(timeout=PATIENCE):
        return None  # the verdict stands without the picture
    try:
        return _as_uri(_jpeg(blob))
    except Exception:
        # Pillow's decoders raise many types. Here too the verdict stands without the picture.
        return None
    finally:
        _one_at_a_time.release()


def heat_uri(face: dict[str, Any]) -> str | None:
    """A face's crop under its heat map.

    Args:
        face: a ``Face`` of docs/openapi.yaml.

    Returns:
        A data: URI of a square JPEG of 320 pixels; None if the face has no crop or no heat map,
        or all of the map is 0.
    """
    rows = face.get("heat_map")
    if not rows or "crop" not in face or not any(map(any, rows)):
        return None
    square = (HEAT_SIDE, HEAT_SIDE)
    heat = Image.new("L", (len(rows[0]), len(rows)))
    heat.putdata([round(255 * value) for row in rows for value in row])
    with Image.open(io.BytesIO(base64.b64decode(face["crop"]))) as crop:
        grey = crop.convert("L").resize(square, Image.Resampling.BICUBIC).convert("RGB")
    coloured = _coloured(heat.resize(square, Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    Image.blend(grey, coloured, 0.6).save(buffer, "JPEG", quality=QUALITY)
    return _as_uri(buffer)


def _coloured(heat: Image.Image) -> Image.Image:
    """A greyscale map in ``HEAT_COLOURS``."""
    stops = [ImageColor.getrgb(colour) for colour in HEAT_COLOURS]
    channels = []
    for channel in range(3):
        values = [stop[channel] for stop in stops]
        channels.append(heat.point([round(_between(values, level / 255)) for level in range(256)]))
    return Image.merge("RGB", channels)


def _between(values: list[int], place: float) -> float:
    """The value at a place in [0, 1] along the values, in straight lines."""
    low = min(int(place * (len(values) - 1)), len(values) - 2)
    part = place * (len(values) - 1) - low
    return values[low] * (1 - part) + values[low + 1] * part


def _as_uri(buffer: io.BytesIO) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _jpeg(blob: bytes) -> io.BytesIO:
    """In a function of its own: when it returns, nothing holds the whole photo any more."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(blob), formats=FORMATS) as image:
        _upright_rgb(image).save(buffer, "JPEG", quality=QUALITY)
    return buffer


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.draft("RGB", (MAX_SIDE, MAX_SIDE))  # JPEG only: decodes at a fraction of the size
    image.load()
    small = _small_rgb(image)
    # Turned only now: a whole photo would be held twice for it.
    small.getexif()[Base.Orientation] = image.getexif().get(Base.Orientation, 1)
    ImageOps.exif_transpose(small, in_place=True)
    return small


def _small_rgb(image: Image.Image) -> Image.Image:
    """At most ``MAX_SIDE`` pixels on its longer side, made without a second copy of the whole."""
    width, height = image.size
    scale = min(1.0, MAX_SIDE / max(width, height))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    # First the mean of so many pixels each way, as Pillow's own thumbnail() does.
    factor = max(width, height) // (2 * MAX_SIDE) or 1
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    white = _white(image)
    rows = STRIP * factor
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        small.paste(_rgb(strip, white).reduce(factor), (0, top // factor))
    box = (0, 0, width / factor, height / factor)  # the last row and column may be cut
    return small.resize(size, Image.Resampling.BICUBIC, box)


def _white(image: Image.Image) -> float | None:
    """The value of white in a picture of many bits or of floats, which Pillow would clip at 255.

    A TIFF does not say it: it is the next that is usual, as deepfake.images takes it, too.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return None
    if image.format != "TIFF":
        return 65535.0
    strips = (
        _plain(image.crop((0, top, image.width, min(top + STRIP, image.height))))
        for top in range(0, image.height, STRIP)
    )
    highest = max(float(strip.getextrema()[1]) for strip in strips)  # type: ignore[arg-type]
    if image.mode == "F":
        return next((top for top in (1.0, 255.0, 65535.0) if highest <= 2 * top), highest)
    return next((2.0**n - 1 for n in (8, 10, 12, 14, 16) if highest < 2**n), highest)


def _plain(image: Image.Image) -> Image.Image:
    """16 bits of either byte order as 32, which all of Pillow knows."""
    return image.convert("I") if image.mode.startswith("I;16") else image


def _rgb(image: Image.Image, white: float | None) -> Image.Image:
    """In 8 bits for each colour, alpha laid over white."""
    if white is not None:
        image = _plain(image).point(lambda v: v * (255.0 / white)).convert("L")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
