"""What the tests of programs share: starting them, small data for them, and their tables."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageEnhance, ImageOps

from deepfake.faces import Face, FaceDetector, crop_face
from tests.conftest import FAKES, ROOT, TINY, Ended

Command = Callable[..., Ended]
Train = Callable[..., Ended]
Row = dict[str, str]

CHECKPOINT = ROOT / "saved_model.pth"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TRAIN_OPTIONS = [
    *("--backbone", TINY, "--no-pretrained", "--image-size", "64", "--workers", "0"),
    *("--batch-size", "8", "--lr", "3e-3", "--warmup-epochs", "1"),
]


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, run to its end in the project's folder."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def program(name: str, *options: object) -> subprocess.CompletedProcess[str]:
    """A program as a user starts it."""
    return python("-m", name, *options)


def start(name: str, *options: object) -> subprocess.Popen[str]:
    """The same, not waited for: in a group of its own, and not deaf to Ctrl-C where we are."""
    return subprocess.Popen(
        [sys.executable, "-m", name, *map(str, options)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def table(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def copy_manifest(data: Path, folder: Path, change: Callable[[Row], Row]) -> Path:
    """The manifest of some data, with changed rows, in another folder; the pictures stay."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row | {"path": str(data / row["path"])} for row in table(data / "manifest.csv")]
    write_table(folder / "manifest.csv", [row | change(row) for row in rows])
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, astronaut: Image.Image) -> Path:
    """Photos of two sources, one of fakes only, and two photos that get no answer."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = []
    for i in range(4):
        picture = astronaut.crop((20 * i, 0, 400 + 20 * i, 380))
        (ImageOps.mirror(picture) if i % 2 else picture).save(folder / f"real-{i}.png")
        rows.append((f"real-{i}.png", "real", "mixed"))
        rows.append((str(FAKES[i]), "fake", "mixed"))
    rows += [(str(path), "fake", "fakes") for path in FAKES[4:6]]
    Image.new("RGB", (64, 64)).save(folder / "black.png")
    rows += [("black.png", "real", "mixed"), ("missing.png", "fake", "fakes")]
    header = ("path", "label", "source", "split")
    write_table(
        folder / "manifest.csv",
        [dict(zip(header, (*row, "test"), strict=True)) for row in rows],
    )
    return folder


@pytest.fixture(scope="session")
def face_crops(
    tmp_path_factory: pytest.TempPathFactory,
    detector: FaceDetector,
    astronaut: Image.Image,
    fake_faces: list[tuple[Image.Image, Face]],
) -> Path:
    """Twelve fakes, and twelve pictures of one real face, as crops with a manifest."""
    folder = tmp_path_factory.mktemp("crops")
    box = detector(astronaut)[0].box
    rows = []
    for i, (photo, face) in enumerate(fake_faces):
        crop = crop_face(astronaut, box, margin=0.05 + 0.05 * i)
        crop = ImageEnhance.Brightness(crop).enhance(0.8 + 0.04 * i)
        pictures = {
            "real": ImageOps.mirror(crop) if i % 2 else crop,
            "fake": crop_face(photo, face.box),
        }
        for label, picture in pictures.items():
            name = f"{label}-{i}.png"
            picture.resize((80, 80)).save(folder / name)
            split = "train" if i < 8 else "val"
            rows.append({"path": name, "label": label, "group": name, "split": split})
    write_table(folder / "manifest.csv", rows)
    return folder


@pytest.fixture
def train(command: Command, face_crops: Path) -> Train:
    """Train a small network on those crops, or on others named by a later --data."""

    def call(out: Path, *options: object) -> Ended:
        common = ("--data", face_crops, "--out", out, *TRAIN_OPTIONS)
        return command("training.train", *common, *options)

    return call


def epochs(out: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says, without how long it took."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    timed = {"seconds", "images_per_second"}
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]
