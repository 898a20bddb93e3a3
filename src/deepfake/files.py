"""Photos in folders: how their names end, and where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
SUFFIXES = (*JPEG, ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
"""Of the formats that ``images.decode`` reads, in lower case."""


def files_below(folder: Path) -> Iterator[Path]:
    """In and below a folder, then in folders that are linked there; each real folder once.

    In the same order on every disk, so that a folder that can be reached in two ways has the same
    name everywhere.

    Raises:
        OSError: a folder cannot be read. Its photos would be missing, and nobody would know.
    """
    seen: set[str] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        for place, folders, names in os.walk(waiting.pop(0), onerror=_raise):
            real = os.path.realpath(place)
            if real in seen:  # a link to a folder above it, or a second one to the same
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            below = (os.path.join(place, name) for name in folders)
            waiting += filter(os.path.islink, below)
            yield from (Path(place, name) for name in names)


def _raise(error: OSError) -> None:
    raise error
