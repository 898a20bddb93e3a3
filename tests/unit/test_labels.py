"""What a P(fake) is called: threshold, uncertain band, operating point, the most fake face."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from deepfake import errors
from deepfake.checkpoint import Checkpoint, OperatingPoint
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from tests.openapi import validate
from tests.unit.judged import in_torch, verdict_of, with_threshold

MakeCheckpoint = Callable[..., Checkpoint]


def test_label_and_confidence_follow_the_threshold(
    pipeline: Pipeline, astronaut: Image.Image
) -> None:
    p_fake = verdict_of(pipeline, astronaut).worst.fake_probability
    below = verdict_of(with_threshold(pipeline, p_fake - 0.01), astronaut).worst
    above = verdict_of(with_threshold(pipeline, p_fake + 0.01), astronaut).worst
    assert (below.label, above.label) == ("Fake", "Real")
    assert below.confidence == pytest.approx(p_fake)
    assert above.confidence == pytest.approx(1 - p_fake)


def test_a_probability_at_the_threshold_is_not_above_it(
    pipeline: Pipeline, astronaut: Image.Image
) -> None:
    p_fake = verdict_of(pipeline, astronaut).worst.fake_probability
    assert verdict_of(with_threshold(pipeline, p_fake), astronaut).worst.label == "Real"


@pytest.fixture(scope="module")
def p_fake(verdicts: list[Verdict]) -> float:
    """P(fake) of the astronaut."""
    return verdicts[0].worst.fake_probability


# Threshold and uncertain band of a checkpoint, each as a distance from the photo's P(fake), and
# what the photo is called then.
DECISIONS = {
    "below the band": (0.03, (0.02, 0.04), "Real", "Real"),
    "in the band, below the threshold": (0.01, (-0.02, 0.02), "Real", "Uncertain"),
    "in the band, above the threshold": (-0.01, (-0.02, 0.02), "Fake", "Uncertain"),
    "at the band's lower end": (0.01, (0.0, 0.02), "Real", "Uncertain"),
    "at the band's upper end": (-0.01, (-0.02, 0.0), "Fake", "Uncertain"),
    "above the band": (-0.03, (-0.04, -0.02), "Fake", "Fake"),
    "between the band and a stricter threshold": (0.05, (-0.04, -0.02), "Real", "Uncertain"),
    "between a laxer threshold and the band": (-0.05, (0.02, 0.04), "Fake", "Uncertain"),
    "above the band and a stricter threshold": (-0.02, (-0.06, -0.04), "Fake", "Fake"),
    "no band, just below the threshold": (1e-6, None, "Real", "Real"),
    "no band, just above the threshold": (-1e-6, None, "Fake", "Fake"),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_too_close_to_call_is_uncertain_and_the_label_stays_binary(
    pipeline: Pipeline, astronaut: Image.Image, p_fake: float, case: str
) -> None:
    threshold, band, label, called = DECISIONS[case]
    uncertain = band and (p_fake + band[0], p_fake + band[1])
    decided = with_threshold(pipeline, p_fake + threshold, uncertain)
    answer: dict[str, Any] = verdict_of(decided, astronaut).to_json()
    assert (answer["label"], answer["verdict"]) == (label, called)
    assert [(face["label"], face["verdict"]) for face in answer["faces"]] == [(label, called)]
    expected = p_fake if label == "Fake" else 1 - p_fake  # the confidence is the label's
    assert answer["confidence"] == pytest.approx(expected, abs=5.1e-5)
    validate(answer, "Verdict", without="model")


@pytest.fixture(scope="module")
def calibrated(pipeline: Pipeline, p_fake: float) -> Checkpoint:
    """The same network with a lax and a strict threshold on either side of the astronaut."""
    points = {
        "balanced": OperatingPoint(p_fake - 0.02, 0.125, 0.9),
        "fpr1": OperatingPoint(p_fake + 0.02, 0.01, 0.4),
    }
    return replace(pipeline.checkpoint, operating_points=points)


def test_the_operating_point_sets_threshold_and_false_positive_rate(
    calibrated: Checkpoint, astronaut: Image.Image, p_fake: float
) -> None:
    asked = {name: in_torch(calibrated, name) for name in ("balanced", "fpr1")}
    answers = {name: verdict_of(p, astronaut).to_json() for name, p in asked.items()}
    balanced, strict = answers["balanced"], answers["fpr1"]
    assert balanced["threshold"] == pytest.approx(p_fake - 0.02, abs=5.1e-5)
    assert strict["threshold"] == pytest.approx(p_fake + 0.02, abs=5.1e-5)
    assert (balanced["false_positive_rate"], strict["false_positive_rate"]) == (0.125, 0.01)
    assert (balanced["label"], strict["label"]) == ("Fake", "Real")
    assert balanced["fake_probability"] == strict["fake_probability"]
    validate(balanced, "Verdict", without="model")


def test_the_point_that_spares_edited_photos_is_used_unless_another_is_named(
    calibrated: Checkpoint,
) -> None:
    """Where calibration has not set it, the balanced one."""
    assert Pipeline(calibrated, runtime="torch").point == calibrated.operating_points["balanced"]
    spares = OperatingPoint(0.8, 0.03, 0.75)
    points = {**calibrated.operating_points, "fpr5-edited": spares}
    pipeline = Pipeline(replace(calibrated, operating_points=points), runtime="torch")
    assert pipeline.point == spares


def test_an_unknown_operating_point_is_refused_with_those_there_are(
    calibrated: Checkpoint, make_checkpoint: MakeCheckpoint
) -> None:
    with pytest.raises(errors.CheckpointError, match="'fpr5', only balanced, fpr1"):
        in_torch(calibrated, "fpr5")
    with pytest.raises(errors.CheckpointError, match="'fpr1', only balanced"):
        in_torch(make_checkpoint(), "fpr1")


def test_a_photos_answer_is_that_of_its_most_fake_face(
    pipeline: Pipeline, group: Image.Image
) -> None:
    verdict = verdict_of(pipeline, group)
    p_fakes = sorted(face.fake_probability for face in verdict.faces)
    assert len(p_fakes) == verdict.faces_found == 6
    assert p_fakes[-1] - p_fakes[-2] > 1e-3

    between = verdict_of(with_threshold(pipeline, sum(p_fakes[-2:]) / 2), group)
    assert Counter(face.label for face in between.faces) == {"Real": 5, "Fake": 1}
    answer = between.to_json()
    assert answer["label"] == "Fake"
    assert answer["fake_probability"] == answer["confidence"] == round(p_fakes[-1], 4)

    beyond = verdict_of(with_threshold(pipeline, (1 + p_fakes[-1]) / 2), group).to_json()
    assert beyond["label"] == "Real"
    assert beyond["confidence"] == round(1 - p_fakes[-1], 4)


def test_uncertain_faces_do_not_hide_the_most_fake_one(
    pipeline: Pipeline, group: Image.Image
) -> None:
    p_fakes = sorted(face.fake_probability for face in verdict_of(pipeline, group).faces)
    between = sum(p_fakes[-2:]) / 2

    others = verdict_of(with_threshold(pipeline, between, (0.0, between)), group)
    assert Counter(face.verdict for face in others.faces) == {"Uncertain": 5, "Fake": 1}
    assert others.to_json()["verdict"] == "Fake"

    itself = verdict_of(with_threshold(pipeline, between, (between, 1.0)), group)
    assert Counter(face.verdict for face in itself.faces) == {"Real": 5, "Uncertain": 1}
    answer = itself.to_json()
    assert (answer["verdict"], answer["label"]) == ("Uncertain", "Fake")
