"""Thresholds and the uncertain band, on answers that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.decisions import operating_point, risk_coverage, threshold_at, uncertain_band

Data = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.str_]]


@pytest.fixture
def two_sources() -> Data:
    """Source a: 10 reals at 0.05 ... 0.95, 10 fakes; b: 2 reals and 2 fakes, told apart."""
    steps = np.linspace(0.05, 0.95, 10)
    p_fake = np.concatenate([steps, steps + 0.04, [0.1, 0.2, 0.8, 0.9]])
    labels = np.array([0] * 10 + [1] * 10 + [0, 0, 1, 1])
    return labels, p_fake, np.array(["a"] * 20 + ["b"] * 4)


def test_an_operating_point_counts_each_source_alike(two_sources: Data) -> None:
    point = operating_point(*two_sources, 0.5)
    assert point.threshold == 0.5
    assert point.false_positive_rate == pytest.approx((5 / 10 + 0 / 2) / 2)
    assert point.recall == pytest.approx((5 / 10 + 2 / 2) / 2)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (0.0, 0.95),
        (0.05, 0.85),  # one of ten reals of a is 0.1 there, 0.05 in the mean
        (0.10, 0.75),
        (0.5, 0.2),  # eight of a's, none of b's: 0.4; with one of b's it would be 0.65
        (1.0, 0.05),
    ],
)
def test_the_lowest_threshold_that_keeps_the_rate_is_found(
    two_sources: Data, rate: float, expected: float
) -> None:
    labels, p_fake, sources = two_sources
    threshold = threshold_at(labels, p_fake, sources, rate)
    assert operating_point(labels, p_fake, sources, threshold).false_positive_rate <= rate
    lower = [p for p in p_fake[labels == 0] if p < threshold]
    if lower:
        just_below = operating_point(labels, p_fake, sources, max(lower))
        assert just_below.false_positive_rate > rate
    assert threshold == pytest.approx(expected)


def test_errors_become_rarer_the_wider_the_band() -> None:
    """Answers whose errors all lie near 0.5."""
    p_fake = np.array([0.1, 0.2, 0.45, 0.55, 0.8, 0.9])
    labels = np.array([0, 0, 1, 0, 1, 1])
    widths, coverage, risk = risk_coverage(labels, p_fake, np.array(["a"] * 6))
    assert (coverage[0], risk[0]) == (1, pytest.approx(2 / 6))
    beyond = widths > 0.06
    assert (risk[beyond & (coverage > 0)] == 0).all()
    assert coverage[np.flatnonzero(beyond)[0]] == pytest.approx(4 / 6)
    assert (np.diff(coverage) <= 0).all()


def test_the_band_is_the_narrowest_that_keeps_the_risk() -> None:
    p_fake = np.array([0.1] * 8 + [0.45] + [0.9] * 8 + [0.62])
    labels = np.array([0] * 8 + [1] + [1] * 8 + [0])
    sources = np.array(["a"] * 18)
    assert uncertain_band(labels, p_fake, sources, max_risk=0.2) == (0.5, 0.5)
    low, high = uncertain_band(labels, p_fake, sources, max_risk=1 / 17)
    assert (low, high) == (pytest.approx(0.45), pytest.approx(0.55))  # the 0.45 lies on its edge
    low, high = uncertain_band(labels, p_fake, sources, max_risk=0.0)
    assert (low, high) == (pytest.approx(0.38), pytest.approx(0.62))  # so does the 0.62


def test_the_band_never_swallows_most_photos() -> None:
    """A detector that guesses would have to be silent: it is, on no more than three in ten."""
    rng = np.random.default_rng(0)
    labels, p_fake = rng.integers(0, 2, 1000), rng.uniform(0, 1, 1000)
    low, high = uncertain_band(labels, p_fake, np.array(["a"] * 1000), max_risk=0.01)
    assert 0.25 < high - low < 0.33
    assert ((p_fake < low) | (p_fake > high)).mean() >= 0.7
