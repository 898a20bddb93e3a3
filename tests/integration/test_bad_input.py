"""Every program explains itself, and refuses what it cannot use in one sentence."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.conftest import ASTRONAUT, Ended, sentence
from tests.integration.conftest import Command, program

Main = Callable[..., Ended]


@pytest.fixture
def as_main(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Main:
    """`python -m` in this process, down to the last line of the module: status, output, errors."""

    def call(name: str, *options: object) -> Ended:
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        monkeypatch.delitem(sys.modules, name, raising=False)  # or runpy would warn
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        return int(caught.value.code or 0), *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("training.crop", "--margin"),
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
def test_every_program_explains_itself(as_main: Main, name: str, option: str) -> None:
    explains_itself(name, option, *as_main(name, "--help"))


def test_the_largest_program_explains_itself_and_nothing_else_is_said() -> None:
    """In a process of its own: what it imports might have something to say."""
    done = program("training.train", "--help")
    explains_itself("training.train", "--backbone", done.returncode, done.stdout, done.stderr)


def explains_itself(name: str, option: str, status: int, out: str, err: str) -> None:
    """What it is for stands above the options, and what they are if they are left out."""
    assert status == 0
    assert err == ""
    assert option in out
    assert "(default: " in out
    purpose = import_module(name).__doc__
    assert purpose
    assert purpose.strip().splitlines()[0] in " ".join(out.split())  # wherever lines are broken


@pytest.mark.parametrize("name", ["training.crop", "training.train", "training.evaluate"])
def test_missing_data_is_one_sentence_of_the_program_itself(
    as_main: Main, name: str, tmp_path: Path
) -> None:
    said = sentence(as_main(name, "--data", tmp_path / "none", "--out", tmp_path / "out"))
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
