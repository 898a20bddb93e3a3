"""What an answer says, and that it says so as docs/openapi.yaml has it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from deepfake import errors
from deepfake.checkpoint import Checkpoint, OperatingPoint
from deepfake.faces import Face
from deepfake.pipeline import Pipeline
from deepfake.verdict import FaceVerdict, Verdict
from deepfake.views import VIEWS
from tests.conftest import ASTRONAUT, FAKES
from tests.openapi import SPEC, validate


@pytest.fixture(scope="module")
def verdicts(make_checkpoint: Callable[..., Checkpoint]) -> list[Verdict]:
    """Of every fixture."""
    pipeline = Pipeline(make_checkpoint(temperature=1.7, crop_margin=0.3), runtime="torch")
    answers = pipeline.predict([path.read_bytes() for path in (ASTRONAUT, *FAKES)])
    found = [answer for answer in answers if isinstance(answer, Verdict)]
    assert len(found) == len(answers)
    return found


def test_verdicts_are_as_documented(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        validate(verdict.to_json(), "Verdict", without="model")
        validate(verdict.to_json(crops=True), "Verdict", without="model")
        assert "crop" not in verdict.to_json()["faces"][0]  # type: ignore[index]


def test_numbers_of_an_answer_are_those_of_the_verdict(verdicts: list[Verdict]) -> None:
    verdict = verdicts[0]
    face, answer = verdict.faces[0], verdict.to_json(crops=True)
    assert answer["image"] == {"width": 512, "height": 512}
    assert answer["threshold"] == 0.5
    assert answer["false_positive_rate"] is None  # before calibration nobody knows
    told: dict[str, Any] = answer["faces"][0]  # type: ignore[index]
    assert told["box"] == pytest.approx(face.face.box, abs=0.051)
    assert told["views"] == pytest.approx(dict(zip(VIEWS, face.views, strict=True)), abs=5.1e-5)
    assert told["detection_score"] == pytest.approx(face.face.score, abs=5.1e-5)
    crop = Image.open(io.BytesIO(base64.b64decode(told["crop"])))
    assert (crop.format, crop.size) == ("JPEG", face.crop.size)
    gap = np.asarray(crop.convert("RGB")).astype(float) - np.asarray(face.crop)
    assert np.abs(gap).mean() < 5


def leaves(cls: type[errors.DeepfakeError]) -> set[type[errors.DeepfakeError]]:
    return {leaf for sub in cls.__subclasses__() for leaf in leaves(sub)} or {cls}


def test_documented_error_codes_are_those_that_can_come() -> None:
    documented = SPEC["components"]["schemas"]["Error"]["properties"]["error"]["properties"]
    codes = [cls.code for cls in leaves(errors.InputError)] + ["out_of_memory", "internal_error"]
    assert sorted(documented["code"]["enum"]) == sorted(codes)


def test_each_error_is_as_documented_under_its_status() -> None:
    responses = SPEC["paths"]["/predictions/deepfake"]["post"]["responses"]
    for cls in leaves(errors.InputError) | {errors.InternalError}:
        body = cls("What to do.").to_json()
        validate(body, "Error")
        assert body["error"]["message"] == "What to do."  # type: ignore[index]
        assert cls.code in responses[str(cls.status)]["description"]


def test_an_answer_that_is_not_as_documented_would_be_noticed(verdicts: list[Verdict]) -> None:
    """The schema does refuse: otherwise the tests above would prove nothing."""
    answer = verdicts[0].to_json()
    for wrong in (
        {"faces": []},
        {"label": "Uncertain"},
        {"verdict": "fake"},
        {"confidence": 1.5},
        {"false_positive_rate": 5},
        {"extra": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate(answer | wrong, "Verdict", without="model")


def test_a_verdict_is_plain_data() -> None:
    face = FaceVerdict(
        face=Face((1.0, 2.0, 31.0, 42.0), 0.99),
        fake_probability=0.25,
        views=(0.2, 0.25, 0.3),
        label="Real",
        verdict="Uncertain",
        confidence=0.75,
        crop=Image.new("RGB", (40, 40)),
    )
    point = OperatingPoint(threshold=0.5, false_positive_rate=0.123456, recall=0.9)
    verdict = Verdict((face,), faces_found=1, point=point, width=90, height=80, band=(0.2, 0.81234))
    assert verdict.to_json() == {
        "label": "Real",
        "verdict": "Uncertain",
        "confidence": 0.75,
        "fake_probability": 0.25,
        "threshold": 0.5,
        "uncertain_band": [0.2, 0.8123],
        "false_positive_rate": 0.1235,
        "faces": [
            {
                "box": [1.0, 2.0, 31.0, 42.0],
                "detection_score": 0.99,
                "label": "Real",
                "verdict": "Uncertain",
                "confidence": 0.75,
                "fake_probability": 0.25,
                "views": {"original": 0.2, "flip": 0.25, "jitter": 0.3},
            }
        ],
        "faces_found": 1,
        "image": {"width": 90, "height": 80},
    }
