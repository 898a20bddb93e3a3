"""Files as people have them: every format, turned, transparent, odd, broken and hostile."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepfake import errors, images
from deepfake.images import FORMATS, MAX_BYTES, decode

ORIENTATION = 0x0112
LOSSY = ("JPEG", "WEBP", "AVIF")


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters(width: int = 64, height: int = 48) -> Image.Image:
    """Red and green above, blue and white below: no two turns of it look alike."""
    image = Image.new("RGB", (width, height), "white")
    image.paste((255, 0, 0), (0, 0, width // 2, height // 2))
    image.paste((0, 255, 0), (width // 2, 0, width, height // 2))
    image.paste((0, 0, 255), (0, height // 2, width // 2, height))
    return image


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def noise(width: int = 64, height: int = 64) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_its_size_and_colours(kind: str) -> None:
    image = decode(encode(quarters(), kind, **({"quality": 95} if kind in LOSSY else {})))
    assert (image.mode, image.size) == ("RGB", (64, 48))
    inside = [image.getpixel(place) for place in ((16, 12), (48, 12), (16, 36), (48, 36))]
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    np.testing.assert_allclose(inside, expected, atol=12 if kind in LOSSY else 0)


# What a camera held so stores for an upright photo; the EXIF standard's eight orientations.
STORED: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_photos_come_upright(orientation: int, kind: str) -> None:
    upright = np.asarray(quarters())
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"quality": 95} if kind in LOSSY else {}
    image = decode(encode(stored, kind, exif=exif, **options))
    assert image.size == (64, 48)
    middle = (slice(6, None, 12), slice(8, None, 16))  # away from the edges, which codecs blur
    np.testing.assert_allclose(pixels(image)[middle], upright[middle], atol=12)


def exif_block(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Tags as (number, type, count, four bytes of value), little-endian."""
    content = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + content + b"\0" * 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0II*\0\xff\xff\xff\xff and more that is no EXIF",
        # Orientation 6, and a horizontal resolution that is a text.
        exif_block((ORIENTATION, 3, 1, b"\x06\0\0\0"), (0x011A, 2, 1, b"x\0\0\0")),
    ],
    ids=["rubbish", "wrong type"],
)
def test_damaged_exif_does_not_cost_the_answer(exif: bytes) -> None:
    assert sorted(decode(encode(quarters(), "JPEG", exif=exif)).size) == [48, 64]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_alpha_is_laid_over_white(kind: str) -> None:
    image = Image.new("RGBA", (96, 32), (255, 0, 0, 255))
    image.paste((255, 0, 0, 128), (32, 0, 64, 32))
    image.paste((0, 0, 0, 0), (64, 0, 96, 32))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "AVIF" else {}
    decoded = decode(encode(image, kind, **options))
    seen = [decoded.getpixel((x, 16)) for x in (16, 48, 80)]
    expected = [(255, 0, 0), (255, 127, 127), (255, 255, 255)]
    np.testing.assert_allclose(seen, expected, atol=8 if kind == "AVIF" else 1)


def test_grey_with_alpha_is_laid_over_white() -> None:
    image = Image.new("LA", (64, 32), (100, 255))
    image.paste((0, 51), (32, 0, 64, 32))  # a fifth of black
    decoded = decode(encode(image, "PNG"))
    assert decoded.getpixel((16, 16)) == (100, 100, 100)
    np.testing.assert_allclose(decoded.getpixel((48, 16)), (204, 204, 204), atol=1)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_becomes_white(kind: str) -> None:
    image = Image.new("P", (64, 32), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (32, 0, 64, 32))
    decoded = decode(encode(image, kind, transparency=0))
    assert decoded.getpixel((16, 16)) == (255, 255, 255)
    assert decoded.getpixel((48, 16)) == (200, 100, 50)


def test_transparent_colour_of_a_png_becomes_white() -> None:
    image = Image.new("RGB", (64, 32), (1, 2, 3))
    image.paste((200, 100, 50), (32, 0, 64, 32))
    decoded = decode(encode(image, "PNG", transparency=(1, 2, 3)))
    assert decoded.getpixel((16, 16)) == (255, 255, 255)
    assert decoded.getpixel((48, 16)) == (200, 100, 50)


