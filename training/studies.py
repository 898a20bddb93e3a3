"""What each part of the recipe is worth: one training run per question, otherwise alike.

Two studies, both measured on crops of the validation split, so that choosing by them is fair:

leave-one-out   trained without one source and measured on it, for every source and for several
                recipes: how far the detector carries to fakes it has never seen
ablation        the recipe with one part changed: attention, loss, forgeries, augmentation ...

All runs of a study share the options after `--`, which go to training.train as they are. Runs that
are done are not run again, so a study can be made piece by piece; every call adds its figures to
studies.json and studies.md. What a recipe gained on the one before is of two recipes of one call;
let the last call have them all:

    python -m training.studies leave-one-out -- --backbone tf_efficientnet_lite0 --epochs 3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from deepfake.checkpoint import load
from deepfake.errors import DataError
from deepfake.pipeline import Pipeline
from training.cli import keep_memory, parser, run
from training.data import of_split, read_image, read_samples
from training.report import Result, cell, columns, to_json
from training.scores import auc_by_source, bootstrap, mean_over_sources, scores

RECIPES = {
    "plain": ("--forged", "0", "--light", "1", "--evenness", "0", "--ema", "0"),
    "+ degradation": ("--forged", "0", "--evenness", "0", "--ema", "0"),
    "+ self-blends": ("--forgeries", "self-blend", "--evenness", "0", "--ema", "0"),
    "+ part swaps": ("--evenness", "0", "--ema", "0"),
    "+ even sources": ("--ema", "0"),
    "+ averaged weights": (),
    "+ up-sampling": ("--forgeries", "part-swap", "self-blend", "up-sampling"),
    "+ larger margin": ("--forgeries", "part-swap", "self-blend", "up-sampling"),
}
"""Leave-one-out: from a plain start to the full recipe, one step after the other, and beyond."""

WIDE = "+ larger margin"  # the recipe that takes other crops

ABLATIONS = {
    "full recipe": (),
    "another seed": ("--seed", "1"),  # what chance does: less than that says nothing
    "without CBAM": ("--no-cbam",),
    "cross-entropy": ("--focal-gamma", "0", "--focal-alpha", "1"),
    "160 px": ("--image-size", "160"),
    "without forgeries": ("--forged", "0"),
    "always degraded": ("--light", "0"),
    "never degraded": ("--light", "1"),
    "sources by size": ("--evenness", "0"),
    "without averaged weights": ("--ema", "0"),
    "with face swaps": ("--forgeries", "part-swap", "face-swap", "self-blend"),
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
    """

    name: str
    options: tuple[str, ...]
    left_out: str = ""
    crops: Path = Path("crops")

    @property
    def folder(self) -> str:
        """Name of its folder."""
        text = f"{self.name}--{self.left_out}" if self.left_out else self.name
        return "".join(c if c.isalnum() or c == "-" else "_" for c in text)


def arms_of(
    study: str, sources: list[str], only: list[str], crops: Path, wide: Path | None = None
) -> list[Arm]:
    """The runs of a study, of all its recipes or of those named.

    Raises:
        DataError: a name is unknown, or wants crops of a larger margin where there are none.
    """
    recipes = RECIPES if study == "leave-one-out" else ABLATIONS
    if unknown := [name for name in only if name not in recipes]:
        raise DataError(f"--only {unknown[0]!r} is not one of {', '.join(recipes)}.")
    if WIDE in only and wide is None:
        raise DataError(f"--only {WIDE!r} needs --wide, crops that were cut with a larger margin.")
    left_out = sources if study == "leave-one-out" else [""]
    chosen = only or [name for name in recipes if name != WIDE or wide is not None]
    return [
        Arm(name, recipes[name], source, wide if wide and name == WIDE else crops)
        for name in chosen
        for source in left_out
    ]


def train(arm: Arm, out: Path, shared: list[str]) -> Path:
    """Train an arm, or go on where it was cut off; its checkpoint."""
    folder = out / arm.folder
    finished = folder / "finished"
    options = [*shared, *arm.options]  # the last of two alike counts
    if arm.left_out:
        options += ["--leave-out", arm.left_out]
    wanted = json.dumps(options)
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
    if cache.is_file():
        known = json.loads(cache.read_text(encoding="utf-8"))
        if known["checkpoint"] == loaded.sha256 and len(known["views"]) == len(samples):
            pairs = zip(samples, known["views"], strict=True)
            return [Result(s, tuple(views)) for s, views in pairs]
    pipeline = Pipeline(loaded)
    results = []
    for start in tqdm(range(0, len(samples), 16), desc="measure", mininterval=1):
        batch = samples[start : start + 16]
        views = pipeline.classify([read_image(s.path) for s in batch])
        results += [Result(s, v) for s, v in zip(batch, views, strict=True)]
    content = {"checkpoint": loaded.sha256, "views": [r.views for r in results]}
    cache.write_text(json.dumps(content), encoding="utf-8")
    return results


def leave_one_out_row(results: list[Result], rounds: int) -> dict[str, Any]:
    """AUC on the one source that the results are of, with its interval."""
    labels, p_fake, groups, sources = columns(results)

    def figures(rows: NDArray[np.int64]) -> dict[str, float]:
        return {"roc_auc": scores(labels[rows], p_fake[rows])["roc_auc"]}

    every = np.arange(len(results))
    interval = bootstrap(figures, groups, sources, rounds, seed=0)["roc_auc"]
    return {"roc_auc": figures(every)["roc_auc"], "interval": interval}


