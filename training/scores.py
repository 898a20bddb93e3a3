"""Figures of a binary detector, and their bootstrap intervals.

Everywhere: ``labels`` (N,) int, 0 real, 1 fake; ``p_fake`` (N,) float in [0, 1]. Precision,
recall and F1 are of the class fake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit
from sklearn import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LOG_T = (float(np.log(0.05)), float(np.log(20)))  # of the temperature, to look between

SCORES = ("accuracy", "roc_auc", "precision", "recall", "f1", "ap", "eer", "ece")


def scores(
    labels: Ints, p_fake: Floats, threshold: float = 0.5, keys: Sequence[str] = SCORES
) -> dict[str, float]:
    """Those of ``SCORES`` that are asked for; NaN what says nothing without a class that lacks."""
    predicted = (p_fake > threshold).astype(np.int64)
    fakes, called = int(labels.sum()), int(predicted.sum())
    both = 0 < fakes < len(labels)
    true_positive = int(((predicted == 1) & (labels == 1)).sum())
    precision, recall = true_positive / max(1, called), true_positive / max(1, fakes)
    of_any = {
        "accuracy": lambda: float((predicted == labels).mean()),
        "ece": lambda: expected_calibration_error(labels, p_fake),
    }
    of_fakes = {"recall": lambda: recall}
    of_both = {
        "roc_auc": lambda: float(metrics.roc_auc_score(labels, p_fake)),
        "precision": lambda: precision,
        "f1": lambda: 2 * precision * recall / max(precision + recall, 1e-12),
        "ap": lambda: float(metrics.average_precision_score(labels, p_fake)),
        "eer": lambda: equal_error_rate(labels, p_fake),
    }
    known = of_any | (of_fakes if fakes else {}) | (of_both if both else {})
    return {key: known[key]() if key in known else float("nan") for key in keys}


def confusion(labels: Ints, p_fake: Floats, threshold: float = 0.5) -> list[list[int]]:
    """[[real called real, real called fake], [fake called real, fake called fake]]."""
    table = metrics.confusion_matrix(labels, p_fake > threshold, labels=[0, 1])
    return [[int(v) for v in row] for row in table]


def equal_error_rate(labels: Ints, p_fake: Floats) -> float:
    """The error rate at the threshold where false positives and false negatives are alike."""
    # All points: those left out by default may be where the two meet.
    fpr, tpr, _ = metrics.roc_curve(labels, p_fake, drop_intermediate=False)
    fnr = 1 - tpr
    i = int(np.argmin(np.abs(fnr - fpr)))
    return float((fpr[i] + fnr[i]) / 2)


def expected_calibration_error(labels: Ints, p_fake: Floats, bins: int = 15) -> float:
    """ECE of P(fake): mean |share of fakes - mean P(fake)| over equal-width bins, by size.

    After Naeini et al. 2015 and Guo et al. 2017, of the probability of one class.
    """
    index = np.minimum((p_fake * bins).astype(int), bins - 1)
    total = 0.0
    for i in np.unique(index):
        chosen = index == i
        total += chosen.sum() * abs(labels[chosen].mean() - p_fake[chosen].mean())
    return float(total / len(labels))


def ece_if_calibrated(
    p_fake: Floats, sources: Sequence[str] | None = None, *, rounds: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Where 95 % of the ECEs would lie if these probabilities were perfectly calibrated.

    The ECE of few photos is above 0 by chance alone; one in here is no sign of miscalibration.
    Labels are drawn from the probabilities ("consistency resampling", Bröcker & Smith 2007).

    Args:
        sources: with them, of the mean over sources.
    """
    rng = np.random.default_rng(seed)
    names = np.asarray(sources if sources is not None else ["all"] * len(p_fake))
    parts = [p_fake[names == name] for name in np.unique(names)]
    drawn = [
        np.mean(
            [expected_calibration_error((rng.random(len(p)) < p).astype(int), p) for p in parts]
        )
        for _ in range(rounds)
    ]
    return _interval(np.array(drawn))


def mean_over_sources(
    labels: Ints,
    p_fake: Floats,
    sources: Sequence[str],
    threshold: float = 0.5,
    keys: Sequence[str] = SCORES,
) -> dict[str, float]:
    """Each score per source, then their plain mean; of all photos where no source has it."""
    names = np.asarray(sources)
    chosen = [names == name for name in sorted(set(sources))]
    rows = [scores(labels[c], p_fake[c], threshold, keys) for c in chosen]
    found = {key: np.array([row[key] for row in rows]) for key in keys}
    known = {key: v[~np.isnan(v)] for key, v in found.items()}
    lacking = scores(labels, p_fake, threshold, [key for key, v in known.items() if not len(v)])
    return {key: float(v.mean()) if len(v) else lacking[key] for key, v in known.items()}


def auc_by_source(labels: Ints, p_fake: Floats, sources: Sequence[str]) -> dict[str, float]:
    """ROC-AUC of each source that has both classes."""
    names = np.asarray(sources)
    return {
        str(name): float(metrics.roc_auc_score(labels[names == name], p_fake[names == name]))
        for name in sorted(set(sources))
        if len(np.unique(labels[names == name])) == 2
    }