def test_transparent_grey_of_16_bits_becomes_white_and_no_other() -> None:
    grey = np.zeros((32, 64), dtype=np.uint16)
    grey[:, 32:] = 0x1200  # as dark as the rest in 8 bits' last digits
    image = Image.fromarray(grey)
    for value, left, right in ((0x1200, 0, 255), (0, 255, 17), (0x3400, 0, 17)):
        decoded = decode(encode(image, "PNG", transparency=value))
        assert decoded.getpixel((16, 16)) == (left,) * 3
        assert decoded.getpixel((48, 16)) == (right,) * 3


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_gives_its_colours(kind: str) -> None:
    decoded = decode(encode(quarters().convert("P", palette=Image.Palette.ADAPTIVE), kind))
    np.testing.assert_allclose(pixels(decoded), pixels(quarters()), atol=2)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_gives_the_colours_of_its_inks(kind: str) -> None:
    red_inks, black_ink = (0, 255, 255, 0), (0, 0, 0, 255)
    image = Image.new("CMYK", (64, 32), red_inks)
    image.paste(black_ink, (32, 0, 64, 32))
    decoded = decode(encode(image, kind))
    np.testing.assert_allclose(decoded.getpixel((8, 16)), (255, 0, 0), atol=8)
    np.testing.assert_allclose(decoded.getpixel((56, 16)), (0, 0, 0), atol=8)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_bilevel_become_rgb(mode: str) -> None:
    image = Image.new("L", (64, 32), 0)
    image.paste(255, (32, 0, 64, 32))
    decoded = decode(encode(image.convert(mode), "PNG"))
    assert [decoded.getpixel((x, 16)) for x in (16, 48)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize(
    ("kind", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")], ids=str
)
def test_sixteen_bits_are_scaled_not_clipped(kind: str, order: str) -> None:
    gradient = np.tile(np.linspace(0, 65535, 256).round(), (32, 1)).astype(order)
    decoded = decode(encode(Image.fromarray(gradient), kind))
    row = pixels(decoded)[0, :, 0]
    np.testing.assert_allclose(row, np.arange(256), atol=1)


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.linspace(0, 4095, 256).astype("<u2"), 4095),  # twelve bits in sixteen
        (np.linspace(0, 1, 256).astype("<f4"), 1),
        (np.linspace(-0.001, 1.02, 256).astype("<f4"), 1),  # sharpened
        (np.linspace(0, 255, 256).astype("<f4"), 255),
        (np.linspace(-2, 265, 256).astype("<f4"), 255),
        (np.linspace(0, 10**6, 256).astype("<i4"), 10**6),
    ],
    ids=["12 bits", "0 to 1", "a little over 1", "0 to 255", "a little over 255", "32 bits"],
)
def test_numbers_that_do_not_say_what_white_is_are_understood(
    values: np.ndarray, white: float
) -> None:
    row = pixels(decode(encode(Image.fromarray(np.tile(values, (32, 1))), "TIFF")))[0, :, 0]
    np.testing.assert_allclose(row, np.clip(values / white, 0, 1) * 255, atol=1.01)


def test_a_dark_png_of_sixteen_bits_stays_dark() -> None:
    """Its white is 65535, whatever its brightest pixel is."""
    dark = np.tile(np.linspace(0, 16000, 256).astype("<u2"), (32, 1))
    row = pixels(decode(encode(Image.fromarray(dark), "PNG")))[0, :, 0]
    np.testing.assert_allclose(row, np.linspace(0, 16000, 256) / 257, atol=1.01)


def test_a_whole_tiff_of_a_kind_we_cannot_read_is_not_called_damaged() -> None:
    """As raw files of cameras are, which begin like a TIFF."""
    blob = bytearray(encode(noise(), "TIFF"))
    bits = blob.index(struct.pack("<HH", 262, 3))  # PhotometricInterpretation
    blob[bits + 8 : bits + 10] = struct.pack("<H", 32803)  # of a colour filter
    assert refusal(bytes(blob)).code == "unsupported_format"


def test_large_images_are_decoded_one_at_a_time() -> None:
    """Or as many as there are cores would take more memory than there is; small ones don't wait."""
    large = encode(Image.new("L", (4000, 3000)), "PNG")
    with images._one_large, ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(decode, large)
        assert pool.submit(decode, encode(quarters(), "PNG")).result(timeout=60).size == (64, 48)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=1)
        images._one_large.release()
        try:
            assert waiting.result(timeout=60).size == (4000, 3000)
        finally:
            images._one_large.acquire()


