"""Train the detector on face crops and write saved_model.pth.

Reads what `python -m training.crop` wrote (or any data folder of ready crops), trains with
focal loss, AdamW and a warm-up + cosine schedule, keeps the epoch with the best validation
score (mean ROC-AUC over sources) and stops when it no longer improves. Run again after a kill,
the same command goes on after the last finished epoch.

One process:            python -m training.train --data crops --out runs/b4
All GPUs of a machine:  accelerate launch -m training.train --data crops --out runs/b4
Several machines:       torchrun --nnodes 2 ... -m training.train --data crops --out runs/b4
                        (--out in a folder that all of them share)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from deepfake.checkpoint import IMAGE_SIZES
from deepfake.cpus import usable
from deepfake.errors import DataError
from deepfake.folders import locked
from deepfake.model import DEFAULT_BACKBONE
from training.cli import check_numbers, keep_memory, parser, run
from training.data import Sample, of_split, read_samples
from training.forgeries import DEFAULT_KINDS, KINDS
from training.sampling import folds, limited
from training.trainer import RUN_FILES, Trainer


def arguments() -> argparse.Namespace:
    args = parser(__doc__)

    group = args.add_argument_group("data")
    group.add_argument("--data", type=Path, default=Path("crops"), help="folder of crops, or CSV")
    group.add_argument("--out", type=Path, default=Path("runs/b4"), help="folder for the results")
    group.add_argument("--limit", type=int, default=0, help="use so many images per split; 0: all")
    group.add_argument("--folds", type=int, default=0, help="k of stratified group k-fold; 0: off")
    group.add_argument(
        "--evenness", type=float, default=0.5, help="of sources' shares: 0 by size, 1 all alike"
    )
    group.add_argument("--leave-out", default="", help="source that is not trained on")
    group.add_argument(
        "--forged", type=float, default=0.25, help="share of fakes forged on the spot, 0 to 1"
    )
    group.add_argument(
        "--forgeries",
        nargs="+",
        choices=tuple(KINDS),
        default=list(DEFAULT_KINDS),
        help="kinds of these forgeries",
    )
    group.add_argument(
        "--light", type=float, default=0.5, help="share of crops augmented only lightly, 0 to 1"
    )
    group.add_argument(
        "--pairs",
        action="store_true",
        help="beside each fake a real face of its source, the one it is forged of if it is forged, "
        "both augmented alike",
    )
    group.add_argument("--fresh", action="store_true", help="start over in an --out that exists")

    group = args.add_argument_group("model")
    group.add_argument("--backbone", default=DEFAULT_BACKBONE, help="any timm image model")
    group.add_argument("--image-size", type=int, default=224, help="side of the input, pixels")
    group.add_argument(
        "--train-size",
        type=int,
        help="side in training, pixels; somewhat below --image-size is faster, and faces are then "
        "as large as in use, since training crops are parts of the face (FixRes, Touvron et al. "
        "2019). Default: --image-size",
    )
    group.add_argument(
        "--first-size",
        type=int,
        help="side in the first epoch, pixels; it grows to --train-size by the last (progressive "
        "learning, Tan & Le 2021). Default: --train-size",
    )
    group.add_argument("--init", type=Path, help="start from this state dict or checkpoint")
    group.add_argument(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="without --init, let timm fetch ImageNet weights",
    )
    group.add_argument(
        "--cbam", action=argparse.BooleanOptionalAction, default=True, help="the attention block"
    )
    group.add_argument("--dropout", type=float, default=0.5, help="before the last layer")
    group.add_argument(
        "--drop-path", type=float, default=0.0, help="stochastic depth, for long trainings: 0.2"
    )
    group.add_argument(
        "--freeze",
        type=int,
        default=0,
        help="so many of the backbone's first stages keep what --init knows, for a short training "
        "on a CPU; EfficientNet has 8, and B4's steps are 1.5 to 1.7 times as fast with 4",
    )

    group = args.add_argument_group("optimisation")
    group.add_argument("--epochs", type=int, default=50, help="at most")
    group.add_argument(
        "--passes",
        type=int,
        default=1,
        help="over the training images per epoch; more where a GPU takes seconds for one, and "
        "validating and saving would take as long",
    )
    group.add_argument("--batch-size", type=int, default=32, help="images per process and step")
    group.add_argument("--lr", type=float, default=3e-4, help="AdamW's peak learning rate")
    group.add_argument("--weight-decay", type=float, default=1e-5, help="AdamW's weight decay")
    group.add_argument(
        "--warmup-epochs", type=float, help="linear warm-up. Default: a tenth of --epochs"
    )
    group.add_argument("--patience", type=int, default=10, help="epochs without a better score")
    group.add_argument("--ema", type=float, default=0.998, help="decay of the weights' average")
    group.add_argument("--clip", type=float, default=1.0, help="largest gradient norm")
    group.add_argument(
        "--mixup",
        type=float,
        default=0.0,
        help="a of mixup (Zhang et al. 2018): the pictures of a batch and their labels are mixed "
        "in pairs, by a share from Beta(a, a); against learning by heart: 0.2; 0: off",
    )
    group.add_argument("--focal-alpha", type=float, default=0.25, help="focal loss: weight")
    group.add_argument("--focal-gamma", type=float, default=2.0, help="focal loss: focus")

    group = args.add_argument_group("machine")
    group.add_argument("--seed", type=int, default=0, help="makes a run repeatable")
    group.add_argument(
        "--workers", type=int, default=_workers(), help="data-loading processes; 0: none apart"
    )
    group.add_argument(
        "--precision",
        choices=("auto", "no", "bf16", "fp16"),
        default="auto",
        help="auto: bf16 on a GPU, and on a CPU that has instructions for it",
    )
    return check(args.parse_args())


def check(opt: argparse.Namespace) -> argparse.Namespace:
    """Refuse options that cannot work before anything is read."""
    opt.train_size = opt.image_size if opt.train_size is None else opt.train_size
    opt.first_size = opt.train_size if opt.first_size is None else opt.first_size
    if opt.warmup_epochs is None:
        opt.warmup_epochs = opt.epochs / 10
    sizes = ("image_size", "train_size", "first_size")
    rates = ("weight_decay", "warmup_epochs", "mixup", "focal_gamma")
    check_numbers(
        opt,
        above_zero=("epochs", "passes", "batch_size", "lr", "patience", "clip", *sizes),
        not_negative=("limit", "seed", "workers", "freeze", *rates),
    )
    least, most = IMAGE_SIZES
    if not least <= opt.image_size <= most:
        raise DataError(f"--image-size is {opt.image_size}; a checkpoint has {least} to {most}.")
    if opt.folds == 1 or opt.folds < 0:
        raise DataError(f"--folds is {opt.folds}; 2 or more, or 0 for none.")
    if opt.init and opt.init.resolve() in map(Path.resolve, written(opt.out)):
        raise DataError(f"--init {opt.init} would be written over; give another --out.")
    if opt.warmup_epochs > opt.epochs:
        raise DataError(
            f"--warmup-epochs is {opt.warmup_epochs:g} of {opt.epochs} epochs; it must be no more."
        )
    if opt.folds and opt.leave_out:
        raise DataError("--folds and --leave-out don't go together; leave one of them out.")
    if opt.pairs and opt.mixup:
        raise DataError("--pairs and --mixup don't go together; leave one of them out.")
    for name in ("dropout", "drop_path", "ema"):
        if not 0 <= getattr(opt, name) < 1:
            option = name.replace("_", "-")
            raise DataError(f"--{option} is {getattr(opt, name)}, not in [0, 1).")
    for name in ("forged", "light", "evenness"):
        if not 0 <= getattr(opt, name) <= 1:
            raise DataError(f"--{name} is {getattr(opt, name)}, not in [0, 1].")
    if opt.precision == "fp16" and not torch.cuda.is_available():
        raise DataError("--precision fp16 needs a GPU; on a CPU give bf16, no or auto.")
    if opt.precision == "auto":
        opt.precision = "bf16" if torch.cuda.is_available() or cpu_has_bfloat16() else "no"
    opt.crop_margin = crop_margin(opt.data)
    return opt


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; elsewhere float32 is faster."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def crop_margin(data: Path) -> float:
    """The margin the crops were cut with, from the journal that training.crop left."""
    journal = (data if data.is_dir() else data.parent) / "journal.jsonl"
    if not journal.is_file():
        return 0.2  # crops made elsewhere: the margin that training.crop would have used
    with journal.open(encoding="utf-8") as file:
        return float(json.loads(file.readline())["settings"]["margin"])


def _workers() -> int:
    """A GPU trains on more than a thousand crops a second, a core makes one or two hundred
    (benchmarks/RESULTS.md). On a CPU the network's threads need every core, and wait for one
    another whenever a loader has taken one from them."""
    cores = usable()
    return max(1, min(16, cores - 1)) if torch.cuda.is_available() else cores // 8


def without(samples: list[Sample], source: str) -> list[Sample]:
    """The samples of all other sources; DataError where that is none, or no source has the name."""
    if not source:
        return samples
    sources = sorted({s.source for s in samples})
    if source not in sources or len(sources) < 2:
        raise DataError(f"--leave-out is {source}, but the sources are {', '.join(sources)}.")
    return of_split([s for s in samples if s.source != source], samples[0].split)


def written(out: Path) -> Iterator[Path]:
    """What an earlier run has written into its folder."""
    for name in (*RUN_FILES, "events.out.tfevents.*"):
        yield from out.glob(name)
        yield from out.glob(f"fold-*/{name}")


def train_folds(opt: argparse.Namespace, acc: Accelerator, samples: list[Sample]) -> None:
    """k runs, each with another fold for validation, and their mean score."""
    results: list[dict[str, Any]] = []
    for n, (train, val) in enumerate(folds(samples, opt.folds, opt.seed)):
        acc.print(f"fold {n + 1} of {opt.folds}: {len(train)} train, {len(val)} val")
        results.append(Trainer(opt, acc, train, val, opt.out / f"fold-{n}").fit())
    values = [r["val_score"] for r in results]
    if acc.is_main_process:
        (opt.out / "folds.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    acc.print(
        f"{opt.folds} folds: validation AUC {np.mean(values):.4f} +- {np.std(values, ddof=1):.4f}"
    )


def main() -> int:
    opt = arguments()
    precision, on_gpu = opt.precision, torch.cuda.is_available()
    if not on_gpu:
        keep_memory()
    acc = Accelerator(mixed_precision=precision, cpu=not on_gpu)
    samples = read_samples(opt.data)  # splits are those of every other program, whatever --seed
    train, val = (
        of_split(limited(of_split(samples, split), opt.limit, opt.seed), split)  # both classes left
        for split in ("train", "val")
    )
    train = without(train, opt.leave_out)
    if opt.leave_out:  # what chooses the epoch
        of_split([s for s in val if s.source != opt.leave_out], "val")
    acc.print(f"{len(train)} train and {len(val)} validation images on {acc.device}, {precision}")
    opt.out.mkdir(parents=True, exist_ok=True)
    with locked(opt.out) if acc.is_main_process else nullcontext():
        return fit(opt, acc, train, val)


def fit(opt: argparse.Namespace, acc: Accelerator, train: list[Sample], val: list[Sample]) -> int:
    """The run itself, or all of its folds."""
    if opt.fresh and acc.is_main_process:
        for path in list(written(opt.out)):
            path.unlink()
    acc.wait_for_everyone()
    if opt.folds:
        train_folds(opt, acc, train + val)
        return 0
    best = Trainer(opt, acc, train, val, opt.out).fit()
    acc.print(
        f"best epoch {best['epoch']}: validation AUC {best['val_score']:.4f} (mean over sources); "
        f"{opt.out / 'saved_model.pth'}"
    )
    return 0


if __name__ == "__main__":
    run(main, "run the same command again, without --fresh, to go on")
