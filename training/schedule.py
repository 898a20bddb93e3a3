"""What changes over a training: learning rate, size of the crops, average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from deepfake.model import DeepfakeDetector


def average_of(model: DeepfakeDetector, decay: float) -> AveragedModel:
    """Exponential moving average of a model's weights and running statistics.

    The first steps count for more, or the random start would be remembered: the decay of step n
    is min(decay, (1 + n) / (10 + n)). With decay 0 it is the model itself, as it is.
    """

    def update(average: Any, current: Any, step: Any) -> None:
        n = int(step)
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, 1 - min(decay, (1 + n) / (10 + n)))
        else:  # counters
            torch._foreach_copy_(average, current)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def side(epoch: int, epochs: int, first: int, last: int) -> int:
    """Side of an epoch's crops in pixels: from ``first`` to ``last`` evenly, in steps of 16."""
    if epoch >= epochs:
        return last
    return first + round((last - first) * (epoch - 1) / (epochs - 1) / 16) * 16


def lr_factor(step: int, warmup: float, total: int) -> float:
    """Share of the full learning rate: a linear warm-up, then half a cosine down to zero."""
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
