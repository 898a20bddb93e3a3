"""Measure a checkpoint on labelled photos, through the very pipeline that serves.

Whole photos go in, as a user would send them: decoding, face detection, crop, three views and
the verdict are all part of what is measured. Photos without an answer (no face found, or
unreadable) are counted and listed, not scored. Writes evaluation.json, evaluation.md,
predictions.csv and two pictures; a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from deepfake.errors import DataError, DeepfakeError
from deepfake.pipeline import Photo, Pipeline
from deepfake.views import VIEWS
from training.cli import check_numbers, keep_memory, parser, run
from training.data import LABELS, SPLITS, Sample, limited, of_split, read_samples
from training.report import Result, markdown, plot, summarise, to_json

BATCH = 8  # photos per call of the pipeline


def arguments() -> argparse.Namespace:
    args = parser(__doc__)
    args.add_argument("--data", type=Path, default=Path("data"), help="data folder or manifest")
    args.add_argument("--split", choices=SPLITS, default="test", help="which split to measure")
    args.add_argument("--checkpoint", type=Path, default=Path("saved_model.pth"))
    args.add_argument("--out", type=Path, default=Path("runs/evaluation"), help="results' folder")
    args.add_argument("--limit", type=int, default=0, help="so many photos at random; 0: all")
    args.add_argument("--rounds", type=int, default=1000, help="bootstrap resamples")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="classifier's place")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("rounds",), not_negative=("limit", "seed"))
    if opt.device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device is cuda, but no GPU is seen; see python -m training.diagnostic.")
    return opt


Done = dict[str, tuple[tuple[float, ...], str]]
"""Views and error of the samples that an earlier run has asked about."""


def photo_of(sample: Sample) -> Photo:
    """The bytes of a sample's file, or the error of reading it."""
    try:
        return sample.path.read_bytes()
    except OSError as error:
        return DataError(f"{sample.path}: {error.strerror}")


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
        path: the CSV; what it holds is not asked again, unless it was written under another key.
        key: says which photos and treatment the answers are of.
        photo: what of a sample goes into the pipeline.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    key = f"{pipeline.checkpoint.sha256} {key}"
    done = _read_done(path, key)
    results = []
    with path.open("a" if done else "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not done:
            writer.writerow([key])
            writer.writerow(["path", "source", "label", *VIEWS, "error"])
        for r in predict(pipeline, samples, done, photo):
            results.append(r)
            if r.sample.name not in done:
                views = [f"{p:.7f}" for p in r.views] or [""] * len(VIEWS)
                label = LABELS[r.sample.label]
                writer.writerow([r.sample.name, r.sample.source, label, *views, r.error])
                file.flush()
    return results


def _read_done(path: Path, key: str) -> Done:
    """Answers of an earlier run over the same photos with the same checkpoint."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != [key]:
        return {}
    whole = [row for row in rows[2:] if len(row) == 4 + len(VIEWS)]  # a kill cuts the last one
    return {row[0]: (tuple(float(p) for p in row[3:-1] if p), row[-1]) for row in whole}


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
    run(main)
