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
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from deepfake.checkpoint import load
from deepfake.errors import DataError
from deepfake.pipeline import Pipeline
from training.cli import AGAIN, keep_memory, parser, run
from training.data import fingerprint, of_split, read_image, read_samples
from training.evaluate import code_digest
from training.recipes import ABLATIONS, BASE, RECIPES, WIDE, Arm, arms_of
from training.report import Result
from training.study_tables import ablation_row, leave_one_out_row, markdown, step_row
from training.tables import to_json


def train(arm: Arm, out: Path, shared: list[str]) -> Path:
    """Train an arm, or go on where it was cut off; its checkpoint."""
    folder = out / arm.folder
    finished = folder / "finished"
    options = [*shared, *arm.options]  # the last of two alike counts
    if arm.left_out:
        options += ["--leave-out", arm.left_out]
    if arm.seed is not None:
        options += ["--seed", str(arm.seed)]
    crops = fingerprint(read_samples(arm.crops))
    wanted = json.dumps([str(arm.crops), crops, *options])
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
    digest, code = loaded.sha256, code_digest()
    key = {"checkpoint": digest, "code": code, "samples": fingerprint(samples)}
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
            rows = study["rows"]
            known = [name for name in ABLATIONS if name in rows]
            study["rows"] = {name: rows[name] for name in dict.fromkeys([*known, *rows])}
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
            known = [name for name in RECIPES if name in rows]
            study["rows"] = {name: rows[name] for name in dict.fromkeys([*known, *rows])}
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
    run(main, AGAIN)
