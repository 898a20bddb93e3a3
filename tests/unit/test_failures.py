"""Which wrong answers are counted and shown."""

from __future__ import annotations

from PIL import Image

from deepfake.checkpoint import OperatingPoint
from deepfake.faces import Face
from deepfake.verdict import FaceVerdict, Verdict
from training.failures import Answer, Case, markdown, picture, summary, worst


def answer(
    photo: str, label: int, p_fake: float | None, made: str = "as it is", colour: str = "red"
) -> Answer:
    """The answer about a photo of one colour, at the threshold 0.5; None: no face."""
    image = Image.new("RGB", (60, 60), colour)
    case = Case(photo, made, label)
    if p_fake is None:
        return Answer(case, None)
    said = "Fake" if p_fake > 0.5 else "Real"
    face = Face((0.0, 0.0, 9.0, 9.0), 1.0, ((0.0, 0.0),) * 5)
    found = FaceVerdict(face, p_fake, (p_fake,), said, said, max(p_fake, 1 - p_fake), image)
    return Answer(case, Verdict((found,), 1, OperatingPoint(0.5), 60, 60))


ANSWERS = [
    answer("a", 0, 0.9, colour="lime"),
    answer("a", 0, 0.2),
    answer("b", 1, 0.8),
    answer("b", 1, 0.3, "blur 2 px"),
    answer("c", 1, 0.05, "self-blend"),
    answer("d", 0, None),
]


def test_only_wrong_answers_are_shown_the_worst_first() -> None:
    shown = worst(ANSWERS, 10)
    assert [(a.case.photo, a.case.made) for a in shown] == [
        ("c", "self-blend"),
        ("a", "as it is"),
        ("b", "blur 2 px"),
    ]
    assert worst(ANSWERS, 1) == shown[:1]


def test_one_photo_does_not_fill_the_picture() -> None:
    alike = [answer("a", 0, 0.6 + i / 100) for i in range(9)]
    shown = worst([*alike, answer("b", 1, 0.45)], 10)
    assert [a.case.photo for a in shown].count("a") < 4
    assert shown[-1].case.photo == "b"


def test_wrong_answers_are_counted_by_what_was_made_of_the_photos() -> None:
    counts = summary(ANSWERS, [])["counts"]  # one has no face, and so no answer
    assert counts["as it is"] == {"real of": 2, "real wrong": 1, "fake of": 1, "fake wrong": 0}
    assert counts["blur 2 px"]["fake wrong"] == counts["forged"]["fake wrong"] == 1
    assert counts["forged"]["real of"] == 0


def test_the_table_numbers_what_the_picture_shows() -> None:
    shown = worst(ANSWERS, 10)
    report = {"checkpoint": "ab" * 32, "runtime": "some runtime", "threshold": 0.5}
    text = markdown(report | summary(ANSWERS, shown))
    assert "| as it is | 1 of 2 | 0 of 1 |" in text
    assert "| 1 | c | self-blend | fake | 0.050 |" in text
    assert "| 2 | a | as it is | real | 0.900 |" in text
    sheet = picture(shown)
    colours = [sheet.getpixel((90 + 180 * i, 90)) for i in range(3)]
    assert colours == [(255, 0, 0), (0, 255, 0), (255, 0, 0)]


def test_without_a_wrong_answer_there_is_still_a_picture() -> None:
    assert worst(ANSWERS[1:3], 10) == []
    assert picture([]).getcolors() == [(picture([]).width * picture([]).height, (255, 255, 255))]
