"""The photo as the page shows it."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageOps

MAX_SIDE = 1280  # pixels
QUALITY = 85  # JPEG


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
