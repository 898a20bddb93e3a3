"""Damaged files: cut off, bits turned, pieces missing, doubled or in the wrong place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.uploads.case import ANY_ANSWER, DAMAGED, Case, case, encode, portrait

KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
HEADS = (1, 2, 3, 4, 8, 12, 16, 24, 32, 64, 128)  # bytes
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


def broken() -> Iterator[Case]:
    """What a bad line, disk or program leaves of a photo."""
    for kind in KINDS:
        options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
        blob = encode(portrait(), kind, **options)
        yield from _cut(kind, blob)
        yield from _damaged(kind, blob)
    yield from _exif()


def _cut(kind: str, blob: bytes) -> Iterator[Case]:
    for length in HEADS:
        yield Case(f"{kind} of {length} bytes", blob[:length], DAMAGED)
    for share in SHARES:
        cut = blob[: int(len(blob) * share)]
        yield Case(f"{kind} cut at {share:.0%}", cut, DAMAGED)
    # Some formats end in a mark that nobody needs.
    yield Case(f"{kind} less its last byte", blob[:-1], ANY_ANSWER)
    yield Case(f"{kind} less its first byte", blob[1:], DAMAGED)


def _damaged(kind: str, blob: bytes) -> Iterator[Case]:
    rng = np.random.default_rng(len(blob))
    for spread in (64, 256, len(blob)):
        places = rng.integers(4, spread, size=12)
        damaged = bytearray(blob)
        for place, value in zip(places, rng.integers(0, 256, size=12), strict=True):
            damaged[place] = value
        yield case(f"{kind} with noise in the first {spread} bytes", bytes(damaged))
    middle = len(blob) // 2
    holed = blob[:middle] + bytes(200) + blob[middle + 200 :]
    yield case(f"{kind} with zeros in the middle", holed)
    yield case(f"{kind} with a piece missing", blob[:middle] + blob[middle + 57 :])
    yield case(f"{kind} twice over", blob + blob)
    yield case(f"{kind} followed by rubbish", blob + bytes(range(256)) * 8)
    yield case(f"{kind} upper half of one, lower of another", blob[:middle] + blob[:middle])


def _exif() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    head = b"Exif\0\0"
    blocks = {
        "empty": head,
        "not EXIF": b"not exif at all",
        "noise": head + rng.bytes(600),
        "offset beyond the end": head + b"II*\0\xff\xff\xff\x7f",
        "65535 entries": head + b"MM\0*\0\0\0\x08\xff\xff" + bytes(100),
        "an entry of 4 GB": head + b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\xff\0\0\0\0",
        "a directory within itself": head
        + b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
        "orientation as a text": head
        + b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
    }
    for name, block in blocks.items():
        for kind in ("JPEG", "PNG", "WEBP"):
            blob = encode(portrait(), kind, exif=block)
            yield Case(f"{kind} with EXIF: {name}", blob, frozenset({"verdict", "no_face"}))
    resolution = Image.Exif()
    resolution[0x011A] = float("inf")
    yield case("JPEG with endless resolution", encode(portrait(), "JPEG", exif=resolution))
