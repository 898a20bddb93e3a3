"""The learning rate over a run."""

from __future__ import annotations

import math

import pytest

from training.schedule import lr_factor, side


def test_it_warms_up_in_equal_steps_and_reaches_the_full_rate() -> None:
    assert [lr_factor(step, 5, 100) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])


def test_it_then_falls_as_half_a_cosine_to_zero() -> None:
    assert lr_factor(10, 10, 110) == pytest.approx(1)
    assert lr_factor(60, 10, 110) == pytest.approx(0.5)
    assert lr_factor(10 + 25, 10, 110) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert lr_factor(109, 10, 110) < 0.001
    assert lr_factor(110, 10, 110) == pytest.approx(0)


@pytest.mark.parametrize("warmup", [0, 0.5, 2.5, 7, 50, 60])
def test_it_stays_between_nothing_and_the_full_rate(warmup: float) -> None:
    factors = [lr_factor(step, warmup, 50) for step in range(50)]
    assert min(factors) >= 0
    assert max(factors) <= 1
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_without_warmup_it_starts_in_full() -> None:
    assert lr_factor(0, 0, 50) == 1


def test_crops_grow_from_the_first_epoch_to_the_last() -> None:
    sides = [side(epoch, 8, 128, 192) for epoch in range(1, 9)]
    assert sides[0] == 128
    assert sides[-1] == 192
    assert sides == sorted(sides)
    assert set(sides) == {128, 144, 160, 176, 192}


def test_crops_keep_the_side_that_was_asked_for() -> None:
    assert [side(epoch, 3, 150, 150) for epoch in range(1, 4)] == [150] * 3
    assert side(1, 1, 128, 150) == 150  # a single epoch is the last one
    assert side(2, 2, 128, 150) == 150
