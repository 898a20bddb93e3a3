"""The photo, and heat maps of its faces, as the page shows them."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image, ImageColor, ImageOps

MAX_SIDE = 1280  # pixels
QUALITY = 85  # JPEG
HEAT_SIDE = 320  # pixels
# From nothing to most: dark blue, purple, red, orange, pale yellow. Brightness rises all the way,
# so that the map can be read in grey as well. style.css has the same colours for the key.
HEAT_COLOURS = ("#0b0724", "#57106e", "#bc3754", "#f98e09", "#fcffa4")


def data_uri(blob: bytes) -> str | None:
    """Re-encode a photo for display, in memory.

    Browsers do not show every format that the detector reads (TIFF, for one), and leaving the
    original's metadata and size behind keeps the page light.

    Args:
        blob: an image file that the detector has accepted, so its size is known to be sane.

    Returns:
        A data: URI of an upright JPEG of at most 1280 pixels on its longer side, or None if
        Pillow cannot make one.
    """
    try:
        with Image.open(io.BytesIO(blob)) as image:
            buffer = io.BytesIO()
            _upright_rgb(image).save(buffer, "JPEG", quality=QUALITY)
    except Exception:
        # Pillow's decoders raise many types. The verdict stands without the picture.
        return None
    return _as_uri(buffer)


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


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.draft("RGB", (MAX_SIDE, MAX_SIDE))  # JPEG only: decodes at a fraction of the size
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        # 16-bit greyscale: Pillow's own conversion would clip at 255.
        turned = turned.point(lambda v: v * (1 / 256)).convert("L")
    if turned.mode not in ("L", "RGB"):
        turned = turned.convert("RGBA")
    turned.thumbnail((MAX_SIDE, MAX_SIDE))
    if turned.mode == "RGBA":
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
    return turned.convert("RGB")
