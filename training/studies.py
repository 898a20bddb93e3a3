"""What each part of the recipe is worth: one training run per question, otherwise alike.

Two studies, both measured on crops of the validation split, so that choosing by them is fair:

leave-one-out   trained without one source and measured on it, for every source and for several
                recipes: how far the detector carries to fakes it has never seen, and whether it
                leaves real photos alone that come from cameras it has never seen
ablation        the recipe with one part changed: attention, loss, forgeries, augmentation ...;
                with --seeds 1 2 3 trained three times each, since chance alone does a lot

All runs of a study share the options after `--`, which go to training.train as they are. Runs that
are done are not run again, so a study can be made piece by piece; every call adds its figures to
studies.json and studies.md. What a recipe gained on the one before is of two recipes of one call;
let the last call have them all:

    python -m training.studies leave-one-out -- \\
      --backbone tf_efficientnet_lite0 --epochs 3 --warmup-epochs 0.2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from deepfake.checkpoint import load
from deepfake.errors import DataError
from deepfake.pipeline import Pipeline
from training.cli import keep_memory, parser, run
from training.data import of_split, read_image, read_samples
from training.decisions import mean_over_cells, rates, threshold_at
from training.report import Result, cell, columns, to_json
from training.scores import auc_by_source, bootstrap, scores

_SWAPS = ("part-swap", "face-swap", "self-blend")
RECIPES = {
    "plain": ("--forged", "0", "--light", "1", "--evenness", "0", "--ema", "0"),
    "+ degradation": ("--forged", "0", "--evenness", "0", "--ema", "0"),
    "+ self-blends": ("--forgeries", "self-blend", "--evenness", "0", "--ema", "0"),
    "+ part swaps": ("--evenness", "0", "--ema", "0"),
    "+ even sources": ("--ema", "0"),
    "+ averaged weights": (),
    "+ up-sampling": ("--forgeries", "part-swap", "self-blend", "up-sampling"),
    "+ larger margin": ("--forgeries", "part-swap", "self-blend", "up-sampling"),
    "face swaps for up-sampling": ("--forgeries", *_SWAPS),
}
"""Leave-one-out: from a plain start to the full recipe, one step after the other, and beyond."""

WIDE = tuple(RECIPES)[list(RECIPES).index("+ larger margin") :]  # those that take other crops
REAL_CALLED_FAKE = 0.05  # of the sources trained on, where the threshold of leave-one-out lies

ABLATIONS = {
    "full recipe": (),
    "without CBAM": ("--no-cbam",),
    "cross-entropy": ("--focal-gamma", "0", "--focal-alpha", "1"),
    "160 px": ("--image-size", "160"),
    "without forgeries": ("--forged", "0"),
    "always degraded": ("--light", "0"),
    "never degraded": ("--light", "1"),
    "sources by size": ("--evenness", "0"),
    "without averaged weights": ("--ema", "0"),
    "with face swaps": ("--forgeries", *_SWAPS),
    "with mixup": ("--mixup", "0.2"),
}
BASE = "full recipe"


@dataclass(frozen=True)
class Arm:
    """One training run of a study.

    Attributes:
        name: of the recipe.
        options: what it changes, for training.train.
        left_out: the source it is not trained on; empty in an ablation.
        crops: what it is trained and measured on.
        seed: instead of the one in the options that are shared.
    """

    name: str
    options: tuple[str, ...]
    left_out: str = ""
    crops: Path = Path("crops")
    seed: int | None = None

    @property
    def folder(self) -> str:
        """Name of its folder."""
        text = f"{self.name}--{self.left_out}" if self.left_out else self.name
        text += "" if self.seed is None else f"--seed-{self.seed}"
        return "".join(c if c.isalnum() or c == "-" else "_" for c in text)


def arms_of(
    study: str,
    sources: list[str],
    only: list[str],
    crops: Path,
    wide: Path | None = None,
    seeds: Sequence[int | None] = (None,),
) -> list[Arm]:
    """The runs of a study, of all its recipes or of those named.

    Raises:
        DataError: a name is unknown, or wants crops of a larger margin where there are none.
    """
    recipes = RECIPES if study == "leave-one-out" else ABLATIONS
    if unknown := [name for name in only if name not in recipes]:
        raise DataError(f"--only {unknown[0]!r} is not one of {', '.join(recipes)}.")
    needs = [name for name in only if name in WIDE]
    if needs and wide is None:
        raise DataError(
            f"--only {needs[0]!r} needs --wide, crops that were cut with a larger margin."
        )
    left_out = sources if study == "leave-one-out" else [""]
    chosen = only or [name for name in recipes if name not in WIDE or wide is not None]
    return [
        Arm(name, recipes[name], source, wide if wide and name in WIDE else crops, seed)
        for name in chosen
        for source in left_out
        for seed in seeds
    ]


def train(arm: Arm, out: Path, shared: list[str]) -> Path:
    """Train an arm, or go on where it was cut off; its checkpoint."""
    folder = out / arm.folder
    finished = folder / "finished"
    options = [*shared, *arm.options]  # the last of two alike counts
    if arm.left_out:
        options += ["--leave-out", arm.left_out]
    if arm.seed is not None:
        options += ["--seed", str(arm.seed)]
    wanted = json.dumps([str(arm.crops), *options])
    if not (finished.is_file() and finished.read_text(encoding="utf-8") == wanted):
        command = [sys.executable, "-m", "training.train", "--data", str(arm.crops)]
        command += ["--out", str(folder), *options]
        if subprocess.run(command).returncode:
            raise DataError(f"The run {folder} failed; what it said stands above.")
        finished.write_text(wanted, encoding="utf-8")
    return folder / "saved_model.pth"


def measure(checkpoint: Path, samples: list[Any]) -> list[Result]:
    """P(fake) of the three views of every crop, by the serving pipeline's classifier."""
    cache = checkpoint.with_name("validation.json")
    loaded = load(checkpoint)
    names = hashlib.sha256("\n".join(str(s.path) for s in samples).encode()).hexdigest()
    key = {"checkpoint": loaded.sha256, "samples": names}
    if cache.is_file():
        known = json.loads(cache.read_text(encoding="utf-8"))
        if {name: known.get(name) for name in key} == key:
            pairs = zip(samples, known["views"], strict=True)
            return [Result(s, tuple(views)) for s, views in pairs]
    pipeline = Pipeline(loaded)
    results = []
    for start in tqdm(range(0, len(samples), 16), desc="measure", mininterval=1):
        batch = samples[start : start + 16]
        views = pipeline.classify([read_image(s.path) for s in batch])
        results += [Result(s, v) for s, v in zip(batch, views, strict=True)]
    content = json.dumps({**key, "views": [r.views for r in results]})
    cache.write_text(content, encoding="utf-8")
    return results


