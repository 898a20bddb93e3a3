"""Bytes -> upright RGB image, with every guard between an upload and the network."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from deepfake.errors import (
    BrokenImage,
    EmptyInput,
    ImageTooLarge,
    ImageTooSmall,
    TooManyPixels,
    UnsupportedFormat,
)

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
FULL_SIZE = "deepfake full size"  # key of Image.info
MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what brings an image of this EXIF orientation upright
SIDEWAYS = (5, 6, 7, 8)  # orientations in which width and height change places
LARGE = 10_000_000  # pixels, above which one image is decoded at a time
MAX_SCANS = 100  # of a JPEG; libjpeg's own files have 10 at most, and each takes time
MAX_RLE_PIXELS = 4_000_000  # of a run-length encoded BMP, which Pillow decodes in Python
JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
SOS, EOI = b"\xda", b"\xd9"
HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1")  # the most common photo we can't read
TILE = (322, 323)  # TIFF's tags of a tile's width and length
MIN_SIDE = 32  # pixels; MTCNN's smallest face is 20 and needs some surroundings


# A photo of 50 million pixels takes up to 800 MB while it is decoded, 200 MB afterwards: as many at
# a time as there are cores would need more than the service is given.
_one_large = threading.Lock()


def decode(
    blob: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    least_side: int | None = None,
) -> Image.Image:
    """Decode an image file held in memory.

    Args:
        blob: the whole file: JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF. Of an animation, the
            first frame is taken.
        max_bytes: largest accepted file, in bytes.
        max_pixels: largest accepted width x height, checked before any pixel is decoded; of a
            TIFF's tiles, too.
        least_side: as many pixels of the longer side are enough. A JPEG is then decoded at a
            half, a quarter or an eighth of its size, as far as that leaves so many: several times
            faster. ``full_size`` tells how large it is in the file.

    Returns:
        The image as 8-bit RGB, turned upright by its EXIF orientation, alpha laid over white.

    Raises:
        EmptyInput, ImageTooLarge, UnsupportedFormat, TooManyPixels, ImageTooSmall, BrokenImage
        MemoryError: there is not enough for this photo.
    """
    if not blob:
        raise EmptyInput("The request holds no image; send the bytes of a photo.")
    if len(blob) > max_bytes:
        raise ImageTooLarge(
            f"The file has {len(blob) / 2**20:.1f} MB; the limit is {max_bytes / 2**20:.0f} MB."
        )
    image = _open(blob)
    _check_size(image.width, image.height, max_pixels)
    size = image.size
    decoded = _decoded_at_once(image, blob, max_pixels)
    try:
        if least_side is not None:
            _reduce(image, least_side)
        large = max(decoded, image.width * image.height) > LARGE
        with _one_large if large else contextlib.nullcontext():
            image.load()
            orientation = _orientation(image)
            upright = _to_rgb(_turned(image, orientation), image.format)
        # Of all that the file says of itself, this alone goes on.
        upright.info = {FULL_SIZE: size[::-1] if orientation in SIDEWAYS else size}
        return upright
    except MemoryError:
        raise  # the photo may be sound
    except Exception as error:
        # Pillow's decoders raise a wide range of types on damaged files (OSError, SyntaxError,
        # ValueError, struct.error ...): all of them mean the same to the caller.
        raise BrokenImage("The image is damaged or cut off and cannot be decoded.") from error


def full_size(image: Image.Image) -> tuple[int, int]:
    """Width and height that an image from ``decode`` has in its file, upright, in pixels."""
    size: tuple[int, int] = image.info.get(FULL_SIZE, image.size)
    return size


def _decoded_at_once(image: Image.Image, blob: bytes, max_pixels: int) -> int:
    """Pixels that the format's own library holds at least, however few of them are asked for.

    Raises:
        TooManyPixels: a TIFF's tiles are too large, of which libtiff decodes a whole one; or a
            run-length encoded BMP.
        BrokenImage: a JPEG has more scans than any that was not made to take time.
    """
    if image.format == "TIFF":
        width, height = (_tag(image, tag) for tag in TILE)
        if width * height > max_pixels:
            raise TooManyPixels(
                f"The image's tiles have {width} x {height} pixels; "
                f"the limit is {max_pixels / 1e6:.0f} million."
            )
        return width * height
    if image.format in ("JPEG", "MPO"):
        scans = _scans(blob)  # one that is not progressive may have many, too
        if scans > MAX_SCANS:
            raise BrokenImage(f"The JPEG has more than {MAX_SCANS} scans; save it anew.")
        if scans > 1:  # all of its coefficients are kept until the last of them
            return image.width * image.height
    tiles = getattr(image, "tile", ())
    run_lengths = image.format == "BMP" and any(tile.codec_name == "bmp_rle" for tile in tiles)
    if run_lengths and image.width * image.height > MAX_RLE_PIXELS:
        raise TooManyPixels(
            f"The BMP is run-length encoded and has {image.width} x {image.height} pixels; the "
            f"limit is {MAX_RLE_PIXELS / 1e6:.0f} million. Save it as PNG."
        )
    if image.format == "AVIF":
        return LARGE + 1  # the picture inside may be larger than the file says
    return 0


def _tag(image: Image.Image, tag: int) -> int:
    """A TIFF's number, the largest of several; 0 where there is none that makes sense."""
    with contextlib.suppress(Exception):
        value = image.tag_v2.get(tag, 0)  # type: ignore[attr-defined]
        return int(max(value) if isinstance(value, tuple) else value)
    return 0