def test_animation_gives_its_first_frame() -> None:
    first, second = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (40, 40), "blue")
    for kind in ("GIF", "WEBP", "PNG"):
        blob = encode(first, kind, save_all=True, append_images=[second], duration=100)
        with Image.open(io.BytesIO(blob)) as file:
            assert file.n_frames == 2
        red, _, blue = decode(blob).getpixel((20, 20))
        assert red > 240, kind
        assert blue < 15, kind


def test_photo_of_several_pictures_as_phones_write_them_gives_the_first() -> None:
    first, second = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (40, 40), "blue")
    red, _, blue = decode(encode(first, "MPO", save_all=True, append_images=[second])).getpixel(
        (20, 20)
    )
    assert red > 240
    assert blue < 15


def refusal(blob: bytes, **limits: int) -> errors.DeepfakeError:
    with pytest.raises(errors.InputError) as caught:
        decode(blob, **limits)
    return caught.value


def test_nothing_is_empty_input() -> None:
    assert refusal(b"").code == "empty_input"


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"><rect/></svg>'


@pytest.mark.parametrize(
    "blob",
    [
        SVG,
        b"%PDF-1.7\n1 0 obj\n",
        b"just some text",
        b"\0" * 500,
        noise().tobytes(),
        b"P6 64 64 255 ",
    ],
    ids=["svg", "pdf", "text", "zeros", "noise", "ppm"],
)
def test_what_is_no_image_of_ours_is_an_unsupported_format(blob: bytes) -> None:
    error = refusal(blob)
    assert (error.code, error.status) == ("unsupported_format", 415)
    assert all(kind in str(error) for kind in FORMATS)


def test_a_photo_as_iphones_take_it_is_called_by_its_name() -> None:
    error = refusal(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(500))
    assert error.code == "unsupported_format"
    assert "This is HEIC" in str(error)
    assert "JPEG" in str(error)


@pytest.mark.filterwarnings("ignore:Truncated File Read")  # Pillow's own
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_cut_off_file_is_a_broken_image(kind: str) -> None:
    """Also where the header comes last, as libtiff writes it, or is cut off itself."""
    blob = encode(noise(), kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
    told_early = kind not in ("WEBP", "BMP")  # the first bytes of these could be anything's
    for length in (len(blob) // 2, *([20] * told_early)):
        error = refusal(blob[:length])
        assert (error.code, error.status) == ("broken_image", 422)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damage_inside_never_raises_anything_else(kind: str) -> None:
    """Whatever the damage, the answer is a picture or one of our own errors."""
    rng = np.random.default_rng(0)
    blob = encode(noise(), kind)
    refused = 0
    for _ in range(60):
        damaged = bytearray(blob)
        for place in rng.integers(0, 200, size=8):
            damaged[place] = rng.integers(256)
        try:
            assert decode(bytes(damaged)).mode == "RGB"
        except errors.InputError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize(
    ("size", "good"), [((31, 500), False), ((500, 31), False), ((32, 32), True)]
)
def test_smallest_side_is_32(size: tuple[int, int], good: bool) -> None:
    blob = encode(Image.new("RGB", size), "PNG")
    if good:
        assert decode(blob).size == size
    else:
        error = refusal(blob)
        assert (error.code, error.status) == ("image_too_small", 422)


def test_pixels_are_counted_up_to_the_limit() -> None:
    blob = encode(noise(50, 40), "PNG")
    assert decode(blob, max_pixels=2000).size == (50, 40)
    error = refusal(blob, max_pixels=1999)
    assert (error.code, error.status) == ("too_many_pixels", 413)
    assert "50 x 40" in str(error)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("side", [7100, 10_000, 60_000])
def test_a_small_file_that_claims_to_be_huge_is_refused_by_its_header(side: int) -> None:
    """Below, within and above what makes Pillow itself warn or refuse."""
    error = refusal(png_that_claims(side, side))
    assert (error.code, error.status) == ("too_many_pixels", 413)


def test_bytes_are_counted_up_to_the_limit() -> None:
    blob = encode(quarters(), "PNG")
    assert decode(blob, max_bytes=len(blob)).size == (64, 48)
    error = refusal(blob, max_bytes=len(blob) - 1)
    assert (error.code, error.status) == ("image_too_large", 413)


def test_a_file_above_20_mb_is_refused_unread() -> None:
    error = refusal(encode(quarters(), "PNG") + b"\0" * MAX_BYTES)
    assert error.code == "image_too_large"
    assert "20 MB" in str(error)