def leave_one_out_row(results: list[Result], left_out: str, rounds: int) -> dict[str, Any]:
    """What a network says about the source that it was not trained on.

    Args:
        results: of photos of all sources.
        left_out: that source.

    Returns:
        ``roc_auc`` on it, and the shares of its real photos and of its fakes that are called fake
        at ``threshold``, the lowest that at most ``REAL_CALLED_FAKE`` of the other sources' real
        photos exceed; each with its interval.
    """
    labels, p_fake, _, sources = columns(results)
    seen = np.asarray(sources) != left_out
    names = np.asarray(sources)[seen]
    threshold = threshold_at(labels[seen], p_fake[seen], names, REAL_CALLED_FAKE)
    own = [r for r in results if r.sample.source == left_out]
    labels, p_fake, groups, sources = columns(own)

    def figures(rows: NDArray[np.int64]) -> dict[str, float]:
        y, p = labels[rows], p_fake[rows]
        real, fake = rates(y, p, np.asarray(sources)[rows], threshold)
        found = {"roc_auc": scores(y, p)["roc_auc"]}
        return found | {"real_called_fake": real, "fake_called_fake": fake}

    values = figures(np.arange(len(own)))
    spread = bootstrap(figures, groups, sources, rounds, seed=0)
    row = {key: {"value": values[key], "interval": spread[key]} for key in values}
    return {"threshold": threshold, **row}


