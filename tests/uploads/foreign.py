"""Files that are no photo of ours: other formats, other media, two formats at once."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Iterator

import numpy as np

from tests.uploads.case import DAMAGED, VERDICT, Case, case, encode, portrait

UNSUPPORTED = "unsupported_format"
OTHER_IMAGES = ("PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000", "DDS", "EPS", "PDF", "ICNS")
TEXTS = {
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"><rect/></svg>',
    "SVG that includes a file": b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM '
    b'"file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>',
    "a billion laughs": b'<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><l>&b;</l>',
    "PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF",
    "HTML": b"<!doctype html><script>alert(document.cookie)</script>",
    "JSON": b'{"image": "aGVsbG8="}',
    "a form": b"image=hello&crops=true",
    "a path": b"../../../../etc/passwd",
    "a URL": b"http://127.0.0.1:8081/models",
    "a format string": b"%s%s%n{0}{{}}${jndi:ldap://127.0.0.1/a}",
    "SQL": b"'; DROP TABLE photos; --",
    "a Python pickle": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93.",
    "a shell script": b"#!/bin/sh\nexit 1\n",
    "a program": b"\x7fELF\x02\x01\x01" + bytes(200),
    "a class file": b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(200),
    "a film": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(400),
    "a sound": b"ID3\x04\0\0\0\0\0\x23" + bytes(400),
    "PSD": b"8BPS\0\x01" + bytes(100),
    "JPEG XL": b"\xff\x0a" + bytes(100),
    "WebM": b"\x1a\x45\xdf\xa3" + bytes(100),
    "RIFF that is no WebP": b"RIFF\x64\0\0\0WAVEfmt " + bytes(100),
    "spaces": b" " * 500,
    "new lines": b"\n" * 500,
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "one zero": b"\0",
    "a byte order mark": b"\xef\xbb\xbf",
    "surrogates": "\ud800".encode("utf-16-le", "surrogatepass") * 50,
}


def foreign() -> Iterator[Case]:
    """What is sent by mistake, or in the hope that somebody else will open it."""
    yield case("nothing", b"", "empty_input")
    for name, blob in TEXTS.items():
        yield case(name, blob, UNSUPPORTED)
    for seed in range(4):
        yield case(f"noise {seed}", np.random.default_rng(seed).bytes(3000), UNSUPPORTED)
    for kind in OTHER_IMAGES:
        yield case(f"a sound {kind}", encode(portrait(), kind), UNSUPPORTED)
    yield from _heic()
    yield from _two_in_one()
    yield case("more than 20 MB", encode(portrait(), "JPEG") + bytes(20 * 2**20), "image_too_large")
    yield case("more than 20 MB of nothing", bytes(20 * 2**20 + 1), "image_too_large")


def _heic() -> Iterator[Case]:
    avif = encode(portrait(), "AVIF")
    for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"xxxx"):
        head = struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1heic"
        yield case(f"HEIC {brand.decode()}", head + bytes(500), UNSUPPORTED)
        renamed = avif[:8] + brand + avif[12:]
        yield case(f"AVIF that says {brand.decode()}", renamed, *DAMAGED, VERDICT)
    for brand in (b"avif", b"avis"):
        head = struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1miaf"
        yield case(f"{brand.decode()} with nothing in it", head + bytes(500), "broken_image")


def _two_in_one() -> Iterator[Case]:
    """Each half is good for somebody: only the photo may be looked at."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("index.html", "<script>alert(1)</script>")
    packed, html = buffer.getvalue(), TEXTS["HTML"]
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        photo = encode(portrait(), kind)
        yield case(f"{kind} and ZIP", photo + packed, VERDICT)
        yield case(f"{kind} and HTML", photo + html, VERDICT)
        yield case(f"HTML and {kind}", html + photo, UNSUPPORTED)
        yield case(f"PDF and {kind}", TEXTS["PDF"] + photo, UNSUPPORTED)
        yield case(f"{kind} in gzip", gzip.compress(photo), UNSUPPORTED)
    comment = encode(portrait(), "JPEG", comment=b"*/=1;alert(1)/*")
    yield case("JPEG and script", comment, VERDICT)
