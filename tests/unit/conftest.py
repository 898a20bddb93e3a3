"""Fixtures of several rooms."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepfake.checkpoint import Checkpoint, OperatingPoint, save
from deepfake.faces import Face
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from deploy import supervisor
from deploy.supervisor import Supervisor
from deploy.torchserve import Ports
from tests.conftest import ASTRONAUT, FAKES, Ended, montage
from tests.unit.judged import in_torch, verdict_of
from tests.unit.scorer import NAME, Program
from tests.unit.supervised import Version


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks again after a while; here nobody will ever listen."""
    monkeypatch.setattr("frontend.client.BACK_OFF", (0.0, 0.0))


@pytest.fixture(scope="module")
def pipeline(make_checkpoint: Callable[..., Checkpoint]) -> Pipeline:
    return in_torch(make_checkpoint(temperature=1.7, crop_margin=0.3))


@pytest.fixture(scope="module")
def verdicts(pipeline: Pipeline) -> list[Verdict]:
    """Of every fixture, each asked for alone."""
    return [verdict_of(pipeline, path.read_bytes()) for path in (ASTRONAUT, *FAKES)]


@pytest.fixture(scope="module")
def group(fake_faces: list[tuple[Image.Image, Face]]) -> Image.Image:
    """A photo of six people."""
    return montage([photo for photo, _ in fake_faces[:6]], columns=3, cell=250)


@pytest.fixture(scope="module")
def unpacked(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Checkpoint]
) -> Path:
    """An archive's folder, as TorchServe unpacks it, with a small network."""
    folder = tmp_path_factory.mktemp("model")
    points = {"balanced": OperatingPoint(0.5, 0.125, 0.9), "fpr1": OperatingPoint(0.875, 0.01, 0.4)}
    save(folder / "saved_model.pth", replace(make_checkpoint(), operating_points=points))
    return folder


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


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Supervisor]:
    (tmp_path / "deepfake.mar").write_bytes(b"archive")
    made = Supervisor(tmp_path, tmp_path / "logs", Ports(), timeout=1)
    yield made
    shutil.rmtree(made.temp)


@pytest.fixture
def rolling(watched: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setattr(supervisor, "TorchServe", Version)
    monkeypatch.setattr(supervisor, "answers", lambda server: True)
    watched.server = Version(watched.server.model_store, watched.logs, watched.ports)
    return watched
