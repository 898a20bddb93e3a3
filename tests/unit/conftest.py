"""Fixtures of several rooms."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from deepfake.checkpoint import Checkpoint, OperatingPoint, save
from tests.conftest import ASTRONAUT, FAKES, Ended
from tests.unit.scorer import NAME, Program


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks again after a while; here nobody will ever listen."""
    monkeypatch.setattr("frontend.client.BACK_OFF", (0.0, 0.0))


@pytest.fixture(scope="module")
def score_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Checkpoint]
) -> Path:
    path = tmp_path_factory.mktemp("model") / "saved_model.pth"
    points = {"strict": OperatingPoint(0.9)}
    save(path, replace(make_checkpoint(), operating_points=points), half=False)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in (ASTRONAUT, FAKES[0]):
        shutil.copy(photo, folder)
    return folder


@pytest.fixture
def program(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    score_checkpoint: Path,
) -> Program:
    """Run it with --out scores: exit status, output, errors. One worker, in this process."""
    import pyarrow.parquet as pq  # which the other rooms need not wait for

    from scoring import score

    numbers = count()

    def alone(opt: argparse.Namespace, paths: list[str], alone: bool = False) -> None:
        worker = score.Scorer(str(opt.checkpoint), opt.point, threads=1)
        pq.write_table(worker({"path": np.array(paths)}), opt.out / NAME.format(next(numbers)))

    monkeypatch.setattr(score, "score", alone)

    def call(source: object, *more: object) -> Ended:
        options = ["--checkpoint", score_checkpoint, "--out", tmp_path / "scores", *more]
        monkeypatch.setattr(sys, "argv", ["deepfake-score", str(source), *map(str, options)])
        capsys.readouterr()
        status = score.main()
        return status, *capsys.readouterr()

    return call
