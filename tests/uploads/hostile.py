"""Files made to hurt: bombs, claims, odd numbers, directories that go round in a circle."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.uploads.case import VERDICT, Case, case, chunk, encode, png, portrait

TOO_MANY = "too_many_pixels"
CLAIMS = ((7100, 7100), (20_000, 10_000), (60_000, 60_000), (65_535, 65_535))


def hostile() -> Iterator[Case]:
    """What somebody sends who wants the service to fall over."""
    yield from _claims()
    yield from _bombs()
    yield from _numbers()
    yield from _tiff_directories()


def _claims() -> Iterator[Case]:
    """Small files whose headers promise sizes that they do not hold."""
    jpeg, gif = encode(portrait(), "JPEG"), encode(portrait(), "GIF")
    bmp, webp = encode(portrait(), "BMP"), encode(portrait(), "WEBP")
    avif = encode(portrait(), "AVIF")
    for width, height in CLAIMS:
        size = f"that claims {width} x {height}"
        yield case(f"PNG {size}", png(width, height), TOO_MANY)
        place = jpeg.index(b"\xff\xc0") + 5
        claim = jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]
        yield case(f"JPEG {size}", claim, TOO_MANY)
        claim = gif[:6] + struct.pack("<HH", width, height) + gif[10:]
        yield case(f"GIF {size}", claim, TOO_MANY)
        claim = bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
        yield case(f"BMP {size}", claim, TOO_MANY)
        place = avif.index(b"ispe") + 8
        claim = avif[:place] + struct.pack(">II", width, height) + avif[place + 8 :]
        yield case(f"AVIF {size}", claim, TOO_MANY, "broken_image", VERDICT, "no_face")
        yield case(f"TIFF {size}", _tiff(width, height), TOO_MANY)
    place = webp.index(b"VP8 ") + 14
    claim = webp[:place] + struct.pack("<HH", 16_383, 16_383) + webp[place + 4 :]
    yield case("WEBP that claims 16383 x 16383", claim, TOO_MANY, "broken_image")
    for width, height in ((0, 0), (0, 100), (100, 0)):
        yield case(f"PNG of {width} x {height}", png(width, height))
        yield case(f"TIFF of {width} x {height}", _tiff(width, height))
        yield case(f"GIF of {width} x {height}", gif[:6] + struct.pack("<HH", width, height))
        claim = bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
        yield case(f"BMP of {width} x {height}", claim)
    yield case("BMP of negative height", bmp[:22] + struct.pack("<i", -160) + bmp[26:])
    yield case("BMP of negative width", bmp[:18] + struct.pack("<i", -160) + bmp[22:])
    yield case("PNG that claims more rows than it has", png(160, 160))


def _bombs() -> Iterator[Case]:
    """Files that grow a thousandfold when they are read."""
    rows = bytes(6251 * 8000)  # 50,000 x 1000 of 1 bit, eight times over
    yield case("PNG bomb within the limit", png(50_000, 1000, rows=rows, depth=1), "no_face")
    yield case("PNG bomb, more rows than claimed", png(64, 64, rows=rows), "no_face")
    megabytes = zlib.compress(bytes(100 * 2**20), 9)
    for name in (b"zTXt", b"iCCP"):
        bomb = chunk(name, b"a\0\0" + megabytes)
        yield case(f"PNG with a bomb in {name.decode()}", png(64, 64, bomb))
    text = chunk(b"iTXt", b"a\0\1\0\0\0" + megabytes)
    yield case("PNG with a bomb in iTXt", png(64, 64, text))
    yield case("PNG with 20,000 texts", png(64, 64, *[chunk(b"tEXt", b"a\0b")] * 20_000))
    deflated = encode(Image.new("L", (7000, 7000)), "TIFF", compression="tiff_adobe_deflate")
    yield case("TIFF bomb within the limit", deflated, "no_face")
    yield case("GIF bomb within the limit", encode(Image.new("L", (7000, 7000)), "GIF"), "no_face")
    yield case("BMP bomb within the limit", _short_rows(7000), TOO_MANY)
    yield case("small BMP of short rows", _short_rows(300), "no_face")
    webp = encode(Image.new("L", (7000, 7000)), "WEBP", method=0)
    yield case("WEBP bomb within the limit", webp)
    yield case("JPEG of 49 million pixels", encode(Image.new("L", (7000, 7000)), "JPEG"), "no_face")
    tile = ((322, 4, 1, 46_000), (323, 4, 1, 46_000))  # 2 GB, of which 64 x 64 would be shown
    yield case("TIFF of one enormous tile", _tiff(64, 64, *tile), TOO_MANY)
    progressive = encode(portrait(), "JPEG", progressive=True)
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    blob = progressive[:-2] + 3000 * last + progressive[-2:]
    yield case("JPEG of 3000 scans", blob, "broken_image")
    grey = encode(portrait().convert("L"), "JPEG")
    blob = grey[:-2] + 3000 * grey[grey.rindex(b"\xff\xda") : -2] + grey[-2:]
    yield case("JPEG of 3000 scans, not progressive", blob, "broken_image")
    yield case(
        "JPEG of a million parts", progressive[:2] + b"\xff\xe0\0\2" * 10**6 + progressive[2:]
    )
    yield case("progressive JPEG before a film", progressive + b"\xff\xda\0\2" * 3000, VERDICT)


def _short_rows(side: int) -> bytes:
    """A run-length encoded BMP whose rows end after a pixel; Pillow fills them byte by byte."""
    palette, rows = bytes(4 * 256), b"\1\x80\0\0" * side + b"\0\1"
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return struct.pack("<2sIII", b"BM", start + len(rows), 0, start) + info + palette + rows


def _numbers() -> Iterator[Case]:
    """Pixels that are no colours: not a number, endless, negative, tiny."""
    grey = np.asarray(portrait().convert("L"))
    floats = {
        "some NaN": np.where(grey > 200, np.nan, grey),
        "all NaN": np.full(grey.shape, np.nan),
        "some inf": np.where(grey > 200, np.inf, grey),
        "some -inf": np.where(grey < 50, -np.inf, grey),
        "all inf": np.full(grey.shape, np.inf),
        "NaN and inf": np.where(grey > 200, np.nan, np.where(grey < 50, np.inf, grey)),
        "1e38": np.full(grey.shape, 1e38),
        "from -1e38 to 1e38": (grey - 128.0) * 1e36,
        "denormals": np.full(grey.shape, 1e-45),
        "negative": -grey.astype(float),
        "from 0 to 1": grey / 255,
    }
    for name, values in floats.items():
        blob = encode(Image.fromarray(values.astype(np.float32)), "TIFF")
        yield case(f"TIFF of floats, {name}", blob)
    whole = {
        "largest": np.full(grey.shape, 2**31 - 1),
        "smallest": np.full(grey.shape, -(2**31)),
        "all": (grey.astype(np.int64) - 128) * 2**24,
    }
    for name, values in whole.items():
        blob = encode(Image.fromarray(values.astype(np.int32)), "TIFF")
        yield case(f"TIFF of 32-bit integers, {name}", blob)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        profile = {"icc_profile": b"no profile" * 99}
        yield case(f"{kind} with a false colour profile", encode(portrait(), kind, **profile))


def _tiff(width: int, height: int, *more: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A bare greyscale TIFF; ``more`` are entries (tag, type, count, value)."""
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1)),
        *((262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100)),
        *more,
    ]
    content = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    directory = struct.pack("<H", len(entries)) + content + struct.pack("<I", following)
    return b"II*\0\x08\0\0\0" + directory


