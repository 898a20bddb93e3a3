"""The same training program under torchrun, with two processes that share the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from deepfake.checkpoint import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Two classes a network tells apart at once: reddish and bluish noise."""
    torch.manual_seed(0)
    rows = ["path,label,split"]
    for label, tint in (("real", (255, 60, 60)), ("fake", (60, 60, 255))):
        for i in range(13):
            noise = Image.effect_noise((64, 64), 40)
            picture = Image.composite(
                Image.new("RGB", (64, 64), tint), Image.new("RGB", (64, 64)), noise
            )
            name = f"{label}-{i}.png"
            picture.save(tmp_path / name)
            rows.append(f"{name},{label},{'train' if i < 9 else 'val'}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def test_two_processes_train_one_model(crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = "--backbone test_efficientnet --no-pretrained --image-size 64 --workers 0"
    schedule = "--epochs 2 --warmup-epochs 0 --batch-size 4 --lr 1e-3"
    launcher = "-m torch.distributed.run --standalone --nproc_per_node=2"
    program = f"-m tests.integration.ranks --data {crops} --out {out} {options} {schedule}"
    done = subprocess.run(
        [sys.executable, *launcher.split(), *program.split()],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LEARNED": str(tmp_path / "rank")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2], "written once, not by each process"
    # All eight validation images were gathered from both processes.
    assert [row["val_images"] for row in rows] == [8, 8]
    assert load(out / "saved_model.pth").training["train_images"] == 18
    one, other = (torch.load(tmp_path / f"rank{i}.pth", weights_only=True) for i in range(2))
    for name in one:  # each saw other pictures, and learned of both
        torch.testing.assert_close(one[name], other[name], atol=0, rtol=0, msg=name)
