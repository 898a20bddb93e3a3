"""Score many photos: a folder, a photo, a list or Parquet in, Parquet out.

Runs on all cores of this machine, or on a Ray cluster by its address. What is scored is written as
it comes; run again, the same command goes on with what is missing. A photo that cannot be judged
becomes a row with an error, and so does one at which workers die; others take their places.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa

from deepfake.checkpoint import DEFAULT_POINT, load
from deepfake.cpus import usable
from deepfake.errors import DataError, DeepfakeError, InternalError
from deepfake.folders import locked
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from scoring.parts import SCHEMA, add, check_writable, scored, summary, unwritable
from scoring.reading import content_of
from scoring.sources import check_apart, is_utf8, paths_of

Batch = dict[str, Any]

RETRIES = 1  # of a part whose worker died: at one photo it may die for ever
LOST = 20  # such parts, or parts that could not be written, after which the job ends


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
        answers = self.pipeline.predict([content_of(path) for path in paths])
        judge = {
            "checkpoint": self.pipeline.checkpoint.sha256,
            "threshold": self.pipeline.point.threshold,
        }
        rows = [
            {"path": path, **_row(answer), **judge}
            for path, answer in zip(paths, answers, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)


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


def score(opt: argparse.Namespace, paths: list[str], alone: bool = False) -> None:
    """Have Ray score the paths and write Parquet parts into ``opt.out``.

    Of a part whose worker dies again and again nothing is written.

    Args:
        alone: each photo is a part, waits for no other in its worker, and may cost one.

    Raises:
        DataError: a worker could not write, or many died.
    """
    import ray

    # local: a Ray of its own, whatever else runs here, and no server for others.
    own = {"num_cpus": opt.cores, "_node_ip_address": "127.0.0.1", "include_dashboard": False}
    where: dict[str, Any] = {"address": opt.address} if opt.address else {"address": "local", **own}
    ray.init(**where, log_to_driver=False, logging_level=logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty() or opt.progress
    context.max_errored_blocks = -1 if alone else LOST  # -1: any number
    # There is no other way yet to say how often a part is tried.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the one for Ray's own file keeps all
            handler.setLevel(logging.CRITICAL)  # what ends the job is raised too
    try:
        # A part is judged by one worker: with fewer photos than that, all still have some.
        length = 1 if alone else min(opt.part, -(-len(paths) // opt.workers))
        parts = [paths[i : i + length] for i in range(0, len(paths), length)]
        ray.data.from_arrow([pa.table({"path": part}) for part in parts]).map_batches(
            Scorer,
            fn_constructor_args=(str(opt.checkpoint.resolve()), opt.point, opt.threads),
            batch_size=1 if alone else opt.batch_size,  # Ray fills it from several parts
            batch_format="numpy",
            num_cpus=opt.threads,
            compute=ray.data.ActorPoolStrategy(
                size=opt.workers, max_tasks_in_flight_per_actor=1 if alone else None
            ),
            max_task_retries=RETRIES,
        ).write_parquet(
            # Writing waits for nothing: the workers may hold every core there is.
            str(opt.out.resolve()),
            ray_remote_args={"num_cpus": 0},
        )
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error, OSError):  # which photos do not cause: see content_of
            raise
        # Without the worker's traceback, and Ray's advice to itself, which is in the file's place.
        reason = getattr(error.cause, "strerror", None) or str(error.cause).partition("\n")[0]
        raise unwritable(opt.out, reason) from error
    except ray.exceptions.RayActorError as error:
        raise DataError(
            f"Workers died at more than {LOST} parts; see whether there is memory enough for "
            f"{opt.workers} of them, and run the same command again."
        ) from error
    finally:
        ray.shutdown()


def arguments() -> argparse.Namespace:
    args = argparse.ArgumentParser(
        prog="deepfake-score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = usable()
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
    args.add_argument(
        "--part", type=int, default=512, help="photos in a part of the result, at most"
    )
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
    if not is_utf8(str(opt.out.resolve())):
        raise DataError(f"--out {os.fsencode(opt.out)!r} is not UTF-8; give another folder.")
    check_apart(opt.source, opt.out)
    return opt


def run(opt: argparse.Namespace) -> None:
    """Score what is missing in ``opt.out``, and say what is there then."""
    checkpoint = load(opt.checkpoint)
    threshold = checkpoint.point(opt.point).threshold
    paths = paths_of(opt.source)
    opt.out.mkdir(parents=True, exist_ok=True)
    with locked(opt.out):
        done = scored(opt.out, checkpoint.sha256, threshold, set(paths))
        todo = [path for path in paths if path not in done]
        print(f"{len(paths)} photos, {len(paths) - len(todo)} of them scored before", flush=True)
        if todo:
            score(opt, todo)
            _score_lost(opt, checkpoint.sha256, threshold, todo)
        print(summary(opt.out))


def _score_lost(opt: argparse.Namespace, digest: str, threshold: float, paths: list[str]) -> None:
    """Score each photo by itself whose part was lost; where its worker dies again, say so."""

    def lost() -> list[str]:
        done = scored(opt.out, digest, threshold, ())
        return [path for path in paths if path not in done]

    left = lost()
    if len(left) > LOST * max(opt.part, opt.batch_size):
        raise DataError(
            f"{len(left)} photos have no row in {opt.out}; it must be a folder that all machines "
            "of the cluster share."
        )
    if left:
        check_writable(opt.out)
        lost_ones = "1 photo was" if len(left) == 1 else f"{len(left)} photos were"
        print(f"{lost_ones} lost with a worker; each by itself:", flush=True)
        score(opt, left, alone=True)
    error = InternalError("The worker died each time that it looked at this photo.")
    judge = {"checkpoint": digest, "threshold": threshold}
    if rows := [{"path": path, **_row(error), **judge} for path in lost()]:
        add(opt.out, rows)


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
