"""The cascade finds what facenet_pytorch's own finds, computed another way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from numpy.typing import NDArray
from PIL import Image

from deepfake import mtcnn
from deepfake.mtcnn import CHANNELS, THRESHOLDS, Cascade, summed_area_table
from tests.conftest import FAKES, montage

Answer = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return Cascade(min_face=20)


def reference(image: Image.Image) -> Answer:
    """Boxes, scores and landmarks as facenet_pytorch finds them, largest box first."""
    network = MTCNN(keep_all=True, min_face_size=20, thresholds=list(THRESHOLDS), device="cpu")
    boxes, scores, points = network.detect(image, landmarks=True)
    if boxes is None:
        return np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
    return np.array(boxes), np.array(scores), np.array(points)


def by_size(answer: Answer) -> Answer:
    boxes, scores, points = answer
    order = np.argsort((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[::-1]
    return boxes[order], scores[order], points[order]


def same(image: Image.Image, cascade: Cascade) -> int:
    """How many faces there are, after checking that both find them in the same places."""
    given, expected = by_size(cascade(np.asarray(image))), reference(image)
    for mine, theirs in zip(given, expected, strict=True):
        np.testing.assert_allclose(mine, theirs.astype(np.float32), atol=0.01)
    return len(given[0])


def test_same_faces_as_the_original_on_portraits(cascade: Cascade, astronaut: Image.Image) -> None:
    assert same(astronaut, cascade) == 1
    for path in FAKES:
        assert same(Image.open(path).convert("RGB"), cascade) >= 1


@pytest.mark.parametrize(("columns", "cell"), [(3, 300), (4, 90), (6, 41)])
def test_same_faces_as_the_original_in_a_crowd(cascade: Cascade, columns: int, cell: int) -> None:
    crowd = montage([Image.open(path).convert("RGB") for path in FAKES], columns, cell)
    assert same(crowd, cascade) >= 6


def test_same_faces_at_the_edge(cascade: Cascade, astronaut: Image.Image) -> None:
    """Proposals reach over the edge there and are cut off."""
    for box in ((180, 60, 512, 400), (60, 90, 260, 512), (190, 0, 300, 150)):
        same(astronaut.crop(box), cascade)


@pytest.mark.parametrize("size", [(20, 20), (21, 200), (64, 48)])
def test_no_faces_in_a_plain_or_noisy_picture(cascade: Cascade, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert same(Image.fromarray(noise), cascade) == 0
    boxes, scores, points = cascade(np.zeros((*size, 3), dtype=np.uint8))
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)
    assert points.shape == (0, 5, 2)


def test_patches_are_what_area_interpolation_gives() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    corners = rng.uniform(-10, 60, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 60, (40, 1))], axis=1)
    kept, patches = mtcnn._patches(
        summed_area_table(pixels), boxes.astype(np.float32), (70, 90), 24
    )
    assert len(kept) > 20
    picture = torch.from_numpy(pixels).permute(2, 0, 1).float()
    for box, patch in zip(kept, patches, strict=True):
        left, top, right, bottom = (int(v) for v in np.trunc(box))
        inside = picture[:, max(top, 1) - 1 : bottom, max(left, 1) - 1 : right]
        expected = torch.nn.functional.interpolate(inside[None], (24, 24), mode="area")[0]
        np.testing.assert_allclose(patch[..., :3], expected.permute(1, 2, 0), atol=1e-3)


def test_sums_of_a_large_bright_picture_may_overflow() -> None:
    table = summed_area_table(np.broadcast_to(np.uint8(255), (3000, 3000, 3)))
    assert table.min() < 0
    boxes = np.array([[1, 1, 3000, 3000], [2900, 2900, 2950, 2990]], dtype=np.float32)
    _, patches = mtcnn._patches(table, boxes, (3000, 3000), 24)
    level = mtcnn._reduced(table, 60, 70)
    assert patches.shape == (2, 24, 24, CHANNELS)
    assert level.shape == (60, 70, CHANNELS)
    assert np.unique(patches[..., :3]) == np.unique(level[..., :3]) == 255


def test_without_openvino_it_finds_the_same(
    cascade: Cascade, astronaut: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.runtime.importlib.util.find_spec", lambda name: None)
    pixels = np.asarray(astronaut)
    for one, other in zip(Cascade(20)(pixels), cascade(pixels), strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)


def test_several_threads_at_once_do_not_disturb_each_other(cascade: Cascade) -> None:
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in FAKES]
    alone = [cascade(photo) for photo in photos]
    together = []
    for _ in range(10):  # threads come and go with every batch
        with ThreadPoolExecutor(4) as pool:
            together += list(pool.map(cascade, photos))
    for given, expected in zip(together, alone * 10, strict=True):
        for mine, theirs in zip(given, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
