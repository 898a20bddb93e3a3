"""One upload and the answers that would be right; and what the tables are made from."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

PHOTO = Path(__file__).resolve().parents[1] / "fixtures" / "astronaut.jpg"
VERDICT = "verdict"
DAMAGED = frozenset({"broken_image", "unsupported_format"})
"""Cut off early enough, a file no longer tells what it was."""
ANY_ANSWER = DAMAGED | {VERDICT, "no_face", "image_too_small", "too_many_pixels"}


@dataclass(frozen=True)
class Case:
    """An upload: its bytes, and the error codes (or ``verdict``) that may answer it."""

    name: str
    blob: bytes
    right: frozenset[str]


def case(name: str, blob: bytes, *right: str) -> Case:
    """A case with these right answers; with none named, any typed answer."""
    return Case(name, blob, frozenset(right) or ANY_ANSWER)


@functools.cache
def portrait() -> Image.Image:
    """A face in 160 x 160 pixels, which is found in a few milliseconds."""
    with Image.open(PHOTO) as photo:
        return photo.convert("RGB").crop((96, 0, 352, 256)).resize((160, 160))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as a file of this kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """One chunk of a PNG, with its length and checksum."""
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(width: int, height: int, *extra: bytes, rows: bytes = b"", depth: int = 8) -> bytes:
    """A greyscale PNG that says it has this size, whatever its rows hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows or bytes(1000), 9))
    body = chunk(b"IHDR", header) + b"".join(extra) + data + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
