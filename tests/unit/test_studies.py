"""Which runs a study consists of, and what is made of their answers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from deepfake.errors import DataError
from training.data import Sample
from training.recipes import ABLATIONS, BASE, RECIPES, WIDE, arms_of
from training.report import Result
from training.studies import shareable
from training.study_tables import (
    ablation_row,
    leave_one_out_row,
    markdown,
    step_row,
    with_seeds,
)

CROPS = Path("crops")


def answers(p_fakes: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]) -> list[Result]:
    """Results of given P(fake): by source, those of its reals and of its fakes."""
    return [
        Result(Sample(Path("a"), f"{s}{label}{i}", label, s, group=f"{s}{label}{i}"), (p,))
        for s, classes in p_fakes.items()
        for label, values in enumerate(classes)
        for i, p in enumerate(values)
    ]


def test_every_source_is_left_out_once_for_each_recipe() -> None:
    arms = arms_of("leave-one-out", ["a", "b"], ["plain", "+ part swaps"], CROPS)
    assert [(arm.name, arm.left_out) for arm in arms] == [
        ("plain", "a"),
        ("plain", "b"),
        ("+ part swaps", "a"),
        ("+ part swaps", "b"),
    ]
    assert len({arm.folder for arm in arms}) == 4


def test_an_ablation_changes_one_part_at_a_time() -> None:
    arms = arms_of("ablation", ["a", "b"], [], CROPS)
    assert [arm.name for arm in arms] == list(ABLATIONS)
    assert {arm.left_out for arm in arms} == {""}
    assert len({arm.folder for arm in arms}) == len(arms)
    assert ABLATIONS[BASE] == ()


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="without CBAM"):
        arms_of("ablation", ["a"], ["nonsense"], CROPS)


def test_a_larger_margin_is_tried_on_crops_that_have_it() -> None:
    arms = arms_of("leave-one-out", ["a"], [], CROPS, Path("wide"))
    assert {arm.name: arm.crops for arm in arms} == {
        name: Path("wide") if name in WIDE else CROPS for name in RECIPES
    }
    narrow = {arm.name for arm in arms_of("leave-one-out", ["a"], [], CROPS)}
    assert narrow == set(RECIPES) - set(WIDE)
    assert "+ larger margin" in WIDE
    assert "plain" not in WIDE
    with pytest.raises(DataError, match="needs --wide"):
        arms_of("leave-one-out", ["a"], ["plain", WIDE[-1]], CROPS)


def test_what_a_part_is_worth_is_counted_on_the_same_photos() -> None:
    base = answers({"a": ((0.1, 0.2, 0.3, 0.4), (0.6, 0.7, 0.8, 0.9)), "b": ((0.1,), (0.9,))})
    worse = answers({"a": ((0.1, 0.2, 0.3, 0.8), (0.6, 0.7, 0.4, 0.9)), "b": ((0.1,), (0.9,))})
    row = ablation_row([worse], [base], rounds=50)
    assert row["mean"]["accuracy"]["value"] == pytest.approx((6 / 8 + 1) / 2)
    assert row["mean"]["loss/accuracy"]["value"] == pytest.approx((2 / 8 + 0) / 2)
    assert row["mean"]["loss/roc_auc"]["value"] == pytest.approx((3 / 16 + 0) / 2)
    low, high = row["mean"]["loss/accuracy"]["interval"]
    assert 0 <= low < 0.125 < high
    same = ablation_row([base], [base], rounds=20)
    assert same["mean"]["loss/roc_auc"]["interval"] == (0, 0)


def test_what_a_part_is_worth_is_a_mean_over_seeds_and_as_uncertain_as_they_are() -> None:
    good = answers({"a": ((0.1, 0.2, 0.3, 0.4), (0.6, 0.7, 0.8, 0.9))})
    bad = answers({"a": ((0.9, 0.8, 0.7, 0.6), (0.4, 0.3, 0.2, 0.1))})
    row = ablation_row([bad, good], [good, good], rounds=200)
    assert row["mean"]["roc_auc"]["value"] == pytest.approx(0.5)
    assert row["mean"]["loss/accuracy"]["value"] == pytest.approx(0.5)
    # Whatever the photos, one seed says 0 and the other 1: 0.5 +- t(0.975, 1) s / sqrt(2).
    reach = 12.706 * math.sqrt(0.5) / math.sqrt(2)
    low, high = row["mean"]["loss/roc_auc"]["interval"]
    assert (low, high) == pytest.approx((0.5 - reach, 0.5 + reach), rel=1e-3)
    assert row["sources"] == {"a": pytest.approx(0.5)}
    # Runs of the same seed are compared: one that is bad for both costs nothing.
    alike = ablation_row([bad, good], [bad, good], rounds=50)
    assert alike["mean"]["loss/roc_auc"]["interval"] == (0, 0)


def test_what_is_not_known_of_photos_and_of_seeds_adds_up() -> None:
    assert with_seeds((0.6, 0.9), np.array([0.8])) == (0.6, 0.9)
    assert with_seeds((0.6, 0.9), np.array([0.8, 0.8])) == pytest.approx((0.6, 0.9))
    # t(0.975, 2) = 4.303; of 0.7, 0.8 and 0.9 the deviation is 0.1.
    reach = 4.303 * 0.1 / math.sqrt(3)
    low, high = with_seeds((0.6, 0.9), np.array([0.7, 0.8, 0.9]))
    assert low == pytest.approx(0.8 - math.sqrt(0.2**2 + reach**2), rel=1e-3)
    assert high == pytest.approx(0.8 + math.sqrt(0.1**2 + reach**2), rel=1e-3)


def test_every_recipe_is_run_with_every_seed() -> None:
    arms = arms_of("ablation", [], [BASE, "160 px"], CROPS, seeds=(3, 4))
    assert [(arm.name, arm.seed) for arm in arms] == [
        (BASE, 3),
        (BASE, 4),
        ("160 px", 3),
        ("160 px", 4),
    ]
    assert len({arm.folder for arm in arms}) == 4


def test_a_step_is_compared_with_the_recipe_before_it_and_no_other() -> None:
    names = list(RECIPES)
    worse = answers({"a": ((0.1, 0.8), (0.6, 0.9)), "b": ((0.1, 0.2), (0.8, 0.9))})
    better = answers({"a": ((0.1, 0.2), (0.6, 0.9)), "b": ((0.1, 0.2), (0.8, 0.9))})
    measured = {names[0]: worse, names[1]: better, names[3]: better}
    first, second, fourth = (
        step_row(names[i], measured, thresholds={"a": 0.5, "b": 0.95}, rounds=50) for i in (0, 1, 3)
    )
    assert first["mean"]["value"] == pytest.approx((0.75 + 1) / 2)
    assert second["gain"]["value"] == pytest.approx((0.25 + 0) / 2)
    low, high = second["gain"]["interval"]
    assert 0 <= low < 0.125 < high
    assert "gain" not in first
    assert "gain" not in fourth  # the third was not run
    # Each source has the threshold of the run without it.
    assert first["real_called_fake"]["value"] == pytest.approx((1 / 2 + 0) / 2)
    assert first["fake_called_fake"]["value"] == pytest.approx((2 / 2 + 0) / 2)


def test_the_threshold_for_a_source_left_out_is_that_of_the_others() -> None:
    # Of 20 real photos one may be above it: it lies on the second highest.
    seen = (*(i / 100 for i in range(18)), 0.3, 0.9)
    results = answers({"seen": (seen, (0.95,)), "new": ((0.1, 0.35, 0.4, 0.2), (0.25, 0.8))})
    row = leave_one_out_row(results, "new", rounds=50)
    assert row["threshold"] == pytest.approx(0.3)
    assert row["real_called_fake"]["value"] == pytest.approx(2 / 4)
    assert row["fake_called_fake"]["value"] == pytest.approx(1 / 2)
    assert row["roc_auc"]["value"] == pytest.approx(6 / 8)
    low, high = row["real_called_fake"]["interval"]
    assert 0 <= low < 0.5 < high <= 1


def test_of_a_source_without_real_photos_it_is_not_said_that_none_is_called_fake() -> None:
    results = answers({"seen": ((0.1, 0.2), (0.9,)), "new": ((), (0.05, 0.8))})
    row = leave_one_out_row(results, "new", rounds=50)
    assert row["fake_called_fake"]["value"] == pytest.approx(1 / 2)
    assert math.isnan(row["real_called_fake"]["value"])
    report = {"leave-one-out": {"options": [], "rows": {"plain": {"new": row}}}}
    assert "| plain | n/a |" in markdown(report)


def test_the_tables_leave_a_gap_where_a_run_is_still_to_come() -> None:
    results = answers({"a": ((0.1, 0.6), (0.5, 0.9)), "b": ((0.2,), (0.7,))})
    row = leave_one_out_row(results, "a", rounds=50)
    rows = {"plain": {"a": row, "b": row}, "+ forgeries": {"a": row}}
    report = {"leave-one-out": {"options": ["--epochs", "2"], "rows": rows}}
    mean = {"value": 0.75, "interval": (0.7, 0.8)}
    share = {"value": 0.5, "interval": (0.0, 1.0)}
    step = {"mean": mean, "real_called_fake": share, "fake_called_fake": mean}
    report["leave-one-out"]["steps"] = {"plain": step}
    lines = markdown(report).splitlines()
    plain, called = (line for line in lines if line.startswith("| plain"))
    for partial in (line for line in lines if line.startswith("| + forgeries")):
        assert partial.count("|") == plain.count("|")
        assert partial.endswith("|  |  |  |")
    assert plain.startswith("| plain | 0.750 (")
    assert plain.endswith("| 0.750 (0.700-0.800) |  |")
    assert called.startswith("| plain | 0.500 (")
    assert called.endswith("| 0.500 (0.000-1.000) | 0.750 (0.700-0.800) |")
    assert "`--epochs 2`" in lines[-1]


def test_what_is_kept_of_the_options_names_no_folder(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    weights.touch()
    assert shareable(["--init", str(weights), "--lr", "1/2"]) == [
        "--init",
        "weights.pth",
        "--lr",
        "1/2",
    ]
