"""Measure a checkpoint on labelled photos, through the very pipeline that serves.

Whole photos go in, as a user would send them: decoding, face detection, crop and three views are
all part of what is measured. The main table is of labels at 0.5; the operating points, the one that
serves among them, have a table of their own. Photos without an answer (no face found, or
unreadable) are counted and listed, not scored. Writes evaluation.json, evaluation.md,
predictions.csv and a picture of curves; a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from tqdm import tqdm

import deepfake
from deepfake.errors import DataError, DeepfakeError, InternalError, OutOfMemory
from deepfake.pipeline import Photo, Pipeline
from deepfake.views import VIEWS
from training.cli import AGAIN, check_numbers, keep_memory, parser, run
from training.data import LABELS, SPLITS, Sample, of_split, read_samples, stamp
from training.report import Result, markdown, plot, summarise
from training.sampling import limited
from training.tables import to_json

BATCH = 8  # photos per call of the pipeline
COLUMNS = ["path", "source", "label", "stamp", *VIEWS, "error"]


def arguments() -> argparse.Namespace:
    args = parser(__doc__)
    args.add_argument("--data", type=Path, default=Path("data"), help="data folder or manifest")
    args.add_argument("--split", choices=SPLITS, default="test", help="which split to measure")
    args.add_argument("--checkpoint", type=Path, default=Path("saved_model.pth"))
    args.add_argument(
        "--out",
        type=Path,
        help="results' folder; default: runs/evaluation, of another split runs/evaluation-SPLIT",
    )
    args.add_argument("--limit", type=int, default=0, help="so many photos at random; 0: all")
    args.add_argument("--rounds", type=int, default=1000, help="bootstrap resamples")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="classifier's place")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("rounds",), not_negative=("limit", "seed"))
    opt.out = opt.out or folder_of("evaluation", opt.split)
    if opt.device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device is cuda, but no GPU is seen; see python -m training.diagnostic.")
    return opt


PASSING = {e.code for e in (DataError, OutOfMemory, InternalError)}
"""Errors that say nothing about the photo: it is asked about again."""

Done = dict[str, tuple[tuple[float, ...], str]]
"""Views and error of the samples that an earlier run has asked about."""


def folder_of(what: str, split: str) -> Path:
    """Where results go: those of another split than test must not replace test's."""
    return Path("runs", what if split == "test" else f"{what}-{split}")


def photo_of(sample: Sample) -> Photo:
    """The bytes of a sample's file, or the error of reading it."""
    try:
        return sample.path.read_bytes()
    except OSError as error:
        return DataError(f"{sample.path}: {error.strerror}")


def code_digest() -> str:
    """SHA-256 of the modules that answer and of the versions of what they call, in hexadecimal:
    other crops, views or decoders, other answers."""
    digest = hashlib.sha256()
    for package in ("facenet-pytorch", "openvino", "pillow", "torch"):
        with suppress(PackageNotFoundError):  # OpenVINO need not be there
            digest.update(f"{package} {version(package)}".encode())
    for path in sorted(Path(deepfake.__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def predict(
    pipeline: Pipeline,
    samples: Sequence[Sample],
    done: Done,
    photo: Callable[[Sample], Photo] = photo_of,
) -> Iterator[Result]:
    """The answer about each sample; those in ``done`` come first and are not asked again."""
    todo = [s for s in samples if s.name not in done]
    bar = tqdm(total=len(samples), initial=len(samples) - len(todo), unit="img", desc="evaluate")
    for s in samples:
        if s.name in done:
            yield Result(s, *done[s.name])
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        for s, answer in zip(batch, pipeline.predict([photo(s) for s in batch]), strict=True):
            if isinstance(answer, DeepfakeError):
                yield Result(s, error=answer.code)
            else:
                yield Result(s, answer.worst.views)
        bar.update(len(batch))
    bar.close()


def predictions(
    path: Path,
    key: str,
    pipeline: Pipeline,
    samples: list[Sample],
    photo: Callable[[Sample], Photo] = photo_of,
) -> list[Result]:
    """All answers, each written to a CSV as soon as it is known.

    Args:
        path: the CSV; what it holds is not asked again, unless it was written under another key, by
            other code or another runtime, or the photo has changed since.
        key: says which photos and treatment the answers are of.
        photo: what of a sample goes into the pipeline.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    key = f"{pipeline.checkpoint.sha256} {code_digest()[:12]} {pipeline.runtime.name} {key}"
    stamps = {s.name: "-".join(map(str, stamp(s.path))) for s in samples}
    kept = _kept(path, key, stamps)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[key], COLUMNS, *kept])
    part.replace(path)
    done = {row[0]: (tuple(float(p) for p in row[4:-1] if p), row[-1]) for row in kept}
    results = []
    with path.open("a", newline="", encoding="utf-8") as file:
        for r in predict(pipeline, samples, done, photo):
            results.append(r)
            if r.sample.name not in done:
                views = [f"{p:.7f}" for p in r.views] or [""] * len(VIEWS)
                about = [r.sample.name, r.sample.source, LABELS[r.sample.label]]
                csv.writer(file).writerow([*about, stamps[r.sample.name], *views, r.error])
                file.flush()
    return results


def _kept(path: Path, key: str, stamps: dict[str, str]) -> list[list[str]]:
    """Rows of an earlier run with the same key; of these photos, where they are as they were."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if rows[:2] != [[key], COLUMNS]:
        return []
    whole = [row for row in rows[2:] if len(row) == len(COLUMNS)]  # a kill cuts the last one
    same = [row for row in whole if row[3] == stamps.get(row[0], row[3])]
    return [row for row in same if row[-1] not in PASSING]


def main() -> int:
    opt = arguments()
    keep_memory()
    pipeline = Pipeline.from_file(opt.checkpoint, opt.device)
    samples = limited(of_split(read_samples(opt.data), opt.split), opt.limit, opt.seed)
    key = f"{opt.data} {opt.split}"
    results = predictions(opt.out / "predictions.csv", key, pipeline, samples)
    print("bootstrap ...", file=sys.stderr)
    report = summarise(results, pipeline.checkpoint, opt.rounds, opt.seed)
    report["run"] = {
        "checkpoint": pipeline.checkpoint.sha256,
        "backbone": pipeline.model.backbone_name,
        "image_size": pipeline.model.image_size,
        "runtime": pipeline.runtime.name,
        "threshold": pipeline.checkpoint.threshold,
        "temperature": pipeline.checkpoint.temperature,
        "split": opt.split,
        "complete": not opt.limit,
        "rounds": opt.rounds,
        "seed": opt.seed,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    text = markdown(report)
    (opt.out / "evaluation.json").write_text(to_json(report), encoding="utf-8")
    (opt.out / "evaluation.md").write_text(text, encoding="utf-8")
    drawn = plot(results, opt.out / "evaluation.png")
    print(text)
    print(f"written to {opt.out}" + ("" if drawn else " (no picture: matplotlib is missing)"))
    return 0


if __name__ == "__main__":
    run(main, AGAIN)
