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
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from deepfake.errors import DataError, DeepfakeError
from deepfake.pipeline import Pipeline
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


def predict(
    pipeline: Pipeline, samples: Sequence[Sample], done: dict[str, tuple[str, str]]
) -> Iterator[Result]:
    """The answer about each sample, in order; those in ``done`` are not asked again."""
    todo = [s for s in samples if s.name not in done]
    bar = tqdm(total=len(samples), initial=len(samples) - len(todo), unit="img", desc="evaluate")
    for s in samples:
        if s.name in done:
            p, error = done[s.name]
            yield Result(s, float(p) if p else None, error)
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        for s, answer in zip(batch, pipeline.predict([_blob(s) for s in batch]), strict=True):
            if isinstance(answer, DeepfakeError):
                yield Result(s, None, answer.code)
            else:
                yield Result(s, answer.worst.fake_probability)
        bar.update(len(batch))
    bar.close()


def _blob(sample: Sample) -> bytes | DeepfakeError:
    try:
        return sample.path.read_bytes()
    except OSError as error:
        return DataError(f"{sample.path}: {error.strerror}")


def predictions(opt: argparse.Namespace, pipeline: Pipeline, samples: list[Sample]) -> list[Result]:
    """All answers, each written to predictions.csv as soon as it is known."""
    path = opt.out / "predictions.csv"
    key = f"{pipeline.checkpoint.sha256} {opt.data} {opt.split}"
    done = _read_done(path, key)
    results = []
    with path.open("a" if done else "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not done:
            writer.writerow([key])
            writer.writerow(["path", "source", "label", "p_fake", "error"])
        for r in predict(pipeline, samples, done):
            results.append(r)
            if r.sample.name not in done:
                p = "" if r.p_fake is None else f"{r.p_fake:.6f}"
                label = LABELS[r.sample.label]
                writer.writerow([r.sample.name, r.sample.source, label, p, r.error])
                file.flush()
    return results


def _read_done(path: Path, key: str) -> dict[str, tuple[str, str]]:
    """Answers of an earlier run over the same photos with the same checkpoint."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != [key]:
        return {}
    return {row[0]: (row[3], row[4]) for row in rows[2:] if len(row) == 5}


def main() -> int:
    opt = arguments()
    keep_memory()
    pipeline = Pipeline.from_file(opt.checkpoint, opt.device)
    samples = limited(of_split(read_samples(opt.data), opt.split), opt.limit, opt.seed)
    opt.out.mkdir(parents=True, exist_ok=True)
    results = predictions(opt, pipeline, samples)
    print("bootstrap ...", file=sys.stderr)
    report = summarise(results, pipeline.checkpoint.threshold, opt.rounds, opt.seed)
    report["run"] = {
        "checkpoint": pipeline.checkpoint.sha256,
        "backbone": pipeline.model.backbone_name,
        "image_size": pipeline.model.image_size,
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
