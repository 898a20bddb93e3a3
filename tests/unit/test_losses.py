"""Focal loss against its formula, in float64, and mixup."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.losses import focal_loss, mixed, mixed_focal_loss


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 2, generator=generator) * 3
    return logits, torch.randint(0, 2, (64,), generator=generator)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_focal_loss_follows_its_formula(
    batch: tuple[torch.Tensor, torch.Tensor], alpha: float, gamma: float
) -> None:
    logits, labels = batch
    powers = np.exp(logits.double().numpy())
    p_true = powers[np.arange(64), labels.numpy()] / powers.sum(axis=1)
    expected = np.mean(-alpha * (1 - p_true) ** gamma * np.log(p_true))
    assert float(focal_loss(logits, labels, alpha, gamma)) == pytest.approx(expected, rel=1e-5)


def test_without_focus_and_weight_it_is_cross_entropy(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    ours, theirs = focal_loss(*batch, alpha=1.0, gamma=0.0), F.cross_entropy(*batch)
    torch.testing.assert_close(ours, theirs)


def test_defaults_are_those_of_the_paper(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert torch.equal(focal_loss(*batch), focal_loss(*batch, alpha=0.25, gamma=2.0))


def test_focus_turns_easy_examples_down_more_than_hard_ones() -> None:
    label = torch.tensor([1])
    easy, hard = torch.tensor([[-2.0, 2.0]]), torch.tensor([[2.0, -2.0]])
    kept = [
        float(focal_loss(x, label, 1.0, 2.0) / focal_loss(x, label, 1.0, 0.0)) for x in (easy, hard)
    ]
    assert kept[0] < 0.001
    assert kept[1] > 0.9


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
def test_gradient_is_finite_however_sure_the_network_is(gamma: float, size: float) -> None:
    logits = torch.tensor([[size, -size], [-size, size], [0.0, 0.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0, 1]), gamma=gamma)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1].abs().max() > 0  # the one that is wrong is still pulled


def test_half_precision_logits_are_computed_in_full() -> None:
    logits = torch.tensor([[7.0, -7.0]])
    label = torch.tensor([0])
    assert focal_loss(logits.bfloat16(), label) == focal_loss(logits, label) > 0


def test_mixed_pictures_are_judged_by_both_labels_as_far_as_each_is_in_them() -> None:
    black, white = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    pictures = mixed(torch.cat([black, white]), 0.75)
    assert pictures[0].unique().tolist() == [0.25]
    assert pictures[1].unique().tolist() == [0.75]
    p = [0.9, 0.2]  # of fake
    logits, labels = torch.tensor([[1 - q, q] for q in p]).log(), torch.tensor([1, 0])
    entropies = [-0.75 * np.log(0.9) - 0.25 * np.log(0.1), -0.75 * np.log(0.8) - 0.25 * np.log(0.2)]
    found = mixed_focal_loss(logits, labels, 0.75, alpha=1.0, gamma=0.0)
    assert float(found) == pytest.approx(np.mean(entropies), rel=1e-5)
