"""Score many photos: a folder, a photo, a list or Parquet in, Parquet out.

Runs on all cores of this machine, or on a Ray cluster by its address. What is scored is written as
it comes; run again, the same command goes on with what is missing. A photo that cannot be judged
becomes a row with an error, and a worker that dies is replaced.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from deepfake.checkpoint import DEFAULT_POINT, load
from deepfake.errors import DataError, DeepfakeError, InternalError, OutOfMemory
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
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
# Errors that are not the photo's: a disk was away, memory was short. DataError: see _bytes.
PASSING = {error.code for error in (DataError, OutOfMemory, InternalError)}
Batch = dict[str, Any]


class Scorer:
    """One process's pipeline; Ray calls it with batches of paths.

    Args:
        checkpoint: path of ``saved_model.pth``, readable where this runs.
        point: name of the operating point.
        threads: cores it may use.
    """

    def __init__(self, checkpoint: str, point: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.pipeline = Pipeline.from_file(checkpoint, point=point)

    def __call__(self, batch: Batch) -> pa.Table:
        """``path`` (N,) -> a table of N rows of ``SCHEMA``."""
        paths = [str(path) for path in batch["path"]]
        answers = self.pipeline.predict([_bytes(path) for path in paths])
        judge = {
            "checkpoint": self.pipeline.checkpoint.sha256,
            "threshold": self.pipeline.point.threshold,
        }
        rows = [
            {"path": path, **_row(answer), **judge}
            for path, answer in zip(paths, answers, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)


def _bytes(path: str) -> bytes | DeepfakeError:
    """The file's content; any address that Arrow knows (a path, s3://, gs://, hdfs://)."""
    try:
        system, name = _located(path)
        with system.open_input_stream(name) as file:
            return bytes(file.read())
    except (OSError, pa.ArrowException) as error:
        return DataError(f"The file cannot be read: {type(error).__name__}.")


def _located(path: str) -> tuple[Any, str]:
    if "://" in path:
        found: tuple[Any, str] = fs.FileSystem.from_uri(path)
        return found
    return fs.LocalFileSystem(), path


def _row(answer: Verdict | DeepfakeError) -> dict[str, Any]:
    if isinstance(answer, DeepfakeError):
        return {"error": answer.code, "message": str(answer)}
    told = answer.to_json()
    row = {name: told[name] for name in SCHEMA.names if name in told}
    return row | {
        "faces": json.dumps(told["faces"]),
        "width": answer.width,
        "height": answer.height,
    }


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
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _sayable(photos: Iterable[Path]) -> list[str]:
    """Absolute paths, sorted. Linux allows any bytes in a name, Parquet only text."""
    found = sorted(str(path.resolve()) for path in photos)
    paths = [path for path in found if _is_utf8(path)]
    if lost := [os.fsencode(path) for path in found if not _is_utf8(path)]:
        print(
            f"warning: {len(lost)} of {len(found)} photos are left out: a name such as "
            f"{lost[0]!r} is not UTF-8; rename it.",
            file=sys.stderr,
        )
    return paths


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(place: Path) -> list[str]:
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
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
    return [str(path) for path in table["path"].to_pylist()]


def check_apart(source: str, out: Path) -> None:
    """DataError where the next run would take the parts in ``out`` for the photos to score."""
    here, there = Path(source).resolve(), out.resolve()
    if here == there or (here in there.parents and _is_parquet(here)):
        raise DataError(f"--out {out} is or lies in the source; give a folder of its own.")


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


def score(opt: argparse.Namespace, paths: list[str]) -> None:
    """Have Ray score the paths and write Parquet parts into ``opt.out``.

    Raises:
        DataError: a worker could not write.
    """
    import ray

    # local: a Ray of its own, whatever else runs here, and no server for others.
    own = {"num_cpus": opt.cores, "_node_ip_address": "127.0.0.1", "include_dashboard": False}
    where: dict[str, Any] = {"address": opt.address} if opt.address else {"address": "local", **own}
    ray.init(**where, log_to_driver=False, logging_level=logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty() or opt.progress
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the one for Ray's own file keeps all
            handler.setLevel(logging.CRITICAL)  # what ends the job is raised too
    try:
        parts = [paths[i : i + opt.part] for i in range(0, len(paths), opt.part)]
        ray.data.from_arrow([pa.table({"path": part}) for part in parts]).map_batches(
            Scorer,
            fn_constructor_args=(str(opt.checkpoint.resolve()), opt.point, opt.threads),
            batch_size=opt.batch_size,
            batch_format="numpy",
            num_cpus=opt.threads,
            compute=ray.data.ActorPoolStrategy(size=opt.workers),
        ).write_parquet(
            # Writing waits for nothing: the workers may hold every core there is.
            str(opt.out.resolve()),
            ray_remote_args={"num_cpus": 0},
        )
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error, OSError):  # which photos do not cause: see _bytes
            raise
        # Without the worker's traceback, and Ray's advice to itself, which is in the file's place.
        reason = getattr(error.cause, "strerror", None) or str(error.cause).partition("\n")[0]
        raise DataError(
            f"{opt.out} cannot be written ({reason}); run the same command once it can."
        ) from error
    finally:
        ray.shutdown()


