"""Cropping small folders of real photos: what is cut, what is listed, how a run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepfake.faces import FaceDetector, crop_face
from deepfake.folders import locked
from tests.conftest import ASTRONAUT, FAKES, sentence
from tests.integration.conftest import Command, program, start, table, write_table


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two reals, two fakes, a picture without a face, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for label in ("real", "fake"):
        (folder / label).mkdir()
    shutil.copy(ASTRONAUT, folder / "real" / "a.jpg")
    with Image.open(ASTRONAUT) as photo:
        photo.resize((1500, 1500)).save(folder / "real" / "large.png")
    Image.linear_gradient("L").save(folder / "real" / "empty.png")
    for i in (0, 1):
        shutil.copy(FAKES[i], folder / "fake" / f"{i}.jpg")
    (folder / "fake" / "broken.jpg").write_bytes(FAKES[2].read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def cropped(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    out = tmp_path_factory.mktemp("out") / "crops"
    done = program(
        "training.crop", "--data", photos, "--out", out, "--workers", 2, "--max-side", 400
    )
    assert done.returncode == 0, done.stderr
    assert f"4 crops in {out}; 2 images without one" in done.stdout
    return out


@pytest.fixture
def crops(cropped: Path, tmp_path: Path) -> Path:
    """A copy to do something to."""
    return shutil.copytree(cropped, tmp_path / "crops")


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.png")}


def test_crops_are_those_that_serving_would_cut(
    cropped: Path, detector: FaceDetector, astronaut: Image.Image
) -> None:
    with Image.open(cropped / "real" / "a.jpg.png") as crop:
        expected = crop_face(astronaut, detector(astronaut)[0].box)
        np.testing.assert_array_equal(np.asarray(crop), np.asarray(expected))
    with Image.open(cropped / "real" / "large.png.png") as crop:
        assert crop.size == (400, 400)  # reduced from a face of 450
    assert len(stamps(cropped)) == 4
    assert not list(cropped.rglob("*.part"))


def test_images_without_a_crop_are_listed_with_the_reason(cropped: Path) -> None:
    reasons = {row["path"]: row["reason"] for row in table(cropped / "no_face.csv")}
    assert set(reasons) == {"real/empty.png", "fake/broken.jpg"}
    assert reasons["real/empty.png"] == "no face found"
    assert "damaged" in reasons["fake/broken.jpg"]


def test_the_crops_have_a_manifest_of_their_own(cropped: Path) -> None:
    rows = {row["path"]: row for row in table(cropped / "manifest.csv")}
    assert set(rows) == {str(p.relative_to(cropped)) for p in cropped.rglob("*.png")}
    assert all(row["label"] == path.split("/")[0] for path, row in rows.items())
    assert all(row["split"] in ("train", "val", "test") for row in rows.values())


def landmarks(folder: Path, name: str) -> np.ndarray:
    """Of a crop, as its manifest has them: (5, 2), in shares of the crop's side."""
    (row,) = (row for row in table(folder / "manifest.csv") if row["path"] == name)
    values = [float(value) for value in row["landmarks"].split()]
    assert len(values) == 10
    with Image.open(folder / name) as crop:
        return np.array(values).reshape(5, 2) / crop.width


def test_the_manifest_says_where_eyes_nose_and_mouth_are_in_each_crop(cropped: Path) -> None:
    rows = table(cropped / "manifest.csv")
    assert len(rows) == 4
    for row in rows:
        points = landmarks(cropped, row["path"])
        assert ((points > 0) & (points < 1)).all()
        left_eye, right_eye, nose, left_mouth, right_mouth = points
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_of_a_crop_that_is_reduced_the_landmarks_are_too(cropped: Path) -> None:
    large, small = (landmarks(cropped, f"real/{n}.png") for n in ("large.png", "a.jpg"))
    np.testing.assert_allclose(large, small, atol=0.03)


def test_a_second_run_cuts_nothing_again(command: Command, photos: Path, crops: Path) -> None:
    before, manifest = stamps(crops), (crops / "manifest.csv").read_bytes()
    options = ("--data", photos, "--out", crops, "--max-side", 400)
    assert command("training.crop", *options)[0] == 0
    assert stamps(crops) == before
    assert (crops / "manifest.csv").read_bytes() == manifest


