"""What the benchmarks compare does the same work, and their tables say what was measured."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import recall
from benchmarks.reference import ReferencePipeline
from benchmarks.scenes import SCENES
from benchmarks.service import percentile, repack
from deepfake.checkpoint import Checkpoint
from deepfake.faces import FaceDetector
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from tests.conftest import FAKES

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.mark.parametrize("scene", ["1200 x 630, six faces", "256 x 256, one face"])
def test_reference_and_library_judge_the_same_faces(
    make_checkpoint: MakeCheckpoint, scene: str
) -> None:
    checkpoint, blob = make_checkpoint(), SCENES[scene]()
    (verdict,) = Pipeline(checkpoint, runtime="torch").predict([blob])
    assert isinstance(verdict, Verdict)
    mine = sorted(face.fake_probability for face in verdict.faces)
    theirs = sorted(ReferencePipeline(checkpoint.model, checkpoint.crop_margin)(blob))
    assert len(mine) == len(theirs)
    # Its third view is jittered at random, and large photos are reduced otherwise.
    np.testing.assert_allclose(mine, theirs, atol=0.15)


def test_scenes_are_as_large_as_they_are_called() -> None:
    sizes = {name: Image.open(io.BytesIO(make())).size for name, make in SCENES.items()}
    assert sizes == {
        "12 MP, one face": (4000, 3000),
        "1200 x 630, six faces": (1200, 630),
        "256 x 256, one face": (256, 256),
    }


def test_faces_of_a_made_photo_are_where_it_says(detector: FaceDetector) -> None:
    people = recall.portraits(FAKES[:5], detector)
    photo, boxes = recall.scene(people, np.random.default_rng(3))
    assert photo.size == recall.SIZE
    assert boxes
    found = [hit for _, hit in recall.hits(boxes, detector(photo))]
    assert sum(found) > 0.7 * len(found)
    assert not any(hit for _, hit in recall.hits(boxes, []))


def test_the_band_of_a_face_is_that_of_its_width() -> None:
    boxes = [(0.0, 0.0, share * recall.SIZE[0], 10.0) for share in (0.01, 0.02, 0.07, 0.3, 0.6)]
    assert [band for band, _ in recall.hits(boxes, [])] == [-1, 0, 2, 4, 4]


def test_percentiles_are_those_of_the_single_times() -> None:
    times = np.random.default_rng(0).integers(1, 50, 1000)
    values, counts = np.unique(times, return_counts=True)
    pairs = [(float(v), int(n)) for v, n in zip(values, counts, strict=True)]
    for q in (50, 95, 99):
        assert percentile(pairs, q) == np.percentile(times, q, method="inverted_cdf")


def test_an_archive_with_other_settings_is_otherwise_the_same(tmp_path: Path) -> None:
    source, target = tmp_path / "a.mar", tmp_path / "b.mar"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("model-config.yaml", "batchSize: 8\nhandler: {runtime: auto}\n")
        archive.writestr("saved_model.pth", b"weights")
    repack(source, target, {"batchSize": 2})
    with zipfile.ZipFile(target) as archive:
        config = yaml.safe_load(archive.read("model-config.yaml"))
        assert config == {"batchSize": 2, "handler": {"runtime": "auto"}}
        assert archive.read("saved_model.pth") == b"weights"
    repack(source, target, {})
    assert target.read_bytes() == source.read_bytes()
