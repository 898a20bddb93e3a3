"""Set a checkpoint's temperature, thresholds and uncertain band on the validation split.

Photos of the validation split go through the pipeline that serves. Written back into the
checkpoint: the temperature that makes P(fake) honest; the thresholds that 5 % and 1 % of the
real photos exceed, beside 0.5; and the band around 0.5 in which the answer is "uncertain". The
test split is never looked at. Run it once after training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import expit, logit

from deepfake.checkpoint import BALANCED, Checkpoint, save
from deepfake.errors import DataError
from deepfake.pipeline import Pipeline
from training.cli import check_numbers, keep_memory, parser, run
from training.data import limited, of_split, read_samples
from training.decisions import operating_point, threshold_at, uncertain_band
from training.evaluate import predictions
from training.report import Result
from training.scores import fit_temperature

FALSE_POSITIVE_RATES = {"fpr5": 0.05, "fpr1": 0.01}


def calibrated(checkpoint: Checkpoint, results: list[Result], max_risk: float) -> Checkpoint:
    """The checkpoint with everything that the validation results say about its use.

    Args:
        results: of this checkpoint at its present temperature.
        max_risk: share of wrong answers that is wanted among those not called uncertain.
    """
    answered = [r for r in results if r.views]
    labels = np.array([r.sample.label for r in answered])
    sources = np.array([r.sample.source for r in answered])
    if len(set(labels.tolist())) < 2:
        raise DataError("Calibration needs answers about both real and fake photos.")
    views = np.array([r.views for r in answered])
    odds = logit(np.clip(views, 1e-7, 1 - 1e-7)) * checkpoint.temperature
    temperature = fit_temperature(labels, expit(odds))
    p_fake = expit(odds / temperature).mean(axis=1)
    points = {BALANCED: operating_point(labels, p_fake, sources, 0.5)}
    for name, rate in FALSE_POSITIVE_RATES.items():
        threshold = threshold_at(labels, p_fake, sources, rate)
        points[name] = operating_point(labels, p_fake, sources, threshold)
    return replace(
        checkpoint,
        temperature=temperature,
        uncertain=uncertain_band(labels, p_fake, sources, max_risk),
        operating_points=points,
    )


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--data", type=Path, default=Path("data"), help="data folder or manifest")
    args.add_argument("--checkpoint", type=Path, default=Path("saved_model.pth"))
    args.add_argument("--out", type=Path, default=Path("runs/calibration"), help="answers' folder")
    args.add_argument("--limit", type=int, default=0, help="so many photos at random; 0: all")
    args.add_argument("--max-risk", type=float, default=0.05, help="errors outside the band")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("max_risk",), not_negative=("limit",))
    keep_memory()
    pipeline = Pipeline.from_file(opt.checkpoint)
    samples = limited(of_split(read_samples(opt.data), "val"), opt.limit, seed=0)
    results = predictions(opt.out / "predictions.csv", f"{opt.data} val", pipeline, samples)
    new = calibrated(pipeline.checkpoint, results, opt.max_risk)
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
    run(main)
