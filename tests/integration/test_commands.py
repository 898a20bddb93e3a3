"""The other programs on small folders of real photos: what they write, and how they refuse."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn import metrics

from deepfake.checkpoint import Checkpoint, save
from deepfake.faces import FaceDetector, crop_face
from deepfake.pipeline import Pipeline, Verdict
from tests.conftest import ASTRONAUT, FAKES, ROOT, Ended, sentence

Command = Callable[..., Ended]
CHECKPOINT = ROOT / "saved_model.pth"


def program(name: str, *options: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", name, *map(str, options)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("training.crop", "--margin"),
        ("training.train", "--backbone"),
        ("training.evaluate", "--checkpoint"),
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


# --- crop ---------------------------------------------------------------------------------------


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


def test_a_second_run_cuts_nothing_again(command: Command, photos: Path, crops: Path) -> None:
    before, manifest = stamps(crops), (crops / "manifest.csv").read_bytes()
    options = ("--data", photos, "--out", crops, "--max-side", 400)
    assert command("training.crop", *options)[0] == 0
    assert stamps(crops) == before
    assert (crops / "manifest.csv").read_bytes() == manifest


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


def test_other_settings_do_not_mix_with_the_crops_there(
    command: Command, photos: Path, crops: Path
) -> None:
    before = stamps(crops)
    options = ("--data", photos, "--out", crops, "--max-side", 400, "--margin", 0.4)
    assert "other settings" in sentence(command("training.crop", *options))
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


# --- evaluate -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, astronaut: Image.Image) -> Path:
    """Photos of two sources, one of fakes only, and two photos that get no answer."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = []
    for i in range(4):
        picture = astronaut.crop((20 * i, 0, 400 + 20 * i, 380))
        (ImageOps.mirror(picture) if i % 2 else picture).save(folder / f"real-{i}.png")
        rows.append((f"real-{i}.png", "real", "mixed"))
        rows.append((str(FAKES[i]), "fake", "mixed"))
    rows += [(str(path), "fake", "fakes") for path in FAKES[4:6]]
    Image.new("RGB", (64, 64)).save(folder / "black.png")
    rows += [("black.png", "real", "mixed"), ("missing.png", "fake", "fakes")]
    header = ("path", "label", "source", "split")
    write_table(
        folder / "manifest.csv",
        [dict(zip(header, (*row, "test"), strict=True)) for row in rows],
    )
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, labelled: Path) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "new" / "folder"
    done = program("training.evaluate", "--data", labelled, "--out", out, "--rounds", 30)
    assert done.returncode == 0, done.stderr
    assert (out / "evaluation.md").read_text() in done.stdout
    return out


