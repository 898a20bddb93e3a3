"""Robustness on a handful of photos under two treatments: its table, and how a run goes on."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deepfake.checkpoint import Checkpoint, save
from tests.conftest import sentence
from tests.integration.conftest import Command, program

TREATMENTS = ("as it is", "JPEG quality 50")


@pytest.fixture(scope="module")
def options(
    labelled: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_checkpoint: Callable[..., Checkpoint],
) -> list[object]:
    """Of every run: nine photos and a small network, without where to write to."""
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    save(checkpoint, make_checkpoint())
    sizes = ("--per-class", 3, "--rounds", 20)
    return ["--data", labelled, "--checkpoint", checkpoint, *sizes, "--only", *TREATMENTS]


@pytest.fixture(scope="module")
def measured(options: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured")
    done = program("training.robustness", "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert (out / "robustness.md").read_text() in done.stdout
    return out


def answers(out: Path, treatment: str) -> list[list[str]]:
    """Path, source, label, P(fake) of three views, and error of each photo, by path."""
    with (out / f"{treatment.replace(' ', '-')}.csv").open(newline="") as file:
        rows = list(csv.reader(file))[2:]
    return sorted([*row[:3], *row[4:]] for row in rows)


def test_every_treatment_has_its_row_in_the_table(measured: Path) -> None:
    text = (measured / "robustness.md").read_text()
    report = json.loads((measured / "robustness.json").read_text())
    assert list(report["treatments"]) == list(TREATMENTS)
    for name, row in report["treatments"].items():
        assert f"\n| {name} | " in text
        rows = answers(measured, name)
        assert row["photos"] == len(rows) == 9  # three of each class of mixed, all of fakes
        assert row["unanswered"] == sum(bool(error) for *_, error in rows)


def test_the_photos_are_treated_before_they_are_judged(measured: Path) -> None:
    plain, treated = (answers(measured, name) for name in TREATMENTS)
    assert [row[:3] for row in plain] == [row[:3] for row in treated]
    answered = [(a[3:6], b[3:6]) for a, b in zip(plain, treated, strict=True) if not a[6]]
    assert len(answered) >= 7  # all but the two photos that get no answer
    assert all(a != b for a, b in answered)


def test_a_run_that_was_cut_off_goes_on(
    command: Command, measured: Path, options: list[object], tmp_path: Path
) -> None:
    """What is there is taken as it is: one answer is changed, to tell."""
    out = shutil.copytree(measured, tmp_path / "out")
    path = out / "JPEG-quality-50.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    changed = next(row for row in rows[2:] if row[-1] == "")  # with an answer
    changed[4:7] = ["0.25"] * 3
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows[:-2])

    assert command("training.robustness", "--out", out, *options)[0] == 0
    before, after = answers(measured, "JPEG quality 50"), answers(out, "JPEG quality 50")
    for old, new in zip(before, after, strict=True):
        assert (new[:3], new[6]) == (old[:3], old[6])
        views = [0.25] * 3 if new[0] == changed[0] else [float(p or -1) for p in old[3:6]]
        assert [float(p or -1) for p in new[3:6]] == pytest.approx(views, abs=1e-4)
    assert answers(out, "as it is") == answers(measured, "as it is")
    rows = json.loads((out / "robustness.json").read_text())["treatments"]
    known = json.loads((measured / "robustness.json").read_text())["treatments"]
    assert rows["as it is"] == known["as it is"]
    assert rows["JPEG quality 50"]["photos"] == 9


def test_an_unknown_treatment_is_one_sentence_that_names_the_known(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    said = sentence(command("training.robustness", "--out", tmp_path / "out", *options, "sepia"))
    assert said.startswith("error: --only 'sepia' is no treatment, only as it is, ")
    assert "JPEG quality 50" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (("--rounds", 0), "--rounds is 0"),
        (("--per-class", -1), "--per-class is -1"),
        (("--split", "val"), "val split holds no real and no fake"),
    ],
)
def test_options_that_cannot_work_are_one_sentence(
    command: Command, options: list[object], tmp_path: Path, wrong: tuple[object], reason: str
) -> None:
    ended = command("training.robustness", "--out", tmp_path / "out", *options, *wrong)
    assert reason in sentence(ended)
