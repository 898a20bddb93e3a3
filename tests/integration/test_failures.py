"""Pictures of failures, of the photos that may be shown, with the checkpoint that is shipped."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from PIL import Image

from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from tests.conftest import ROOT
from tests.integration.conftest import program
from training.treatments import TREATMENTS


def test_every_photo_is_judged_in_every_form(tmp_path: Path) -> None:
    done = program("training.failures", "--out", tmp_path, "--most", 4)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "failures.json").read_text())
    counts = report["counts"]
    assert set(counts) == {*TREATMENTS, "forged"}
    judged = {t: (counts[t]["real of"], counts[t]["fake of"]) for t in TREATMENTS}
    assert judged["as it is"] == (1, 12)
    assert all(reals == 1 and 10 <= fakes <= 12 for reals, fakes in judged.values())  # with a face
    assert counts["forged"]["fake of"] >= 10  # donors without a face aside
    assert len(report["shown"]) <= 4
    pipeline = Pipeline.from_file(ROOT / "saved_model.pth")
    with (ROOT / "tests/fixtures/manifest.csv").open(newline="") as file:
        photos = {row["path"]: row["label"] for row in csv.DictReader(file)}
    answers = pipeline.predict([(ROOT / "tests/fixtures" / p).read_bytes() for p in photos])
    labels = [a.worst.label.lower() for a in answers if isinstance(a, Verdict)]
    assert len(labels) == len(photos)
    for label in ("real", "fake"):
        wrong = sum(
            said != true
            for said, true in zip(labels, photos.values(), strict=True)
            if true == label
        )
        assert counts["as it is"][f"{label} wrong"] == wrong
    with Image.open(tmp_path / "failures.png") as sheet:
        assert sheet.width > 100
