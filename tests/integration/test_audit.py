"""The audit on small sets of noise: what it finds that was put there, and nothing where it was not.

Noise of random size, strength and colour, so that chance tells the classes apart by none of the
traits the audit looks at.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import Command, Row, table, write_table

PER_CELL = 100  # images of each class in train and in val: of fewer, chance tells some apart


def noise(rng: np.random.Generator) -> Image.Image:
    width, height = (int(side) for side in rng.integers(20, 40, 2))
    values = rng.uniform(60, 190, 3) + rng.uniform(5, 60) * rng.normal(size=(height, width, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def make(folder: Path, source: str, seed: int, fake_quality: int) -> list[Row]:
    """JPEG files of quality 90, or the fakes of another, with their rows of a manifest."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    rows = []
    for split in ("train", "val"):
        for label, quality in (("real", 90), ("fake", fake_quality)):
            for i in range(PER_CELL):
                name = f"{source}-{split}-{label}-{i}.jpg"
                noise(rng).save(folder / name, quality=quality)
                rows.append({"path": name, "label": label, "source": source, "split": split})
    return rows


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    write_table(folder / "manifest.csv", make(folder, "camera", 1, fake_quality=90))
    return folder


def audit(command: Command, data: Path, out: Path) -> tuple[int, str, dict[str, object]]:
    """Exit status, what was printed, and the report."""
    options = ("--data", data, "--out", out / "audit.json", "--workers", 1)
    status, said, _ = command("training.audit", *options)
    return status, said, json.loads((out / "audit.json").read_text())


def found(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("FOUND: ")]


def test_of_data_without_a_shortcut_nothing_is_found(
    command: Command, clean: Path, tmp_path: Path
) -> None:
    status, said, report = audit(command, clean, tmp_path)
    assert (status, found(said), report["findings"]) == (0, [], [])
    assert "probe, camera: AUC 0." in said
    assert f"{4 * PER_CELL} images, 0 finding(s)" in said


def test_a_copy_in_another_split_and_telling_files_are_found(
    command: Command, clean: Path, tmp_path: Path
) -> None:
    """The copy is mirrored, enlarged and compressed once more."""
    data = tmp_path / "data"
    rows = table(clean / "manifest.csv")
    for row in rows:
        row["path"] = str(clean / row["path"])
    original = next(row for row in rows if row["label"] == "real" and row["split"] == "train")
    copy = original | {"path": "copy.jpg", "split": "test"}
    rows += make(data, "web", 2, fake_quality=75)
    with Image.open(original["path"]) as image:
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored.resize((2 * image.width, 2 * image.height)).save(data / "copy.jpg", quality=80)
    write_table(data / "manifest.csv", [*rows, copy])

    status, said, report = audit(command, data, tmp_path)
    assert status == 1
    duplicates, telling = found(said)
    assert "1 pair(s) of near-duplicates cross splits" in duplicates
    assert "copy.jpg" in duplicates
    assert original["path"] in duplicates
    assert telling.startswith("FOUND: web: real and fake are told apart without looking")
    assert "jpeg_luma alone 1.000" in telling
    assert report["findings"] == [line.removeprefix("FOUND: ") for line in (duplicates, telling)]


def test_sources_of_one_class_are_told_apart_together(command: Command, tmp_path: Path) -> None:
    """A camera's real photos and a generator's fakes: the shortcut that is easiest to have."""
    rows = [
        row
        for row in make(tmp_path, "all", 3, fake_quality=75)
        for row in [row | {"source": {"real": "camera", "fake": "generator"}[row["label"]]}]
    ]
    write_table(tmp_path / "manifest.csv", rows)
    status, said, _ = audit(command, tmp_path, tmp_path)
    assert status == 1
    (telling,) = found(said)
    assert telling.startswith("FOUND: sources of one class, together: real and fake are told apart")


def test_a_group_in_two_splits_and_unreadable_files_are_reported(
    command: Command, clean: Path, tmp_path: Path
) -> None:
    rows = table(clean / "manifest.csv")
    for row in rows:
        row["path"] = str(clean / row["path"])
        row["group"] = "film" if row["path"].endswith("real-0.jpg") else row["path"]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    rows.append(rows[1] | {"path": "broken.jpg", "group": ""})
    write_table(tmp_path / "manifest.csv", rows)
    status, said, report = audit(command, tmp_path, tmp_path)
    assert status == 1
    assert found(said) == ["FOUND: 1 group(s) cross splits, 'film' for one."]
    assert report["unreadable"] == ["broken.jpg"]
