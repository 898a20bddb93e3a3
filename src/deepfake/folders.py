"""Folders that long work writes its results into."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from deepfake.errors import DataError


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """For one job at a time: two that go on from the same files would undo each other's work.

    Raises:
        DataError: another job is at it.
    """
    folder = os.open(out, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(
                    f"Another job writes into {out}; wait for it or give another --out."
                ) from error
        yield
    finally:
        os.close(folder)
