"""Evaluation of photos of two sources: figures, report and picture, and how a run goes on."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

import deepfake
from deepfake.checkpoint import Checkpoint, save, sha256
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from deepfake.views import VIEWS
from tests.integration.conftest import CHECKPOINT, Command, copy_manifest, program, table

ALTERED = ("0.125", "0.25", "0.5")  # views that no photo has


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Checkpoint]
) -> Path:
    """A small network: most of what is tested here is not what it says."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    save(path, make_checkpoint())
    return path


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, labelled: Path, tiny: Path) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "new" / "folder"
    options = ("--data", labelled, "--checkpoint", tiny, "--out", out, "--rounds", 30)
    done = program("training.evaluate", *options)
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


def altered(evaluated: Path, out: Path, missing: int = 0) -> Path:
    """A copy whose first answer is another, to tell if it is asked again; the last are gone."""
    shutil.copytree(evaluated, out)
    lines = (out / "predictions.csv").read_text().splitlines(keepends=True)
    first = lines[2].split(",")
    lines[2] = ",".join([*first[:4], *ALTERED, first[7]])
    (out / "predictions.csv").write_text("".join(lines[: len(lines) - missing]))
    return out


def p_fake_of(row: dict[str, str]) -> float:
    """Mean of the views; NaN without an answer."""
    return float(np.mean([float(row[view] or "nan") for view in VIEWS]))


def test_every_photo_has_its_line_among_the_predictions(evaluated: Path, labelled: Path) -> None:
    rows = predictions_of(evaluated)
    assert [row["path"] for row in rows] == [r["path"] for r in table(labelled / "manifest.csv")]
    errors = {row["path"]: row["error"] for row in rows if row["error"]}
    assert errors == {"black.png": "no_face", "missing.png": "bad_data"}
    for row in rows:
        assert [row[view] == "" for view in VIEWS] == [row["error"] != ""] * len(VIEWS)


def test_what_is_measured_is_what_is_served(
    command: Command, labelled: Path, tmp_path: Path
) -> None:
    options = ("--data", labelled, "--checkpoint", CHECKPOINT, "--out", tmp_path, "--rounds", 5)
    assert command("training.evaluate", *options, "--limit", 4)[0] == 0
    rows = [row for row in predictions_of(tmp_path) if not row["error"]]
    assert len(rows) >= 2
    blobs = [(labelled / row["path"]).read_bytes() for row in rows]
    answers = Pipeline.from_file(CHECKPOINT).predict(blobs)
    for row, answer in zip(rows, answers, strict=True):
        assert isinstance(answer, Verdict)
        views = [float(row[view]) for view in VIEWS]
        assert views == pytest.approx(answer.worst.views, abs=1e-4)


def test_figures_agree_with_the_predictions(evaluated: Path, tiny: Path) -> None:
    report = report_of(evaluated)
    rows = [row for row in predictions_of(evaluated) if not row["error"]]
    for name, section in (*report["sources"].items(), ("", report["overall"])):
        chosen = [row for row in rows if name in ("", row["source"])]
        labels = np.array([row["label"] == "fake" for row in chosen])
        p_fake = np.array([p_fake_of(row) for row in chosen])
        found = section["scores"]
        assert (section["real"], section["fake"]) == ((~labels).sum(), labels.sum())
        assert found["accuracy"] == pytest.approx(np.mean((p_fake > 0.5) == labels))
        if name == "fakes":  # one class: there is no curve
            assert found["roc_auc"] is found["eer"] is None
            assert section["intervals"]["roc_auc"] == [None, None]
            assert found["accuracy"] == found["recall"]
            continue
        assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, p_fake))
        assert found["ap"] == pytest.approx(metrics.average_precision_score(labels, p_fake))
        table_ = metrics.confusion_matrix(labels, p_fake > 0.5)
        assert section["confusion"] == table_.tolist()
        for low, high in section["intervals"].values():
            assert 0 <= low <= high <= 1
    mean, of = report["mean_over_sources"]["scores"], report["sources"]
    assert mean["roc_auc"] == of["mixed"]["scores"]["roc_auc"]
    both = [of[name]["scores"]["recall"] for name in ("mixed", "fakes")]
    assert mean["recall"] == pytest.approx(sum(both) / 2)
    assert report["photos"] == 12
    assert report["unanswered"] == {"mixed": {"no_face": 1}, "fakes": {"bad_data": 1}}
    assert report["run"]["checkpoint"] == sha256(tiny)


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
    command: Command, evaluated: Path, labelled: Path, tiny: Path, tmp_path: Path
) -> None:
    """What is there is taken as it is."""
    out = altered(evaluated, tmp_path / "out", missing=3)
    options = ("--data", labelled, "--checkpoint", tiny, "--out", out, "--rounds", 30)
    assert command("training.evaluate", *options)[0] == 0
    before, after = predictions_of(evaluated), predictions_of(out)
    assert after[0] == before[0] | dict(zip(VIEWS, ALTERED, strict=True))
    assert [row["path"] for row in after] == [row["path"] for row in before]
    for old, new in zip(before[1:], after[1:], strict=True):
        assert new["error"] == old["error"]
        assert p_fake_of(new) == pytest.approx(p_fake_of(old), abs=1e-4, nan_ok=True)


