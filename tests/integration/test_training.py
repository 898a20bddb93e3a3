"""Training runs of a small network on real photos: from crops to a checkpoint that is used."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from deepfake.checkpoint import Checkpoint, load, save
from deepfake.folders import locked
from tests.conftest import ASTRONAUT, TINY, sentence
from tests.integration.conftest import (
    TRAIN_OPTIONS,
    Row,
    Train,
    copy_manifest,
    epochs,
    program,
    start,
    table,
    write_table,
)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load(path).model.state_dict()


def as_started(crops: Path, out: Path) -> list[object]:
    """Program and options of a run of six epochs, for a process of its own."""
    return ["training.train", "--data", crops, "--out", out, *TRAIN_OPTIONS, "--epochs", 6]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, face_crops: Path) -> Path:
    """A run as a user starts it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done = program(*as_started(face_crops, out))
    assert done.returncode == 0, done.stderr
    assert "16 train and 8 validation images on cpu" in done.stdout
    assert str(out / "saved_model.pth") in done.stdout
    return out


def test_a_run_writes_down_every_epoch(finished: Path) -> None:
    found = epochs(finished)
    assert [row["epoch"] for row in found] == [1, 2, 3, 4, 5, 6]
    for row in found:
        assert 0 <= row["val_score"] <= 1
        assert row["val_auc"] == {"data": row["val_score"]}
        assert 0 < row["train_loss"] < 1
    rates = [row["lr"] for row in found]
    assert rates[0] == 3e-3  # the warm-up ends with the first epoch
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 3e-4


def test_a_run_leaves_a_checkpoint_of_its_best_epoch(finished: Path) -> None:
    found = epochs(finished)
    best = max(found, key=lambda row: row["val_score"])  # of several, the first
    checkpoint = load(finished / "saved_model.pth")
    assert checkpoint.training["epoch"] == best["epoch"]
    assert checkpoint.metrics["val_score"] == best["val_score"]
    assert checkpoint.temperature == pytest.approx(best["temperature"])
    assert checkpoint.training["options"]["lr"] == 3e-3
    assert (checkpoint.model.backbone_name, checkpoint.model.image_size) == (TINY, 64)


def test_a_run_draws_its_curves(finished: Path) -> None:
    with Image.open(finished / "curves.png") as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=1_000_000)
        assert picture.width > 2 * picture.height > 400  # three side by side
    assert colours is not None
    assert len(colours) > 20


def test_training_lowers_the_loss_and_learns(train: Train, tmp_path: Path) -> None:
    """Of the training images, which it then tells apart; cross-entropy, without dropout."""
    options = ("--epochs", 15, "--focal-gamma", 0, "--focal-alpha", 1, "--dropout", 0)
    assert train(tmp_path, *options, "--patience", 15)[0] == 0
    losses = [row["train_loss"] for row in epochs(tmp_path)]
    assert losses[0] == pytest.approx(0.69, abs=0.1)  # at first it knows nothing
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert max(row["val_score"] for row in epochs(tmp_path)) > 0.8


