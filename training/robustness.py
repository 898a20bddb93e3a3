"""What everyday editing of a photo does to the verdict, through the very pipeline that serves.

Every test photo is treated in one way at a time (compressed, reduced, blurred, recoloured,
screenshotted ...) and judged again. A detector to trust must leave real photos alone that were
merely treated so: their false-positive rate is reported beside the ROC-AUC. Each answer is kept,
so that a run that was cut off goes on where it was.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.checkpoint import DEFAULT_POINT, load
from deepfake.errors import DataError
from deepfake.pipeline import Pipeline
from training.cli import AGAIN, check_numbers, keep_memory, parser, run
from training.data import SPLITS, of_split, read_samples
from training.evaluate import folder_of, predictions
from training.report import Result, columns
from training.sampling import limited_per_cell
from training.scores import auc_by_source, bootstrap
from training.tables import figure_cells, markdown_table, to_json
from training.treatments import MARGINS, TREATMENTS, key_of, treated

MEANS = ("roc_auc", "false_positive_rate", "recall")  # over sources, of each treatment


def figures(results: list[Result], threshold: float, rounds: int) -> dict[str, Any]:
    """AUC, and how many reals and fakes are called fake: per source, and mean with intervals."""
    answered = [r for r in results if r.views]
    labels, p_fake, groups, sources = columns(answered)
    names = np.asarray(sources)

    def per_source(rows: NDArray[np.int64]) -> dict[str, dict[str, float]]:
        y, p, s = labels[rows], p_fake[rows], names[rows]
        found: dict[str, dict[str, float]] = {
            "roc_auc": auc_by_source(y, p, s.tolist()),
            "false_positive_rate": {},
            "recall": {},
        }
        for key, label in (("false_positive_rate", 0), ("recall", 1)):
            for name in np.unique(s):
                chosen = p[(s == name) & (y == label)]
                if len(chosen):
                    found[key][str(name)] = float((chosen > threshold).mean())
        return found

    def means(rows: NDArray[np.int64]) -> dict[str, float]:
        found = per_source(rows)  # of sources with one class only there is no ROC-AUC
        return {k: float(np.mean(list(v.values()))) if v else math.nan for k, v in found.items()}

    every = np.arange(len(answered))
    values, spread = means(every), dict.fromkeys(MEANS, (math.nan, math.nan))
    if answered:  # a face that was made small enough is found in no photo
        spread = bootstrap(means, groups, sources, rounds, seed=0)
    return {
        "photos": len(results),
        "unanswered": len(results) - len(answered),
        "sources": per_source(every),
        "mean": {key: {"value": values[key], "interval": spread[key]} for key in values},
    }


def same_answers(results: list[Result], plain: list[Result]) -> float:
    """Share of the photos that got the same answer twice, in all of its views.

    A crop ends where the photo does: of a face that fills it another margin changes nothing.
    """
    before = {r.sample.name: r.views for r in plain}
    pairs = [(r.views, before.get(r.sample.name, ())) for r in results]
    same = [len(a) == len(b) and np.allclose(a, b, rtol=0, atol=1e-6) for a, b in pairs]
    return float(np.mean(same))


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table: mean over sources, then AUC per source."""
    rows = report["treatments"]
    sources = sorted({s for row in rows.values() for s in row["sources"]["roc_auc"]})
    head = (
        ["treatment", "ROC-AUC", "real called fake", "fake called fake"]
        + [f"AUC {s}" for s in sources]
        + ["no answer"]
    )
    photos = next(iter(rows.values()))["photos"]
    lines = [
        f"Checkpoint `{report['checkpoint'][:12]}`, {report['runtime']}, "
        f"split `{report['split']}`, {photos} photos, threshold {report['threshold']:.3f} "
        f"({report['point']}); means over sources with 95 % bootstrap intervals.",
        "",
    ]
    cells = []
    for name, row in rows.items():
        means = figure_cells(row["mean"], MEANS)
        aucs = [f"{row['sources']['roc_auc'].get(s, float('nan')):.3f}" for s in sources]
        title = f"{name} ({row['same']:.0%} of the crops are the same)" if "same" in row else name
        cells.append([title, *means, *aucs, str(row["unanswered"])])
    return "\n".join(lines + markdown_table(head, cells)) + "\n"


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--data", type=Path, default=Path("data"), help="data folder or manifest")
    args.add_argument("--split", choices=SPLITS, default="test", help="which split to measure")
    args.add_argument("--checkpoint", type=Path, default=Path("saved_model.pth"))
    args.add_argument(
        "--out",
        type=Path,
        help="results' folder; default: runs/robustness, of another split runs/robustness-SPLIT",
    )
    args.add_argument(
        "--per-class", type=int, default=0, help="photos per source and class at random; 0: all"
    )
    args.add_argument("--only", nargs="*", metavar="TREATMENT", help="some of the treatments")
    args.add_argument("--rounds", type=int, default=500, help="bootstrap resamples")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("rounds",), not_negative=("per_class",))
    opt.out = opt.out or folder_of("robustness", opt.split)
    names = opt.only or [*TREATMENTS, *MARGINS]
    if unknown := [n for n in names if n not in TREATMENTS and n not in MARGINS]:
        raise DataError(
            f"--only {unknown[0]!r} is no treatment, only {', '.join([*TREATMENTS, *MARGINS])} are."
        )
    keep_memory()
    checkpoint = load(opt.checkpoint)
    threshold = checkpoint.point(DEFAULT_POINT).threshold
    samples = of_split(read_samples(opt.data), opt.split)
    samples = limited_per_cell(samples, opt.per_class, seed=0)
    pipelines: dict[float, Pipeline] = {}
    rows = {}
    plain: list[Result] = []
    for number, name in enumerate(names, start=1):
        print(f"{name} ({number} of {len(names)})")
        margin = max(0.0, checkpoint.crop_margin + MARGINS.get(name, 0.0))
        if margin not in pipelines:
            pipelines[margin] = Pipeline(replace(checkpoint, crop_margin=margin))
        path = opt.out / f"{name.replace(' ', '-')}.csv"
        key = f"{opt.data} {opt.split} {key_of(name)}"
        photo = partial(treated, name=name if name in TREATMENTS else "as it is")
        results = predictions(path, key, pipelines[margin], samples, photo)
        rows[name] = figures(results, threshold, opt.rounds)
        if name in MARGINS and plain:
            rows[name]["same"] = same_answers(results, plain)
        elif name == "as it is":
            plain = results
    report = {
        "checkpoint": checkpoint.sha256,
        "runtime": next(iter(pipelines.values())).runtime.name,
        "split": opt.split,
        "complete": not opt.per_class and not opt.only,
        "point": DEFAULT_POINT,
        "threshold": threshold,
        "treatments": rows,
    }
    (opt.out / "robustness.json").write_text(to_json(report), encoding="utf-8")
    text = markdown(report)
    (opt.out / "robustness.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    run(main, AGAIN)
