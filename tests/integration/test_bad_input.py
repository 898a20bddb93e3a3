"""Every program explains itself, and refuses what it cannot use in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import ASTRONAUT, sentence
from tests.integration.conftest import Command, program


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("training.crop", "--margin"),
        ("training.train", "--backbone"),
        ("training.evaluate", "--checkpoint"),
        ("training.calibrate", "--max-risk"),
        ("training.robustness", "--per-class"),
        ("training.audit", "--max-auc"),
        ("training.studies", "--crops"),
        ("training.card", "--kept"),
        ("training.diagnostic", "--json"),
        ("deploy.serve", "--page-port"),
    ],
)
def test_every_program_explains_itself(name: str, option: str) -> None:
    done = program(name, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert option in done.stdout
    assert "(default: " in done.stdout
    purpose = done.stdout.split("\n\n")[1]
    assert len(purpose) > 40  # what it is for, above the options


@pytest.mark.parametrize("name", ["training.crop", "training.train", "training.evaluate"])
def test_missing_data_is_one_sentence_of_the_program_itself(name: str, tmp_path: Path) -> None:
    done = program(name, "--data", tmp_path / "none", "--out", tmp_path / "out")
    said = sentence((done.returncode, done.stdout, done.stderr))
    assert (
        said == f"error: {tmp_path / 'none'} does not exist; give a data folder or a manifest CSV."
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["training.crop", "training.train", "training.evaluate"])
def test_data_of_one_class_is_one_sentence(command: Command, name: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,label,split\na.jpg,real,train\nb.jpg,real,val\n")
    options = ("--data", tmp_path / "m.csv", "--out", tmp_path / "out")
    assert "only real images" in sentence(command(name, *options))


def test_photos_none_of_which_can_be_judged_are_one_sentence(
    command: Command, tmp_path: Path
) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"no photo")
    (tmp_path / "m.csv").write_text("path,label,split\na.jpg,real,test\nb.jpg,fake,test\n")
    options = ("--data", tmp_path / "m.csv", "--out", tmp_path / "out")
    assert "nothing to measure" in sentence(command("training.evaluate", *options))


def test_a_foreign_checkpoint_is_one_sentence(
    command: Command, labelled: Path, tmp_path: Path
) -> None:
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for path, reason in (
        (tmp_path / "other.pth", "is not a deepfake-detector/1 checkpoint"),
        (ASTRONAUT, "is damaged or holds more than weights"),
        (tmp_path / "none.pth", "does not exist"),
    ):
        options = ("--data", labelled, "--out", tmp_path / "out", "--checkpoint", path)
        said = sentence(command("training.evaluate", *options))
        assert f"{path} {reason}" in said


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("training.crop", ["--margin", "-1"], "--margin is -1.0"),
        ("training.crop", ["--margin", "nan"], "--margin is nan"),
        ("training.crop", ["--max-side", "0"], "--max-side is 0"),
        ("training.crop", ["--workers", "0"], "--workers is 0"),
        ("training.evaluate", ["--rounds", "0"], "--rounds is 0"),
        ("training.evaluate", ["--limit", "-1"], "--limit is -1"),
        ("training.evaluate", ["--split", "val"], "val split holds no real and no fake"),
    ],
)
def test_options_that_cannot_work_are_one_sentence(
    command: Command, labelled: Path, tmp_path: Path, name: str, options: list[str], reason: str
) -> None:
    ended = command(name, "--data", labelled, "--out", tmp_path / "out", *options)
    assert reason in sentence(ended)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(
    command: Command, labelled: Path, tmp_path: Path
) -> None:
    options = ("--data", labelled, "--out", tmp_path / "out", "--device", "cuda")
    assert "no GPU is seen" in sentence(command("training.evaluate", *options))