def ablation_row(
    results: list[list[Result]], base: list[list[Result]], rounds: int
) -> dict[str, Any]:
    """Mean AUC and accuracy over sources, and what the base has more, on the same photos.

    Args:
        results: of one run for each seed, of the same photos in the same order.
        base: of the runs it is compared with, one for each of these seeds.

    Returns:
        Means over the seeds, with 95 % intervals: of the photos by the bootstrap and, where there
        are several seeds, of these too.
    """
    labels, _, groups, sources = columns(base[0])
    names = np.asarray(sources)
    own, other = (np.stack([columns(run)[1] for run in runs]) for runs in (results, base))

    def of_one(p_fake: NDArray[np.float64], rows: NDArray[np.int64]) -> dict[str, float]:
        y, p, s = labels[rows], p_fake[rows], names[rows]
        aucs, right = auc_by_source(y, p, s.tolist()), (p > 0.5) == (y == 1)
        return {
            "roc_auc": float(np.mean(list(aucs.values()))) if aucs else float("nan"),
            "accuracy": mean_over_cells(right, np.ones(len(y), dtype=bool), s),
        }

    def by_seed(rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        pairs = [(of_one(a, rows), of_one(b, rows)) for a, b in zip(own, other, strict=True)]
        found = {}
        for key in ("roc_auc", "accuracy"):
            found[key] = np.array([a[key] for a, _ in pairs])
            found[f"loss/{key}"] = np.array([b[key] - a[key] for a, b in pairs])
        return found

    def means(rows: NDArray[np.int64]) -> dict[str, float]:
        return {key: float(values.mean()) for key, values in by_seed(rows).items()}

    every = by_seed(np.arange(len(labels)))
    spread = bootstrap(means, groups, sources, rounds, seed=0)
    aucs = [auc_by_source(labels, p_fake, sources) for p_fake in own]
    return {
        "mean": {
            key: {"value": float(v.mean()), "interval": with_seeds(spread[key], v)}
            for key, v in every.items()
        },
        "sources": {s: float(np.mean([row[s] for row in aucs])) for s in aucs[0]},
    }


def with_seeds(photos: tuple[float, float], by_seed: NDArray[np.float64]) -> tuple[float, float]:
    """A 95 % interval of a mean over seeds, from that of the photos alone and the seeds' values.

    Seeds and photos are drawn apart from one another, so the half-widths add up as squares do.
    That of n seeds is Student's: t(0.975, n - 1) s / sqrt(n). Of one seed nothing is known.
    """
    count, mean = len(by_seed), float(by_seed.mean())
    if count < 2:
        return photos
    reach = float(stats.t.ppf(0.975, count - 1) * by_seed.std(ddof=1) / math.sqrt(count))
    low, high = photos
    return mean - math.hypot(mean - low, reach), mean + math.hypot(high - mean, reach)


def step_row(
    name: str,
    measured: dict[str, list[Result]],
    thresholds: dict[str, float],
    rounds: int,
) -> dict[str, Any]:
    """Means over the sources left out, and what the AUC gained on the recipe before.

    Args:
        name: of a recipe.
        measured: by recipe, results of the same photos in the same order, each source's from the
            run that was not trained on it.
        thresholds: of that recipe's run without each source.
    """
    names = list(RECIPES)
    before = measured.get(names[names.index(name) - 1]) if name != names[0] else None
    found = ablation_row([measured[name]], [before or measured[name]], rounds)["mean"]
    row = {"mean": found["roc_auc"]}
    if before:
        low, high = found["loss/roc_auc"]["interval"]
        row["gain"] = {"value": -found["loss/roc_auc"]["value"], "interval": (-high, -low)}
    labels, p_fake, groups, sources = columns(measured[name])
    own = np.asarray(sources)
    called = (p_fake > np.array([thresholds[s] for s in sources])).astype(float)

    def figures(rows: NDArray[np.int64]) -> dict[str, float]:
        shares = rates(labels[rows], called[rows], own[rows], 0.5)
        return dict(zip(("real_called_fake", "fake_called_fake"), shares, strict=True))

    values = figures(np.arange(len(called)))
    spread = bootstrap(figures, groups, sources, rounds, seed=0)
    return row | {key: {"value": values[key], "interval": spread[key]} for key in values}


def markdown(report: dict[str, Any]) -> str:
    """The studies' tables."""
    lines: list[str] = []
    if study := report.get("leave-one-out"):
        lines += [
            "ROC-AUC on a source that was left out of training:",
            "",
            *_leave_one_out_table(
                study, "roc_auc", (("mean", "mean"), ("gained on the recipe before", "gain"))
            ),
            "",
            "Real photos of that source that are called fake, at a threshold that "
            f"{REAL_CALLED_FAKE:.0%} of the real photos of the others exceed, and its fakes that "
            "are found there:",
            "",
            *_leave_one_out_table(
                study,
                "real_called_fake",
                (("mean", "real_called_fake"), ("fakes found, mean", "fake_called_fake")),
            ),
            "",
            _options(study),
            "",
        ]
    if study := report.get("ablation"):
        rows, seeds = study["rows"], study.get("seeds")
        sources = sorted({s for row in rows.values() for s in row["sources"]})
        head = ["recipe", "ROC-AUC", "lost", "accuracy", "lost", *(f"AUC {s}" for s in sources)]
        lines += [
            "One part of the recipe changed, and what is lost by it, on the same crops"
            + (f"; means of the seeds {', '.join(map(str, seeds))}:" if seeds else ":"),
            "",
            "| " + " | ".join(head) + " |",
            "|---" * len(head) + "|",
        ]
        for name, row in rows.items():
            cells = [
                cell(row["mean"][key]["value"], row["mean"][key]["interval"])
                for key in ("roc_auc", "loss/roc_auc", "accuracy", "loss/accuracy")
            ]
            aucs = [f"{row['sources'].get(s, float('nan')):.3f}" for s in sources]
            lines.append("| " + " | ".join([name, *cells, *aucs]) + " |")
        lines += ["", _options(study), ""]
    return "\n".join(lines).rstrip() + "\n"


def _leave_one_out_table(
    study: dict[str, Any], key: str, means: tuple[tuple[str, str], ...]
) -> list[str]:
    """One figure of every run, a line for each recipe, and the means (title, key) beside it."""
    rows = study["rows"]
    sources = sorted({s for row in rows.values() for s in row})
    titles = ["recipe", *sources, *(title for title, _ in means)]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, row in rows.items():
        step = study.get("steps", {}).get(name, {})
        found = [row.get(s, {}).get(key) for s in sources] + [step.get(k) for _, k in means]
        cells = [cell(f["value"], f["interval"]) if f else "" for f in found]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return lines


def _options(study: dict[str, Any]) -> str:
    options = " ".join(study["options"])
    return f"Options of every run: `{options}`; measured on crops of the validation split."


def shareable(options: list[str]) -> list[str]:
    """The options without the folders of this machine."""
    return [Path(option).name if Path(option).is_file() else option for option in options]


def arguments() -> tuple[argparse.Namespace, list[str]]:
    args = parser(__doc__)
    args.add_argument("study", choices=("leave-one-out", "ablation"))
    args.add_argument("--crops", type=Path, default=Path("crops"), help="what training.crop wrote")
    args.add_argument("--wide", type=Path, help=f"crops of a larger margin, from {WIDE[0]!r} on")
    args.add_argument("--out", type=Path, default=Path("runs/studies"), help="runs and tables")
    args.add_argument(
        "--seeds", type=int, nargs="+", help="of an ablation's runs; default: that after --"
    )
    args.add_argument("--only", nargs="*", default=[], metavar="RECIPE", help="some of the recipes")
    args.add_argument("--rounds", type=int, default=500, help="bootstrap resamples")
    own, shared = sys.argv[1:], []
    if "--" in own:
        own, shared = own[: own.index("--")], own[own.index("--") + 1 :]
    opt = args.parse_args(own)
    if opt.seeds and opt.study != "ablation":
        raise DataError("--seeds is for an ablation; for leave-one-out give --seed N after --.")
    return opt, shared


def ablation(
    opt: argparse.Namespace, shared: list[str], validation: list[Any], study: dict[str, Any]
) -> Iterator[None]:
    """Fill the study's rows, one recipe after the other."""
    seeds: list[int | None] = opt.seeds or [None]
    # The base comes first: all others are compared with it.
    names = [BASE, *(name for name in opt.only or ABLATIONS if name != BASE)]
    arms = arms_of("ablation", [], names, opt.crops, seeds=seeds)
    runs: dict[str, list[list[Result]]] = {}
    for number, arm in enumerate(arms, start=1):
        print(f"{arm.folder} ({number} of {len(arms)})", flush=True)
        done = runs.setdefault(arm.name, [])
        done.append(measure(train(arm, opt.out, shared), validation))
        if len(done) == len(seeds):
            study["rows"][arm.name] = ablation_row(done, runs[BASE], opt.rounds)
            study["rows"] = {
                name: study["rows"][name] for name in ABLATIONS if name in study["rows"]
            }
            yield


def leave_one_out(
    opt: argparse.Namespace,
    shared: list[str],
    validation: dict[Path, list[Any]],
    study: dict[str, Any],
) -> Iterator[None]:
    """Fill the study's rows and steps, one run after the other."""
    sources = sorted({s.source for s in validation[opt.crops]})
    arms = arms_of("leave-one-out", sources, opt.only, opt.crops, opt.wide)
    measured: dict[str, list[Result]] = {}  # by recipe, of the source that was left out
    for number, arm in enumerate(arms, start=1):
        print(f"{arm.name} {arm.left_out} ({number} of {len(arms)})", flush=True)
        results = measure(train(arm, opt.out, shared), validation[arm.crops])
        own = [r for r in results if r.sample.source == arm.left_out]
        measured.setdefault(arm.name, []).extend(own)
        rows = study["rows"]
        row = rows.setdefault(arm.name, {})
        row[arm.left_out] = leave_one_out_row(results, arm.left_out, opt.rounds)
        if arm.left_out == sources[-1]:
            thresholds = {source: row[source]["threshold"] for source in sources}
            steps = study.setdefault("steps", {})
            steps[arm.name] = step_row(arm.name, measured, thresholds, opt.rounds)
            study["rows"] = {name: rows[name] for name in RECIPES if name in rows}
        yield


def main() -> int:
    opt, shared = arguments()
    if not torch.cuda.is_available():
        keep_memory()
    opt.out.mkdir(parents=True, exist_ok=True)
    path = opt.out / "studies.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = {"options": shareable(shared), "seeds": opt.seeds}
    study = report.setdefault(opt.study, {**settings, "rows": {}})
    if {key: study.get(key) for key in settings} != settings:
        raise DataError(
            f"{path} is of runs with other options ({' '.join(study['options'])}, seeds "
            f"{study.get('seeds')}); give the same, or another --out."
        )
    folders = [opt.crops, *([opt.wide] if opt.wide else [])]
    validation = {folder: of_split(read_samples(folder), "val") for folder in folders}
    if len({tuple(s.name for s in samples) for samples in validation.values()}) > 1:
        raise DataError(f"{opt.crops} and {opt.wide} have not the same validation photos.")
    if opt.study == "ablation":
        steps = ablation(opt, shared, validation[opt.crops], study)
    else:
        steps = leave_one_out(opt, shared, validation, study)
    for _ in steps:  # after each, what there is is kept
        path.write_text(to_json(report), encoding="utf-8")
        (opt.out / "studies.md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))
    return 0


if __name__ == "__main__":
    run(main)
