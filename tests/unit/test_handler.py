"""The handler between TorchServe's rows and the pipeline, with TorchServe's own context."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deepfake.checkpoint import sha256
from deepfake.cpus import usable
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from handler.deepfake_handler import DeepfakeHandler
from tests.conftest import ASTRONAUT, FAKES, TINY
from tests.openapi import validate
from tests.unit.served import Context, RequestProcessor, new_context

PHOTO = ASTRONAUT.read_bytes()
BASE64 = base64.b64encode(PHOTO).decode()


@pytest.fixture(scope="module")
def context(unpacked: Path) -> Context:
    return new_context(unpacked, workers=usable())


@pytest.fixture(scope="module")
def handler(context: Context) -> DeepfakeHandler:
    handler = DeepfakeHandler()
    handler.initialize(context)
    return handler


Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def ask(handler: DeepfakeHandler, context: Context) -> Ask:
    """Send one row with these headers; its status and its JSON."""

    def send(row: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
        context.request_processor = {0: RequestProcessor(headers)}
        (body,) = handler.handle([row], context)
        return context.get_response_status(0)[0], json.loads(body)

    return send


def code(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


@pytest.fixture(scope="module")
def expected(unpacked: Path) -> dict[str, Any]:
    answer = Pipeline.from_file(unpacked / "saved_model.pth").predict([PHOTO])[0]
    assert isinstance(answer, Verdict)
    return answer.to_json()


ROWS = {
    "raw body": {"body": PHOTO},
    "raw body as a bytearray": {"body": bytearray(PHOTO)},
    "form field data": {"data": PHOTO},
    "form field image": {"image": PHOTO},
    "form field body": {"body": PHOTO, "other": b"ignored"},
    "form with an empty field": {"data": b"", "image": PHOTO},
    "JSON": {"body": {"image": BASE64}},
    "JSON in lines": {"body": {"image": "\n".join(re.findall(".{1,76}", BASE64))}},
    "JSON with a data URL": {"body": {"image": f"data:image/jpeg;base64,{BASE64}"}},
}


@pytest.mark.parametrize("form", ROWS)
def test_every_form_of_a_photo_gets_the_pipelines_answer(
    ask: Ask, handler: DeepfakeHandler, expected: dict[str, Any], unpacked: Path, form: str
) -> None:
    status, answer = ask(ROWS[form])
    assert status == 200
    assert answer.pop("model") == {
        "name": "deepfake",
        "version": "1.0",
        "checkpoint": sha256(unpacked / "saved_model.pth"),
        "backbone": TINY,
        "runtime": handler.pipeline.runtime.name,
    }
    assert answer == expected


def test_answers_are_as_documented(ask: Ask) -> None:
    for row, schema in (({"body": PHOTO}, "Verdict"), ({"body": b""}, "Error")):
        validate(ask(row)[1], schema)


def test_of_several_fields_data_counts_then_body_then_image(ask: Ask) -> None:
    assert ask({"image": b"no photo", "body": b"no photo", "data": PHOTO})[0] == 200
    assert ask({"image": b"no photo", "body": PHOTO})[0] == 200
    assert code(ask({"image": PHOTO, "data": b"no photo"})) == (415, "unsupported_format")


BAD_ROWS = {
    "nothing": ({}, 400, "empty_input"),
    "empty body": ({"body": b""}, 400, "empty_input"),
    "another field": ({"photo": PHOTO}, 400, "empty_input"),
    "no base64": ({"body": {"image": "no base64!"}}, 400, "bad_base64"),
    "base64 cut off": ({"body": {"image": BASE64[:-1]}}, 400, "bad_base64"),
    "letters beyond ASCII": ({"body": {"image": "äöü="}}, 400, "bad_base64"),
    "JSON without image": ({"body": {"photo": BASE64}}, 400, "bad_request"),
    "JSON image a number": ({"body": {"image": 5}}, 400, "bad_request"),
    "JSON image empty": ({"body": {"image": ""}}, 400, "bad_request"),
    "JSON a list": ({"body": [BASE64]}, 400, "bad_request"),
    "JSON a text": ({"body": BASE64}, 400, "bad_request"),
    "crops neither true nor false": ({"body": PHOTO, "crops": b"maybe"}, 400, "bad_request"),
    "crops a number in JSON": ({"body": {"image": BASE64, "crops": 2}}, 400, "bad_request"),
    "base64 of no image": ({"body": {"image": "aGVsbG8="}}, 415, "unsupported_format"),
    "data URL of nothing": ({"body": {"image": "data:image/png;base64,"}}, 400, "empty_input"),
}


def test_json_that_cannot_be_parsed_is_no_bad_photo(ask: Ask) -> None:
    """TorchServe then hands on the bytes; a photo that is called JSON is one all the same."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    status, answer = ask({"body": bytearray(b' {"image": "/9j/4AAQ", }')}, **headers)
    assert code((status, answer)) == (400, "bad_request")
    assert "not valid JSON" in answer["error"]["message"]
    assert ask({"body": PHOTO}, **headers)[0] == 200


