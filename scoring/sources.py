"""Which photos to score: a folder, a photo, a list or Parquet."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from deepfake.errors import DataError
from deepfake.files import SUFFIXES, files_below


def paths_of(source: str) -> list[str]:
    """The photos to score.

    Args:
        source: a folder (all photos in and below it), a photo, a text file with a path per line,
            or a Parquet file or folder of them with a column ``path``.

    Returns:
        Each path once; of a folder's photos and of a single one, the absolute path. What UTF-8
        cannot say is left out with a warning on standard error.

    Raises:
        DataError: nothing there, no photo in it, or no telling what it is.
    """
    place = Path(source)
    if place.suffix.lower() in SUFFIXES and place.is_file():
        paths = _sayable([place])
    elif _is_parquet(place):
        if place.is_dir() and any(_photos(place)):
            raise DataError(
                f"{source} holds photos and Parquet; name the Parquet file itself, or move it away."
            )
        paths = _column(source)
    elif place.is_dir():
        paths = _sayable(_photos(place))
    elif place.is_file():
        paths = _lines(place)
    else:
        raise DataError(f"{source} does not exist; give a folder, a list of paths or Parquet.")
    if not paths:
        raise DataError(f"{source} holds no photo.")
    return list(dict.fromkeys(paths))


def _is_parquet(place: Path) -> bool:
    return place.suffix == ".parquet" or (place.is_dir() and any(place.glob("*.parquet")))


def _photos(folder: Path) -> Iterator[Path]:
    return (path for path in files_below(folder) if path.suffix.lower() in SUFFIXES)


def _sayable(photos: Iterable[Path]) -> list[str]:
    """Absolute paths, sorted. Linux allows any bytes in a name, Parquet only text."""
    found = sorted(os.path.abspath(path) for path in photos)  # by the names they have here
    paths = [path for path in found if is_utf8(path)]
    if lost := [os.fsencode(path) for path in found if not is_utf8(path)]:
        print(
            f"warning: {len(lost)} of {len(found)} photos are left out: a name such as "
            f"{lost[0]!r} is not UTF-8; rename it.",
            file=sys.stderr,
        )
    return paths


def is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(place: Path) -> list[str]:
    try:
        lines = place.read_text(encoding="utf-8-sig").split("\n")  # a name may hold other breaks
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place} is neither a photo ({' '.join(SUFFIXES)}) nor a list of paths in UTF-8."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _column(source: str) -> list[str]:
    try:
        table = ds.dataset(source, format="parquet").to_table(columns=["path"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{source} is not Parquet with a column path.") from error
    paths = [path for path in table["path"].to_pylist() if path]  # an empty cell is no photo
    if not all(isinstance(path, str) for path in paths):
        raise DataError(f"The column path of {source} is {table['path'].type}, not text.")
    return paths


def check_apart(source: str, out: Path) -> None:
    """DataError where the next run would take the parts in ``out`` for the photos to score."""
    here, there = Path(source).resolve(), out.resolve()
    if here == there or (here in there.parents and _is_parquet(here)):
        raise DataError(f"--out {out} is or lies in the source; give a folder of its own.")
