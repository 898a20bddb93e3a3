"""Heat maps: they peak where the signal is, and are Grad-CAM as its paper has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import affine_transform
from torch import Tensor, nn

from deepfake.checkpoint import Checkpoint
from deepfake.explain import MAX_MAPS, heat_maps
from deepfake.model import DeepfakeDetector
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from deepfake.views import PARTS, make_views, to_pixels
from tests.conftest import ASTRONAUT, FAKES, TINY, montage

SIDE = 160  # a map of 5 x 5 places
CELL = SIDE // 5
STEPS = 70


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(96, 160, (SIDE, SIDE, 3), dtype=np.uint8)


def planted(seed: int, row: int, column: int) -> Image.Image:
    """Noise with a checkerboard in one place of the map."""
    pixels = noise(seed)
    board = np.indices((CELL, CELL)).sum(axis=0) // 4 % 2 * 255
    pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = board[..., None]
    return Image.fromarray(pixels)


def batch(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([to_pixels(image, SIDE) for image in images]))


@pytest.fixture(scope="module")
def trained() -> DeepfakeDetector:
    """A small network that has learned to call a planted checkerboard fake."""
    torch.manual_seed(0)
    model = DeepfakeDetector(TINY, SIDE, dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    places = np.random.default_rng(1)
    labels = torch.tensor([0, 1] * 8)
    for step in range(STEPS):
        images = [
            planted(100 * step + i, *places.integers(0, 5, 2))
            if fake
            else Image.fromarray(noise(100 * step + i))
            for i, fake in enumerate(labels.tolist())
        ]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(model.preprocess(batch(images))), labels).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def peak(heat: Tensor) -> tuple[int, int]:
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return row, column


def test_the_map_of_a_planted_signal_peaks_where_it_is(trained: DeepfakeDetector) -> None:
    places = [(0, 0), (1, 3), (2, 2), (3, 1), (4, 4), (0, 4)]
    crops = [planted(9000 + i, *place) for i, place in enumerate(places)]
    with torch.no_grad():
        logits = trained(trained.preprocess(batch(crops)))
    assert (logits[:, 1] > logits[:, 0]).all(), "it has not learned the signal"
    maps = heat_maps(trained, crops, [True] * len(crops))
    distances = [np.abs(np.subtract(peak(m), p)).max() for m, p in zip(maps, places, strict=True)]
    assert max(distances) <= 1  # convolutions see over the edge of a cell
    assert distances.count(0) >= 4


def test_maps_are_of_the_last_maps_shape_and_between_0_and_1(trained: DeepfakeDetector) -> None:
    crops = [planted(1, 2, 2), planted(2, 1, 1).resize((301, 301)), Image.fromarray(noise(3))]
    for heat in heat_maps(trained, crops, [True, True, False]):
        assert heat.shape == (5, 5)
        assert heat.dtype == torch.float32
        assert float(heat.min()) >= 0
        assert float(heat.max()) == 1


def test_the_same_crop_gets_the_same_map_alone_or_among_others(trained: DeepfakeDetector) -> None:
    crops = [planted(i, i, i) for i in range(3)]
    together = heat_maps(trained, crops, [True] * 3)
    for crop, heat in zip(crops, together, strict=True):
        assert torch.equal(heat_maps(trained, [crop], [True])[0], heat)


def test_a_mirrored_crop_gets_the_mirrored_map(trained: DeepfakeDetector) -> None:
    """Nearly: the third view is not mirrored with it."""
    crop = planted(5, 1, 0)
    heat, mirrored = heat_maps(
        trained, [crop, crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)], [True, True]
    )
    assert peak(mirrored.flip(-1)) == peak(heat)
    assert float((mirrored.flip(-1) - heat).abs().mean()) < 0.1


@pytest.mark.parametrize("fake", [True, False])
def test_the_formula_is_grad_cams(trained: DeepfakeDetector, fake: bool) -> None:
    """Recomputed with a hook and a backward pass through the whole network, view by view.

    SciPy lays the maps on the crop.
    """
    crop = planted(7, 3, 3)
    kept: list[Tensor] = []
    hook = trained.cbam.register_forward_hook(lambda _module, _input, output: kept.append(output))
    expected = np.zeros((5, 5))
    middle = (5 - 1) / 2
    for number, (view, part) in enumerate(zip(make_views(crop, SIDE), PARTS, strict=True)):
        kept.clear()
        real, of_fake = trained(trained.preprocess(torch.from_numpy(view[None])))[0]
        (gradient,) = torch.autograd.grad(of_fake - real if fake else real - of_fake, kept[0])
        alpha = gradient[0].numpy().mean(axis=(1, 2))
        map_ = (alpha[:, None, None] * kept[0][0].detach().numpy()).sum(axis=0)
        map_ = map_[:, ::-1] if number == 1 else map_
        places = middle * (1 - 1 / part)  # of the crop's place p: middle + (p - middle) / part
        expected += affine_transform(map_, [1 / part] * 2, places, order=1, mode="nearest")
    hook.remove()
    expected = np.maximum(expected, 0)
    np.testing.assert_allclose(
        heat_maps(trained, [crop], [fake])[0], expected / max(expected.max(), 1e-30), atol=1e-4
    )


def test_where_nothing_speaks_for_the_label_the_map_is_empty(trained: DeepfakeDetector) -> None:
    """Without weights in its last layer the network prefers neither."""
    model = DeepfakeDetector(TINY, SIDE).eval()
    nn.init.zeros_(model.head[3].weight)
    (heat,) = heat_maps(model, [planted(1, 1, 1)], [True])
    assert torch.equal(heat, torch.zeros(5, 5))


def test_weights_and_gradients_are_left_as_they_were(trained: DeepfakeDetector) -> None:
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    trained.zero_grad(set_to_none=True)
    heat_maps(trained, [planted(1, 1, 1)], [True])
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())
    assert all(p.grad is None for p in trained.parameters())


@pytest.mark.usefixtures("one_thread")
def test_threads_are_left_as_they_were(trained: DeepfakeDetector) -> None:
    torch.set_num_threads(2)
    try:
        heat_maps(trained, [planted(1, 1, 1)], [True])
        with pytest.raises(ValueError, match="shorter"):
            heat_maps(trained, [planted(1, 1, 1)], [])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_a_pipeline_explains_its_verdicts(
    make_checkpoint: Callable[..., Checkpoint], runtime: str
) -> None:
    pipeline = Pipeline(make_checkpoint(), runtime=runtime)
    (verdict,) = pipeline.predict([ASTRONAUT.read_bytes()])
    assert isinstance(verdict, Verdict)
    face = verdict.faces[0]
    (expected,) = heat_maps(pipeline.model, [face.crop], [face.label == "Fake"])
    explained = pipeline.explain(verdict)
    assert isinstance(explained, Verdict)
    assert torch.equal(explained.faces[0].heat_map, expected)
    assert verdict.faces[0].heat_map is None
    assert replace(explained.faces[0], heat_map=None) == face


def test_of_many_faces_the_most_fake_are_explained(
    make_checkpoint: Callable[..., Checkpoint],
) -> None:
    pipeline = Pipeline(make_checkpoint(), runtime="torch")
    scene = montage([Image.open(p).convert("RGB") for p in FAKES], columns=4, cell=250)
    (verdict,) = pipeline.predict([scene])
    assert isinstance(verdict, Verdict)
    assert len(verdict.faces) > MAX_MAPS
    explained = pipeline.explain(verdict)
    assert isinstance(explained, Verdict)
    with_map = [f.fake_probability for f in explained.faces if f.heat_map is not None]
    without = [f.fake_probability for f in explained.faces if f.heat_map is None]
    assert len(with_map) == MAX_MAPS
    assert min(with_map) >= max(without)
    assert [f.crop for f in explained.faces] == [f.crop for f in verdict.faces]
