"""Set a checkpoint's calibration, thresholds and uncertain band on the validation split.

Photos of the validation split go through the pipeline that serves, the real ones again after each
of some everyday edits: compressed, halved, blurred, sharpened, graded, with darker edges, turned,
as a screenshot. Written back into the checkpoint: the temperature and, in the last layer's bias,
the offset that make P(fake) honest; the thresholds that 5 % and 1 % of the real photos exceed,
beside 0.5; the threshold that serves, which no more than 5 % exceed however they came; and the band
around 0.5 in which the answer is "uncertain". The test split is never looked at. Run it once after
training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from torch import nn

from deepfake.checkpoint import BALANCED, DEFAULT_POINT, LABELS, Checkpoint, save
from deepfake.errors import DataError
from deepfake.model import DeepfakeDetector
from deepfake.pipeline import Pipeline
from training.cli import AGAIN, check_numbers, keep_memory, parser, run
from training.data import of_split, read_samples
from training.decisions import operating_point, threshold_at, uncertain_band
from training.evaluate import predictions
from training.report import Result
from training.sampling import limited
from training.scores import Floats, bootstrap, fit_calibration
from training.treatments import key_of, treated

FALSE_POSITIVE_RATES = {"fpr5": 0.05, "fpr1": 0.01}
EDITED_RATE = 0.05
EDITS = (
    "JPEG quality 50",
    "size x 0.5",
    "blur 1 px",
    "sharpened",
    "colour grade",
    "vignette",
    "turned by 10 degrees",
    "screenshot",
)
"""Edits that leave what the camera saw. Smoothing skin does not; it must not set the threshold."""


def calibrated(
    checkpoint: Checkpoint,
    results: list[Result],
    max_risk: float,
    edited: Sequence[list[Result]] = (),
    rounds: int = 500,
) -> Checkpoint:
    """The checkpoint with everything that the validation results say about its use.

    Args:
        results: of this checkpoint at its present temperature.
        max_risk: share of wrong answers that is wanted among those not called uncertain.
        edited: results of the real photos after each of some everyday edits.
        rounds: bootstrap resamples.
    """
    answered = [r for r in results if r.views]
    labels = np.array([r.sample.label for r in answered])
    sources = np.array([r.sample.source for r in answered])
    if len(set(labels.tolist())) < 2:
        raise DataError("Calibration needs answers about both real and fake photos.")
    old = checkpoint.temperature
    temperature, offset = fit_calibration(labels, _p_fake(answered, old))
    now = partial(_p_fake, sharper=old / temperature, offset=offset / temperature)
    p_fake = now(answered).mean(axis=1)
    points = {BALANCED: operating_point(labels, p_fake, sources, 0.5)}
    for name, rate in FALSE_POSITIVE_RATES.items():
        threshold = threshold_at(labels, p_fake, sources, rate)
        points[name] = operating_point(labels, p_fake, sources, threshold)
    # A good detector would need less than 0.5, where a photo is as likely real as fake.
    threshold = max(0.5, *(_surely_below(group, now, rounds) for group in (results, *edited)))
    points[DEFAULT_POINT] = operating_point(labels, p_fake, sources, threshold)
    return replace(
        checkpoint,
        model=_moved(checkpoint.model, offset),
        temperature=temperature,
        uncertain=uncertain_band(labels, p_fake, sources, max_risk),
        operating_points=points,
    )


def _moved(model: DeepfakeDetector, offset: float) -> DeepfakeDetector:
    """A copy whose logit of fake is higher by so much."""
    model = deepcopy(model)
    last = cast(nn.Linear, model.head[-1])
    with torch.no_grad():
        last.bias[LABELS.index("fake")] += offset
    return model


def _p_fake(results: list[Result], sharper: float, offset: float = 0.0) -> Floats:
    """(N, views): P(fake) with log-odds multiplied, as a lower temperature does it, and moved."""
    views = np.array([r.views for r in results])
    p_fake: Floats = expit(logit(np.clip(views, 1e-7, 1 - 1e-7)) * sharper + offset)
    return p_fake


def _surely_below(
    results: list[Result], now: Callable[[list[Result]], Floats], rounds: int
) -> float:
    """A threshold that at most ``EDITED_RATE`` of such real photos exceed.

    Chosen on these photos alone it would be exceeded by more of others half of the time, so it is
    the upper end of the 95 % bootstrap interval of that threshold.

    Args:
        now: P(fake) of results, (N, views), at the temperature and offset that were found.
    """
    reals = [r for r in results if r.views and r.sample.label == 0]
    if not reals:
        return 0.0
    p_fake = now(reals).mean(axis=1)
    labels, sources = np.zeros(len(reals), dtype=int), np.array([r.sample.source for r in reals])

    def found(rows: NDArray[np.int64]) -> dict[str, float]:
        threshold = threshold_at(labels[rows], p_fake[rows], sources[rows], EDITED_RATE)
        return {"threshold": threshold}

    groups = [r.sample.group for r in reals]
    return bootstrap(found, groups, sources.tolist(), rounds, seed=0)["threshold"][1]


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--data", type=Path, default=Path("data"), help="data folder or manifest")
    args.add_argument("--checkpoint", type=Path, default=Path("saved_model.pth"))
    args.add_argument("--out", type=Path, default=Path("runs/calibration"), help="answers' folder")
    args.add_argument("--limit", type=int, default=0, help="so many photos at random; 0: all")
    args.add_argument("--max-risk", type=float, default=0.05, help="errors outside the band")
    args.add_argument("--rounds", type=int, default=500, help="bootstrap resamples")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("max_risk", "rounds"), not_negative=("limit",))
    keep_memory()
    pipeline = Pipeline.from_file(opt.checkpoint)
    samples = limited(of_split(read_samples(opt.data), "val"), opt.limit, seed=0)
    results = predictions(opt.out / "predictions.csv", f"{opt.data} val", pipeline, samples)
    reals, edited = [s for s in samples if s.label == 0], []
    for name in EDITS:
        print(f"real photos, {name}")
        path, photo = opt.out / f"{name.replace(' ', '-')}.csv", partial(treated, name=name)
        edited.append(predictions(path, f"{opt.data} val {key_of(name)}", pipeline, reals, photo))
    new = calibrated(pipeline.checkpoint, results, opt.max_risk, edited, opt.rounds)
    save(opt.checkpoint, new)
    print(f"temperature {pipeline.checkpoint.temperature:.3f} -> {new.temperature:.3f}")
    for name, point in new.operating_points.items():
        print(
            f"{name}: threshold {point.threshold:.4f}, {point.false_positive_rate:.1%} of the real "
            f"and {point.recall:.1%} of the fake validation photos are called fake"
        )
    low, high = new.uncertain or (0.5, 0.5)
    print(f"uncertain: P(fake) from {low:.3f} to {high:.3f}")
    print(f"written into {opt.checkpoint}")
    return 0


if __name__ == "__main__":
    run(main, AGAIN)
