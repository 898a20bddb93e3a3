"""Scores against scikit-learn, against counting by hand, and against what they must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn import metrics

from training.scores import (
    SCORES,
    auc_by_source,
    confusion,
    ece_if_calibrated,
    equal_error_rate,
    expected_calibration_error,
    fit_calibration,
    fit_temperature,
    intervals,
    mean_over_sources,
    scores,
)

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]


def drawn(count: int = 400, seed: int = 0) -> tuple[Labels, Floats]:
    """Labels and the answers of a detector that is right now and then."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return labels, expit(rng.normal(0, 1.5, count) + (labels - 0.5) * 2)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_scores_agree_with_scikit_learn(threshold: float) -> None:
    labels, p_fake = drawn()
    predicted = p_fake > threshold
    ours = scores(labels, p_fake, threshold)
    assert set(ours) == set(SCORES)
    theirs = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "roc_auc": metrics.roc_auc_score(labels, p_fake),
        "precision": metrics.precision_score(labels, predicted),
        "recall": metrics.recall_score(labels, predicted),
        "f1": metrics.f1_score(labels, predicted),
        "ap": metrics.average_precision_score(labels, p_fake),
    }
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs)


def test_scores_of_a_detector_that_never_says_fake() -> None:
    """Nothing is divided by zero."""
    labels, p_fake = np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3])
    ours = scores(labels, p_fake)
    assert (ours["precision"], ours["recall"], ours["f1"]) == (0, 0, 0)
    assert ours["accuracy"] == pytest.approx(1 / 3)
    assert ours["roc_auc"] == 1


@pytest.mark.parametrize("label", [0, 1])
def test_with_one_class_only_what_needs_both_is_unknown(label: int) -> None:
    ours = scores(np.full(3, label), np.array([0.2, 0.6, 0.7]))
    unknown = {"roc_auc", "precision", "f1", "ap", "eer"} | (set() if label else {"recall"})
    assert {key for key in SCORES if np.isnan(ours[key])} == unknown
    assert ours["accuracy"] == pytest.approx(2 / 3 if label else 1 / 3)


def test_a_probability_at_the_threshold_counts_as_real() -> None:
    """As in the pipeline's verdict."""
    assert scores(np.array([0, 1]), np.array([0.5, 0.51]))["accuracy"] == 1


def test_confusion_counts_real_then_fake() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    p_fake = np.array([0.1, 0.2, 0.3, 0.9, 0.1, 0.8, 0.7])
    assert confusion(labels, p_fake) == [[3, 1], [1, 2]]
    assert confusion(labels, p_fake, threshold=0.75) == [[3, 1], [2, 1]]
    assert confusion(np.array([1]), np.array([0.9])) == [[0, 0], [0, 1]]


def test_equal_error_rate_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    perfect = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    assert equal_error_rate(labels, perfect) == 0
    assert equal_error_rate(labels, 1 - perfect) == 1
    # One of four on each side is wrong at any threshold from 0.3 to 0.6.
    crossed = np.array([0.1, 0.2, 0.3, 0.65, 0.3, 0.6, 0.7, 0.8])
    assert equal_error_rate(labels, crossed) == pytest.approx(0.25)
    # With two reals and three fakes the errors never meet: 1/2 and 1/3 are the nearest.
    labels, p_fake = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.6, 0.5, 0.7, 0.8])
    assert equal_error_rate(labels, p_fake) == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_equal_error_rate_within_a_run_of_one_class() -> None:
    """Two of the reals lie above all fakes but one; between these is where the errors meet."""
    labels = np.array([0] * 10 + [1] * 4 + [0] * 4 + [1])
    p_fake = np.linspace(0.05, 0.95, len(labels))
    # Above the second of the last four reals: 2 of 14 reals are called fake, 4 of 5 fakes real;
    # above the first fake: 4 of 14, and 1 of 5; below it: 4 of 14, and none.
    rates = [
        (np.mean(p_fake[labels == 0] > t), np.mean(p_fake[labels == 1] <= t)) for t in [0, *p_fake]
    ]
    nearest = min(rates, key=lambda pair: abs(pair[0] - pair[1]))
    assert equal_error_rate(labels, p_fake) == pytest.approx(np.mean(nearest))


