"""Sound files: every format in every mode it has, turned, animated, with and without metadata."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.uploads.case import VERDICT, Case, case, encode, portrait

MODES = {
    "JPEG": ("1", "L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("L", "RGB", "RGBA", "P"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "AVIF": ("L", "RGB", "RGBA"),
}
SEEN_OR_NOT = (VERDICT, "no_face")  # where the coding may have cost the face
VARIANTS = {
    "JPEG": [
        *({"progressive": True}, {"optimize": True}, {"quality": 5}, {"quality": 100}),
        *({"subsampling": s} for s in (0, 1, 2)),
        *({"restart_marker_rows": 1}, {"comment": b"<script>alert(1)</script>"}),
        {"dpi": (0, 0)},
    ],
    "PNG": [{"compress_level": 0}, {"compress_level": 9}, {"optimize": True}, {"dpi": (1, 1)}],
    "WEBP": [{"lossless": True}, {"quality": 1}, {"method": 6}, {"exact": True}],
    "GIF": [{"interlace": True}, {"interlace": False}],
    "TIFF": [
        {"compression": c}
        for c in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd")
    ]
    + [{"big_tiff": True}],
    "AVIF": [{"quality": 10}, {"subsampling": "4:0:0"}, {"subsampling": "4:4:4"}],
}


def in_mode(mode: str) -> Image.Image:
    """The portrait in a mode, some of which Pillow reaches only by a detour."""
    if mode == "I;16":
        grey = np.asarray(portrait().convert("L")).astype(np.uint16)
        return Image.fromarray(grey * 257)
    if mode == "LAB":
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        there = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
        image = ImageCms.applyTransform(portrait(), there)
        assert image is not None
        return image
    return portrait().convert(mode)


def formats() -> Iterator[Case]:
    """Files that any image program would open."""
    yield from _modes()
    yield from _variants()
    yield from _turned()
    yield from _sizes()
    yield from _animated()


def _modes() -> Iterator[Case]:
    for kind, modes in MODES.items():
        for mode in modes:
            # Dots of black and white are not always a face to a detector.
            right = SEEN_OR_NOT if mode in ("1", "LAB") else (VERDICT,)
            yield case(f"{kind} {mode}", encode(in_mode(mode), kind), *right)


def _variants() -> Iterator[Case]:
    for kind, variants in VARIANTS.items():
        for options in variants:
            name = ", ".join(f"{key} {value}" for key, value in options.items())
            hard = options.get("quality") in (1, 5, 10)
            right = SEEN_OR_NOT if hard else (VERDICT,)
            yield case(f"{kind} {name}", encode(portrait(), kind, **options), *right)


def _turned() -> Iterator[Case]:
    for orientation in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        right = (VERDICT,) if orientation in (0, 1, 2, 9, 65535) else SEEN_OR_NOT
        yield case(f"JPEG orientation {orientation}", encode(portrait(), "JPEG", exif=exif), *right)


def _sizes() -> Iterator[Case]:
    for width, height in ((1, 1), (1, 10_000), (10_000, 1), (31, 31), (31, 3000)):
        for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"):
            size = f"{kind} {width} x {height}"
            yield case(size, encode(Image.new("RGB", (width, height)), kind), "image_too_small")
    for width, height in ((32, 32), (32, 10_000), (10_000, 32), (33, 47), (1500, 40)):
        blank = Image.new("RGB", (width, height), "tan")
        yield case(f"PNG {width} x {height}", encode(blank, "PNG"), "no_face")
    for colour in ("black", "white"):
        yield case(
            f"PNG all {colour}", encode(Image.new("RGB", (90, 90), colour), "PNG"), "no_face"
        )


def _animated() -> Iterator[Case]:
    blue = Image.new("RGB", (160, 160), "blue")
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"):
        options = {"save_all": True, "append_images": [blue] * 3}
        yield case(f"{kind} of 4 frames", encode(portrait(), kind, **options), VERDICT)
        other = encode(blue, kind, save_all=True, append_images=[portrait()])
        yield case(f"{kind} whose face comes second", other, "no_face")
    frames = [image.quantize() for image in (blue, portrait())] * 250  # or each would be anew
    many = encode(portrait(), "GIF", save_all=True, append_images=frames)
    yield case("GIF of 501 frames", many, VERDICT)
