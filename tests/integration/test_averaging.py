"""Averaging the weights before and after a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepfake.checkpoint import Checkpoint, load, save
from deepfake.model import DeepfakeDetector
from tests.conftest import Ended, sentence
from tests.integration.conftest import Command

Make = Callable[..., Checkpoint]


@pytest.fixture
def pair(make_checkpoint: Make, tmp_path: Path) -> tuple[Path, Path]:
    """The same network twice, with other weights."""
    for seed, name in enumerate(("before", "after")):
        made = make_checkpoint(seed=seed, temperature=3.0, training={"epoch": seed})
        save(tmp_path / f"{name}.pth", made, half=False)
    return tmp_path / "before.pth", tmp_path / "after.pth"


def average(command: Command, pair: tuple[Path, Path], share: float) -> tuple[Path, Ended]:
    out = pair[0].with_name("out.pth")
    options = ("--before", pair[0], "--after", pair[1], "--share", share, "--out", out)
    return out, command("training.average", *options)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_weight_lies_between_the_two(
    command: Command, pair: tuple[Path, Path], share: float
) -> None:
    out, (status, said, _) = average(command, pair, share)
    assert status == 0
    assert "calibrate it" in said
    before, after, new = (load(path) for path in (*pair, out))
    for name, value in new.model.state_dict().items():
        old, later = (c.model.state_dict()[name].float() for c in (before, after))
        expected = (1 - share) * old + share * later
        torch.testing.assert_close(value.float(), expected, atol=2e-3, rtol=2e-3)
    history = {"before": before.sha256, "after": after.sha256, "share": share}
    assert new.training == {"epoch": 1, "averaged": history}
    assert (new.temperature, new.metrics, new.crop_margin) == (1.0, {}, 0.2)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"image_size": 96}, "they are different networks"),
        ({"crop_margin": 0.4}, "margins of 0.4 and 0.2"),
    ],
)
def test_one_of_another_kind_cannot_be_averaged_with(
    command: Command,
    pair: tuple[Path, Path],
    make_checkpoint: Make,
    other: dict[str, Any],
    reason: str,
) -> None:
    save(pair[0], make_checkpoint(**other))
    out, ended = average(command, pair, 0.5)
    assert reason in sentence(ended)
    assert not out.exists()


def test_nor_with_one_of_the_same_shapes_that_sees_its_input_otherwise(
    command: Command, pair: tuple[Path, Path], make_checkpoint: Make
) -> None:
    """The tf_ networks of timm pad their input on the other side."""
    for path, name in zip(pair, ("efficientnet_b0", "tf_efficientnet_b0"), strict=True):
        save(path, replace(make_checkpoint(), model=DeepfakeDetector(name, 64).eval()))
    out, ended = average(command, pair, 0.5)
    assert "they are different networks" in sentence(ended)
    assert not out.exists()


def test_a_share_is_from_0_to_1(command: Command, pair: tuple[Path, Path]) -> None:
    out, ended = average(command, pair, 1.5)
    assert sentence(ended) == "error: --share is 1.5, not in [0, 1]."
    assert not out.exists()
