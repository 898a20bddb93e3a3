"""The result: a folder of Parquet parts, and what of it a later run goes on from."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from deepfake.errors import DataError, InternalError, OutOfMemory

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("verdict", pa.string()),
        ("fake_probability", pa.float64()),
        ("confidence", pa.float64()),
        ("faces_found", pa.int64()),
        ("faces", pa.string()),  # JSON, as in the service's answer
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("error", pa.string()),  # the code, as in the service's answer; null for a verdict
        ("message", pa.string()),
        ("checkpoint", pa.string()),
        ("threshold", pa.float64()),  # of the operating point, not rounded: it tells points apart
    ]
)
PART = re.compile(r"(\w+_)?[0-9a-f]{32}_\d{6,}-\d+\.parquet")  # as Ray names what it writes
# Errors that are not the photo's: a disk was away, memory was short. DataError: see score.py.
PASSING = {error.code for error in (DataError, OutOfMemory, InternalError)}


def add(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write a part of rows of ``SCHEMA``, named as Ray names its own."""
    part = out / f"{uuid.uuid4().hex}_000000-0.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), part)


def check_writable(out: Path) -> None:
    """DataError where a file of a megabyte cannot be written."""
    probe = out / f".{uuid.uuid4().hex}"
    try:
        probe.write_bytes(bytes(2**20))
    except OSError as error:
        raise unwritable(out, str(error.strerror)) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def unwritable(out: Path, reason: str) -> DataError:
    return DataError(f"{out} cannot be written ({reason}); run the same command once it can.")


def scored(out: Path, digest: str, threshold: float, asked: Collection[str]) -> set[str]:
    """Paths that are in ``out`` already and need not be judged again.

    Parts that a killed run left half-written are removed, and so are the rows of ``asked`` whose
    error may have passed. Nothing is, where anything in ``out`` is not of this job.

    Args:
        out: folder of the Parquet parts.
        digest: the checkpoint's SHA-256, hexadecimal.
        threshold: the operating point's.
        asked: paths to be scored in this run.

    Raises:
        DataError: what is there was scored with another checkpoint or threshold, is no part, or
            cannot be read.
    """
    done: set[str] = set()
    cut_off, passing = [], []
    for part in sorted(out.glob("*.parquet")):
        table = _told(part)
        if table is None:
            cut_off.append(part)
            continue
        if set(table["checkpoint"].to_pylist()) - {digest}:
            raise DataError(f"{out} was scored with another checkpoint; give another --out.")
        if others := set(table["threshold"].to_pylist()) - {threshold}:
            raise DataError(
                f"{out} was scored with the threshold {others.pop()}, not {threshold}; "
                "give the same --point or another --out."
            )
        again = _asked_again(table, asked)
        if any(again):
            passing.append(part)
        paths = table["path"].to_pylist()
        done.update(path for path, once_more in zip(paths, again, strict=True) if not once_more)
    for part in cut_off:
        part.unlink()
    for part in passing:
        _drop(part, asked)
    return done


def _told(part: Path) -> pa.Table | None:
    """What tells a part's rows apart; None for one cut off by a kill, which has no footer."""
    try:
        file = pq.ParquetFile(part)
    except pa.ArrowInvalid as error:
        if PART.fullmatch(part.name):
            return None
        raise DataError(f"{part} is not Parquet; move it away or give another --out.") from error
    except OSError as error:
        raise _unreadable(part, error) from error
    with file:
        missing = set(SCHEMA.names) - set(file.schema_arrow.names)
        if missing == {"threshold"}:
            raise DataError(
                f"{part} is of an older version, which did not note the threshold; "
                "give another --out."
            )
        if missing:
            raise DataError(f"{part} holds something other than scores; give another --out.")
        try:
            return file.read(["path", "error", "checkpoint", "threshold"])
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(part, error) from error


def _unreadable(part: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"{part} cannot be read ({reason}); move it away or give another --out.")


def _asked_again(table: pa.Table, asked: Collection[str]) -> list[bool]:
    """For each row whether another run may have a better answer."""
    rows = zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True)
    return [error in PASSING and path in asked for path, error in rows]


def _drop(part: Path, asked: Collection[str]) -> None:
    """Take the rows that are asked again out of a part; a kill leaves the old one or the new."""
    with pq.ParquetFile(part) as file:
        table = file.read()
    kept = table.filter(pa.array([not again for again in _asked_again(table, asked)]))
    if not kept.num_rows:
        part.unlink()
        return
    new = part.with_name(f".{part.name}.new")  # hidden: who reads the folder passes it over
    pq.write_table(kept, new)
    new.replace(part)


def summary(out: Path) -> str:
    """How many of each verdict and error there are now."""
    parts = [str(part) for part in out.glob("*.parquet")]  # whatever else lies there
    table = ds.dataset(parts, format="parquet").to_table(columns=["verdict", "error"])
    kinds = [v or e for v, e in zip(*(c.to_pylist() for c in table.columns), strict=True)]
    names, counts = np.unique(kinds, return_counts=True)
    told = ", ".join(f"{count} {name}" for name, count in zip(names, counts, strict=True))
    return f"{table.num_rows} photos in {out}: {told}"