def test_another_checkpoint_is_measured_anew(
    command: Command,
    evaluated: Path,
    labelled: Path,
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
) -> None:
    out = shutil.copytree(evaluated, tmp_path / "out")
    save(tmp_path / "other.pth", make_checkpoint(seed=1))
    options = ("--data", labelled, "--out", out, "--checkpoint", tmp_path / "other.pth")
    assert command("training.evaluate", *options, "--rounds", 5)[0] == 0
    before, after = predictions_of(evaluated), predictions_of(out)
    assert len(after) == len(before)
    assert all(
        p_fake_of(new) != p_fake_of(old)
        for old, new in zip(before, after, strict=True)
        if not old["error"]
    )


def test_answers_of_other_code_are_asked_again(
    command: Command,
    evaluated: Path,
    labelled: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after an update whose views are others: what lies there is not what this code says."""
    out = altered(evaluated, tmp_path / "out")
    updated = shutil.copytree(Path(deepfake.__file__).parent, tmp_path / "deepfake")
    (updated / "views.py").write_text((updated / "views.py").read_text() + "# other views\n")
    monkeypatch.setattr(deepfake, "__file__", str(updated / "__init__.py"))
    options = ("--data", labelled, "--checkpoint", tiny, "--out", out, "--rounds", 5)
    assert command("training.evaluate", *options)[0] == 0
    before, after = predictions_of(evaluated), predictions_of(out)
    assert p_fake_of(after[0]) == pytest.approx(p_fake_of(before[0]), abs=1e-4)


def test_what_passes_or_has_changed_is_asked_again(
    command: Command, labelled: Path, tiny: Path, tmp_path: Path
) -> None:
    """A photo that was missing is there now, another has other bytes; the rest is as it was."""
    data, out = shutil.copytree(labelled, tmp_path / "data"), tmp_path / "out"
    options = ("--data", data, "--checkpoint", tiny, "--out", out, "--rounds", 5)
    assert command("training.evaluate", *options)[0] == 0
    before = {row["path"]: row for row in predictions_of(out)}
    for name in ("missing.png", "real-1.png"):
        shutil.copy(data / "real-0.png", data / name)
    assert command("training.evaluate", *options, "--limit", 2)[0] == 0
    assert command("training.evaluate", *options)[0] == 0
    after = predictions_of(out)
    assert len(after) == len(before)
    for row in after:
        if row["path"] in ("missing.png", "real-1.png"):
            assert p_fake_of(row) == pytest.approx(p_fake_of(before["real-0.png"]), abs=1e-4)
        else:
            assert row == before[row["path"]]


def test_another_split_does_not_replace_the_test_results(
    command: Command, labelled: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_split(row: dict[str, str]) -> dict[str, str]:
        return {"split": "val", "path": str(labelled / row["path"])}

    data = copy_manifest(labelled, tmp_path / "val", other_split)
    monkeypatch.chdir(tmp_path)
    options = ("--checkpoint", tiny, "--rounds", 5)
    for folder, split in ((labelled, "test"), (data, "val")):
        assert command("training.evaluate", "--data", folder, "--split", split, *options)[0] == 0
    for name, split in (("evaluation", "test"), ("evaluation-val", "val")):
        assert report_of(tmp_path / "runs" / name)["run"]["split"] == split