def test_another_photo_under_an_old_name_is_cut_anew(command: Command, tmp_path: Path) -> None:
    """Of other data, or of a photo that was replaced: its label would be that of the new one."""
    first, second, out = (tmp_path / name for name in ("first", "second", "crops"))
    for folder, real, fake in ((first, ASTRONAUT, FAKES[0]), (second, FAKES[0], ASTRONAUT)):
        for label, photo in (("real", real), ("fake", fake)):
            (folder / label).mkdir(parents=True)
            shutil.copy2(photo, folder / label / "1.jpg")
    options = ("--out", out, "--workers", 1)
    assert command("training.crop", "--data", first, *options)[0] == 0
    real, fake = ((out / label / "1.jpg.png").read_bytes() for label in ("real", "fake"))
    assert command("training.crop", "--data", second, *options)[0] == 0
    assert (out / "real" / "1.jpg.png").read_bytes() == fake
    assert (out / "fake" / "1.jpg.png").read_bytes() == real


def test_a_photo_that_was_not_there_is_tried_again(command: Command, tmp_path: Path) -> None:
    shutil.copy(ASTRONAUT, tmp_path / "real.jpg")
    rows = [{"path": f"{label}.jpg", "label": label} for label in ("real", "fake")]
    write_table(tmp_path / "list.csv", rows)
    options = ("--data", tmp_path / "list.csv", "--out", tmp_path / "out", "--workers", 1)
    assert command("training.crop", *options)[0] == 0
    (lost,) = table(tmp_path / "out" / "no_face.csv")
    assert "No such file" in lost["reason"]
    shutil.copy(FAKES[0], tmp_path / "fake.jpg")
    assert command("training.crop", *options)[0] == 0
    assert table(tmp_path / "out" / "no_face.csv") == []
    assert len(table(tmp_path / "out" / "manifest.csv")) == 2


def test_crops_do_not_go_where_the_photos_are(command: Command, tmp_path: Path) -> None:
    for label, photo in (("real", ASTRONAUT), ("fake", FAKES[0])):
        shutil.copy(photo, tmp_path / f"{label}.jpg")
    rows = [{"path": f"{label}.jpg", "label": label} for label in ("real", "fake")]
    write_table(tmp_path / "manifest.csv", rows)
    for data in (tmp_path, tmp_path / "manifest.csv"):
        said = sentence(command("training.crop", "--data", data, "--out", tmp_path))
        assert "is the folder of the data" in said
        assert table(tmp_path / "manifest.csv") == rows


def test_a_run_that_was_cut_off_goes_on(
    command: Command, photos: Path, crops: Path, cropped: Path
) -> None:
    """The journal ends within a line, as a kill leaves it; the crops of its rest are gone."""
    journal = crops / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 7  # the settings and six images
    journal.write_text("".join(lines[:4]) + lines[4][:15])
    lost = [json.loads(line)["name"] for line in lines[4:]]
    for name in lost:
        (crops / f"{name}.png").unlink(missing_ok=True)
    kept = stamps(crops)

    options = ("--data", photos, "--out", crops, "--max-side", 400, "--workers", 1)
    assert command("training.crop", *options)[0] == 0
    for name in ("manifest.csv", "no_face.csv"):
        assert table(crops / name) == table(cropped / name)
    after = stamps(crops)
    assert set(after) == set(stamps(cropped))
    assert {name: after[name] for name in kept} == kept
    for path in cropped.rglob("*.png"):
        assert (crops / path.relative_to(cropped)).read_bytes() == path.read_bytes()


