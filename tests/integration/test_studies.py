"""A study of small networks on real photos: what is run, what is kept, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import sentence
from tests.integration.conftest import TRAIN_OPTIONS, Command, copy_manifest, program

RECIPES = ("plain", "+ degradation")


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory: pytest.TempPathFactory, face_crops: Path) -> Path:
    """The crops as of two sources, every other pair of each."""
    folder = tmp_path_factory.mktemp("two")
    return copy_manifest(
        face_crops,
        folder,
        lambda row: {"source": "ab"[int(row["group"].split("-")[1].split(".")[0]) % 2]},
    )


def test_every_source_is_measured_by_a_network_that_has_not_seen_it(
    command: Command, two_sources: Path, tmp_path: Path
) -> None:
    call = ["training.studies", "leave-one-out", "--crops", two_sources, "--out", tmp_path]
    call += ["--rounds", 20, "--only", *RECIPES, "--", *TRAIN_OPTIONS, "--epochs", 1]
    done = program(*call)
    assert done.returncode == 0, done.stderr
    study = json.loads((tmp_path / "studies.json").read_text())["leave-one-out"]
    assert {name: set(row) for name, row in study["rows"].items()} == {
        name: {"a", "b"} for name in RECIPES
    }
    first, second = (study["steps"][name] for name in RECIPES)
    difference = second["mean"]["value"] - first["mean"]["value"]
    assert second["gain"]["value"] == pytest.approx(difference)
    assert "gain" not in first
    for name in RECIPES:
        shares = [study["rows"][name][s]["real_called_fake"]["value"] for s in "ab"]
        mean = study["steps"][name]["real_called_fake"]["value"]
        assert mean == pytest.approx(sum(shares) / 2)
    for source in "ab":
        options = json.loads((tmp_path / f"plain--{source}" / "finished").read_text())
        assert options[-2:] == ["--leave-out", source]
        assert f"plain {source} (" in done.stdout
    assert (tmp_path / "studies.md").read_text() in done.stdout

    made = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/saved_model.pth")}
    assert len(made) == 4
    assert command(*call)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in made} == made  # none was trained again
    assert json.loads((tmp_path / "studies.json").read_text())["leave-one-out"] == study

    call[3] = copy_manifest(two_sources, tmp_path / "others", lambda row: {})
    elsewhere = program(*call)  # what is known of some crops says nothing about others
    assert elsewhere.returncode == 1
    assert "holds a run with another --data" in elsewhere.stderr


def test_what_a_part_is_worth_is_told_by_runs_with_several_seeds(
    command: Command, two_sources: Path, tmp_path: Path
) -> None:
    call = ["training.studies", "ablation", "--crops", two_sources, "--out", tmp_path]
    call += ["--rounds", 20, "--only", "without CBAM", "--seeds", 1, 2]
    options = ["--", *TRAIN_OPTIONS, "--epochs", 1]
    done = program(*call, *options)
    assert done.returncode == 0, done.stderr
    study = json.loads((tmp_path / "studies.json").read_text())["ablation"]
    assert list(study["rows"]) == ["full recipe", "without CBAM"]
    base, changed = (row["mean"] for row in study["rows"].values())
    lost = base["accuracy"]["value"] - changed["accuracy"]["value"]
    assert changed["loss/accuracy"]["value"] == pytest.approx(lost)
    assert base["loss/accuracy"]["value"] == 0
    assert "means of the seeds 1, 2:" in done.stdout
    options_of = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("*/finished")}
    assert {(name, *given[-2:]) for name, given in options_of.items()} == {
        (f"{name}--seed-{seed}", "--seed", seed)
        for name in ("full_recipe", "without_CBAM")
        for seed in "12"
    }
    assert {"--no-cbam" in given for given in options_of.values()} == {False, True}

    call[-1] = 3
    said = sentence(command(*call, *options))
    assert "runs with other options" in said
    assert "seeds [1, 2]" in said


def test_wide_crops_of_other_photos_are_refused(
    command: Command, two_sources: Path, face_crops: Path, tmp_path: Path
) -> None:
    options = ("leave-one-out", "--crops", two_sources, "--wide", face_crops, "--out", tmp_path)
    said = sentence(command("training.studies", *options))
    assert said == f"error: {two_sources} and {face_crops} have not the same validation photos."
    assert not list(tmp_path.glob("*/saved_model.pth"))
