"""What an evaluation's report says about a handful of answers that can be counted by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from deepfake.checkpoint import DEFAULT_POINT, Checkpoint, OperatingPoint
from deepfake.errors import DataError
from training.data import Sample
from training.report import Result, markdown, plot, summarise
from training.tables import cell, to_json


def answered(label: int, p_fake: float | None, source: str = "a", error: str = "") -> Result:
    """An answer whose views spread around ``p_fake``."""
    name = f"{source}-{label}-{p_fake}-{error}"
    views = () if p_fake is None else (p_fake - 0.06, p_fake + 0.01, p_fake + 0.05)
    return Result(Sample(Path(name), name, label, source, group=name), views, error)


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    return replace(
        make_checkpoint(),
        uncertain=(0.4, 0.6),
        operating_points={
            "balanced": OperatingPoint(0.5, 0.25, 0.5),
            "fpr5": OperatingPoint(0.85, 0.05, 0.125),
        },
    )


@pytest.fixture
def results() -> list[Result]:
    """Of seven photos of source a, one real is called fake and two fakes are called real."""
    return [
        *(answered(0, p) for p in (0.1, 0.2, 0.3, 0.8)),
        *(answered(1, p) for p in (0.25, 0.45, 0.9)),
        *(answered(1, p, "fakes only") for p in (0.35, 0.7)),
        answered(0, None, error="no_face"),
        answered(1, None, error="no_face"),
        answered(1, None, "fakes only", error="broken_image"),
    ]


@pytest.fixture
def text(results: list[Result], checkpoint: Checkpoint) -> str:
    report = summarise(results, checkpoint, rounds=20, seed=0)
    report["run"] = {
        "checkpoint": "0123456789abcdef" * 4,
        "backbone": "some_net",
        "runtime": "some runtime",
        "image_size": 224,
        "threshold": 0.5,
        "temperature": 1.2345,
        "split": "test",
        "rounds": 20,
    }
    return markdown(report)


def cells(text: str, source: str) -> list[list[str]]:
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if line[0].strip() == source]


def test_confusions_stand_under_their_headings(text: str) -> None:
    heading = ["real called real", "real called fake", "fake called real", "fake called fake"]
    assert cells(text, "source")[1][1:] == heading
    assert cells(text, "a")[1][1:] == ["3", "1", "2", "1"]
    assert cells(text, "fakes only")[1][1:] == ["0", "0", "1", "1"]
    assert cells(text, "all together")[1][1:] == ["3", "1", "3", "2"]


def test_scores_stand_under_their_headings(text: str) -> None:
    scores = dict(zip(cells(text, "source")[0], cells(text, "a")[0], strict=True))
    assert scores["real / fake"] == "4 / 3"
    # Of twelve pairs of a real and a fake, nine stand in the right order.
    expected = {
        "accuracy": 4 / 7,
        "ROC-AUC": 9 / 12,
        "precision": 1 / 2,
        "recall": 1 / 3,
        "F1": 0.4,
    }
    for name, value in expected.items():
        assert scores[name].startswith(f"{value:.3f} ("), name


def test_what_is_not_known_says_so(text: str) -> None:
    scores = dict(zip(cells(text, "source")[0], cells(text, "fakes only")[0], strict=True))
    assert scores["ROC-AUC"] == scores["EER"] == "n/a"
    assert scores["accuracy"].startswith("0.500 (")
    assert "nan" not in text


def test_the_mean_is_of_what_stands_above_it(text: str) -> None:
    titles = cells(text, "source")[0]
    mean = dict(zip(titles, cells(text, "**mean over sources**")[0], strict=True))
    assert mean["accuracy"].startswith(f"{(4 / 7 + 1 / 2) / 2:.3f} (")
    assert mean["recall"].startswith(f"{(1 / 3 + 1 / 2) / 2:.3f} (")
    assert mean["precision"].startswith("0.500 (")  # of the other there is none
    assert cells(text, "all together")[0][2].startswith(f"{5 / 9:.3f} (")


def test_the_head_says_what_was_measured(text: str) -> None:
    head = text.splitlines()[0]
    for part in (
        "`0123456789ab`",
        "some_net",
        "some runtime",
        "224 px",
        "`test`",
        "12 photos",
        "0.5",
        "1.234",
    ):
        assert part in head


def test_photos_without_an_answer_are_counted(
    text: str, results: list[Result], checkpoint: Checkpoint
) -> None:
    assert "a: 2 no_face; fakes only: 1 broken_image" in text
    report = summarise(results[:7], checkpoint, rounds=5, seed=0)
    assert report["unanswered"] == {}


def test_one_class_among_the_answers_is_refused(
    results: list[Result], checkpoint: Checkpoint
) -> None:
    with pytest.raises(DataError, match="nothing to measure"):
        summarise([results[0], results[10]], checkpoint, rounds=5, seed=0)


def test_operating_points_stand_beside_what_they_promised(text: str) -> None:
    """Source a: of four reals one lies above 0.5, none above 0.85; the fakes are in two sources."""
    (balanced,), (fpr5,) = cells(text, "balanced"), cells(text, "fpr5")
    assert [cell.split(" ")[0] for cell in balanced[1:6]] == [
        "0.5000", "0.250", "0.250", "0.500", f"{(1 / 3 + 1 / 2) / 2:.3f}",
    ]  # fmt: skip
    assert [cell.split(" ")[0] for cell in fpr5[1:6]] == [
        "0.8500", "0.050", "0.000", "0.125", f"{(1 / 3 + 0) / 2:.3f}",
    ]  # fmt: skip


def test_scores_at_each_operating_point_stand_under_their_headings(text: str) -> None:
    """Above 0.85 lies one fake of five, no real; precision is of source a alone."""
    assert cells(text, "operating point")[0][-3:] == ["accuracy", "precision", "F1"]
    (balanced,), (fpr5,) = cells(text, "balanced"), cells(text, "fpr5")
    balanced_accuracy, fpr5_accuracy = (4 / 7 + 1 / 2) / 2, (5 / 7 + 0) / 2
    assert [cell.split(" ")[0] for cell in balanced[-3:]] == [
        f"{balanced_accuracy:.3f}", "0.500", "0.400",
    ]  # fmt: skip
    assert [cell.split(" ")[0] for cell in fpr5[-3:]] == [f"{fpr5_accuracy:.3f}", "1.000", "0.500"]


def test_what_the_uncertain_band_spares_is_counted(text: str) -> None:
    """0.45 of source a lies in it: six of seven are decided there, both of the other source."""
    line = next(line for line in text.splitlines() if line.startswith("Uncertain"))
    assert "from 0.400 to 0.600" in line
    for share in ((6 / 7 + 1) / 2, (2 / 6 + 1 / 2) / 2, (3 / 7 + 1 / 2) / 2):
        assert f" {share:.3f} (" in line


def test_the_band_is_the_one_that_serves(results: list[Result], checkpoint: Checkpoint) -> None:
    """It holds the threshold, which calibration may put outside of what it found uncertain."""
    points = dict(checkpoint.operating_points) | {DEFAULT_POINT: OperatingPoint(0.75)}
    decisions = summarise(results, replace(checkpoint, operating_points=points), 5, 0)["decisions"]
    assert decisions["band"] == [0.4, 0.75]
    # Outside of it two of four reals are left of source a, all called real, and two of three fakes.
    assert decisions["figures"]["coverage"]["value"] == pytest.approx((6 / 7 + 1 / 2) / 2)
    assert decisions["figures"]["risk_all"]["value"] == pytest.approx((3 / 7 + 1) / 2)


def test_three_views_are_set_against_one(results: list[Result], checkpoint: Checkpoint) -> None:
    figures = summarise(results, checkpoint, rounds=20, seed=0)["decisions"]["figures"]
    # The first view alone is lower by 0.06 everywhere: no order changes, and no label.
    assert figures["gain/roc_auc"]["value"] == pytest.approx(0)
    assert figures["one_view/accuracy"]["value"] == figures["three_views/accuracy"]["value"]
    turned = [Result(r.sample, (1 - r.views[0], *r.views[1:]) if r.views else ()) for r in results]
    figures = summarise(turned, checkpoint, rounds=20, seed=0)["decisions"]["figures"]
    assert figures["one_view/roc_auc"]["value"] == pytest.approx(3 / 12)
    assert figures["gain/roc_auc"]["value"] > 0


def test_before_calibration_nothing_is_said_of_points_and_band(
    results: list[Result], make_checkpoint: Callable[..., Checkpoint]
) -> None:
    decisions = summarise(results, make_checkpoint(), rounds=5, seed=0)["decisions"]
    assert decisions["validation"] == {}
    assert decisions["band"] is None


def test_an_interval_below_zero_is_not_written_with_two_dashes() -> None:
    assert cell(0.25, (0.125, 0.5)) == "0.250 (0.125-0.500)"
    assert cell(None, (None, None)) == "n/a"  # as JSON has what is not known
    assert cell(-0.25, (-0.5, -0.125)) == "-0.250 (-0.500 to -0.125)"


def test_json_has_null_for_what_is_not_known() -> None:
    report = {"a": [1.5, float("nan")], "b": {"c": (float("nan"), 2)}, "d": "NaN"}
    assert json.loads(to_json(report)) == {"a": [1.5, None], "b": {"c": [None, 2]}, "d": "NaN"}


@pytest.mark.parametrize("chosen", [slice(None), slice(0, 4), slice(7, 9)])
def test_a_picture_can_be_drawn_of_any_sources(
    results: list[Result], tmp_path: Path, chosen: slice
) -> None:
    """Also where no source has both classes and there is no curve to draw."""
    assert plot(results[chosen], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 500
