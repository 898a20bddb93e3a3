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
    two_sources: Path, tmp_path: Path
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
    for source in "ab":
        options = json.loads((tmp_path / f"plain--{source}" / "finished").read_text())
        assert options[-2:] == ["--leave-out", source]
        assert f"plain {source} (" in done.stdout
    assert (tmp_path / "studies.md").read_text() in done.stdout

    made = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/saved_model.pth")}
    assert len(made) == 4
    again = program(*call)
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in made} == made  # none was trained again
    assert json.loads((tmp_path / "studies.json").read_text())["leave-one-out"] == study


def test_wide_crops_of_other_photos_are_refused(
    command: Command, two_sources: Path, face_crops: Path, tmp_path: Path
) -> None:
    options = ("leave-one-out", "--crops", two_sources, "--wide", face_crops, "--out", tmp_path)
    said = sentence(command("training.studies", *options))
    assert said == f"error: {two_sources} and {face_crops} have not the same validation photos."
    assert not list(tmp_path.glob("*/saved_model.pth"))