def intervals(
    labels: Ints,
    p_fake: Floats,
    groups: Sequence[str],
    sources: Sequence[str] | None = None,
    *,
    threshold: float = 0.5,
    rounds: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals of ``SCORES``; with ``sources``, of their mean over sources."""

    def figures(rows: NDArray[np.int64]) -> dict[str, float]:
        if sources is None:
            return scores(labels[rows], p_fake[rows], threshold)
        return mean_over_sources(labels[rows], p_fake[rows], names[rows].tolist(), threshold)

    names = np.asarray(sources if sources is not None else ["all"] * len(labels))
    return bootstrap(figures, groups, names.tolist(), rounds, seed)


def bootstrap(
    figures: Callable[[NDArray[np.int64]], dict[str, float]],
    groups: Sequence[str],
    sources: Sequence[str],
    rounds: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals of what ``figures`` says about a choice of rows.

    Whole groups are drawn, since their images are alike, and within each source.
    """
    rng = np.random.default_rng(seed)
    strata = np.asarray(sources)
    members = [_members(np.flatnonzero(strata == s), groups) for s in sorted(set(sources))]
    drawn: dict[str, list[float]] = {}
    for _ in range(rounds):
        rows = np.concatenate([_resample(groups_of, rng) for groups_of in members])
        for key, value in figures(rows).items():
            drawn.setdefault(key, []).append(value)
    return {key: _interval(np.array(values)) for key, values in drawn.items()}


def fit_temperature(labels: Ints, p_fake: Floats) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al. 2017).

    Args:
        labels: (N,) int.
        p_fake: (N,), or (N, views) of which the mean counts: probabilities at temperature 1,
            whose log-odds are divided by the result.

    Returns:
        A temperature in [0.05, 20].
    """
    loss = _negative_log_likelihood(labels, p_fake)
    found = minimize_scalar(lambda log_t: loss(log_t, 0.0), bounds=_LOG_T, method="bounded")
    return float(np.exp(found.x))


def fit_calibration(labels: Ints, p_fake: Floats) -> tuple[float, float]:
    """The temperature and the offset that minimise it together (Platt 1999).

    P = sigmoid((log-odds + offset) / temperature). Where training saw other shares of hard and
    easy fakes than there are, as it does when many are forged on the spot, its log-odds are off
    to one side, and no temperature moves the point where a photo is as likely real as fake.

    Args:
        labels, p_fake: as for ``fit_temperature``.

    Returns:
        A temperature in [0.05, 20] and an offset in [-10, 10].
    """
    loss = _negative_log_likelihood(labels, p_fake)
    odds = _log_odds(labels, p_fake).mean(axis=1)
    middle = (odds[labels == 0].mean() + odds[labels == 1].mean()) / 2
    bounds = [_LOG_T, (-10.0, 10.0)]
    # Where the odds are far off to one side, no temperature alone is any good, and from the best of
    # them the search finds nothing better.
    starts = ((np.log(fit_temperature(labels, p_fake)), 0.0), (0.0, np.clip(-middle, -9, 9)))
    found = min(
        (
            minimize(lambda x: loss(x[0], x[1]), start, method="Nelder-Mead", bounds=bounds)
            for start in starts
        ),
        key=lambda result: float(result.fun),
    )
    return float(np.exp(found.x[0])), float(found.x[1])


def _log_odds(labels: Ints, p_fake: Floats) -> Floats:
    """(N, views), and not without end."""
    odds: Floats = logit(np.clip(p_fake, 1e-7, 1 - 1e-7)).reshape(len(labels), -1)
    return odds


def _negative_log_likelihood(labels: Ints, p_fake: Floats) -> Callable[[float, float], float]:
    """Of the labels, as a function of the temperature's logarithm and the offset.

    The targets are Platt's (1999), (n1 + 1) / (n1 + 2) for n1 fakes and 1 / (n0 + 2) for n0
    reals: where validation is told apart without a mistake, plain 1 and 0 would have every answer
    be certain.
    """
    odds = _log_odds(labels, p_fake)
    fakes, reals = int((labels == 1).sum()), int((labels == 0).sum())
    targets = np.where(labels == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))

    def loss(log_t: float, offset: float) -> float:
        p = np.clip(expit((odds + offset) / np.exp(log_t)).mean(axis=1), 1e-12, 1 - 1e-12)
        return float(-np.mean(targets * np.log(p) + (1 - targets) * np.log1p(-p)))

    return loss


def _interval(values: Floats) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)


def _members(rows: NDArray[np.int64], groups: Sequence[str]) -> list[NDArray[np.int64]]:
    by_group: dict[str, list[int]] = {}
    for row in rows:
        by_group.setdefault(groups[row], []).append(int(row))
    return [np.array(v) for v in by_group.values()]


def _resample(members: list[NDArray[np.int64]], rng: np.random.Generator) -> NDArray[np.int64]:
    return np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