def _scans(jpeg: bytes) -> int:
    """How many scans a JPEG has, up to its end: other things may follow, such as a film.

    Of one with more than ``MAX_SCANS``, or so many parts that to count them takes time, one more.
    """
    count, place = 0, 2
    for _ in range(100 * MAX_SCANS):
        found = JPEG_MARKER.search(jpeg, place)
        if found is None or found[1] == EOI:
            return count
        count += found[1] == SOS
        if count > MAX_SCANS:
            break
        length = int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
        place = found.end() + length
    return MAX_SCANS + 1


def _reduce(image: Image.Image, least_side: int) -> None:
    """Have a JPEG decoded smaller (libjpeg: by 2, 4 or 8); other formats stay as they are."""
    factor = max(image.size) // least_side
    if factor >= 2:
        # A strip may be thinner than the factor, and Pillow divides by this.
        image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))


def _open(blob: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Our own pixel limit follows at once; Pillow's warning would only be noise.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(blob), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise TooManyPixels("The image claims far more pixels than are accepted.") from error
    except UnidentifiedImageError as error:
        if _cut_off(blob):
            raise BrokenImage("The image is damaged or cut off and cannot be decoded.") from error
        what = "HEIC, as iPhones take it" if blob[4:12] in HEIC else "not an image we can read"
        raise UnsupportedFormat(f"This is {what}; send one of {', '.join(FORMATS)}.") from error
    except MemoryError:
        raise
    except Exception as error:
        raise BrokenImage("The image's header is damaged and cannot be read.") from error


def _cut_off(blob: bytes) -> bool:
    """Whether a file begins as one of ours and lacks the part by which Pillow would know it."""
    if blob.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8")):  # JPEG, PNG, GIF
        return True
    if blob[4:12] in (b"ftypavif", b"ftypavis"):
        return True
    if blob.startswith((b"II*\0", b"MM\0*")):  # TIFF, which tells where its directory is
        return int.from_bytes(blob[4:8], "little" if blob[:1] == b"I" else "big") >= len(blob)
    return False


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The image has {width} x {height} pixels; the limit is {max_pixels / 1e6:.0f} million."
        )
    if min(width, height) < MIN_SIDE:
        raise ImageTooSmall(
            f"The image has {width} x {height} pixels; each side needs at least {MIN_SIDE}."
        )


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) where it cannot be read."""
    with contextlib.suppress(Exception):  # a broken EXIF block must not cost anyone their answer
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation in TURNS:
            return int(orientation)
    return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, kind: str | None) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit greyscale: Pillow's own conversion clips at 255 instead of scaling.
        if image.mode.startswith("I;16"):
            image = image.convert("I")  # of either byte order
        # The one value that a PNG calls transparent is of 16 bits, and none of the 8 below.
        value = image.info.pop("transparency", None)
        clear = None if value is None else Image.fromarray(np.asarray(image) == value)
        top = _white(image, kind)
        image = image.point(lambda v: v * (255.0 / top)).convert("L")
        if clear is not None:
            image.paste(255, mask=clear)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


def _white(image: Image.Image, kind: str | None) -> float:
    """The value that stands for white. A TIFF of many bits, or of floats, does not say it.

    Floats from 0 to 1 or to 255 may exceed it a little, as sharpening leaves them.
    """
    if kind != "TIFF":
        return 65535.0
    highest = float(image.getextrema()[1])  # type: ignore[arg-type]
    if image.mode == "F":
        tops = (1.0, 255.0, 65535.0)
        return next((top for top in tops if highest <= 2 * top), highest)
    bits = (8, 10, 12, 14, 16)
    return next((2.0**n - 1 for n in bits if highest < 2**n), highest)
