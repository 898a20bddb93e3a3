"""What an evaluation's report says about a handful of answers that can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from deepfake.errors import DataError
from training.data import Sample
from training.report import Result, markdown, plot, summarise, to_json


def answered(label: int, p_fake: float | None, source: str = "a", error: str = "") -> Result:
    name = f"{source}-{label}-{p_fake}-{error}"
    return Result(Sample(Path(name), name, label, source, group=name), p_fake, error)


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
def text(results: list[Result]) -> str:
    report = summarise(results, threshold=0.5, rounds=20, seed=0)
    report["run"] = {
        "checkpoint": "0123456789abcdef" * 4,
        "backbone": "some_net",
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


def test_the_mean_leaves_out_what_has_one_class(text: str) -> None:
    mean = cells(text, "**mean over sources**")[0]
    assert mean[2].startswith("0.571 (")
    assert cells(text, "all together")[0][2].startswith(f"{5 / 9:.3f} (")


def test_the_head_says_what_was_measured(text: str) -> None:
    head = text.splitlines()[0]
    for part in ("`0123456789ab`", "some_net", "224 px", "`test`", "12 photos", "0.5", "1.234"):
        assert part in head


def test_photos_without_an_answer_are_counted(text: str, results: list[Result]) -> None:
    assert "a: 2 no_face; fakes only: 1 broken_image" in text
    report = summarise(results[:7], threshold=0.5, rounds=5, seed=0)
    assert report["unanswered"] == {}


def test_one_class_among_the_answers_is_refused(results: list[Result]) -> None:
    with pytest.raises(DataError, match="nothing to measure"):
        summarise([results[0], results[10]], threshold=0.5, rounds=5, seed=0)


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
