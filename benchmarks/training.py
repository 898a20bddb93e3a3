"""How many images a second `make train` takes, beside its network step and its loader alone."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.scenes import FIXTURES
from deepfake.checkpoint import Checkpoint
from deepfake.faces import FaceDetector, crop_face
from deepfake.model import DeepfakeDetector
from deploy.torchserve import ROOT
from training.batches import TrainingCrops
from training.cli import keep_memory
from training.crop import FORMATS
from training.data import of_split, read_samples
from training.depthwise import FastDepthwise
from training.forgeries import Forger
from training.losses import focal_loss
from training.start import freeze
from training.train import cpu_has_bfloat16

BATCH = 32
IMAGES = 512
FROZEN = 4  # of EfficientNet's eight stages
EYES_NOSE_MOUTH = "77 95 147 95 112 135 84 170 140 170"  # of a face that fills 224 pixels


def throughput(checkpoint: Checkpoint, rounds: int) -> dict[str, Any]:
    """Images per second of a run of training.train, of bare steps on a batch in memory, and of
    one loading process with crops of either format.

    With the options that training has by default on this machine. The run's figure has everything
    in it: reading, augmenting, forging, loading.
    """
    size = checkpoint.model.image_size
    with tempfile.TemporaryDirectory() as folder:
        folders = {form: crops_in(Path(folder, form), size, form) for form in FORMATS}
        crops = folders["png"]
        command = [sys.executable, "-m", "training.train", "--data", str(crops)]
        command += ["--out", f"{folder}/run", "--backbone", checkpoint.model.backbone_name]
        command += ["--image-size", str(size), "--batch-size", str(BATCH), "--epochs", "2"]
        command += ["--no-pretrained"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        lines = Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        for form in folders:  # uncounted: files come from memory then, whichever is first
            loader_rate(folders[form], size)
        loader = {form: loader_rate(folders[form], size) for form in folders}
    run = json.loads(lines[-1])["images_per_second"]
    return {"run": run, "steps": step_rates(checkpoint, rounds), "loader": loader}


def loader_rate(crops: Path, size: int) -> float:
    """Images per second that one process reads, augments and forges."""
    samples = of_split(read_samples(crops), "train")
    data = TrainingCrops(samples, size, (0, 0), Forger(samples), forged=0.25, light=0.5)
    started = time.perf_counter()
    for index in range(len(data)):
        data[index]
    return len(data) / (time.perf_counter() - started)


def crops_in(folder: Path, side: int, form: str) -> Path:
    """A folder of crops as training.crop leaves it, of the fixtures' faces again and again.

    Args:
        form: one of training.crop's file formats.
    """
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
            faces[i % len(faces)].save(folder / f"{i}.{form}", **FORMATS[form])
            split = "train" if i < IMAGES else "val"
            rows.writerow([f"{i}.{form}", ("real", "fake")[i % 2], split, EYES_NOSE_MOUTH])
    return folder


def step_rates(checkpoint: Checkpoint, rounds: int) -> dict[str, float]:
    """Images per second of forward, loss, backward and optimiser on the same batch: medians.

    The last is the step that training.train takes by default on this machine, the one before it
    the same with frozen stages.
    """
    keep_memory()
    model = checkpoint.model.train().to(memory_format=torch.channels_last)
    partly = deepcopy(model)
    for module in freeze(partly, FROZEN):
        module.eval()
    pixels = torch.randint(0, 256, (BATCH, 3, model.image_size, model.image_size))
    labels = torch.arange(BATCH) % 2
    optimizers = {m: torch.optim.AdamW(m.parameters(), lr=0.0) for m in (model, partly)}

    def seconds(model: DeepfakeDetector, bf16: bool, fast: bool) -> float:
        optimizer = optimizers[model]
        started = time.perf_counter()
        x = model.preprocess(pixels.byte()).contiguous(memory_format=torch.channels_last)
        with (
            torch.autocast("cpu", torch.bfloat16, bf16),
            FastDepthwise() if fast else nullcontext(),
        ):
            logits = model(x)
        loss = focal_loss(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return time.perf_counter() - started

    fast = cpu_has_bfloat16()
    kinds = {}
    if fast:
        kinds["float32"] = (model, False, False)
        kinds["bfloat16, PyTorch's gradients"] = (model, True, False)
    own = "bfloat16, training/depthwise.py" if fast else "float32"
    kinds |= {f"{own}, --freeze {FROZEN}": (partly, fast, fast), own: (model, fast, fast)}
    taken = [[seconds(*kind) for kind in kinds.values()] for _ in range(rounds + 1)][1:]
    model.eval()
    columns = zip(*taken, strict=True)
    return {k: BATCH / statistics.median(c) for k, c in zip(kinds, columns, strict=True)}


def as_rows(found: dict[str, Any]) -> list[str]:
    """For RESULTS.md."""
    own = list(found["steps"].values())[-1]
    rows = [(f"the network step alone, {kind}", rate) for kind, rate in found["steps"].items()]
    rows += [("`training.train`, all of it", found["run"])]
    rows += [
        (f"the loader alone, one process, crops as {form.upper()}", rate)
        for form, rate in found["loader"].items()
    ]
    return [
        f"Batches of {BATCH}; the last step is the one that `training.train` takes.",
        "",
        "| training | images/s | share of that step |",
        "|---|---|---|",
        *(f"| {name} | {rate:.1f} | {rate / own:.0%} |" for name, rate in rows),
    ]
