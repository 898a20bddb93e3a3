"""saved_model.pth: what it remembers, and that nothing else is taken for one."""

from __future__ import annotations

import hashlib
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepfake.checkpoint import (
    DEFAULT_POINT,
    Checkpoint,
    OperatingPoint,
    load,
    save,
    sha256,
    verify,
)
from deepfake.errors import CheckpointError
from deepfake.model import DeepfakeDetector
from tests.conftest import ROOT, TINY

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture
def saved(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Path:
    path = tmp_path / "runs" / "saved_model.pth"
    save(path, make_checkpoint())
    return path


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    size = checkpoint.model.image_size
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (4, 3, size, size), dtype=np.uint8)
    )
    with torch.inference_mode():
        return checkpoint.model(checkpoint.model.preprocess(pixels))


def test_full_precision_gives_the_very_same_answers(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    checkpoint = make_checkpoint()
    save(tmp_path / "a.pth", checkpoint, half=False)
    assert torch.equal(logits(load(tmp_path / "a.pth")), logits(checkpoint))


def test_half_precision_gives_nearly_the_same_in_half_the_space(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    checkpoint = make_checkpoint()
    save(tmp_path / "full.pth", checkpoint, half=False)
    save(tmp_path / "half.pth", checkpoint)
    halved = logits(load(tmp_path / "half.pth"))
    torch.testing.assert_close(halved, logits(checkpoint), atol=0.02, rtol=0.02)
    assert not torch.equal(halved, logits(checkpoint))
    sizes = [(tmp_path / name).stat().st_size for name in ("half.pth", "full.pth")]
    assert sizes[0] < 0.6 * sizes[1]


def test_large_running_variances_survive_half_precision(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    """They can exceed what float16 holds."""
    checkpoint = make_checkpoint()
    name = next(k for k in checkpoint.model.state_dict() if k.endswith("running_var"))
    checkpoint.model.state_dict()[name].fill_(1e6)
    save(tmp_path / "a.pth", checkpoint)
    assert (load(tmp_path / "a.pth").model.state_dict()[name] == 1e6).all()


def test_a_loaded_model_is_ready_for_use(saved: Path) -> None:
    model = load(saved).model
    assert not any(module.training for module in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_checkpoint_says_how_to_use_it(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    options = {"crop_margin": 0.35, "temperature": 1.25, "threshold": 0.625}
    checkpoint = make_checkpoint(image_size=96, **options)
    checkpoint.model.mean.copy_(torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
    checkpoint.model.std.copy_(torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
    checkpoint.model.dropout = 0.125
    save(tmp_path / "a.pth", checkpoint)
    loaded = load(tmp_path / "a.pth")
    assert {name: getattr(loaded, name) for name in options} == options
    assert (loaded.model.backbone_name, loaded.model.image_size) == (TINY, 96)
    assert loaded.model.head[2].p == 0.125
    torch.testing.assert_close(loaded.model.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(loaded.model.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))


def test_operating_points_and_the_uncertain_band_survive(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    points = {"balanced": OperatingPoint(0.5, 0.125, 0.9), "fpr1": OperatingPoint(0.875, 0.01, 0.5)}
    checkpoint = replace(make_checkpoint(), uncertain=(0.375, 0.625), operating_points=points)
    save(tmp_path / "a.pth", checkpoint)
    loaded = load(tmp_path / "a.pth")
    assert loaded.uncertain == (0.375, 0.625)
    assert loaded.operating_points == points
    assert loaded.point("fpr1") == points["fpr1"]


def test_a_network_without_attention_is_loaded_without_it(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    torch.manual_seed(0)
    model = DeepfakeDetector(TINY, 64, cbam=False).eval()
    plain = replace(make_checkpoint(), model=model)
    save(tmp_path / "a.pth", plain, half=False)
    loaded = load(tmp_path / "a.pth")
    assert not [name for name in loaded.model.state_dict() if name.startswith("cbam")]
    assert torch.equal(logits(loaded), logits(plain))


def test_an_uncalibrated_checkpoint_has_only_the_bare_threshold(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    save(tmp_path / "a.pth", make_checkpoint(threshold=0.625))
    loaded = load(tmp_path / "a.pth")
    assert loaded.uncertain is None
    assert loaded.point("balanced") == OperatingPoint(0.625, None, None)
    assert loaded.point(DEFAULT_POINT) == loaded.point("balanced")
    with pytest.raises(CheckpointError, match="no operating point 'fpr1', only balanced"):
        loaded.point("fpr1")


def test_a_checkpoint_from_before_these_settings_still_loads(
    saved: Path, make_checkpoint: MakeCheckpoint
) -> None:
    content = torch.load(saved, weights_only=True)
    model = {name: content["model"][name] for name in ("backbone", "image_size", "dropout")}
    rewrite(saved, model=model, calibration={"temperature": 1.25, "threshold": 0.625})
    loaded = load(saved)
    assert (loaded.temperature, loaded.uncertain) == (1.25, None)
    assert loaded.point("balanced") == OperatingPoint(0.625)
    torch.testing.assert_close(logits(loaded), logits(make_checkpoint()), atol=0.02, rtol=0.02)


def test_others_can_read_it_without_this_package(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert content["labels"] == ["real", "fake"]
    assert content["model"]["backbone"] == TINY
    assert all(isinstance(v, torch.Tensor) for v in content["state_dict"].values())


def test_the_checksum_is_that_of_the_file(saved: Path) -> None:
    expected = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert load(saved).sha256 == sha256(saved) == expected


def test_a_file_is_verified_before_it_is_opened(saved: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    verify(saved, digest)
    verify(saved, f"{digest.upper()}\n")  # as people paste it
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not the file that was archived") as caught:
        verify(saved, digest)
    assert digest in str(caught.value)
    with pytest.raises(CheckpointError, match="does not exist"):
        verify(tmp_path / "none.pth", digest)


def test_numpy_numbers_among_the_metrics_survive(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    """Scores come as NumPy's floats, which are floats but would not load."""
    made = make_checkpoint()
    metrics = {"auc": np.float64(0.75), "by_source": {"a": np.float64(0.5)}}
    save(tmp_path / "a.pth", Checkpoint(made.model, 0.2, metrics=metrics, training={"epoch": 3}))
    loaded = load(tmp_path / "a.pth")
    assert loaded.metrics == {"auc": 0.75, "by_source": {"a": 0.5}}
    assert type(loaded.metrics["auc"]) is float
    assert loaded.training == {"epoch": 3}


def refusal(path: Path) -> str:
    """The one sentence, naming the file, with which a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.pth")
    assert "does not exist" in refusal(tmp_path)  # a folder


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"hello, world\n" * 9, b"PK\x03\x04 no zip"])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    assert "damaged" in refusal(path)


def test_any_bytes_are_refused(tmp_path: Path) -> None:
    """The unpickler takes some bytes for instructions and fails in many ways."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.pth"
    for _ in range(100):
        path.write_bytes(rng.integers(0, 256, int(rng.integers(1, 300)), dtype=np.uint8).tobytes())
        assert "damaged" in refusal(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_off_file_is_refused(saved: Path, share: float) -> None:
    blob = saved.read_bytes()
    saved.write_bytes(blob[: int(len(blob) * share)])
    assert "damaged" in refusal(saved)


@pytest.mark.parametrize(
    "content", [{"conv.weight": torch.zeros(3)}, torch.zeros(3), [1, 2], {"format": "other/1"}]
)
def test_a_foreign_file_is_refused_with_a_hint(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert "--init" in refusal(tmp_path / "a.pth")


class Payload:
    """Unpickled without care, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(saved: Path, tmp_path: Path, write: str) -> None:
    trace = tmp_path / "trace"
    content = torch.load(saved, weights_only=True) | {"metrics": Payload(trace)}
    if write == "torch":
        torch.save(content, saved)
        torch.load(saved, weights_only=False)
    else:
        saved.write_bytes(pickle.dumps(content))
        pickle.loads(saved.read_bytes())
    trace.rmdir()  # it was there: the payload works
    assert "more than weights" in refusal(saved)
    assert not trace.exists()


def rewrite(path: Path, **changes: Any) -> None:
    torch.save(torch.load(path, weights_only=True) | changes, path)


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    weights = torch.load(saved, weights_only=True)["state_dict"]
    rewrite(saved, state_dict=weights | {"head.3.weight": torch.zeros(3, 512)})
    said = refusal(saved)
    assert "does not fit its own description" in said
    assert "head.3.weight" in said


def test_weights_that_are_no_numbers_are_refused(saved: Path) -> None:
    """Or every photo would get an internal error, and the service be called ready."""
    weights = torch.load(saved, weights_only=True)["state_dict"]
    spoilt = weights["head.3.weight"].clone()
    spoilt[1, 7] = float("nan")
    rewrite(saved, state_dict=weights | {"head.3.weight": spoilt})
    assert "head.3.weight has values that are no numbers" in refusal(saved)


CALIBRATION = {"temperature": 1.0, "threshold": 0.5}
BAD_BANDS = [
    [0, 10**400],
    [0.6, 0.4],
    [-0.1, 0.5],
    [0.5, 1.1],
    [float("nan"), 0.5],
    [0.5],
    ["low", "high"],
    0.5,
]
BAD_POINTS = [
    {"fpr1": {}},
    {"fpr1": 0.9},
    {"fpr1": {"threshold": 0.9, "colour": 1}},
    {"fpr1": {"threshold": 1.5}},
    {"fpr1": {"threshold": "0.9"}},
    {"fpr1": {"threshold": 0.9, "false_positive_rate": 7}},
    [0.5, 0.9],
]
BAD_NUMBERS = [
    *({"threshold": value} for value in (1.5, -1, float("nan"), "0.5")),
    *({"temperature": value} for value in (0, -1, float("nan"), None)),
]


@pytest.mark.parametrize(
    "changes",
    [
        {"state_dict": {}},
        {"state_dict": {"head.3.bias": 1}},
        {"model": {"backbone": "no_such_net", "image_size": 64, "dropout": 0.5}},
        {"model": {"backbone": TINY, "sides": 64}},
        {"model": {"backbone": TINY, "image_size": 64, "pretrained": True}},  # asks the hub
        {"model": {"backbone": TINY, "image_size": 128}},  # not that of the preprocessing
        {"model": None},
        {"preprocessing": {"mean": [0.5, 0.5], "std": [1, 1, 1], "crop_margin": 0.2}},
        *({"model": {"backbone": TINY, "image_size": side}} for side in (0, -5, "64", 10**9, 64.0)),
        *(
            {"preprocessing": {"mean": [0.5] * 3, "crop_margin": 0.2, "std": std}}
            for std in ([0, 0, 0], [1, -1, 1], [1, float("nan"), 1])
        ),
        {"preprocessing": {"mean": [float("inf")] * 3, "std": [1] * 3, "crop_margin": 0.2}},
        {"preprocessing": {}},
        {"preprocessing": {"mean": [0.5] * 3, "std": [1] * 3, "crop_margin": -3}},
        *({"calibration": CALIBRATION | values} for values in BAD_NUMBERS),
        *({"calibration": CALIBRATION | {"uncertain": band}} for band in BAD_BANDS),
        *({"calibration": CALIBRATION | {"operating_points": points}} for points in BAD_POINTS),
    ],
    ids=lambda changes: f"{changes}"[:99],
)
def test_a_description_that_does_not_fit_is_refused(saved: Path, changes: dict[str, Any]) -> None:
    rewrite(saved, **changes)
    assert "does not fit its own description" in refusal(saved)


def test_a_reversed_band_is_named_in_the_refusal(saved: Path) -> None:
    rewrite(saved, calibration=CALIBRATION | {"uncertain": [0.6, 0.4]})
    assert "uncertain band is 0.6 to 0.4" in refusal(saved)


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_that_breaks_off_leaves_the_old_file(
    saved: Path, make_checkpoint: MakeCheckpoint
) -> None:
    before = saved.read_bytes()
    with small_disk(len(before) // 2), pytest.raises(OSError, match="File too large") as caught:
        save(saved, make_checkpoint(seed=1))
    assert caught.value.filename == str(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]  # what was begun would keep the disk full
    save(saved, make_checkpoint(seed=1))
    assert saved.read_bytes() != before
    assert load(saved).model.image_size == 64


def test_swapped_labels_are_refused_instead_of_answered_the_wrong_way_round(
    tmp_path: Path,
) -> None:
    content = torch.load(ROOT / "saved_model.pth", weights_only=True)
    content["labels"] = ["fake", "real"]
    torch.save(content, tmp_path / "swapped.pth")
    with pytest.raises(CheckpointError, match="labels"):
        load(tmp_path / "swapped.pth")
