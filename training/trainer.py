"""One training run: the loop, and what it writes down after each epoch."""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from deepfake.checkpoint import Checkpoint, save, write
from deepfake.errors import DataError
from deepfake.model import DeepfakeDetector
from training.batches import Batches, share_of, training_batches, validation_batches
from training.data import Sample, fingerprint
from training.depthwise import FastDepthwise
from training.forgeries import Forger
from training.losses import focal_loss, mixed, mixed_focal_loss
from training.plots import plot_curves, read_rows
from training.schedule import average_of, lr_factor
from training.scores import auc_by_source, fit_temperature, mean_over_sources, scores
from training.start import freeze, initial_model

RUN_FILES = (
    "last.pth",
    "last.pth.part",
    "metrics.jsonl",
    "saved_model.pth",
    "saved_model.pth.part",
    "curves.png",
    "folds.json",
)
"""What a run writes into its folder."""


@dataclass
class State:
    """What a run must remember from one epoch to the next."""

    model: DeepfakeDetector
    average: AveragedModel  # of the weights over the last steps; what is validated and kept
    optimizer: torch.optim.Optimizer
    epoch: int = 0  # finished epochs
    best: float = -1.0
    best_epoch: int = 0


class Trainer:
    """Samples in, ``saved_model.pth`` and ``metrics.jsonl`` out."""

    def __init__(
        self,
        opt: argparse.Namespace,
        accelerator: Accelerator,
        train: list[Sample],
        val: list[Sample],
        out: Path,
    ) -> None:
        self.opt, self.acc, self.train, self.val, self.out = opt, accelerator, train, val, out
        self.crops = fingerprint([*train, *val])
        self.forger = Forger(train, opt.forgeries)
        self.steps = len(self._batches(1))
        torch.manual_seed(opt.seed)
        model = initial_model(opt, accelerator.print)
        self.frozen = freeze(model, opt.freeze)
        model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=opt.lr, weight_decay=opt.weight_decay)
        self.net, optimizer = accelerator.prepare(model, optimizer)
        self.state = State(model, average_of(model, opt.ema), optimizer)

    def fit(self) -> dict[str, Any]:
        """Train to the end or to the early stop; the metrics of the best epoch."""
        self._resume()
        opt, state = self.opt, self.state
        while state.epoch < opt.epochs and state.epoch - state.best_epoch < opt.patience:
            started = time.perf_counter()
            epoch = state.epoch + 1
            loss, images = self._train_epoch(epoch)
            seconds = time.perf_counter() - started
            row = self._validate()
            row |= {
                "epoch": epoch,
                "lr": state.optimizer.param_groups[0]["lr"],
                "train_loss": loss,
                "images_per_second": round(images / seconds, 1),
                "seconds": round(time.perf_counter() - started, 1),
            }
            state.epoch = epoch
            self._finish_epoch(row)
        if state.epoch < opt.epochs:
            self.acc.print(f"early stop: no better score for {opt.patience} epochs")
        known = {"epoch": state.best_epoch, "val_score": state.best}  # should its line be lost
        return next((r for r in read_rows(self.out) if r["epoch"] == state.best_epoch), known)

    def _batches(self, epoch: int) -> Batches:
        return training_batches(self.opt, self.acc, self.train, self.forger, epoch)

    def _train_epoch(self, epoch: int) -> tuple[float, int]:
        drawn = (self.opt.seed, epoch, self.acc.process_index)  # the same after a resume
        rng = np.random.default_rng(drawn)  # for mixup
        torch.manual_seed(int(rng.integers(2**62)))  # for dropout
        self.net.train()
        for module in self.frozen:
            module.eval()
        total, images = 0.0, 0
        bar = self._bar(self._batches(epoch), f"epoch {epoch}/{self.opt.epochs}")
        for step, (pixels, labels, _) in enumerate(bar, start=1):
            self._set_lr((epoch - 1) * self.steps + step - 1)
            loss = self._step(pixels.to(self.acc.device), labels.to(self.acc.device), rng)
            if not math.isfinite(loss):
                raise self._diverged(f"The loss became {loss} in epoch {epoch}, step {step}")
            total, images = total + loss, images + len(labels)
            bar.set_postfix(loss=f"{total / step:.4f}", refresh=False)
        return total / step, images * self.acc.num_processes

    def _diverged(self, what: str) -> DataError:
        kept = f" The best epoch so far is kept in {self.out}." if self.state.best_epoch else ""
        return DataError(f"{what}; lower --lr.{kept}")

    def _set_lr(self, step: int) -> None:
        opt = self.opt
        factor = lr_factor(step, opt.warmup_epochs * self.steps, opt.epochs * self.steps)
        for group in self.state.optimizer.param_groups:
            group["lr"] = opt.lr * factor

    def _step(self, pixels: Tensor, labels: Tensor, rng: np.random.Generator) -> float:
        state, opt = self.state, self.opt
        x = state.model.preprocess(pixels).contiguous(memory_format=torch.channels_last)
        share = float(rng.beta(opt.mixup, opt.mixup)) if opt.mixup else 1.0
        if opt.mixup:
            x = mixed(x, share)
        # Its look at every operation pays on a CPU only.
        with FastDepthwise() if x.device.type == "cpu" else nullcontext():
            logits = self.net(x)
        if opt.mixup:
            loss = mixed_focal_loss(logits, labels, share, opt.focal_alpha, opt.focal_gamma)
        else:
            loss = focal_loss(logits, labels, opt.focal_alpha, opt.focal_gamma)
        state.optimizer.zero_grad(set_to_none=True)
        self.acc.backward(loss)
        self.acc.clip_grad_norm_(state.model.parameters(), opt.clip)
        state.optimizer.step()
        state.average.update_parameters(state.model)
        return float(loss.detach())

    @torch.inference_mode()
    def _validate(self) -> dict[str, Any]:
        model = self._averaged().eval()
        if self.acc.num_processes > 1:  # what is kept is the first one's, running statistics too
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        rows: list[tuple[int, float, str]] = []
        share = share_of(self.val, self.acc)
        batches = validation_batches(self.opt, self.acc, share)
        for pixels, labels, index in self._bar(batches, "validate"):
            x = model.preprocess(pixels.to(self.acc.device))
            with self.acc.autocast():
                logits = model(x.contiguous(memory_format=torch.channels_last))
            p_fake = logits.float().softmax(dim=1)[:, 1].cpu().tolist()
            sources = [share[i].source for i in index.tolist()]
            rows += zip(labels.tolist(), p_fake, sources, strict=True)
        rows = gather_object(rows)
        if not all(math.isfinite(p) for _, p, _ in rows):
            raise self._diverged("The network's answers in validation are no numbers any more")
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        row = _validation_row(columns[0], columns[1], columns[2], self.opt.leave_out)
        return {**row, "val_images": len(rows)}

    def _finish_epoch(self, row: dict[str, Any]) -> None:
        """Write the epoch down: metrics, the best model, then the state to resume from."""
        state, acc = self.state, self.acc
        better = row["val_score"] > state.best
        if better:
            state.best, state.best_epoch = row["val_score"], state.epoch
        acc.print(
            f"epoch {state.epoch}: train loss {row['train_loss']:.4f}, validation AUC "
            f"{row['val_score']:.4f} (mean over sources), accuracy {row['val_accuracy']:.4f}, "
            f"{row['images_per_second']} images/s{'  <- best' if better else ''}"
        )
        if acc.is_main_process:
            with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if better:
                save(self.out / "saved_model.pth", self._checkpoint(row))
            self._save_state()
            plot_curves(self.out, read_rows(self.out))
            _tensorboard(self.out, row)
        acc.wait_for_everyone()

    def _averaged(self) -> DeepfakeDetector:
        return cast(DeepfakeDetector, self.state.average.module)

    def _checkpoint(self, row: dict[str, Any]) -> Checkpoint:
        return Checkpoint(
            model=self._averaged(),
            crop_margin=self.opt.crop_margin,
            temperature=row["temperature"],
            metrics={k: v for k, v in row.items() if k.startswith("val_")},
            training={
                "options": _shareable(self.opt) | {"processes": self.acc.num_processes},
                "epoch": row["epoch"],
                "train_images": len(self.train),
                "val_images": len(self.val),
                "torch": torch.__version__,
            },
        )

    def _save_state(self) -> None:
        state = self.state
        content = {
            "options": _plain(self.opt),
            "crops": self.crops,
            "model": state.model.state_dict(),
            "average": state.average.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": self.acc.scaler.state_dict() if self.acc.scaler else {},  # of fp16 only
            "epoch": state.epoch,
            "best": state.best,
            "best_epoch": state.best_epoch,
        }
        write(self.out / "last.pth", content)

    def _resume(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "last.pth"
        if not path.exists():
            if (self.out / "saved_model.pth").exists():
                raise DataError(
                    f"{self.out} holds a saved_model.pth without the last.pth to go on from; give "
                    "another --out, or --fresh to start over."
                )
            (self.out / "metrics.jsonl").unlink(missing_ok=True)
            return
        content = torch.load(path, map_location="cpu", weights_only=True)
        changed = sorted(
            k for k, v in _plain(self.opt).items() if content["options"].get(k, v) != v
        )
        if changed:
            raise DataError(
                f"{self.out} holds a run with another --{changed[0].replace('_', '-')}; "
                "give another --out, or --fresh to start over."
            )
        if content.get("crops", self.crops) != self.crops:
            raise DataError(
                f"{self.out} holds a run on other crops than there are now; give another --out, or "
                "--fresh to start over."
            )
        state = self.state
        state.model.load_state_dict(content["model"])
        state.average.load_state_dict(content["average"])
        state.optimizer.load_state_dict(content["optimizer"])
        if self.acc.scaler and content.get("scaler"):
            self.acc.scaler.load_state_dict(content["scaler"])
        state.epoch, state.best = content["epoch"], content["best"]
        state.best_epoch = content["best_epoch"]
        if self.acc.is_main_process:  # a kill may have left a line of an epoch that is run again
            kept = [r for r in read_rows(self.out) if r["epoch"] <= state.epoch]
            text = "".join(json.dumps(r) + "\n" for r in kept)
            (self.out / "metrics.jsonl").write_text(text, encoding="utf-8")
        self.acc.print(f"going on after epoch {state.epoch} of {self.opt.epochs}")

    def _bar(self, loader: Any, text: str) -> Any:
        return tqdm(loader, desc=text, disable=not self.acc.is_main_process, mininterval=1.0)


def _validation_row(labels: Any, p_fake: Any, sources: Any, left_out: str) -> dict[str, Any]:
    """The epoch's figures; a source that is left out of training must not choose the epoch."""
    used = sources != left_out
    mean = mean_over_sources(labels[used], p_fake[used], sources[used])
    return {
        "val_score": mean["roc_auc"],
        "val_accuracy": mean["accuracy"],
        "val_auc_overall": scores(labels[used], p_fake[used])["roc_auc"],
        "val_auc": auc_by_source(labels, p_fake, sources),
        "temperature": fit_temperature(labels[used], p_fake[used]),
    }


def _plain(opt: argparse.Namespace) -> dict[str, Any]:
    """The options that make a run what it is, as plain types."""
    left_out = {"out", "fresh", "workers"}
    values = {k: v for k, v in vars(opt).items() if k not in left_out}
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


def _shareable(opt: argparse.Namespace) -> dict[str, Any]:
    """The same without folders of this machine: a checkpoint goes to others."""
    values = _plain(opt)
    del values["data"]
    return values | {"init": opt.init.name if opt.init else None}


def _tensorboard(out: Path, row: dict[str, Any]) -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # not installed: metrics.jsonl and the PNG say the same
        return
    with SummaryWriter(str(out)) as writer:
        for key, value in row.items():
            if isinstance(value, float):
                writer.add_scalar(key, value, row["epoch"])