def cropping_processes(pid: int) -> list[int]:
    """The processes in which a run of the program looks for faces."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for text in lists for child in text.read_text().split()]
    return [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def recorded(out: Path) -> list[str]:
    """Names of the images that the journal holds."""
    lines = (out / "journal.jsonl").read_text().splitlines()
    return [json.loads(line)["name"] for line in lines[1:]]


def many(photos: Path) -> list[str]:
    """Forty photos, so that some are left when the first are done; their names."""
    names = [f"{label}/{label}-{i}.jpg" for label in ("real", "fake") for i in range(20)]
    for i, name in enumerate(names):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ASTRONAUT if name.startswith("real") else FAKES[i % 5], photos / name)
    return names


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_it_within_a_few_photos_and_what_is_done_is_written_down(
    command: Command, tmp_path: Path, workers: int
) -> None:
    """To all of its processes, as a terminal sends it."""
    photos, out = tmp_path / "photos", tmp_path / "crops"
    names = many(photos)
    options = ("--data", photos, "--out", out, "--workers", workers)
    journal = out / "journal.jsonl"
    with start("training.crop", *options) as process:
        while process.poll() is None and not (journal.exists() and journal.stat().st_size):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors.endswith("stopped; run the same command again to go on\n")
    assert "Traceback" not in errors
    crops = {path.name for path in out.rglob("*.png")}
    assert len(crops) < len(names)
    done = {f"{Path(name).name}.png" for name in recorded(out)}
    # A pool has one more than its processes handed out already, beside those that they are at.
    assert len(crops - done) <= 2 * workers + 1, "cut, and not written down"


def test_two_runs_do_not_write_into_one_folder(command: Command, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "crops"
    many(photos)
    out.mkdir()
    with locked(out):
        said = sentence(command("training.crop", "--data", photos, "--out", out))
    assert said == f"error: Another job writes into {out}; wait for it or give another --out."
    assert not list(out.iterdir())


def test_a_cropping_process_that_is_killed_is_one_sentence_and_the_rest_is_cut_later(
    command: Command, tmp_path: Path
) -> None:
    """As the kernel kills it for want of memory, after the first of the photos."""
    photos, out = tmp_path / "photos", tmp_path / "crops"
    names = many(photos)
    options = ("--data", photos, "--out", out, "--workers", 2)
    journal = out / "journal.jsonl"
    with start("training.crop", *options) as process:
        while process.poll() is None and not (journal.exists() and journal.stat().st_size):
            time.sleep(0.005)
        for child in cropping_processes(process.pid):
            os.kill(child, signal.SIGKILL)
        said, errors = process.communicate(timeout=600)
    assert "run the same command again" in sentence((process.returncode, said, errors))
    before = stamps(out)
    kept = {f"{Path(name).name}.png" for name in recorded(out)}
    assert 0 < len(kept) < len(names)

    assert command("training.crop", *options)[0] == 0
    assert sorted(recorded(out)) == sorted(names)
    after = stamps(out)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert {row["path"] for row in table(out / "manifest.csv")} == {f"{n}.png" for n in names}


def test_other_settings_do_not_mix_with_the_crops_there(
    command: Command, photos: Path, crops: Path
) -> None:
    before = stamps(crops)
    options = ("--data", photos, "--out", crops, "--max-side", 400, "--margin", 0.4)
    assert "other settings" in sentence(command("training.crop", *options))
    assert stamps(crops) == before


def test_crops_of_another_format_are_the_same_pictures(
    command: Command, photos: Path, cropped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--data", photos, "--out", out, "--max-side", 400, "--format", "bmp")
    assert command("training.crop", *options)[0] == 0
    rows = {row["path"]: row for row in table(out / "manifest.csv")}
    assert len(rows) == 4
    for row in table(cropped / "manifest.csv"):
        name = row["path"].removesuffix("png") + "bmp"
        assert rows[name] == row | {"path": name}
        with Image.open(out / name) as crop, Image.open(cropped / row["path"]) as other:
            assert (crop.format, crop.mode) == ("BMP", other.mode)
            np.testing.assert_array_equal(np.asarray(crop), np.asarray(other))
    assert "other settings" in sentence(command("training.crop", *options[:-2]))


def test_crops_from_before_there_were_formats_are_gone_on_with(
    command: Command, photos: Path, crops: Path
) -> None:
    journal = crops / "journal.jsonl"
    first, *rest = journal.read_text().splitlines(keepends=True)
    settings = json.loads(first)["settings"]
    assert settings.pop("format") == "png"
    journal.write_text("".join([json.dumps({"settings": settings}) + "\n", *rest]))
    before = stamps(crops)
    assert command("training.crop", "--data", photos, "--out", crops, "--max-side", 400)[0] == 0
    assert stamps(crops) == before


def test_of_a_manifest_the_crops_keep_labels_sources_groups_and_splits(
    command: Command, tmp_path: Path
) -> None:
    """Paths may lead anywhere; the crops stay below the output folder."""
    rows = [
        dict(zip(("path", "label", "source", "group", "split"), row, strict=True))
        for row in (
            (str(ASTRONAUT), "real", "nasa", "g1", "val"),
            (os.path.relpath(FAKES[0], tmp_path), "fake", "t2i", "g2", "val"),
        )
    ]
    write_table(tmp_path / "list.csv", rows)
    options = ("--data", tmp_path / "list.csv", "--out", tmp_path / "out", "--workers", 1)
    assert command("training.crop", *options)[0] == 0
    made = table(tmp_path / "out" / "manifest.csv")
    for row, crop in zip(rows, made, strict=True):
        assert {key: crop[key] for key in row if key != "path"} == {
            key: value for key, value in row.items() if key != "path"
        }
        path = (tmp_path / "out" / crop["path"]).resolve()
        assert path.is_relative_to(tmp_path / "out")
        assert path.is_file()
