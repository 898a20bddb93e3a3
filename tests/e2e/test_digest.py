"""A checkpoint that is not the one that was archived is not served."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from deepfake import checkpoint
from deploy.torchserve import free_ports
from tests.conftest import ROOT

ARCHIVE = ROOT / "model_store" / "deepfake.mar"


def serve(model_store: Path, logs: Path) -> subprocess.CompletedProcess[str]:
    """`make serve` with these archives, to its end."""
    names = ("page", "inference", "management", "metrics")
    ports = [f"--{n}-port={p}" for n, p in zip(names, free_ports(4), strict=True)]
    return subprocess.run(
        [
            *(sys.executable, "-m", "deploy.serve", *ports),
            *("--model-store", model_store, "--logs", logs),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def swapped(tmp_path: Path) -> Path:
    """A model store whose archive holds another checkpoint, a good one in itself."""
    other = tmp_path / "saved_model.pth"
    original = checkpoint.load(ROOT / "saved_model.pth")
    checkpoint.save(other, replace(original, threshold=0.999))
    store = tmp_path / "store"
    store.mkdir()
    with zipfile.ZipFile(ARCHIVE) as old, zipfile.ZipFile(store / "deepfake.mar", "w") as new:
        for name in old.namelist():
            if not name.endswith("/"):
                new.writestr(name, other.read_bytes() if name == other.name else old.read(name))
    return store


def test_an_exchanged_checkpoint_is_refused_in_a_clear_sentence(
    swapped: Path, tmp_path: Path
) -> None:
    done = serve(swapped, tmp_path / "logs")
    assert done.returncode == 1
    assert "saved_model.pth is not the file that was archived" in done.stderr
    assert checkpoint.sha256(ROOT / "saved_model.pth") in done.stderr
    assert "Traceback" not in done.stderr