@pytest.mark.parametrize("form", BAD_ROWS)
def test_what_cannot_be_read_is_answered_with_its_error(ask: Ask, form: str) -> None:
    row, status, name = BAD_ROWS[form]
    assert code(ask(row)) == (status, name)


def has_crops(answer: tuple[int, dict[str, Any]]) -> bool:
    status, body = answer
    assert status == 200
    return all("crop" in face for face in body["faces"])


def test_crops_come_only_when_asked_for(ask: Ask) -> None:
    assert not has_crops(ask({"body": PHOTO}))
    assert has_crops(ask({"image": PHOTO, "crops": b"true"}))
    assert has_crops(ask({"body": {"image": BASE64, "crops": True}}))
    assert not has_crops(ask({"body": {"image": BASE64, "crops": False}}))


@pytest.mark.parametrize("name", ["X-Crops", "x-crops", "X-CROPS"])
@pytest.mark.parametrize(
    ("value", "wanted"),
    [("true", True), (" TRUE ", True), ("1", True), ("yes", True), ("false", False), ("0", False)],
)
def test_crops_can_be_asked_for_in_a_header(ask: Ask, name: str, value: str, wanted: bool) -> None:
    assert has_crops(ask({"body": PHOTO}, **{name: value})) is wanted


def test_a_field_counts_more_than_the_header(ask: Ask) -> None:
    assert not has_crops(ask({"image": PHOTO, "crops": b"false"}, **{"X-Crops": "true"}))
    assert has_crops(ask({"body": {"image": BASE64, "crops": True}}, **{"X-Crops": "false"}))


def test_a_header_that_is_neither_is_refused(ask: Ask) -> None:
    assert code(ask({"body": PHOTO}, **{"X-Crops": "perhaps"})) == (400, "bad_request")


def test_the_explanations_route_adds_heat_maps(ask: Ask, expected: dict[str, Any]) -> None:
    status, answer = ask({"body": PHOTO}, explain="True")
    validate(answer, "Verdict")
    assert status == 200
    (face,) = answer["faces"]
    heat = face.pop("heat_map")
    assert len(heat) == len(heat[0]) == 2  # the last feature map of this network
    assert max(map(max, heat)) == 1
    assert face == expected["faces"][0]
    assert ask({"body": b""}, explain="True")[0] == 400


@pytest.mark.parametrize("headers", [{}, {"explain": "False"}, {"Explain": "True"}])
def test_predictions_have_no_heat_maps(ask: Ask, headers: dict[str, str]) -> None:
    assert "heat_map" not in ask({"body": PHOTO}, **headers)[1]["faces"][0]


