"""Focal loss, also of pictures that were mixed in pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """FL(p_t) = -alpha (1 - p_t)^gamma log p_t, averaged over the batch.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 5.

    Args:
        logits: (N, classes), any float dtype; computed in float32.
        labels: (N,) int64 class indices.
        alpha: one weight for all classes: they are balanced before training.
        gamma: how far well-classified examples are turned down; 0 is cross-entropy.

    Returns:
        A scalar, >= 0.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    log_pt = log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
    miss = torch.expm1(log_pt).neg().clamp(min=1e-20)  # below gamma 1, no gradient at 0
    return (-alpha * miss.pow(gamma) * log_pt).mean()


def mixed(pictures: Tensor, share: float) -> Tensor:
    """mixup (Zhang et al., ICLR 2018): so much of each picture, the rest of its partner.

    Args:
        pictures: (N, ...) float in random order; the partner of the first is the last.
        share: 0 to 1.
    """
    return pictures.lerp(pictures.flip(0), 1 - share)


def mixed_focal_loss(
    logits: Tensor, labels: Tensor, share: float, alpha: float, gamma: float
) -> Tensor:
    """The focal loss of ``mixed`` pictures: so much of that of their own labels, the rest of the
    partners'."""
    own = focal_loss(logits, labels, alpha, gamma)
    return own.lerp(focal_loss(logits, labels.flip(0), alpha, gamma), 1 - share)
