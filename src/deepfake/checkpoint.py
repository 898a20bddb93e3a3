"""``saved_model.pth``: weights that say how to use them.

A dictionary of plain types and tensors, so that ``torch.load(weights_only=True)`` reads it::

    format          "deepfake-detector/1"
    model           {backbone, image_size, dropout, cbam}
    preprocessing   {mean, std, image_size, crop_margin}
    labels          ["real", "fake"], in the order of the logits
    calibration     {temperature, threshold, uncertain, operating_points}
    metrics         validation figures of this epoch
    training        how it was trained: options, epoch, data, versions
    state_dict      weights; matrices and kernels may be float16
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepfake.errors import CheckpointError, DataError
from deepfake.model import CBAM, DeepfakeDetector

FORMAT = "deepfake-detector/1"
LABELS = ("real", "fake")
BALANCED = "balanced"  # the operating point of the threshold 0.5
DEFAULT_POINT = "fpr5-edited"  # the one that is used unless another is named
IMAGE_SIZES = 32, 1024  # the smallest and the largest side of an input, pixels


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and how often it errs, as measured on the validation split.

    Attributes:
        threshold: P(fake) above it is called fake.
        false_positive_rate: share of real photos called fake, mean over sources; None before
            calibration.
        recall: share of fakes called fake, mean over sources; None before calibration.
    """

    threshold: float
    false_positive_rate: float | None = None
    recall: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A model with all it takes to use it.

    Attributes:
        model: in eval mode, float32, on CPU.
        crop_margin: fraction of the face box's longer side to add on every side.
        temperature: logits are divided by it before the softmax (Guo et al. 2017).
        threshold: P(fake) above it is called fake before calibration, and in evaluation's tables of
            even odds; afterwards the ``point`` that was chosen has the one that serves.
        uncertain: P(fake) from the first to the second is too close to call; None if not set.
        operating_points: by name: "balanced" is 0.5, "fpr5" and "fpr1" are the thresholds that
            5 % and 1 % of the real validation photos exceed, "fpr5-edited" is the one that no more
            than 5 % exceed even when they are edited (``EDITS`` of training/calibrate.py). Empty
            before calibration.
        sha256: of the file, hexadecimal; empty when it did not come from a file.
    """

    model: DeepfakeDetector
    crop_margin: float
    temperature: float = 1.0
    threshold: float = 0.5
    uncertain: tuple[float, float] | None = None
    operating_points: Mapping[str, OperatingPoint] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def point(self, name: str) -> OperatingPoint:
        """The operating point of a name; CheckpointError when there is none.

        Two are always there: "balanced", before calibration the bare threshold, and the default
        one, which is the same until calibration finds better.
        """
        if name in self.operating_points:
            return self.operating_points[name]
        if name == DEFAULT_POINT:
            return self.point(BALANCED)
        if name == BALANCED:
            return OperatingPoint(self.threshold)
        known = ", ".join(sorted({BALANCED, *self.operating_points}))
        raise CheckpointError(f"The checkpoint has no operating point {name!r}, only {known}.")

    def band(self, name: str = DEFAULT_POINT) -> tuple[float, float] | None:
        """What is uncertain at that operating point: ``uncertain``, widened to its threshold."""
        if self.uncertain is None:
            return None
        threshold = self.point(name).threshold
        return min(self.uncertain[0], threshold), max(self.uncertain[1], threshold)


def save(path: Path, checkpoint: Checkpoint, *, half: bool = True) -> None:
    """Write a checkpoint, in one step: a kill or a full disk leaves the old file or the new one.

    Args:
        half: store matrices and kernels as float16 (half the size). Biases and the running
            statistics of normalisation layers stay float32: a variance can exceed float16.

    Raises:
        OSError: it cannot be written.
    """
    model = checkpoint.model
    content = {
        "format": FORMAT,
        "model": {
            "backbone": model.backbone_name,
            "image_size": model.image_size,
            "dropout": model.dropout,
            "cbam": isinstance(model.cbam, CBAM),
        },
        "preprocessing": {
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "image_size": model.image_size,
            "crop_margin": checkpoint.crop_margin,
        },
        "labels": list(LABELS),
        "calibration": {
            "temperature": checkpoint.temperature,
            "threshold": checkpoint.threshold,
            "uncertain": checkpoint.uncertain and list(checkpoint.uncertain),
            "operating_points": {k: asdict(v) for k, v in checkpoint.operating_points.items()},
        },
        "metrics": _plain(checkpoint.metrics),
        "training": _plain(checkpoint.training),
        "state_dict": {k: _stored(v, half) for k, v in model.state_dict().items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, content)


def write(path: Path, content: Any) -> None:
    """``torch.save`` in one step: a kill or a full disk leaves the old file or the new one.

    Raises:
        OSError: it cannot be written; nothing is left of the attempt, which may have filled a disk.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:  # given a path, PyTorch hides why it failed
            torch.save(content, file)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch may say that a position is not as expected
        part.unlink(missing_ok=True)
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise OSError(reason.errno, reason.strerror, str(path)) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; the hub is never asked for anything.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or not one of ours.
    """
    content = _read(path)
    try:
        preprocessing, calibration = content["preprocessing"], content["calibration"]
        if content["labels"] != list(LABELS):
            raise ValueError(f"its labels are {content['labels']}, not {list(LABELS)}")
        described = content["model"]
        if unknown := set(described) - {"backbone", "image_size", "dropout", "cbam"}:
            raise ValueError(f"its model has {min(unknown)!r}, which is not known")
        side = described.get("image_size", 224)
        if not isinstance(side, int):
            raise ValueError(f"its image size is {side!r}, not a whole number")
        _number("image size", side, *IMAGE_SIZES)
        model = DeepfakeDetector(**described)
        if preprocessing.get("image_size", model.image_size) != model.image_size:
            raise ValueError("its model and its preprocessing have different image sizes")
        model.load_state_dict({k: v.float() for k, v in content["state_dict"].items()})
        for name in ("mean", "std"):
            getattr(model, name).copy_(torch.tensor(preprocessing[name]).view(1, 3, 1, 1))
        for name, tensor in (*model.state_dict().items(), ("mean", model.mean), ("std", model.std)):
            if not tensor.isfinite().all():
                raise ValueError(f"its {name} has values that are no numbers")
        if not (model.std > 0).all():
            raise ValueError(f"its std is {model.std.flatten().tolist()}, not above 0")
        return Checkpoint(
            model=model.eval(),
            crop_margin=_number("crop margin", preprocessing["crop_margin"], 0, 10),
            temperature=_number("temperature", calibration["temperature"], 1e-3, 1e3),
            threshold=_number("threshold", calibration["threshold"], 0, 1),
            uncertain=_band(calibration.get("uncertain")),
            operating_points={
                name: _point(name, values)
                for name, values in (calibration.get("operating_points") or {}).items()
            },
            metrics=content["metrics"],
            training=content["training"],
            sha256=sha256(path),
        )
    except (*_MISFITS, DataError) as error:
        reason = _reason(error)
        raise CheckpointError(f"{path} does not fit its own description: {reason}.") from error


_MISFITS = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError)


def _reason(error: Exception) -> str:
    """One sentence of it. PyTorch's first line only says that something did not fit."""
    lines = [line.strip() for line in str(error).splitlines()] or [""]
    told = lines[1] if lines[0].startswith("Error(s) in loading") and lines[1:] else lines[0]
    return told.rstrip(".: ")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, expected: str) -> None:
    """Refuse a file that is not the one whose digest was written down.

    Args:
        expected: its SHA-256, hexadecimal.

    Raises:
        CheckpointError: the file is missing, damaged, or another one.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; build the archive anew.")
    found = sha256(path)
    if not hmac.compare_digest(found, expected.strip().lower()):
        raise CheckpointError(
            f"{path.name} is not the file that was archived: its SHA-256 is {found}, not "
            f"{expected}. It is damaged or was exchanged, so it was not loaded."
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; train one or name another checkpoint.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler fails in a dozen types on bytes that are no pickle
        raise CheckpointError(
            f"{path} is damaged or holds more than weights, so it was not loaded."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a {FORMAT} checkpoint; to start training from bare weights, "
            "use --init instead."
        )
    return content


def _number(name: str, value: Any, low: float, high: float) -> float:
    if not isinstance(value, int | float) or not low <= value <= high:  # NaN is neither
        raise ValueError(f"its {name} is {value!r}, not a number from {low} to {high}")
    return float(value)


def _point(name: str, values: Mapping[str, Any]) -> OperatingPoint:
    point = OperatingPoint(**values)
    _number(f"threshold {name}", point.threshold, 0, 1)
    for share in (point.false_positive_rate, point.recall):
        if share is not None:
            _number(f"share of errors at {name}", share, 0, 1)
    return point


def _band(values: Any) -> tuple[float, float] | None:
    if values is None:
        return None
    low, high = (float(v) for v in values)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"its uncertain band is {low} to {high}")
    return low, high


def _plain(values: Mapping[str, Any]) -> Any:
    """As plain types: NumPy's, which look alike, would not load with weights_only."""
    return json.loads(json.dumps(dict(values)))


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu()
    return value.half() if half and value.ndim >= 2 else value.clone()