def _tiff_directories() -> Iterator[Case]:
    yield case("TIFF without its pixels", _tiff(100, 100))
    yield case("TIFF whose next directory is itself", _tiff(100, 100, following=8))
    yield case("TIFF with a sub-directory in itself", _tiff(100, 100, (330, 4, 1, 8)))
    yield case("TIFF with 4 billion strips", _tiff(100, 100, (324, 4, 2**32 - 1, 8)))
    yield case("TIFF with strips beyond its end", _tiff(100, 100, (273, 4, 1, 2**31)))
    yield case("TIFF of 64 bits a sample", _tiff(100, 100, (258, 3, 1, 64)))
    yield case("TIFF of 65535 samples a pixel", _tiff(100, 100, (277, 3, 1, 65_535)))
    yield case("TIFF of an unknown compression", _tiff(100, 100, (259, 3, 1, 60_000)))
    yield case("TIFF of an unknown type", _tiff(100, 100, (262, 99, 1, 1)))
    empty = b"II*\0\x08\0\0\0" + bytes(6)
    yield case("TIFF with an empty directory", empty)
    yield case("TIFF that begins after its end", b"II*\0" + struct.pack("<I", 2**32 - 1))
    frames = io.BytesIO()
    small = [Image.new("1", (1, 1))] * 1000  # Pillow takes the square of it
    portrait().save(frames, "TIFF", save_all=True, append_images=small)
    yield case("TIFF of 1001 pages", frames.getvalue(), VERDICT)
