"""Photos for display: as they are, upright, and within bounded memory."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepfake.images import FORMATS, decode
from frontend import preview
from tests.conftest import ASTRONAUT, ROOT

LARGE = (6001, 1203)  # pixels: reduced by two first, with a row and a column over
ORIENTATION = 0x0112
# In a process of its own, so that its memory is that of the photos alone.
PROGRAM = """
import sys, threading
from pathlib import Path
from frontend import preview

preview.PATIENCE = 100  # all four, however slow the machine

def megabytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) // 1024

blob, uris = Path(sys.argv[1]).read_bytes(), []
before = megabytes("VmRSS")
threads = [
    threading.Thread(target=lambda: uris.append(preview.data_uri(blob))) for _ in range(4)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(map(bool, uris)), megabytes("VmHWM") - before)
"""


def shown(image: Image.Image, kind: str, **options: object) -> Image.Image:
    """What the page shows of a photo in this format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    uri = preview.data_uri(buffer.getvalue())
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def gap(image: Image.Image, expected: Image.Image) -> float:
    """Mean difference of the pixels' levels."""
    assert image.size == expected.size
    pair = (np.asarray(each.convert("RGB"), dtype=float) for each in (image, expected))
    return float(np.abs(next(pair) - next(pair)).mean())


def small(image: Image.Image) -> Image.Image:
    """As Pillow's own thumbnail() makes it."""
    copy = image.copy()
    copy.thumbnail((preview.MAX_SIDE, preview.MAX_SIDE))
    return copy


def faded(image: Image.Image, mode: str) -> Image.Image:
    """The image with an alpha channel that falls from left to right."""
    image = image.convert(mode[:-1])
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    return image


@pytest.fixture(scope="module")
def large() -> Image.Image:
    with Image.open(ASTRONAUT) as image:
        return image.convert("RGB").resize(LARGE)


def test_large_photos_at_once_take_the_memory_of_one(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGBA", (7000, 7000), "tan").save(photo, compress_level=1)  # 196 MB, decoded
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, photo],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    count, megabytes = map(int, done.stdout.split())
    assert count == 4
    assert megabytes < 400


@pytest.mark.parametrize(
    ("levels", "white"),
    [
        ("<f4", 1.0),
        ("<f4", 255.0),
        ("<u2", 1023.0),
        ("<u2", 4095.0),
        (">u2", 4095.0),
        ("<i4", 65535.0),
    ],
)
def test_a_tiff_of_floats_or_of_few_bits_is_shown_as_bright_as_it_is(
    levels: str, white: float
) -> None:
    """The verdict is about the picture; black, nobody would know which one."""
    grey = Image.open(ASTRONAUT).convert("L")
    pixels = (np.asarray(grey, dtype=float) * white / 255).astype(levels)
    assert gap(shown(Image.fromarray(pixels), "TIFF"), grey) < 3


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "I;16B"])
def test_a_large_photo_of_any_mode_looks_as_it_does(large: Image.Image, mode: str) -> None:
    grey = large.convert("L")
    if mode.startswith("I;16"):
        levels = (np.asarray(grey) * 257.0).astype("<u2" if mode == "I;16" else ">u2")
        image = Image.frombytes(mode, LARGE, levels.tobytes())
        expected = small(grey)
    elif mode in ("RGBA", "LA"):
        image = faded(large, mode)
        wall = Image.new("RGBA", LARGE, "white")
        expected = small(Image.alpha_composite(wall, image.convert("RGBA")).convert("RGB"))
    else:
        image = large.quantize(64) if mode == "P" else large.convert(mode)
        expected = small(image.convert("L" if mode == "1" else "RGB"))
    assert gap(shown(image, "TIFF"), expected) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_photo_is_turned_upright(large: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture = shown(large, "PNG", exif=exif, compress_level=1)
    turns = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))  # Image.Transpose's numbers
    expected = small(large)
    if orientation in turns:
        expected = expected.transpose(Image.Transpose(turns[orientation]))
    assert gap(picture, expected) < 3
    assert ORIENTATION not in picture.getexif()


@pytest.mark.parametrize("size", [(40000, 33), (33, 40000)])
def test_a_photo_thinner_than_a_pixel_is_shown(size: tuple[int, int]) -> None:
    assert min(shown(Image.new("RGB", size, "tan"), "PNG").size) == 1


def test_who_waits_too_long_for_others_gets_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict is there, and the proxy waits 75 s for it."""
    monkeypatch.setattr(preview, "PATIENCE", 0.1)
    blob = ASTRONAUT.read_bytes()
    with preview._one_at_a_time:
        assert preview.data_uri(blob) is None
    assert preview.data_uri(blob)
    assert preview.data_uri(b"no photo") is None
    assert preview.data_uri(blob), "an error too lets the next one in"


def test_the_photo_that_is_shown_is_the_one_that_was_judged() -> None:
    """Pillow knows more formats than the detector reads, and asks some of them first."""
    assert preview.FORMATS == FORMATS
    buffer = io.BytesIO()
    Image.new("RGB", (400, 400), "grey").save(buffer, "WEBP")
    webp = buffer.getvalue()
    hidden = bytes(2048 - len(webp) - 8) + b"PCD_" + bytes(1536 + 768 * 512 * 6)
    body = webp[8:] + b"JUNK" + len(hidden).to_bytes(4, "little") + hidden
    blob = b"RIFF" + len(body).to_bytes(4, "little") + body
    with Image.open(io.BytesIO(blob)) as other:
        assert other.format == "PCD", "else this tests nothing"
    uri = preview.data_uri(blob)
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as shown:
        assert shown.size == decode(blob).size == (400, 400)