def ablation_row(results: list[Result], base: list[Result], rounds: int) -> dict[str, Any]:
    """Mean AUC and accuracy over sources, and what the base has more, on the same photos."""
    labels, p_fake, groups, sources = columns(results)
    theirs = columns(base)[1]
    names = np.asarray(sources)

    def figures(rows: NDArray[np.int64]) -> dict[str, float]:
        y, s = labels[rows], names[rows].tolist()
        own, other = (mean_over_sources(y, p[rows], s) for p in (p_fake, theirs))
        found: dict[str, float] = {}
        for key in ("roc_auc", "accuracy"):
            found |= {key: own[key], f"loss/{key}": other[key] - own[key]}
        return found

    every = np.arange(len(results))
    values, spread = figures(every), bootstrap(figures, groups, sources, rounds, seed=0)
    return {
        "mean": {key: {"value": values[key], "interval": spread[key]} for key in values},
        "sources": auc_by_source(labels, p_fake, sources),
    }


def step_row(name: str, measured: dict[str, list[Result]], rounds: int) -> dict[str, Any]:
    """Mean AUC over the sources left out, and what it gained on the recipe before.

    Args:
        name: of a recipe.
        measured: by recipe, results of the same photos in the same order, each source's from the
            run that was not trained on it.
    """
    names = list(RECIPES)
    before = measured.get(names[names.index(name) - 1]) if name != names[0] else None
    found = ablation_row(measured[name], before or measured[name], rounds)["mean"]
    row = {"mean": found["roc_auc"]}
    if before:
        low, high = found["loss/roc_auc"]["interval"]
        row["gain"] = {"value": -found["loss/roc_auc"]["value"], "interval": (-high, -low)}
    return row


def markdown(report: dict[str, Any]) -> str:
    """The studies' tables."""
    lines: list[str] = []
    if study := report.get("leave-one-out"):
        rows = study["rows"]
        sources = sorted({s for row in rows.values() for s in row})
        lines += [
            "ROC-AUC on a source that was left out of training:",
            "",
            "| recipe | " + " | ".join([*sources, "mean", "gained on the recipe before"]) + " |",
            "|---" * (len(sources) + 3) + "|",
        ]
        for name, row in rows.items():
            cells = [
                cell(row[s]["roc_auc"], row[s]["interval"]) if s in row else "" for s in sources
            ]
            step = study.get("steps", {}).get(name, {})
            cells += [
                cell(step[key]["value"], step[key]["interval"]) if key in step else ""
                for key in ("mean", "gain")
            ]
            lines.append("| " + " | ".join([name, *cells]) + " |")
        lines += ["", _options(study), ""]
    if study := report.get("ablation"):
        rows = study["rows"]
        sources = sorted({s for row in rows.values() for s in row["sources"]})
        head = ["recipe", "ROC-AUC", "lost", "accuracy", "lost", *(f"AUC {s}" for s in sources)]
        lines += [
            "One part of the recipe changed, and what is lost by it, on the same crops:",
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
    args.add_argument("--wide", type=Path, help=f"crops of a larger margin, for {WIDE!r}")
    args.add_argument("--out", type=Path, default=Path("runs/studies"), help="runs and tables")
    args.add_argument("--only", nargs="*", default=[], metavar="RECIPE", help="some of the recipes")
    args.add_argument("--rounds", type=int, default=500, help="bootstrap resamples")
    own, shared = sys.argv[1:], []
    if "--" in own:
        own, shared = own[: own.index("--")], own[own.index("--") + 1 :]
    return args.parse_args(own), shared


def main() -> int:
    opt, shared = arguments()
    if not torch.cuda.is_available():
        keep_memory()
    opt.out.mkdir(parents=True, exist_ok=True)
    path = opt.out / "studies.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    options = shareable(shared)
    study = report.setdefault(opt.study, {"options": options, "rows": {}})
    if study["options"] != options:
        raise DataError(
            f"{path} is of runs with other options ({' '.join(study['options'])}); give the same "
            "after --, or another --out."
        )
    folders = [opt.crops, *([opt.wide] if opt.wide else [])]
    validation = {folder: of_split(read_samples(folder), "val") for folder in folders}
    if len({tuple(s.name for s in samples) for samples in validation.values()}) > 1:
        raise DataError(f"{opt.crops} and {opt.wide} have not the same validation photos.")
    sources = sorted({s.source for s in validation[opt.crops]})
    arms = arms_of(opt.study, sources, opt.only, opt.crops, opt.wide)
    if opt.study == "ablation":
        arm = Arm(BASE, ABLATIONS[BASE], crops=opt.crops)
        base = measure(train(arm, opt.out, shared), validation[opt.crops])
    measured: dict[str, list[Result]] = {}
    for number, arm in enumerate(arms, start=1):
        print(f"{arm.name} {arm.left_out} ({number} of {len(arms)})", flush=True)
        checkpoint = train(arm, opt.out, shared)
        rows, val = study["rows"], validation[arm.crops]
        if arm.left_out:
            chosen = [s for s in val if s.source == arm.left_out]
            results = measure(checkpoint, chosen)
            measured.setdefault(arm.name, []).extend(results)
            row = leave_one_out_row(results, opt.rounds)
            rows.setdefault(arm.name, {})[arm.left_out] = row
            if arm.left_out == sources[-1]:
                steps = study.setdefault("steps", {})
                steps[arm.name] = step_row(arm.name, measured, opt.rounds)
                study["rows"] = {name: rows[name] for name in RECIPES if name in rows}
        else:
            rows[arm.name] = ablation_row(measure(checkpoint, val), base, opt.rounds)
        path.write_text(to_json(report), encoding="utf-8")
        (opt.out / "studies.md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))
    return 0


if __name__ == "__main__":
    run(main)
