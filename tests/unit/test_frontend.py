"""What a visitor of the page notices, against a real HTTP server in TorchServe's place."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from frontend.app import create_app
from tests.openapi import SPEC
from tests.unit.backend import (  # noqa: F401 - the fixtures
    Backend,
    app,
    backend,
    client,
    no_form_token,
    no_pause,
    nowhere,
    part,
    photo,
    send,
    text,
    typed,
    verdict,
)


def shown_photo(page: str) -> Image.Image:
    found = re.search(r'<img src="data:image/jpeg;base64,([^"]+)" alt="The photo you sent"', page)
    assert found
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_the_start_page_has_a_form_that_needs_no_script(client: FlaskClient) -> None:
    page = client.get("/").text
    assert re.search(r'<form[^>]* method="post"[^>]* enctype="multipart/form-data"', page)
    assert '<input id="image" type="file" name="image" multiple' in page
    assert 'type="file" name="image" accept="image/*" capture="environment"' in page
    assert "<article" not in page


@pytest.mark.parametrize(
    ("p_fake", "words"),
    [
        (0.873, "Likely fake"),
        (0.52, "Uncertain"),
        (0.48, "Uncertain"),
        (0.04, "No clear sign of manipulation found"),
    ],
)
def test_the_verdict_is_the_headline_and_the_title(
    client: FlaskClient, backend: Backend, p_fake: float, words: str
) -> None:
    backend.body = verdict(p_fake)
    answer = send(client, photo())
    assert answer.status_code == 200
    assert part(answer.text, r'<h2 class="headline">(.*?)</h2>') == words
    assert part(answer.text, r"<title>(.*?)</title>").startswith(words)
    assert "not a proof" in answer.text
    assert "version 1.0" in answer.text
    assert f"<code>{'0123456789abcdef' * 4}</code>" in answer.text


@pytest.mark.parametrize(
    ("p_fake", "words"),
    [(0.873, "87.3 %"), (0.5, "50.0 %"), (0.99996, "over 99.9 %"), (0.00004, "under 0.1 %")],
)
def test_the_probability_claims_no_certainty(
    client: FlaskClient, backend: Backend, p_fake: float, words: str
) -> None:
    backend.body = verdict(p_fake)
    assert f"Probability of fake: {words}" in text(send(client, photo()).text)


@pytest.mark.parametrize(
    ("p_fake", "advice"),
    [
        (0.9, "ask for other evidence before you act"),
        (0.5, "Try a larger or less compressed copy"),
        (0.1, "look for the original"),
    ],
)
def test_every_verdict_says_what_to_do_next(
    client: FlaskClient, backend: Backend, p_fake: float, advice: str
) -> None:
    backend.body = verdict(p_fake)
    assert advice in part(send(client, photo()).text, r"<strong>What to do:</strong>(.*?)</p>")


def test_no_photo_is_called_real(client: FlaskClient, backend: Backend) -> None:
    backend.body = verdict(0.01, 0.02)
    page = send(client, photo()).text
    answer = part(page, r"<article[^>]*>(.*)</article>")
    assert "may still have been manipulated" in answer
    assert not re.search(r"\b(Real|genuine|guaranteed)\b", answer)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.125, "12.5 % fell on the fake side of this threshold."),
        (0.0002, "under 0.1 % fell on the fake side of this threshold."),
        (0, "None of the real photos in the validation set fell on the fake side"),
        (0.0, "None of the real photos in the validation set fell on the fake side"),
        (None, "How often it errs at this threshold has not been measured."),
    ],
)
def test_how_often_it_errs_at_the_threshold_in_use_is_said(
    client: FlaskClient, backend: Backend, share: float | None, words: str
) -> None:
    backend.body = verdict(0.9) | {"false_positive_rate": share}
    assert words in text(send(client, photo()).text)


def test_every_face_has_its_own_verdict_not_by_colour_alone(
    client: FlaskClient, backend: Backend
) -> None:
    backend.body = verdict(0.2, 0.9, 0.5)
    page = send(client, photo()).text
    assert [text(heading) for heading in re.findall(r"<h3>(.*?)</h3>", page, re.DOTALL)] == [
        *(
            "Face 1 : No clear sign of manipulation found",
            "Face 2 : Likely fake",
            "Face 3 : Uncertain",
        )
    ]
    assert re.findall(r'<g class="box (\w+)">', page) == ["real", "fake", "uncertain"]
    key = part(page, r"<figcaption[^>]*>(.*?)</figcaption>")
    for line in ("fake: dashed", "Uncertain: dotted", "found: solid"):  # as result.css draws them
        assert line in key


def test_every_face_has_a_box_and_a_card(client: FlaskClient, backend: Backend) -> None:
    backend.body = verdict(0.2, 0.9, 0.4, faces_found=40)
    page = send(client, photo()).text
    assert page.count('class="edge"') == 3
    assert page.count('<li class="face ') == 3
    assert 'viewBox="0 0 320 240"' in page
    assert '<rect class="edge" x="90" y="20.0" width="60"' in page
    assert "40 faces were found, and the 3 largest examined" in page
    for shown in ("12.3 %", "56.8 %", "90.1 %", "99.9 %"):  # the views and the detection score
        assert shown in text(page)


def test_the_photo_is_shown_upright_and_small(client: FlaskClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn right
    shown = shown_photo(send(client, photo((2600, 1300), exif=exif)).text)
    assert shown.size == (640, 1280)
    assert shown.format == "JPEG"
    assert 0x0112 not in shown.getexif()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_photos_of_every_mode_are_shown(client: FlaskClient, mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (64, 48)).save(buffer, "TIFF")
    assert shown_photo(send(client, buffer.getvalue()).text).size == (64, 48)


def test_a_photo_that_cannot_be_shown_still_gets_its_verdict(client: FlaskClient) -> None:
    answer = send(client, b"the backend reads this, Pillow does not")
    assert answer.status_code == 200
    assert "Likely fake" in answer.text
    assert "The photo you sent" not in answer.text


def test_the_backend_gets_the_file_as_it_is(client: FlaskClient, backend: Backend) -> None:
    blob = photo()
    send(client, blob)
    send(client, blob, name="me.heic")
    assert backend.seen == [
        ("/predictions/deepfake", "true", "image/jpeg", blob),
        ("/predictions/deepfake", "true", "application/octet-stream", blob),
    ]


REFUSALS = [
    (422, typed("no_face", 422), 422, "no_face", "No face found"),
    (415, typed("unsupported_format", 415), 415, "unsupported_format", "not a photo we can read"),
    (413, typed("too_many_pixels", 413), 413, "too_many_pixels", "too many pixels"),
    (413, b"", 413, "image_too_large", "The file is too large"),
    (500, typed("internal_error", 500), 500, "internal_error", "went wrong on our side"),
    (503, {"code": 503, "type": "Busy", "message": "?"}, 503, "backend_busy", "is busy"),
    (507, {"code": 507, "message": "Worker died."}, 502, "backend_died", "detector stopped"),
    (500, b"<html>", 502, "backend_died", "detector stopped"),
    (404, {"code": 404, "message": "No model"}, 502, "backend_failed", "wrong on our side"),
    (503, typed("out_of_memory", 503), 503, "out_of_memory", "not enough memory"),
    (200, b"not JSON", 502, "backend_failed", "wrong on our side"),
    (200, [1], 502, "backend_failed", "wrong on our side"),
    (200, {"label": "Fake"}, 502, "backend_failed", "wrong on our side"),
]


@pytest.mark.parametrize(("sent", "body", "status", "code", "words"), REFUSALS)
def test_errors_come_in_words_and_in_json(
    client: FlaskClient, backend: Backend, sent: int, body: Any, status: int, code: str, words: str
) -> None:
    backend.status, backend.body = sent, body
    page = send(client, photo())
    assert page.status_code == status
    assert words in page.text
    assert "What to do:" in page.text
    assert 'type="file"' in page.text  # to try again at once
    api = send(client, photo(), "/api/detect")
    assert api.status_code == status
    assert api.json["error"]["code"] == code
    assert api.json["error"]["status"] == status
    expected = {"backend_busy": "2", "out_of_memory": "2", "backend_died": "10"}.get(code)
    assert api.headers.get("Retry-After") == expected


def test_markup_in_an_error_is_not_run(client: FlaskClient, backend: Backend) -> None:
    backend.status, backend.body = 400, typed("bad_request", 400, "<script>alert(1)</script>")
    assert "<script>alert" not in send(client, photo()).text


def test_no_backend(nowhere: FlaskClient) -> None:
    page = send(nowhere, photo())
    assert page.status_code == 502
    assert "The detector cannot be reached" in page.text
    answer = send(nowhere, photo(), "/api/detect")
    assert answer.json["error"]["code"] == "backend_unreachable"
    assert answer.headers["Retry-After"] == "10"
    assert nowhere.get("/readyz").status_code == 503
    assert nowhere.get("/healthz").status_code == 200


def test_a_slow_backend(backend: Backend) -> None:
    backend.delay = 0.5
    app = create_app({"TORCHSERVE_URL": backend.url, "TIMEOUT": 0.1})
    answer = send(app.test_client(), photo(), "/api/detect")
    assert answer.status_code == 504
    assert answer.json["error"]["code"] == "backend_timeout"


def test_no_photo(client: FlaskClient, backend: Backend) -> None:
    for answer in (client.post("/"), send(client, b""), client.post("/", data={"image": "text"})):
        assert answer.status_code == 400
        assert "No photo was chosen" in answer.text
    assert client.post("/api/detect").json["error"]["code"] == "empty_input"
    assert backend.seen == []


def test_a_photo_without_a_files_name_is_not_called_too_large(client: FlaskClient) -> None:
    """As a client sends it that forgets the name: of more than Flask's own 500 kB for a field."""
    head = b'--end\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    body = head + bytes(600_000) + b"\r\n--end--\r\n"
    form = "multipart/form-data; boundary=end"
    response = client.post("/api/detect", data=body, content_type=form)
    assert (response.status_code, response.get_json()["error"]["code"]) == (400, "empty_input")


