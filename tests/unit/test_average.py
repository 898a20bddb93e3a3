"""The moving average of the weights that is validated and kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from deepfake.checkpoint import Checkpoint
from training.schedule import average_of

Make = Callable[..., Checkpoint]


def values(module: torch.nn.Module) -> list[torch.Tensor]:
    return [v.clone() for v in module.state_dict().values()]


def test_without_a_decay_it_is_the_model_itself(make_checkpoint: Make) -> None:
    model = make_checkpoint(seed=1).model
    average = average_of(model, 0.0)
    for seed in (2, 3, 4):
        model.load_state_dict(make_checkpoint(seed=seed).model.state_dict())
        average.update_parameters(model)
        assert all(map(torch.equal, values(average.module), values(model)))


def test_it_follows_slowly_and_remembers_little_of_the_start(make_checkpoint: Make) -> None:
    """After the formula: step n keeps min(decay, (1 + n) / (10 + n)) of what was."""
    model, target = make_checkpoint(seed=1).model, make_checkpoint(seed=2).model
    average = average_of(model, 0.9)
    average.update_parameters(model)  # the first sets it
    weight = model.head[0].weight
    expected = weight.detach().clone()
    model.load_state_dict(target.state_dict())
    for n in range(1, 120):
        average.update_parameters(model)
        keep = min(0.9, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * weight.detach()
        torch.testing.assert_close(average.module.head[0].weight.detach(), expected)
    torch.testing.assert_close(expected, weight.detach(), atol=1e-3, rtol=1e-3)


def test_running_statistics_are_averaged_and_counters_copied(make_checkpoint: Make) -> None:
    model = make_checkpoint(seed=1).model
    average = average_of(model, 0.5)
    average.update_parameters(model)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    theirs = [m for m in average.module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = norms[0].running_mean.clone()
    norms[0].running_mean += 8
    norms[0].num_batches_tracked += 3
    average.update_parameters(model)
    keep = 2 / 11  # the second step, below the decay
    torch.testing.assert_close(theirs[0].running_mean, before + 8 * (1 - keep))
    assert theirs[0].num_batches_tracked == norms[0].num_batches_tracked


def test_the_model_is_not_touched(make_checkpoint: Make) -> None:
    model = make_checkpoint(seed=1).model
    average, before = average_of(model, 0.9), values(model)
    average.update_parameters(model)
    with torch.no_grad():
        average.module.head[0].weight.zero_()
    assert all(map(torch.equal, values(model), before))
    assert model.head[0].weight.abs().sum() > 0


@pytest.mark.parametrize("decay", [0.0, 0.998])
def test_its_state_goes_on_where_it_was(make_checkpoint: Make, decay: float) -> None:
    steps = [make_checkpoint(seed=s).model for s in range(1, 6)]
    whole, first = average_of(steps[0], decay), average_of(steps[0], decay)
    for model in steps:
        whole.update_parameters(model)
    for model in steps[:2]:
        first.update_parameters(model)
    resumed = average_of(steps[4], decay)
    resumed.load_state_dict(first.state_dict())
    for model in steps[2:]:
        resumed.update_parameters(model)
    assert all(map(torch.equal, values(whole.module), values(resumed.module)))