def test_equal_error_rate_is_where_both_errors_meet() -> None:
    labels, p_fake = drawn(4000)
    rate = equal_error_rate(labels, p_fake)
    misses = [
        (np.mean(p_fake[labels == 0] > t), np.mean(p_fake[labels == 1] <= t))
        for t in np.linspace(0, 1, 2001)
    ]
    nearest = min(misses, key=lambda pair: abs(pair[0] - pair[1]))
    assert rate == pytest.approx(np.mean(nearest), abs=2e-3)


def test_calibration_error_by_hand() -> None:
    labels = np.array([0, 1, 1, 1, 0])
    p_fake = np.array([0.1, 0.15, 0.9, 0.95, 1.0])
    # Two bins of five: shares of fakes 1/2 and 2/3, means 0.125 and 0.95.
    expected = 2 / 5 * abs(1 / 2 - 0.125) + 3 / 5 * abs(2 / 3 - 0.95)
    assert expected_calibration_error(labels, p_fake, bins=5) == pytest.approx(expected)


def test_calibration_error_is_small_for_honest_probabilities_only() -> None:
    rng = np.random.default_rng(0)
    p_fake = rng.uniform(0, 1, 20_000)
    labels = (rng.uniform(0, 1, 20_000) < p_fake).astype(np.int64)
    assert expected_calibration_error(labels, p_fake) < 0.02
    boastful = np.where(p_fake > 0.5, 1.0, 0.0)
    assert expected_calibration_error(labels, boastful) > 0.2


def test_mean_over_sources_gives_each_source_the_same_weight() -> None:
    small, large = drawn(30, seed=1), drawn(300, seed=2)
    labels, p_fake = (np.concatenate(pair) for pair in zip(small, large, strict=True))
    sources = ["small"] * 30 + ["large"] * 300
    mean = mean_over_sources(labels, p_fake, sources)
    for key in SCORES:
        assert mean[key] == pytest.approx((scores(*small)[key] + scores(*large)[key]) / 2)
    assert mean["roc_auc"] != pytest.approx(scores(labels, p_fake)["roc_auc"])


def test_a_source_of_one_class_counts_where_it_says_something() -> None:
    """Else a source of fakes that are all missed would leave recall and accuracy as they were."""
    labels, p_fake = drawn(40)
    both, missed = scores(labels, p_fake), np.full(20, 0.1)
    labels = np.concatenate([labels, np.ones(20, dtype=np.int64)])
    mean = mean_over_sources(
        labels, np.concatenate([p_fake, missed]), ["both"] * 40 + ["fake"] * 20
    )
    for key in ("accuracy", "recall"):
        assert mean[key] == pytest.approx(both[key] / 2)
    for key in ("roc_auc", "precision", "f1", "ap", "eer"):
        assert mean[key] == both[key]


def test_what_no_source_has_is_of_all_together() -> None:
    labels, p_fake = drawn(60)
    mean = mean_over_sources(labels, p_fake, [f"of class {label}" for label in labels])
    whole = scores(labels, p_fake)
    for key in ("roc_auc", "precision", "f1", "ap", "eer"):
        assert mean[key] == pytest.approx(whole[key])
    assert mean["recall"] == whole["recall"]  # only one of the two has any


@pytest.mark.parametrize("sources", [None, ["a"] * 100 + ["b"] * 300])
def test_chance_alone_makes_a_calibration_error(sources: list[str] | None) -> None:
    """The range holds the ECE of honest answers, which is above 0, not that of boastful ones."""
    rng = np.random.default_rng(0)
    p_fake = rng.uniform(0.2, 0.8, 400)
    low, high = ece_if_calibrated(p_fake, sources, rounds=200)
    assert 0.01 < low < high < 0.15

    def error(p: Floats) -> float:
        if sources is None:
            return expected_calibration_error(labels, p)
        return mean_over_sources(labels, p, sources)["ece"]

    inside = 0
    for _ in range(40):
        labels = (rng.random(400) < p_fake).astype(np.int64)
        inside += low <= error(p_fake) <= high
        assert error(np.where(p_fake > 0.5, 0.95, 0.05)) > high
    assert inside >= 34