def test_after_a_kill_the_same_command_ends_as_if_nothing_had_happened(
    train: Train, face_crops: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    journal = out / "metrics.jsonl"
    with start(*as_started(face_crops, out)) as process:
        while process.poll() is None and not (journal.exists() and len(epochs(out)) >= 2):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len(epochs(out)) < 6

    status, said, _ = train(out, "--epochs", 6)
    assert status == 0
    assert re.search("going on after epoch [1-5] of 6", said)
    assert epochs(out) == epochs(finished)
    ours, theirs = weights(out / "saved_model.pth"), weights(finished / "saved_model.pth")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_line_of_an_epoch_that_is_run_again_does_not_stay(train: Train, tmp_path: Path) -> None:
    """As when the kill comes between an epoch's line and the state to resume from."""
    assert train(tmp_path, "--epochs", 2)[0] == 0
    before = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(before.splitlines()[-1]) | {"epoch": 3}
    (tmp_path / "metrics.jsonl").write_text(before + json.dumps(row) + "\n")
    assert train(tmp_path, "--epochs", 2)[0] == 0
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_finished_run_is_left_as_it_is(train: Train, tmp_path: Path) -> None:
    assert train(tmp_path, "--epochs", 1)[0] == 0
    before = (tmp_path / "saved_model.pth").read_bytes()
    status, said, _ = train(tmp_path, "--epochs", 1)
    assert status == 0
    assert "best epoch 1" in said
    assert (tmp_path / "saved_model.pth").read_bytes() == before
    assert len(epochs(tmp_path)) == 1


def test_other_crops_do_not_go_on_with_a_run(
    train: Train, face_crops: Path, tmp_path: Path
) -> None:
    """Nor is a finished run on the old ones taken for one on the new."""
    data = copy_manifest(face_crops, tmp_path / "crops", lambda row: {})
    options = ("--data", data, "--epochs", 1)
    assert train(tmp_path / "run", *options)[0] == 0
    rows = table(data / "manifest.csv")
    write_table(data / "manifest.csv", [*rows, rows[0] | {"group": "new"}])
    said = sentence(train(tmp_path / "run", *options))
    assert "other crops" in said
    assert "--fresh" in said
    assert train(tmp_path / "run", *options, "--fresh")[0] == 0


def test_other_options_do_not_go_on_with_a_run(train: Train, tmp_path: Path) -> None:
    assert train(tmp_path, "--epochs", 1)[0] == 0
    said = sentence(train(tmp_path, "--epochs", 1, "--dropout", 0.25))
    assert "--dropout" in said
    assert "--fresh" in said
    assert train(tmp_path, "--epochs", 1, "--dropout", 0.25, "--fresh")[0] == 0
    assert load(tmp_path / "saved_model.pth").model.head[2].p == 0.25


def test_the_seed_and_nothing_else_makes_a_run(train: Train, tmp_path: Path) -> None:
    """Not the number of data-loading processes, nor chance outside."""
    for name, options in {
        "a": ("--seed", 3),
        "b": ("--seed", 3, "--workers", 1),
        "c": ("--seed", 4),
    }.items():
        torch.rand(5)
        assert train(tmp_path / name, "--epochs", 2, *options)[0] == 0
    assert epochs(tmp_path / "a") == epochs(tmp_path / "b")
    assert epochs(tmp_path / "a") != epochs(tmp_path / "c")


def test_sources_can_be_given_the_same_share(
    train: Train, face_crops: Path, tmp_path: Path
) -> None:
    """One of the two sources of reals has a single picture, which then is half of them."""

    def source(row: Row) -> Row:
        return {"source": "rare" if row["path"].endswith("real-0.png") else "a"}

    crops = copy_manifest(face_crops, tmp_path / "crops", source)
    losses = set()
    for evenness in (0.0, 0.5, 1.0):
        out = tmp_path / str(evenness)
        assert train(out, "--data", crops, "--epochs", 1, "--evenness", evenness)[0] == 0
        assert load(out / "saved_model.pth").training["options"]["evenness"] == evenness
        losses.add(epochs(out)[0]["train_loss"])
    assert len(losses) == 3


def test_a_run_stops_when_it_gets_no_better(train: Train, tmp_path: Path) -> None:
    status, said, _ = train(tmp_path, "--epochs", 40, "--patience", 2)
    assert status == 0
    assert "early stop" in said
    scores = [row["val_score"] for row in epochs(tmp_path)]
    assert len(scores) < 40
    best = scores.index(max(scores))
    assert len(scores) == best + 1 + 2
    assert load(tmp_path / "saved_model.pth").training["epoch"] == best + 1


def test_folds_each_train_a_model_of_their_own(train: Train, tmp_path: Path) -> None:
    status, said, _ = train(tmp_path, "--folds", 3, "--epochs", 1)
    assert status == 0
    results = json.loads((tmp_path / "folds.json").read_text())
    models = [weights(tmp_path / f"fold-{n}" / "saved_model.pth") for n in range(3)]
    assert not torch.equal(models[0]["head.0.weight"], models[1]["head.0.weight"])
    assert [r["val_score"] for r in results] == [
        epochs(tmp_path / f"fold-{n}")[0]["val_score"] for n in range(3)
    ]
    assert "fold 3 of 3: 16 train, 8 val" in said  # all 24, whatever split the manifest says
    mean = sum(r["val_score"] for r in results) / 3
    assert f"3 folds: validation AUC {mean:.4f}" in said


@pytest.mark.parametrize("batch_size", [4, 16])
def test_a_run_that_diverges_ends_in_one_sentence(
    train: Train, tmp_path: Path, batch_size: int
) -> None:
    """Noticed in the loss, or, with one step per epoch, in the validation."""
    options = ("--lr", "1e30", "--warmup-epochs", 0, "--batch-size", batch_size)
    said = sentence(train(tmp_path, "--epochs", 3, *options))
    assert "lower --lr" in said
    assert "kept" not in said  # there is nothing yet
    assert not (tmp_path / "saved_model.pth").exists()


def test_a_run_that_diverges_keeps_the_epochs_before(train: Train, tmp_path: Path) -> None:
    assert train(tmp_path, "--epochs", 2)[0] == 0
    kept = (tmp_path / "saved_model.pth").read_bytes()
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    content["epoch"] = 1
    content["model"]["head.3.bias"].fill_(float("nan"))
    torch.save(content, tmp_path / "last.pth")
    said = sentence(train(tmp_path, "--epochs", 2))
    assert "nan in epoch 2" in said
    assert f"kept in {tmp_path}" in said
    assert (tmp_path / "saved_model.pth").read_bytes() == kept
    assert [row["epoch"] for row in epochs(tmp_path)] == [1]


def test_a_run_can_start_from_a_checkpoint(
    train: Train, tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    """At a learning rate of next to nothing, it ends where it started."""
    start = make_checkpoint(seed=5)
    save(tmp_path / "start.pth", start, half=False)
    status, said, _ = train(
        tmp_path / "run", "--init", tmp_path / "start.pth", "--epochs", 1, "--lr", "1e-12"
    )
    assert status == 0
    assert f"starting from {tmp_path / 'start.pth'}" in said
    found = weights(tmp_path / "run" / "saved_model.pth")
    for name, parameter in start.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach(), atol=1e-3, rtol=1e-3)


def test_frozen_stages_keep_what_they_know_and_the_others_learn(
    train: Train, tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    start = make_checkpoint(seed=5)
    save(tmp_path / "start.pth", start, half=False)
    options = ("--init", tmp_path / "start.pth", "--freeze", 2, "--epochs", 1, "--ema", 0)
    assert train(tmp_path / "run", *options)[0] == 0
    known = start.model.half().float().state_dict()  # as a checkpoint stores weights
    found = weights(tmp_path / "run" / "saved_model.pth")
    frozen = ("backbone.conv_stem.", "backbone.bn1.", "backbone.blocks.0.")
    for name, tensor in known.items():
        if name.startswith(frozen):
            torch.testing.assert_close(found[name], tensor, atol=0, rtol=1e-3, msg=name)
        elif name.endswith((".running_mean", "conv_pw.weight")):
            assert not torch.allclose(found[name], tensor, rtol=1e-3), name


def test_starting_over_removes_what_the_run_has_written_and_nothing_else(
    train: Train, tmp_path: Path
) -> None:
    assert train(tmp_path, "--epochs", 2)[0] == 0
    (tmp_path / "notes.txt").write_text("of the user")
    for options in ((), ("--fresh",)):
        said = sentence(train(tmp_path, *options, "--init", tmp_path / "saved_model.pth"))
        assert "would be written over; give another --out" in said
    assert len(epochs(tmp_path)) == 2
    assert train(tmp_path, "--epochs", 1, "--fresh")[0] == 0
    assert len(epochs(tmp_path)) == 1
    assert (tmp_path / "notes.txt").exists()


def test_two_runs_do_not_write_into_one_folder(train: Train, tmp_path: Path) -> None:
    """The second would take the first one's state for its own, and replace its best epoch."""
    with locked(tmp_path):
        said = sentence(train(tmp_path, "--epochs", 1))
    assert said == f"error: Another job writes into {tmp_path}; wait for it or give another --out."
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_came_without_its_run_is_kept(train: Train, tmp_path: Path) -> None:
    """As one does that was fetched from another machine, without the large state beside it."""
    (tmp_path / "saved_model.pth").write_bytes(b"what took a GPU an hour")
    said = sentence(train(tmp_path, "--epochs", 1))
    assert "without the last.pth to go on from; give another --out, or --fresh" in said
    assert (tmp_path / "saved_model.pth").read_bytes() == b"what took a GPU an hour"


def test_a_line_that_was_cut_off_does_not_stop_a_run(train: Train, tmp_path: Path) -> None:
    """As a full disk leaves it, the best epoch's too."""
    assert train(tmp_path, "--epochs", 1)[0] == 0
    text = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text[: len(text) // 2])
    status, said, _ = train(tmp_path, "--epochs", 1)
    assert status == 0
    assert f"best epoch 1: validation AUC {json.loads(text)['val_score']:.4f}" in said


def test_a_run_can_start_from_timms_weights(
    train: Train, tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    """A bare state dict of the backbone, whose own classifier does not fit."""
    backbone = make_checkpoint(seed=5).model.backbone.state_dict()
    torch.save(backbone | {"classifier.weight": torch.zeros(1000, 256)}, tmp_path / "timm.pth")
    options = ("--epochs", 1, "--lr", "1e-12")
    assert train(tmp_path / "run", "--init", tmp_path / "timm.pth", *options)[0] == 0
    found = weights(tmp_path / "run" / "saved_model.pth")
    name = "conv_stem.weight"
    torch.testing.assert_close(found[f"backbone.{name}"], backbone[name], atol=1e-3, rtol=1e-3)


def test_a_start_that_does_not_fit_is_refused(train: Train, tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    expected = {
        tmp_path / "none.pth": "does not exist",
        ASTRONAUT: "damaged",
        tmp_path / "list.pth": "is not a state dict",
        tmp_path / "other.pth": "weights of another network",
    }
    for path, reason in expected.items():
        said = sentence(train(tmp_path / "run", "--init", path))
        assert str(path) in said
        assert reason in said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--backbone", "efficientnet_b44"], "timm knows no backbone 'efficientnet_b44'"),
        (["--backbone", "efficientnet_b4.made_up"], "made_up"),
        (["--backbone", "test_vit", "--image-size", "65"], "--image-size 65 cannot be used"),
        (["--backbone", "test_vit", "--train-size", "50"], "--train-size 50 cannot be used"),
        (["--backbone", "crossvit_tiny_240"], "crossvit_tiny_240"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--lr", "nan"], "--lr is nan"),
        (["--workers", "-1"], "--workers is -1"),
        (["--dropout", "1"], "--dropout is 1.0"),
        (["--drop-path", "1"], "--drop-path is 1.0"),
        (["--backbone", "vgg11", "--drop-path", "0.2"], "vgg11"),
        (["--freeze", "9"], "--freeze is 9"),
        (["--image-size", "16"], "--image-size is 16; a checkpoint has 32 to 1024"),
        (["--image-size", "1280"], "--image-size is 1280"),
        (["--passes", "0"], "--passes is 0"),
        (["--mixup", "-0.2"], "--mixup is -0.2"),
        (["--pairs", "--mixup", "0.2"], "--pairs and --mixup don't go together"),
        (["--folds", "1"], "--folds is 1"),
        (["--folds", "13"], "12 group(s) of real images cannot make 13 folds"),
        (["--limit", "1"], "split holds no"),
    ],
)
def test_options_that_cannot_work_are_refused(
    train: Train, tmp_path: Path, options: list[str], reason: str
) -> None:
    assert reason in sentence(train(tmp_path, *options))
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_crop_is_named(
    train: Train, face_crops: Path, tmp_path: Path, workers: int
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")

    def one_broken(row: Row) -> Row:
        return {"path": str(broken)} if row["path"].endswith("real-3.png") else {}

    crops = copy_manifest(face_crops, tmp_path / "crops", one_broken)
    options = ("--data", crops, "--epochs", 1, "--workers", workers)
    said = sentence(train(tmp_path / "run", *options))
    assert f"{broken} cannot be read" in said


def test_a_checkpoint_holds_no_folders_of_the_machine_it_was_made_on(finished: Path) -> None:
    options = load(finished / "saved_model.pth").training["options"]
    assert "data" not in options
    assert not any("/" in str(value) for value in options.values())