def report_of(out: Path) -> dict[str, Any]:
    """Strictly: Python would also read NaN, which others do not."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (out / "evaluation.json").read_text(encoding="utf-8")
    report: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return report


def predictions_of(out: Path) -> list[dict[str, str]]:
    _, header, *rows = csv.reader((out / "predictions.csv").read_text().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_every_photo_has_its_line_among_the_predictions(evaluated: Path, labelled: Path) -> None:
    rows = predictions_of(evaluated)
    assert [row["path"] for row in rows] == [r["path"] for r in table(labelled / "manifest.csv")]
    errors = {row["path"]: row["error"] for row in rows if row["error"]}
    assert errors == {"black.png": "no_face", "missing.png": "bad_data"}
    assert all((row["p_fake"] == "") == (row["error"] != "") for row in rows)


def test_what_is_measured_is_what_is_served(evaluated: Path, labelled: Path) -> None:
    rows = [row for row in predictions_of(evaluated) if row["p_fake"]][:3]
    blobs = [(labelled / row["path"]).read_bytes() for row in rows]
    answers = Pipeline.from_file(CHECKPOINT).predict(blobs)
    for row, answer in zip(rows, answers, strict=True):
        assert isinstance(answer, Verdict)
        assert float(row["p_fake"]) == pytest.approx(answer.worst.fake_probability, abs=1e-4)


def test_figures_agree_with_the_predictions(evaluated: Path) -> None:
    report = report_of(evaluated)
    rows = [row for row in predictions_of(evaluated) if row["p_fake"]]
    for name, section in (*report["sources"].items(), ("", report["overall"])):
        chosen = [row for row in rows if name in ("", row["source"])]
        labels = np.array([row["label"] == "fake" for row in chosen])
        p_fake = np.array([float(row["p_fake"]) for row in chosen])
        found = section["scores"]
        assert (section["real"], section["fake"]) == ((~labels).sum(), labels.sum())
        assert found["accuracy"] == pytest.approx(np.mean((p_fake > 0.5) == labels))
        if name == "fakes":  # one class: there is no curve
            assert found["roc_auc"] is found["eer"] is None
            assert section["intervals"]["roc_auc"] == [None, None]
            continue
        assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, p_fake))
        assert found["ap"] == pytest.approx(metrics.average_precision_score(labels, p_fake))
        table_ = metrics.confusion_matrix(labels, p_fake > 0.5)
        assert section["confusion"] == table_.tolist()
        for low, high in section["intervals"].values():
            assert 0 <= low <= high <= 1
    assert report["mean_over_sources"]["scores"] == report["sources"]["mixed"]["scores"]
    assert report["photos"] == 12
    assert report["unanswered"] == {"mixed": {"no_face": 1}, "fakes": {"bad_data": 1}}
    assert report["run"]["checkpoint"] == Pipeline.from_file(CHECKPOINT).checkpoint.sha256


def test_the_report_shows_the_figures(evaluated: Path) -> None:
    text, report = (evaluated / "evaluation.md").read_text(), report_of(evaluated)
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert {"mixed", "fakes", "**mean over sources**", "all together"} <= set(lines)
    rows = [line for line in text.splitlines() if line.startswith("| mixed |")]
    assert f"{report['sources']['mixed']['scores']['roc_auc']:.3f} (" in rows[0]
    (tn, fp), (fn, tp) = report["sources"]["mixed"]["confusion"]
    assert rows[1] == f"| mixed | {tn} | {fp} | {fn} | {tp} |"
    assert "n/a" in next(line for line in text.splitlines() if line.startswith("| fakes |"))
    assert "nan" not in text
    assert "fakes: 1 bad_data; mixed: 1 no_face" in text


def test_the_report_has_its_picture(evaluated: Path) -> None:
    with Image.open(evaluated / "evaluation.png") as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=1_000_000)
        assert picture.width > 1.5 * picture.height > 300  # two side by side
    assert colours is not None
    assert len(colours) > 20


def test_an_evaluation_that_was_cut_off_goes_on(
    command: Command, evaluated: Path, labelled: Path, tmp_path: Path
) -> None:
    """What is there is taken as it is: one answer is changed, to tell."""
    out = shutil.copytree(evaluated, tmp_path / "out")
    lines = (out / "predictions.csv").read_text().splitlines(keepends=True)
    first = lines[2].split(",")
    lines[2] = ",".join([*first[:3], "0.123456", first[4]])
    (out / "predictions.csv").write_text("".join(lines[:-3]))
    status, _, _ = command("training.evaluate", "--data", labelled, "--out", out, "--rounds", 30)
    assert status == 0
    before, after = predictions_of(evaluated), predictions_of(out)
    assert after[0] == before[0] | {"p_fake": "0.123456"}
    assert [row["path"] for row in after] == [row["path"] for row in before]
    for old, new in zip(before[1:], after[1:], strict=True):
        assert new["error"] == old["error"]
        assert (new["p_fake"] or "-1") == (old["p_fake"] or "-1") or float(
            new["p_fake"]
        ) == pytest.approx(float(old["p_fake"]), abs=1e-4)


def test_another_checkpoint_is_measured_anew(
    command: Command,
    evaluated: Path,
    labelled: Path,
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
) -> None:
    out = shutil.copytree(evaluated, tmp_path / "out")
    save(tmp_path / "other.pth", make_checkpoint())
    options = ("--data", labelled, "--out", out, "--checkpoint", tmp_path / "other.pth")
    assert command("training.evaluate", *options, "--rounds", 5)[0] == 0
    before, after = predictions_of(evaluated), predictions_of(out)
    assert len(after) == len(before)
    assert all(
        new["p_fake"] != old["p_fake"]
        for old, new in zip(before, after, strict=True)
        if old["p_fake"]
    )


# --- diagnostic ---------------------------------------------------------------------------------


def test_diagnostic_says_what_is_there(command: Command) -> None:
    status, out, _ = command("training.diagnostic", "--json", "--checkpoint", CHECKPOINT)
    lines = {line["name"]: line for line in json.loads(out)}
    expected = {"Python", "PyTorch", "torchvision ops", "MTCNN weights", "Java", "TorchServe"}
    assert all(lines[name]["ok"] for name in expected)
    assert lines["checkpoint"]["ok"]
    assert str(CHECKPOINT) in lines["checkpoint"]["text"]
    assert " ms for one face" in lines["forward pass"]["text"]
    assert torch.__version__ in lines["PyTorch"]["text"]
    # A port may be in use here; then that is what it must say.
    assert status == int(any(line["ok"] is False for line in lines.values()))


def test_diagnostic_without_a_checkpoint_fails_and_says_so(
    command: Command, tmp_path: Path
) -> None:
    status, out, _ = command("training.diagnostic", "--checkpoint", tmp_path / "none.pth")
    assert status == 1
    failed = [line for line in out.splitlines() if line.startswith("FAIL") and "none.pth" in line]
    assert len(failed) == 2  # the checkpoint, and the forward pass
    assert all("does not exist" in line for line in failed)
    assert any(line.startswith("OK") and "PyTorch" in line for line in out.splitlines())


def test_diagnostic_notices_a_port_in_use(command: Command, tmp_path: Path) -> None:
    import socket

    from training.diagnostic import check_port

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert check_port("page", port).ok is False
        assert str(port) in check_port("page", port).text
    assert check_port("page", port).ok


# --- bad input ----------------------------------------------------------------------------------


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