def summary(out: Path) -> str:
    """How many of each verdict and error there are now."""
    parts = [str(part) for part in out.glob("*.parquet")]  # whatever else lies there
    table = ds.dataset(parts, format="parquet").to_table(columns=["verdict", "error"])
    kinds = [v or e for v, e in zip(*(c.to_pylist() for c in table.columns), strict=True)]
    names, counts = np.unique(kinds, return_counts=True)
    told = ", ".join(f"{count} {name}" for name, count in zip(names, counts, strict=True))
    return f"{table.num_rows} photos in {out}: {told}"


def arguments() -> argparse.Namespace:
    args = argparse.ArgumentParser(
        prog="deepfake-score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = len(os.sched_getaffinity(0))
    args.add_argument(
        "source", help="a folder, a photo, a text file of paths, or Parquet with a column path"
    )
    args.add_argument(
        "--out", type=Path, default=Path("scores"), help="folder for the Parquet parts"
    )
    args.add_argument("--checkpoint", type=Path, default=Path("saved_model.pth"))
    args.add_argument(
        "--point", default=DEFAULT_POINT, help="operating point (default: %(default)s)"
    )
    args.add_argument("--address", default="", help="of a Ray cluster; default: this machine alone")
    args.add_argument("--cores", type=int, default=cores, help="of this machine (default: all)")
    args.add_argument("--threads", type=int, default=1, help="cores a worker uses (default: 1)")
    args.add_argument("--workers", type=int, help="processes (default: as many as the cores allow)")
    args.add_argument("--batch-size", type=int, default=16, help="photos at once in a worker")
    args.add_argument("--part", type=int, default=512, help="photos in a part of the result")
    args.add_argument("--progress", action="store_true", help="show bars without a terminal too")
    return _checked(args.parse_args())


def _checked(opt: argparse.Namespace) -> argparse.Namespace:
    if opt.workers is None:
        opt.workers = max(1, opt.cores // max(1, opt.threads))
    for name in ("cores", "threads", "workers", "batch_size", "part"):
        if getattr(opt, name) < 1:
            raise DataError(f"--{name.replace('_', '-')} is {getattr(opt, name)}; 1 or more.")
    if not opt.address and opt.workers * opt.threads > opt.cores:
        raise DataError(
            f"--workers {opt.workers} x --threads {opt.threads} are more than {opt.cores} cores."
        )
    if opt.out.exists() and not opt.out.is_dir():
        raise DataError(f"--out {opt.out} is a file; give a folder.")
    if not _is_utf8(str(opt.out.resolve())):
        raise DataError(f"--out {os.fsencode(opt.out)!r} is not UTF-8; give another folder.")
    check_apart(opt.source, opt.out)
    return opt


def run(opt: argparse.Namespace) -> None:
    """Score what is missing in ``opt.out``, and say what is there then."""
    checkpoint = load(opt.checkpoint)
    threshold = checkpoint.point(opt.point).threshold
    paths = paths_of(opt.source)
    opt.out.mkdir(parents=True, exist_ok=True)
    done = scored(opt.out, checkpoint.sha256, threshold, set(paths))
    todo = [path for path in paths if path not in done]
    print(f"{len(paths)} photos, {len(paths) - len(todo)} of them scored before", flush=True)
    if todo:
        score(opt, todo)
    print(summary(opt.out))


def main() -> int:
    """0 when everything is scored; 1 with one sentence when it cannot be; 130 after Ctrl-C."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report over the network
    try:
        run(arguments())
    except DeepfakeError as error:
        message = str(error)
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        return 130
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    else:
        return 0
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
