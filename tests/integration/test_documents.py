"""What the documents say about training, run as it stands there in a copy of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from deepfake.checkpoint import load
from tests.conftest import FAKES, ROOT, TINY
from tests.documents import Block, blocks_for

FOLDERS = ("src", "training", "docs", "handler", "tests/fixtures")
FILES = (
    "Makefile",
    "MODEL_CARD.md",
    "pyproject.toml",
    "constraints.txt",
    "saved_model.pth",
    "saved_model_small.pth",
)
# What is added with ARGS, for want of time and of photos.
OPTIONS = {
    "train": f"--backbone {TINY} --no-pretrained --image-size 64 --epochs 1 --workers 0",
    "audit": "--max-auc 1",  # a dozen photos are told apart by chance
    **dict.fromkeys(("calibrate", "evaluate", "robustness"), "--rounds 20"),
}
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a few photos in data/, as if it were just cloned and set up."""
    folder = tmp_path_factory.mktemp("project")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name)
    for name in FILES:
        shutil.copy2(ROOT / name, folder)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    rows = ["path,label,split"]
    for i, path in enumerate(FAKES):
        photo = Image.open(path).convert("RGB")
        for label, made in (("fake", photo), ("real", ImageOps.mirror(photo))):
            name = f"{label}/{path.name}"
            (folder / "data" / label).mkdir(parents=True, exist_ok=True)
            made.save(folder / "data" / name)
            rows.append(f"{name},{label},{SPLITS[i % 3]}")
    (folder / "data" / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def run(line: str, folder: Path) -> None:
    """One line as it is pasted, on one core and with a small network."""
    options = " ".join(dict.fromkeys(OPTIONS.get(word, "") for word in line.split())).strip()
    line = line.replace("accelerate launch", "accelerate launch --cpu --num_processes 1")
    line += f" {OPTIONS['train']}" if "training.train" in line else ""
    done = subprocess.run(
        line,
        shell=True,
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ARGS": options,
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def part_of(block: Block, other: Block) -> bool:
    """Whether each line of a block is a line of the other, or the same one with fewer targets."""
    lines = [set(line.split()) for line in other.text.splitlines()]
    return all(any(set(line.split()) <= more for more in lines) for line in block.text.splitlines())


BLOCKS = blocks_for(__file__)
SHORT = [b for b in BLOCKS if any(part_of(b, other) for other in BLOCKS if other is not b)]


def test_what_the_readme_shows_is_a_part_of_the_whole_way() -> None:
    """So that it need not be gone twice."""
    assert [block.document for block in SHORT] == ["README.md"]


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b not in SHORT], ids=lambda block: block.document
)
def test_from_photos_to_a_checkpoint_as_the_documents_say(block: Block, copy: Path) -> None:
    shutil.rmtree(copy / "runs", ignore_errors=True)
    before = load(ROOT / "saved_model.pth").sha256
    for line in block.text.splitlines():
        run(line, copy)
    trained = load(copy / "runs" / "mine" / "saved_model.pth")
    assert trained.model.backbone_name == TINY
    if "saved_model.pth" in block.text:
        served = load(copy / "saved_model.pth")
        assert served.model.backbone_name == TINY
        assert served.operating_points  # which calibration adds
    if "report" in block.text:
        card = (copy / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert load(copy / "saved_model.pth").sha256 in card
        assert before not in card
        assert before[:12] not in card  # nor anything that was measured of it
    assert load(ROOT / "saved_model.pth").sha256 == before
