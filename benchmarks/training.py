"""How many images a second `make train` takes, beside its network step and its loader alone."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.scenes import FIXTURES
from deepfake.checkpoint import Checkpoint
from deepfake.faces import FaceDetector, crop_face
from deploy.torchserve import ROOT
from training.cli import keep_memory
from training.data import of_split, read_samples
from training.forgeries import Forger
from training.losses import focal_loss
from training.trainer import TrainingCrops

BATCH = 32
IMAGES = 512
EYES_NOSE_MOUTH = "77 95 147 95 112 135 84 170 140 170"  # of a face that fills 224 pixels


def throughput(checkpoint: Checkpoint, rounds: int) -> dict[str, float]:
    """Images per second of a run of training.train, of the bare step on a batch in memory, and of
    one loading process.

    With the options that training has by default on this machine. The run's figure has everything
    in it: reading, augmenting, forging, loading.
    """
    size = checkpoint.model.image_size
    with tempfile.TemporaryDirectory() as folder:
        crops = crops_in(Path(folder, "crops"), size)
        command = [sys.executable, "-m", "training.train", "--data", str(crops)]
        command += ["--out", f"{folder}/run", "--backbone", checkpoint.model.backbone_name]
        command += ["--image-size", str(size), "--batch-size", str(BATCH), "--epochs", "2"]
        command += ["--no-pretrained"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        lines = Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        loader = loader_rate(crops, size)
    run = json.loads(lines[-1])["images_per_second"]
    return {"run": run, "step": step_rate(checkpoint, rounds), "loader": loader}


def loader_rate(crops: Path, size: int) -> float:
    """Images per second that one process reads, augments and forges."""
    samples = of_split(read_samples(crops), "train")
    data = TrainingCrops(samples, size, (0, 0), Forger(samples), forged=0.25, light=0.5)
    started = time.perf_counter()
    for index in range(len(data)):
        data[index]
    return len(data) / (time.perf_counter() - started)


def crops_in(folder: Path, side: int) -> Path:
    """A folder of crops as training.crop leaves it, of the fixtures' faces again and again."""
    folder.mkdir()
    detector = FaceDetector()
    faces = []
    for path in sorted(FIXTURES.glob("*.jpg")):
        photo = Image.open(path).convert("RGB")
        faces.append(crop_face(photo, detector(photo)[0].box).resize((side, side)))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split", "landmarks"])
        for i in range(IMAGES + 2 * BATCH):
            faces[i % len(faces)].save(folder / f"{i}.png")
            split = "train" if i < IMAGES else "val"
            rows.writerow([f"{i}.png", ("real", "fake")[i % 2], split, EYES_NOSE_MOUTH])
    return folder


def step_rate(checkpoint: Checkpoint, rounds: int) -> float:
    """Images per second of forward, loss, backward and optimiser on the same batch: the median."""
    keep_memory()
    model = checkpoint.model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    pixels = torch.randint(0, 256, (BATCH, 3, model.image_size, model.image_size))
    labels = torch.arange(BATCH) % 2
    rates = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        x = model.preprocess(pixels.byte()).contiguous(memory_format=torch.channels_last)
        loss = focal_loss(model(x), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rates.append(BATCH / (time.perf_counter() - started))
    model.eval()
    return statistics.median(rates[1:])


def as_rows(found: dict[str, Any]) -> list[str]:
    """For RESULTS.md."""
    return [
        "| training | images/s | share of the step |",
        "|---|---|---|",
        f"| the network step alone, batches of {BATCH} | {found['step']:.1f} | 100% |",
        f"| `training.train`, all of it | {found['run']:.1f} "
        f"| {found['run'] / found['step']:.0%} |",
        f"| the loader alone, one process | {found['loader']:.0f} "
        f"| {found['loader'] / found['step']:.0%} |",
    ]