def test_auc_by_source_names_every_source_that_has_both_classes() -> None:
    labels, p_fake = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.3, 0.9])
    assert auc_by_source(labels, p_fake, ["a", "a", "b", "b", "c"]) == {"a": 1, "b": 0}


def test_intervals_hold_the_estimate_and_are_repeatable() -> None:
    labels, p_fake = drawn(300)
    groups = [str(i) for i in range(300)]
    found = intervals(labels, p_fake, groups, rounds=150, seed=1)
    assert set(found) == set(SCORES)
    estimate = scores(labels, p_fake)
    for key in set(SCORES) - {"ece"}:  # resampling adds noise, which ECE takes for miscalibration
        low, high = found[key]
        assert low < estimate[key] < high
        assert high - low < 0.3
    assert found == intervals(labels, p_fake, groups, rounds=150, seed=1)
    assert found != intervals(labels, p_fake, groups, rounds=150, seed=2)


def test_interval_of_accuracy_is_as_wide_as_statistics_says() -> None:
    labels, p_fake = drawn(400)
    low, high = intervals(labels, p_fake, [str(i) for i in range(400)], rounds=400)["accuracy"]
    p = scores(labels, p_fake)["accuracy"]
    assert (high - low) == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 400), rel=0.15)


def test_few_groups_of_alike_images_make_wide_intervals() -> None:
    """Ten copies of a photo tell no more than the photo."""
    labels, p_fake = drawn(30)
    labels, p_fake = np.repeat(labels, 10), np.repeat(p_fake, 10)
    alike = [str(i // 10) for i in range(300)]
    single = [str(i) for i in range(300)]
    wide, narrow = (
        np.diff(intervals(labels, p_fake, groups, rounds=150)["accuracy"])[0]
        for groups in (alike, single)
    )
    assert wide > 2 * narrow


def test_intervals_of_the_mean_over_sources_keep_every_source() -> None:
    """A large source that is always right, and a small one, of one group, always wrong.

    Drawn from all groups at once, the small one would be missing in a third of the rounds.
    """
    labels = np.tile([0, 1], 51)
    right = np.arange(102) < 100
    p_fake = np.where(right == (labels == 1), 0.9, 0.1)
    sources = np.where(right, "large", "small").tolist()
    groups = [str(i) if i < 100 else "small" for i in range(102)]
    mean = intervals(labels, p_fake, groups, sources, rounds=50)["accuracy"]
    assert mean == pytest.approx((0.5, 0.5))
    together = intervals(labels, p_fake, groups, rounds=50)["accuracy"]
    assert together[0] > 0.9


def test_intervals_of_one_class_are_unknown_not_an_error() -> None:
    found = intervals(
        np.ones(5, dtype=np.int64), np.linspace(0.1, 0.9, 5), list("abcde"), rounds=20
    )
    assert np.isnan(found["roc_auc"]).all()
    assert not np.isnan(found["accuracy"]).any()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 2, 50_000)
    labels = (rng.uniform(0, 1, 50_000) < expit(odds)).astype(np.int64)
    shown = expit(odds * temperature)  # as a network that is too sure, or not sure enough
    assert fit_temperature(labels, shown) == pytest.approx(temperature, rel=0.05)


def test_temperature_makes_the_probabilities_honest() -> None:
    rng = np.random.default_rng(1)
    odds = rng.normal(0, 1.5, 5000)
    labels = (rng.uniform(0, 1, 5000) < expit(odds)).astype(np.int64)
    shown = expit(odds * 4)
    mended = expit(odds * 4 / fit_temperature(labels, shown))
    assert metrics.log_loss(labels, mended) < metrics.log_loss(labels, shown)
    assert expected_calibration_error(labels, mended) < 0.04
    assert expected_calibration_error(labels, shown) > 0.1


@pytest.mark.parametrize("offset", [-1.5, 0.0, 0.8])
def test_the_offset_that_was_put_in_is_found(offset: float) -> None:
    rng = np.random.default_rng(3)
    odds = rng.normal(0, 2, 50_000)
    labels = (rng.uniform(0, 1, 50_000) < expit(odds)).astype(np.int64)
    shown = expit(odds * 2 - offset)  # too sure, and off to one side
    assert fit_calibration(labels, shown) == pytest.approx((2, offset), rel=0.05, abs=0.05)


@pytest.mark.parametrize("sign", [1, -1])
def test_odds_far_off_to_the_side_of_the_smaller_class_are_calibrated(sign: int) -> None:
    """Of which no temperature alone makes anything."""
    rng = np.random.default_rng(0)
    odds = np.concatenate([rng.normal(-3, 1.5, 200), rng.normal(-1, 1.5, 1000)])
    labels = np.repeat([0, 1], [200, 1000])
    if sign < 0:
        odds, labels = -odds, 1 - labels
    temperature, offset = fit_calibration(labels, expit(odds))
    # Of two normal distributions alike but for their means the odds are a line (logistic).
    slope = 2 / 1.5**2
    assert 1 / temperature == pytest.approx(slope, rel=0.15)
    assert offset / temperature == pytest.approx(sign * (slope * 2 + math.log(5)), rel=0.15)


def test_only_the_scores_that_are_asked_for_are_made() -> None:
    labels, p_fake = drawn()
    whole = scores(labels, p_fake)
    assert list(whole) == list(SCORES)
    for key in SCORES:
        assert scores(labels, p_fake, keys=[key]) == {key: whole[key]}
    sources = ["a", "b"] * (len(labels) // 2)
    mean = mean_over_sources(labels, p_fake, sources)
    assert mean_over_sources(labels, p_fake, sources, keys=["f1"]) == {"f1": mean["f1"]}


def test_where_no_offset_was_put_in_the_temperature_alone_is_as_good() -> None:
    rng = np.random.default_rng(4)
    odds = rng.normal(0, 2, 50_000)
    labels = (rng.uniform(0, 1, 50_000) < expit(odds)).astype(np.int64)
    temperature, _ = fit_calibration(labels, expit(3 * odds))
    assert temperature == pytest.approx(fit_temperature(labels, expit(3 * odds)), rel=0.01)


def test_temperature_of_perfect_or_certain_answers_is_a_number() -> None:
    labels = np.array([0, 1, 0, 1])
    for p_fake in ([0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5]):
        assert 0.04 < fit_temperature(labels, np.array(p_fake)) < 21
        temperature, offset = fit_calibration(labels, np.array(p_fake))
        assert 0.04 < temperature < 21
        assert -11 < offset < 11


@pytest.mark.parametrize("count", [20, 200])
def test_a_perfect_validation_does_not_make_every_answer_certain(count: int) -> None:
    """After n photos of a class without a mistake, the next may err once in about n."""
    labels = np.repeat([0, 1], count)
    odds = np.where(labels == 1, 0.5, -0.5)
    served = expit(odds / fit_temperature(labels, expit(odds)))
    assert served[-1] == pytest.approx((count + 1) / (count + 2), abs=0.01)
    assert served[0] == pytest.approx(1 / (count + 2), abs=0.01)


def test_of_several_views_the_mean_is_made_honest() -> None:
    rng = np.random.default_rng(2)
    odds = rng.normal(0, 1.5, 20_000)
    labels = (rng.uniform(0, 1, 20_000) < expit(odds)).astype(np.int64)
    shown = expit(3 * (odds[:, None] + rng.normal(0, 0.01, (20_000, 3))))
    assert fit_temperature(labels, shown) == pytest.approx(3, rel=0.05)
