"""A larger network that begins by answering as the smaller one does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from deepfake.checkpoint import load, save
from deepfake.errors import DataError
from deepfake.model import DeepfakeDetector
from tests.conftest import FAKES, ROOT, TINY, Ended
from training.grow import copies, grow, shares

LITE0 = "tf_efficientnet_lite0"
CARD = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Photos as they are, uint8 (12, 3, 128, 128): whether they show faces does not matter."""
    photos = [np.asarray(Image.open(p).convert("RGB").resize((128, 128))) for p in FAKES]
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def small(pixels: Tensor) -> DeepfakeDetector:
    """One that tells the photos apart, whichever network is shipped."""
    return answering(LITE0, pixels)


def answering(backbone: str, pixels: Tensor) -> DeepfakeDetector:
    """A detector with random weights: as drawn, it answers nearly the same to everything."""
    torch.manual_seed(0)
    model = DeepfakeDetector(backbone, 128)
    with torch.no_grad():
        model.head[0].weight.mul_(40)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = None  # the mean over all batches, of which there is one
        model.train()(model.preprocess(pixels))
    return model.eval()


@torch.inference_mode()
def odds(model: DeepfakeDetector, pixels: Tensor) -> Tensor:
    logits = model.eval()(model.preprocess(pixels))
    return logits[:, 1] - logits[:, 0]


def test_a_network_of_the_same_kind_answers_exactly_as_before(
    small: DeepfakeDetector, pixels: Tensor
) -> None:
    """Lite1 is deeper than Lite0, with the same activation and no squeeze-and-excitation."""
    large = grow(small, "tf_efficientnet_lite1")
    assert len(large.state_dict()) > len(small.state_dict())
    expected = odds(small, pixels)
    assert float(expected.std()) > 0.2
    torch.testing.assert_close(odds(large, pixels), expected, atol=1e-3, rtol=1e-3)


def test_a_wider_one_does_too(small: DeepfakeDetector, pixels: Tensor) -> None:
    """Lite2 is wider as well, so that channels are copied."""
    large = grow(small, "tf_efficientnet_lite2")
    torch.testing.assert_close(odds(large, pixels), odds(small, pixels), atol=1e-2, rtol=1e-2)


def test_b0_grows_into_b4(pixels: Tensor) -> None:
    """With squeeze-and-excitation in every block; timm has no shortcut in B0 that B4 lacks."""
    b0 = answering("efficientnet_b0", pixels)
    b4 = grow(b0, "efficientnet_b4")
    assert b4.channels == 1792
    expected = odds(b0, pixels)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(odds(b4, pixels), expected, atol=1e-2, rtol=1e-2)


def test_a_lite_network_carries_its_kernels_into_b0(small: DeepfakeDetector) -> None:
    """All but the answers: it has to be trained again."""
    carries_its_kernels(small, grow(small, "efficientnet_b0"))


def test_the_small_network_grows_into_b4_as_the_model_card_says() -> None:
    """The one of today stands for the fourth checkpoint, whose layers were the same."""
    small = load(ROOT / "saved_model_small.pth").model
    steps = re.findall(r"training\.grow .*--init (\S+)(?: --backbone (\w+))?", CARD)
    assert steps == [("runs/fourth/saved_model.pth", "tf_efficientnet_b4")]
    ours, theirs = small.state_dict(), grow(small, steps[0][1]).state_dict()
    depthwise = [k for k in ours if k.endswith("conv_dw.weight")]
    assert len(depthwise) > 10
    for key in depthwise:  # in a wider network the first channels are the old ones
        assert torch.equal(theirs[key][: len(ours[key])], ours[key])


def carries_its_kernels(small: DeepfakeDetector, large: DeepfakeDetector) -> None:
    ours, theirs = small.state_dict(), large.state_dict()
    alike = [k for k in ours if torch.equal(ours[k], theirs[k])]
    kernels = [k for k in ours if ours[k].ndim == 4 and k.startswith("backbone.blocks")]
    assert set(kernels) <= set(alike)


def test_copies_of_a_channel_learn_different_things(
    small: DeepfakeDetector, pixels: Tensor
) -> None:
    large = grow(small, "tf_efficientnet_lite2").train()
    logits = large(large.preprocess(pixels))
    (logits[:, 1] - logits[:, 0]).sum().backward()
    stage = large.backbone.blocks[2][0].conv_pwl.weight  # type: ignore[union-attr,index]
    gradient, width = stage.grad, small.backbone.blocks[2][0].conv_pwl.out_channels  # type: ignore
    copied = gradient[width:]
    assert len(copied) > 0
    assert not torch.allclose(copied, gradient[: len(copied)], rtol=1e-2)


def test_shares_of_a_channels_copies_sum_to_one() -> None:
    given = copies(3, 8)
    assert given.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    share = shares(given, 5, torch.Generator().manual_seed(0))[:, :, 0, 0]
    assert (share > 0).all()
    for channel in range(3):
        torch.testing.assert_close(share[:, given == channel].sum(dim=1), torch.ones(5))
    assert len(share[:, 0].unique()) == 5  # another one for every output


@pytest.mark.parametrize("backbone", ["resnet18", TINY])
def test_what_cannot_be_grown_into_is_refused(backbone: str, small: DeepfakeDetector) -> None:
    with pytest.raises(DataError, match=f"cannot be grown into {backbone}"):
        grow(small, backbone)


def test_the_program_writes_a_start_for_training(
    small: DeepfakeDetector, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    shipped = load(ROOT / "saved_model.pth")
    assert shipped.operating_points
    save(tmp_path / "small.pth", replace(shipped, model=small))
    out = tmp_path / "grown.pth"
    options = ("--init", tmp_path / "small.pth", "--backbone", "tf_efficientnet_lite1")
    status, said, _ = command("training.grow", *options, "--out", out)
    assert status == 0
    assert said == f"{LITE0} -> tf_efficientnet_lite1: {out}\n"
    grown = load(out)
    assert grown.model.backbone_name == "tf_efficientnet_lite1"
    assert not grown.operating_points  # they were the small network's
    # Left to itself it grows a tf_ network into another: they pad their input alike.
    assert command("training.grow", *options[:2], "--out", out)[0] == 0
    assert load(out).model.backbone_name == "tf_efficientnet_b4"
