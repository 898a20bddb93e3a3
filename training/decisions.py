"""What a threshold and an uncertain band do to the answers.

Everywhere: ``labels`` (N,) int, 0 real, 1 fake; ``p_fake`` (N,) float in [0, 1]; ``sources`` (N,)
of names. Shares are means over sources, so that a large source counts no more than a small one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.checkpoint import OperatingPoint
from training.scores import Floats, Ints


def operating_point(
    labels: Ints, p_fake: Floats, sources: NDArray[Any], threshold: float
) -> OperatingPoint:
    """A threshold with what it does to these photos."""
    return OperatingPoint(threshold, *rates(labels, p_fake, sources, threshold))


def rates(
    labels: Ints, p_fake: Floats, sources: NDArray[Any], threshold: float
) -> tuple[float, float]:
    """Shares of the real photos and of the fakes that lie above a threshold."""
    called = p_fake > threshold
    return (
        mean_over_cells(called, labels == 0, sources),
        mean_over_cells(called, labels == 1, sources),
    )


def threshold_at(labels: Ints, p_fake: Floats, sources: NDArray[Any], rate: float) -> float:
    """The lowest threshold at which the mean false-positive rate over sources is at most ``rate``.

    It lies on the P(fake) of a real photo, which is then not called fake.
    """
    candidates = np.unique(p_fake[labels == 0])
    low, high = 0, len(candidates) - 1  # at the highest no real photo is called fake
    while low < high:
        middle = (low + high) // 2
        if mean_over_cells(p_fake > candidates[middle], labels == 0, sources) <= rate:
            high = middle
        else:
            low = middle + 1
    return float(candidates[low])


def risk_coverage(
    labels: Ints, p_fake: Floats, sources: NDArray[Any]
) -> tuple[Floats, Floats, Floats]:
    """Half-width of the band, share of photos outside it, share of errors among those.

    Shares are means over sources; a source with no photo outside the band has no share of errors,
    and where that is true of all of them it is NaN.
    """
    wrong = (p_fake > 0.5) != (labels == 1)
    widths = np.linspace(0, 0.49, 99)
    outside = [(p_fake < 0.5 - width) | (p_fake > 0.5 + width) for width in widths]
    everything = np.ones(len(labels), dtype=bool)
    coverage = [mean_over_cells(chosen, everything, sources) for chosen in outside]
    risk = [mean_over_cells(wrong, chosen, sources) for chosen in outside]
    return widths, np.array(coverage), np.array(risk)


def uncertain_band(
    labels: Ints, p_fake: Floats, sources: NDArray[Any], max_risk: float, min_coverage: float = 0.7
) -> tuple[float, float]:
    """The narrowest band around 0.5 outside which at most ``max_risk`` of the answers are wrong.

    Where that would leave fewer than ``min_coverage`` of the photos with an answer, the widest
    band that does not.
    """
    widths, coverage, risk = risk_coverage(labels, p_fake, sources)
    wanted = np.flatnonzero(risk <= max_risk)
    allowed = np.flatnonzero(coverage >= min_coverage)
    last = int(allowed[-1]) if len(allowed) else 0
    chosen = min(int(wanted[0]), last) if len(wanted) else last
    return float(0.5 - widths[chosen]), float(0.5 + widths[chosen])


def mean_over_cells(values: NDArray[Any], among: NDArray[Any], sources: NDArray[Any]) -> float:
    """Mean of the values among some photos, per source, then over the sources that have any.

    NaN where none has.
    """
    cells = [values[among & (sources == s)] for s in np.unique(sources)]
    known = [float(c.mean()) for c in cells if len(c)]
    return float(np.mean(known)) if known else math.nan
