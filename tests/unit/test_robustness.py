"""The figures made of the answers about treated photos."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data import Sample
from training.report import Result
from training.robustness import figures, markdown, same_answers
from training.sampling import limited_per_cell


def test_a_treatment_after_which_no_face_is_found_leaves_a_row_without_figures() -> None:
    sample = Sample(Path("a.jpg"), "a.jpg", 1, "camera", group="a.jpg")
    row = figures([Result(sample, error="no_face")], 0.5, rounds=10)
    assert row["unanswered"] == row["photos"] == 1
    about = {"checkpoint": "ab" * 32, "runtime": "some", "split": "test", "point": "p"}
    text = markdown(about | {"threshold": 0.5, "treatments": {"size x 0.25": row}})
    assert "| size x 0.25 | n/a | n/a | n/a | 1 |" in text


def answer(source: str, label: int, p_fake: float | None) -> Result:
    name = f"{source}-{label}-{p_fake}"
    return Result(
        Sample(Path(name), name, label, source, group=name), () if p_fake is None else (p_fake,)
    )


@pytest.fixture
def results() -> list[Result]:
    """Source a: one of four reals above 0.5, both fakes above; b: told the wrong way round."""
    return [
        *(answer("a", 0, p) for p in (0.1, 0.2, 0.3, 0.7)),
        *(answer("a", 1, p) for p in (0.6, 0.9)),
        answer("b", 0, 0.8),
        answer("b", 1, 0.3),
        answer("b", 1, None),
    ]


def test_shares_are_per_source_then_their_mean(results: list[Result]) -> None:
    found = figures(results, threshold=0.5, rounds=50)
    assert found["sources"]["roc_auc"] == {"a": pytest.approx(7 / 8), "b": 0}
    assert found["sources"]["false_positive_rate"] == {"a": 0.25, "b": 1}
    assert found["sources"]["recall"] == {"a": 1, "b": 0}
    assert found["mean"]["false_positive_rate"]["value"] == pytest.approx(0.625)
    low, high = found["mean"]["false_positive_rate"]["interval"]
    assert low < 0.625 < high
    assert (found["photos"], found["unanswered"]) == (9, 1)


def test_the_table_has_a_row_for_each_treatment(results: list[Result]) -> None:
    rows = {name: figures(results, 0.5, 20) for name in ("as it is", "blur 1 px")}
    text = markdown(
        {
            "checkpoint": "ab" * 32,
            "runtime": "some runtime",
            "split": "test",
            "point": "balanced",
            "threshold": 0.5,
            "treatments": rows,
        }
    )
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines] == ["treatment", "as it is", "blur 1 px"]
    assert "0.625 (" in lines[1]
    assert len({line.count("|") for line in lines}) == 1


def test_as_many_are_taken_of_each_source_and_class() -> None:
    samples = [
        Sample(Path("a"), f"{source}-{label}-{i}", label, source)
        for source, label, count in (("a", 0, 30), ("a", 1, 4), ("b", 0, 9))
        for i in range(count)
    ]
    kept = limited_per_cell(samples, 6, seed=0)
    counts = [
        sum(s.source == c and s.label == y for s in kept) for c, y in (("a", 0), ("a", 1), ("b", 0))
    ]
    assert counts == [6, 4, 6]
    assert kept == limited_per_cell(samples, 6, seed=0) != limited_per_cell(samples, 6, seed=1)
    assert limited_per_cell(samples, 0, seed=0) == samples


def test_how_many_crops_another_margin_leaves_as_they_are() -> None:
    def answer(name: str, *views: float) -> Result:
        return Result(
            Sample(Path(name), name, 0, "a", group=name), views, "" if views else "no_face"
        )

    plain = [answer("a", 0.1, 0.2, 0.3), answer("b", 0.4, 0.5, 0.6), answer("c"), answer("d", 0.1)]
    wider = [answer("a", 0.1, 0.2, 0.3), answer("b", 0.4, 0.5, 0.7), answer("c"), answer("d")]
    assert same_answers(wider, plain) == 0.5
    row = figures([answer("a", 0.1, 0.2, 0.3)], 0.5, rounds=5)
    about = {"checkpoint": "ab" * 32, "runtime": "some", "split": "test", "point": "p"}
    treatments = {"crop margin +0.2": row | {"same": 0.5}, "blur 1 px": row}
    text = markdown(about | {"threshold": 0.5, "treatments": treatments})
    assert "| crop margin +0.2 (50% of the crops are the same) |" in text
    assert "| blur 1 px |" in text