def test_the_api_passes_the_answer_on(client: FlaskClient, backend: Backend) -> None:
    blob = photo()
    assert send(client, blob, "/api/detect").json == backend.body
    assert client.post("/api/detect?crops=true", data=blob).json == backend.body
    curl = "application/x-www-form-urlencoded"  # what curl --data-binary claims
    assert client.post("/api/detect", data=blob, content_type=curl).json == backend.body
    client.post("/api/detect", json={"image": "aGk="})
    assert [(seen[1], seen[2]) for seen in backend.seen] == [
        ("false", "image/jpeg"),
        ("true", "application/octet-stream"),
        ("false", "application/octet-stream"),
        ("false", "application/json"),
    ]
    assert {seen[3] for seen in backend.seen[:3]} == {blob}


@pytest.mark.parametrize(("megabytes", "status"), [(15, 200), (16, 413)])
def test_in_json_a_photo_may_have_as_much_as_the_api_says(
    client: FlaskClient, backend: Backend, megabytes: int, status: int
) -> None:
    body = SPEC["paths"]["/api/detect"]["post"]["requestBody"]["description"]
    assert "in JSON, where base64 adds a third, a photo may have 15 MB" in text(body)
    photo = base64.b64encode(bytes(megabytes * 2**20)).decode()
    assert client.post("/api/detect", json={"image": photo}).status_code == status
    assert len(backend.seen) == (status == 200)
