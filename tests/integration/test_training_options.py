"""Options that say what is trained on and how: what each changes in the run and its checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from deepfake.checkpoint import load
from deepfake.model import CBAM
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from tests.conftest import ASTRONAUT, sentence
from tests.integration.conftest import Row, Train, copy_manifest, epochs
from training.data import of_split, read_samples

LANDMARKS = "25 30 55 30 40 45 28 60 52 60"  # of an upright face in a crop of 80 x 80


def number(row: Row) -> int:
    """Of a crop, counted within its class; 8 and above are for validation."""
    return int(row["group"].removesuffix(".png").split("-")[1])


@pytest.fixture
def two_sources(face_crops: Path, tmp_path: Path) -> Path:
    """The crops dealt to two sources; b cannot be trained on, and is labelled the wrong way."""

    def deal(row: Row) -> Row:
        if number(row) % 2 == 0:
            return {"source": "a"}
        if row["split"] == "train":
            return {"source": "b", "path": "missing.png"}
        return {"source": "b", "label": "fake" if row["label"] == "real" else "real"}

    return copy_manifest(face_crops, tmp_path / "crops", deal)


def test_a_source_that_is_left_out_is_neither_trained_on_nor_chosen_by(
    train: Train, two_sources: Path, tmp_path: Path
) -> None:
    """Its figure is written down all the same: it says how far the detector carries."""
    options = ("--data", two_sources, "--leave-out", "b", "--epochs", 8)
    status, said, _ = train(tmp_path / "run", *options)
    assert status == 0
    assert "8 train and 8 validation images" in said
    found = epochs(tmp_path / "run")
    assert all(row["val_score"] == row["val_auc"]["a"] for row in found)
    assert any(row["val_auc"]["b"] != row["val_auc"]["a"] for row in found)
    checkpoint = load(tmp_path / "run" / "saved_model.pth")
    assert checkpoint.training["train_images"] == 8
    assert checkpoint.training["options"]["leave_out"] == "b"


def test_a_source_that_is_not_there_cannot_be_left_out(
    train: Train, two_sources: Path, tmp_path: Path
) -> None:
    said = sentence(train(tmp_path / "run", "--data", two_sources, "--leave-out", "c"))
    assert said == "error: --leave-out is c, but the sources are a, b."
    assert not (tmp_path / "run").exists()


def test_without_the_source_left_out_there_must_be_something_to_choose_by(
    train: Train, two_sources: Path, tmp_path: Path
) -> None:
    def only_b(row: Row) -> Row:
        return {"split": "test"} if row["split"] == "val" and row["source"] == "a" else {}

    data = copy_manifest(two_sources, tmp_path / "fewer", only_b)
    said = sentence(train(tmp_path / "run", "--data", data, "--leave-out", "b"))
    assert "The val split holds no real and no fake images" in said


def test_the_only_source_cannot_be_left_out(train: Train, tmp_path: Path) -> None:
    assert "--leave-out is data" in sentence(train(tmp_path, "--leave-out", "data"))


def test_training_at_a_smaller_size_leaves_the_size_in_use(train: Train, tmp_path: Path) -> None:
    for name, options in {"small": ("--train-size", 32), "same": ()}.items():
        assert train(tmp_path / name, "--epochs", 1, *options)[0] == 0
    small, same = (load(tmp_path / name / "saved_model.pth") for name in ("small", "same"))
    assert small.model.image_size == same.model.image_size == 64
    sizes = [c.training["options"]["train_size"] for c in (small, same)]
    assert sizes == [32, 64]
    losses = [epochs(tmp_path / name)[0]["train_loss"] for name in ("small", "same")]
    assert losses[0] != losses[1]


def test_a_network_without_attention_is_trained_and_answers(train: Train, tmp_path: Path) -> None:
    assert train(tmp_path, "--epochs", 1, "--no-cbam")[0] == 0
    checkpoint = load(tmp_path / "saved_model.pth")
    assert not any(isinstance(part, CBAM) for part in checkpoint.model.modules())
    (answer,) = Pipeline(checkpoint).predict([ASTRONAUT.read_bytes()])
    assert isinstance(answer, Verdict)
    assert len(answer.faces) == 1


def test_forgeries_are_made_of_crops_with_landmarks(
    train: Train, face_crops: Path, tmp_path: Path
) -> None:
    """Of others, which crops made elsewhere are, there is nothing to forge."""
    with_landmarks = copy_manifest(
        face_crops, tmp_path / "crops", lambda row: {"landmarks": LANDMARKS}
    )
    losses = []
    for name, data, forged in (
        ("none", with_landmarks, 0),
        ("all", with_landmarks, 1),
        ("without landmarks", face_crops, 1),
    ):
        options = ("--data", data, "--epochs", 1, "--forged", forged)
        assert train(tmp_path / name, *options)[0] == 0
        losses.append(epochs(tmp_path / name)[0]["train_loss"])
    none, every, without_landmarks = losses
    assert every != none
    assert without_landmarks == none


@pytest.mark.parametrize("option", ["forged", "light", "evenness"])
@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan"])
def test_a_share_is_from_0_to_1(train: Train, tmp_path: Path, option: str, value: str) -> None:
    said = sentence(train(tmp_path / "run", f"--{option}", value))
    assert said == f"error: --{option} is {value}, not in [0, 1]."
    assert not (tmp_path / "run").exists()


def test_a_warm_up_is_no_longer_than_the_training(train: Train, tmp_path: Path) -> None:
    """Left to itself it is a tenth of it: otherwise a short one would never get to its rate."""
    said = sentence(train(tmp_path / "run", "--epochs", 2, "--warmup-epochs", 2.5))
    assert said == "error: --warmup-epochs is 2.5 of 2 epochs; it must be no more."
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_half_precision_is_of_gpus(train: Train, tmp_path: Path) -> None:
    said = sentence(train(tmp_path / "run", "--precision", "fp16"))
    assert said == "error: --precision fp16 needs a GPU; on a CPU give bf16, no or auto."


@pytest.mark.parametrize("option", ["train-size", "first-size"])
@pytest.mark.parametrize("value", ["0", "-32"])
def test_a_size_to_train_at_is_above_0(
    train: Train, tmp_path: Path, option: str, value: str
) -> None:
    assert f"--{option} is {value}" in sentence(train(tmp_path, f"--{option}", value))


def test_the_first_epoch_is_as_small_as_it_is_told_to_be(train: Train, tmp_path: Path) -> None:
    """The last one is as large as all others are without the option."""
    runs = {"large": (), "small": ("--train-size", 32), "grown": ("--first-size", 32)}
    losses = {}
    for name, options in runs.items():
        assert train(tmp_path / name, "--epochs", 2, *options)[0] == 0
        losses[name] = [row["train_loss"] for row in epochs(tmp_path / name)]
    assert losses["grown"][0] == losses["small"][0] != losses["large"][0]
    assert losses["grown"][1] not in (losses["small"][1], losses["large"][1])


def test_an_epoch_can_be_several_passes(train: Train, tmp_path: Path) -> None:
    """Of 16 pictures in batches of 8: the learning rate of the last of two steps, or of four."""
    options = ("--epochs", 1, "--warmup-epochs", 0, "--lr", 1e-3)
    for passes, steps in ((1, 2), (2, 4)):
        out = tmp_path / str(passes)
        assert train(out, *options, "--passes", passes)[0] == 0
        factor = 0.5 * (1 + math.cos(math.pi * (steps - 1) / steps))
        assert epochs(out)[0]["lr"] == pytest.approx(1e-3 * factor)


def test_mixing_changes_what_is_learned_and_is_repeatable(train: Train, tmp_path: Path) -> None:
    losses = {}
    for name, share in (("none", 0), ("mixed", 0.5), ("again", 0.5)):
        assert train(tmp_path / name, "--epochs", 2, "--mixup", share)[0] == 0
        losses[name] = [row["train_loss"] for row in epochs(tmp_path / name)]
    assert losses["mixed"] == losses["again"]
    assert losses["mixed"] != losses["none"]


def test_pairs_change_what_is_learned_and_are_repeatable(train: Train, tmp_path: Path) -> None:
    losses = {}
    for name, options in (("alone", ()), ("pairs", ("--pairs",)), ("again", ("--pairs",))):
        assert train(tmp_path / name, "--epochs", 2, *options)[0] == 0
        losses[name] = [row["train_loss"] for row in epochs(tmp_path / name)]
    assert losses["pairs"] == losses["again"]
    assert losses["pairs"] != losses["alone"]


@pytest.mark.parametrize("kind", ["up-sampling", "face-swap"])
def test_a_kind_of_forgery_can_be_chosen(
    train: Train, face_crops: Path, tmp_path: Path, kind: str
) -> None:
    data = copy_manifest(face_crops, tmp_path / "crops", lambda row: {"landmarks": LANDMARKS})
    losses = []
    for name in (kind, "part-swap"):
        options = ("--data", data, "--epochs", 1, "--forgeries", name, "--forged", 1)
        assert train(tmp_path / name, *options)[0] == 0
        losses.append(epochs(tmp_path / name)[0]["train_loss"])
    assert losses[0] != losses[1]
    assert load(tmp_path / kind / "saved_model.pth").training["options"]["forgeries"] == [kind]


def test_another_seed_deals_no_other_splits(train: Train, face_crops: Path, tmp_path: Path) -> None:
    """Or a photo that every program but this one takes for a test photo would be trained on."""
    # Names of groups of which every split, dealt by them, holds photos of both classes.
    unsplit = copy_manifest(
        face_crops, tmp_path / "crops", lambda row: {"split": "", "group": f"50 {row['group']}"}
    )
    tested = {s.name for s in of_split(read_samples(unsplit), "test")}
    data = copy_manifest(
        unsplit, tmp_path / "without", lambda row: {"path": "gone"} if row["path"] in tested else {}
    )
    for seed in (1, 2, 3):
        options = ("--data", data, "--seed", seed, "--epochs", 1)
        status, _, said = train(tmp_path / str(seed), *options)
        assert status == 0, said


def test_folds_without_a_source_are_refused(train: Train, tmp_path: Path) -> None:
    """They would be dealt from all photos, those of that source too."""
    said = sentence(train(tmp_path, "--folds", 2, "--leave-out", "a"))
    assert said == "error: --folds and --leave-out don't go together; leave one of them out."


def test_a_checkpoint_of_another_network_is_no_start_even_where_its_weights_fit(
    train: Train, tmp_path: Path
) -> None:
    """Of the two networks every tensor has the same name and shape; the padding differs."""
    assert train(tmp_path / "first", "--epochs", 1)[0] == 0
    path = tmp_path / "first" / "saved_model.pth"
    content = torch.load(path, weights_only=True)
    content["model"]["backbone"] = "tf_" + content["model"]["backbone"]
    torch.save(content, path)
    said = sentence(train(tmp_path / "second", "--init", path, "--epochs", 1))
    assert "is a checkpoint of tf_test_efficientnet" in said
    assert "give --backbone tf_test_efficientnet" in said
