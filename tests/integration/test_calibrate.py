"""Calibration on a few photos: what it writes into the checkpoint, and what it leaves alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deepfake.checkpoint import Checkpoint, load, save
from deepfake.errors import NoFace
from deepfake.images import decode
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from tests.conftest import ASTRONAUT, FAKES, sentence
from tests.integration.conftest import Command, Row, copy_manifest, program, table, write_table
from training.treatments import TREATMENTS


@pytest.fixture(scope="module")
def before(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Checkpoint]
) -> Path:
    """A checkpoint as training leaves it."""
    path = tmp_path_factory.mktemp("checkpoint") / "before.pth"
    save(path, make_checkpoint(temperature=2.0, metrics={"val_score": 0.75}, training={"epoch": 3}))
    return path


@pytest.fixture(scope="module")
def photos(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labelled photos as a validation split, beside a test photo that is not there."""
    folder = copy_manifest(
        labelled, tmp_path_factory.mktemp("photos"), lambda row: {"split": "val"}
    )
    rows = table(folder / "manifest.csv")
    test = {"path": "test.jpg", "label": "real", "source": "mixed", "split": "test"}
    write_table(folder / "manifest.csv", [*rows, test])
    return folder


@pytest.fixture(scope="module")
def calibrated(before: Path, photos: Path) -> tuple[Path, str]:
    """A copy of the checkpoint after calibration, and what the program said."""
    path = shutil.copy(before, before.with_name("after.pth"))
    options = ("--data", photos, "--checkpoint", path, "--out", path.parent / "answers")
    done = program("training.calibrate", *options)
    assert done.returncode == 0, done.stderr
    return path, done.stdout


def test_calibration_writes_how_to_decide_into_the_checkpoint(
    calibrated: tuple[Path, str], before: Path
) -> None:
    path, said = calibrated
    old, new = load(before), load(path)
    assert set(new.operating_points) == {"balanced", "fpr5", "fpr1", "fpr5-edited"}
    assert new.point("balanced").threshold == 0.5
    assert new.uncertain is not None
    low, high = new.uncertain
    assert 0 <= low <= 0.5 <= high <= 1
    assert high - 0.5 == pytest.approx(0.5 - low)
    assert new.temperature != old.temperature
    assert f"temperature 2.000 -> {new.temperature:.3f}" in said
    for name, point in new.operating_points.items():
        assert f"{name}: threshold {point.threshold:.4f}" in said
    assert str(path) in said


def test_calibration_leaves_the_network_as_it_is_but_for_the_last_bias(
    calibrated: tuple[Path, str], before: Path
) -> None:
    old, new = load(before), load(calibrated[0])
    weights, after = old.model.state_dict(), new.model.state_dict()
    assert weights.keys() == after.keys()
    changed = [name for name in weights if not torch.equal(weights[name], after[name])]
    assert changed == ["head.3.bias"]
    assert weights["head.3.bias"][0] == after["head.3.bias"][0]
    for name in ("crop_margin", "threshold", "metrics", "training"):
        assert getattr(new, name) == getattr(old, name)


def test_the_points_hold_for_what_the_new_checkpoint_answers(
    calibrated: tuple[Path, str], photos: Path
) -> None:
    """They were computed from the old one's answers, moved."""
    rows = [row for row in table(photos / "manifest.csv") if Path(row["path"]).is_file()]
    balanced = Pipeline.from_file(calibrated[0], point="balanced")
    called: dict[str, list[bool]] = {"real": [], "fake": []}
    answers = balanced.predict([Path(row["path"]).read_bytes() for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        if isinstance(answer, Verdict):
            called[row["label"]].append(answer.worst.label == "Fake")
    shares = {label: sum(found) / len(found) for label, found in called.items()}
    assert balanced.point.recall == pytest.approx(shares["fake"])
    assert balanced.point.false_positive_rate == pytest.approx(shares["real"])


def test_a_strict_threshold_is_as_high_as_the_highest_real_photo_and_no_higher(
    calibrated: tuple[Path, str], photos: Path
) -> None:
    """One real photo of four is a quarter, far above 1 %, so that none may be called fake."""
    rows = table(photos / "manifest.csv")
    reals = [row["path"] for row in rows if "real-" in row["path"]]
    assert len(reals) == 4
    strict = Pipeline.from_file(calibrated[0], point="fpr1")
    answers = strict.predict([Path(path).read_bytes() for path in reals])
    highest = max(a.worst.fake_probability for a in answers if isinstance(a, Verdict))
    assert strict.point.threshold == pytest.approx(highest, abs=1e-4)
    assert strict.point.false_positive_rate == 0


def test_the_threshold_that_serves_spares_edited_photos_too(
    calibrated: tuple[Path, str], photos: Path
) -> None:
    """One real photo of four is a quarter, far above 5 %, so that none may be called fake."""
    pipeline = Pipeline.from_file(calibrated[0])
    assert pipeline.point.threshold >= max(0.5, pipeline.checkpoint.point("fpr5").threshold)
    reals = [row["path"] for row in table(photos / "manifest.csv") if "real-" in row["path"]]
    for edit in (  # as people are told; not EDITS, which might lose one of them
        "JPEG quality 50",
        "size x 0.5",
        "blur 1 px",
        "sharpened",
        "colour grade",
        "vignette",
        "turned by 10 degrees",
        "screenshot",
    ):
        sent = [TREATMENTS[edit](decode(Path(path).read_bytes())) for path in reals]
        for answer in pipeline.predict(sent):
            assert isinstance(answer, NoFace) or answer.worst.label == "Real"
    answers = (calibrated[0].parent / "answers" / "JPEG-quality-50.csv").read_text()
    assert answers.count("real-") == 4
    assert "fake-" not in answers


def test_only_validation_photos_are_looked_at(calibrated: tuple[Path, str], photos: Path) -> None:
    text = (calibrated[0].parent / "answers" / "predictions.csv").read_text()
    asked = [row["path"] for row in table(photos / "manifest.csv") if row["split"] == "val"]
    assert len(asked) == 12
    assert all(f"\n{path}," in text for path in asked)
    assert "test.jpg" not in text


@pytest.mark.parametrize("label", ["real", "fake"])
def test_photos_of_one_class_do_not_calibrate(
    command: Command, before: Path, labelled: Path, tmp_path: Path, label: str
) -> None:
    def one_class(row: Row) -> Row:
        return {"split": "val" if row["label"] == label else "train"}

    photos = copy_manifest(labelled, tmp_path / "photos", one_class)
    path = shutil.copy(before, tmp_path / "after.pth")
    options = ("--data", photos, "--checkpoint", path, "--out", tmp_path / "answers")
    missing = {"real": "fake", "fake": "real"}[label]
    said = sentence(command("training.calibrate", *options))
    assert f"The val split holds no {missing} images" in said
    assert path.read_bytes() == before.read_bytes()


def test_a_class_without_an_answer_does_not_calibrate(
    command: Command, before: Path, tmp_path: Path
) -> None:
    rows = [("none.jpg", "real"), (str(ASTRONAUT), "fake"), (str(FAKES[0]), "fake")]
    write_table(
        tmp_path / "manifest.csv",
        [{"path": path, "label": label, "split": "val"} for path, label in rows],
    )
    path = shutil.copy(before, tmp_path / "after.pth")
    options = ("--data", tmp_path, "--checkpoint", path, "--out", tmp_path / "answers")
    said = sentence(command("training.calibrate", *options))
    assert said == "error: Calibration needs answers about both real and fake photos."
    assert path.read_bytes() == before.read_bytes()