def test_an_explanation_that_fails_leaves_the_others_of_its_batch_alone(
    handler: DeepfakeHandler, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(handler.pipeline.model._modules, "head", torch.nn.Identity())
    context.request_processor = {
        0: RequestProcessor({"explain": "True"}),
        1: RequestProcessor({"explain": "False"}),
    }
    # The verdict does not come from there: OpenVINO has its own copy.
    assert handler.pipeline.runtime.name.startswith("openvino")
    bodies = [json.loads(b) for b in handler.handle([{"body": PHOTO}] * 2, context)]
    assert bodies[0]["error"]["code"] == "internal_error"
    assert context.get_response_status(0)[0] == 500
    assert bodies[1]["label"] in ("Fake", "Real")


def test_each_request_of_a_batch_gets_its_own_answer(
    handler: DeepfakeHandler, context: Context
) -> None:
    context.request_processor = {i: RequestProcessor({}) for i in range(5)}
    context.request_processor[3] = RequestProcessor({"X-Crops": "true"})
    fake = FAKES[0].read_bytes()
    rows: list[dict[str, Any]] = [
        {"body": PHOTO},
        {"body": b""},
        {"body": {"image": "?"}},
        {"body": fake},
        {"image": b"no photo"},
    ]
    bodies = [json.loads(body) for body in handler.handle(rows, context)]
    statuses = [context.get_response_status(i)[0] for i in range(5)]
    assert statuses == [200, 400, 400, 200, 415]
    assert [b["error"]["code"] if "error" in b else "" for b in bodies] == [
        *("", "empty_input", "bad_base64", "", "unsupported_format")
    ]
    assert bodies[0]["image"] == {"width": 512, "height": 512}
    with Image.open(FAKES[0]) as photo:
        assert bodies[3]["image"] == {"width": photo.width, "height": photo.height}
    assert ["crop" in bodies[i]["faces"][0] for i in (0, 3)] == [False, True]


@pytest.mark.parametrize("place", ["reading", "writing"])
def test_what_goes_wrong_with_one_request_leaves_the_others_of_its_batch_alone(
    handler: DeepfakeHandler, context: Context, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """As when there is not enough memory for its base64, or for its crops in JSON."""
    context.request_processor = {i: RequestProcessor({}) for i in range(2)}
    rows = [{"body": {"image": BASE64}}, {"body": PHOTO}]

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    if place == "reading":
        monkeypatch.setattr("base64.b64decode", fail)
    else:
        context.request_processor[0] = RequestProcessor({"X-Crops": "true"})
        monkeypatch.setattr("base64.b64encode", fail)
    bodies = [json.loads(body) for body in handler.handle(rows, context)]
    assert bodies[0]["error"]["code"] == "out_of_memory"
    assert context.get_response_status(0)[0] == 503
    assert bodies[1]["label"] in ("Fake", "Real")


def test_answers_are_json_that_nobody_keeps(ask: Ask, context: Context) -> None:
    for row in ({"body": PHOTO}, {"body": b""}):
        ask(row)
        headers = context.get_response_headers(0)
        assert headers["content-type"] == "application/json"
        assert headers["Cache-Control"] == "no-store"


def test_what_happens_is_counted(
    handler: DeepfakeHandler, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    """As lines on the worker's output, where TorchServe collects them."""
    context.request_processor = {i: RequestProcessor({}) for i in range(3)}
    with caplog.at_level("INFO", logger="ts"):
        bodies = handler.handle([{"body": PHOTO}, {"body": b""}, {"body": PHOTO}], context)
    assert "Failed" not in caplog.text  # a name or dimension that metrics.yaml does not have
    lines = re.findall(r"\[METRICS\](\w+)\.\w+:([\d.e-]+)\|#(\S*?)\|#type:(\w+)", caplog.text)
    assert Counter(name for name, *_ in lines) == {
        "deepfake_decode_seconds": 2,
        "deepfake_detect_seconds": 2,
        "deepfake_classify_seconds": 1,
        "deepfake_request_seconds": 3,
        "deepfake_verdicts_total": 2,
        "deepfake_errors_total": 1,
        "deepfake_faces_per_image": 2,
        "deepfake_fake_probability": 2,
    }
    kinds = {name: kind for name, *_, kind in lines}
    assert {kinds[name] for name in kinds if name.endswith("_total")} == {"COUNTER"}
    assert {kinds[name] for name in kinds if not name.endswith("_total")} == {"HISTOGRAM"}
    labels = {name: dimensions for name, _, dimensions, _ in lines}
    verdict = json.loads(bodies[0])
    assert f"label:{verdict['verdict']}," in labels["deepfake_verdicts_total"]
    assert "code:empty_input," in labels["deepfake_errors_total"]
    values = {name: float(value) for name, value, *_ in lines}
    assert values["deepfake_faces_per_image"] == 1
    assert values["deepfake_fake_probability"] == pytest.approx(
        verdict["fake_probability"], abs=1e-4
    )


def test_explanations_are_timed_and_not_counted_as_verdicts(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="ts"):
        ask({"body": PHOTO}, explain="True")
    assert "Failed" not in caplog.text
    assert "deepfake_explain_seconds" in caplog.text
    assert "deepfake_verdicts_total" not in caplog.text
    assert "deepfake_fake_probability" not in caplog.text
