"""What a visitor of the page notices, against a real HTTP server in TorchServe's place."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
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
    text,
    typed,
    verdict,
)


def send(client: FlaskClient, blob: bytes, path: str = "/", name: str = "me.jpg") -> Any:
    return client.post(path, data={"image": (io.BytesIO(blob), name)})


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


def test_flasks_own_errors(client: FlaskClient, app: Flask) -> None:
    assert "There is no such page" in client.get("/nothing").text
    assert client.get("/api/nothing").json["error"]["code"] == "not_found"
    answer = client.get("/api/detect")
    assert (answer.status_code, answer.json["error"]["status"]) == (405, 405)
    assert "POST" in answer.headers["Allow"]
    app.config["MAX_CONTENT_LENGTH"] = 1000
    answer = send(client, bytes(2000))
    assert answer.status_code == 413
    assert "The file is too large" in answer.text
    chunked = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    for environ in ({}, chunked):
        answer = client.post("/api/detect", data=bytes(2000), environ_overrides=environ)
        assert (answer.status_code, answer.json["error"]["code"]) == (413, "image_too_large")


@pytest.mark.parametrize(
    ("workers", "status"), [(("READY",), 200), (("LOADING", "READY"), 200), ((), 503)]
)
def test_ready_when_a_worker_is(
    client: FlaskClient, backend: Backend, workers: tuple[str, ...], status: int
) -> None:
    backend.workers = workers
    assert client.get("/readyz").status_code == status


def test_not_ready_while_loading_or_unknown(client: FlaskClient, backend: Backend) -> None:
    backend.workers = ("LOADING",)
    assert client.get("/readyz").status_code == 503
    other = create_app({"MANAGEMENT_URL": backend.url, "MODEL_NAME": "other"})
    assert other.test_client().get("/readyz").status_code == 503


@pytest.mark.parametrize(("well", "status"), [(True, 200), (False, 503)])
def test_without_a_management_address_it_is_ready_when_torchserve_is_well(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, well: bool, status: int
) -> None:
    """As in containers, where that address is closed to the page."""
    monkeypatch.setenv("DEEPFAKE_MANAGEMENT_URL", "")
    backend.well, backend.workers = well, ()
    page = create_app({"TORCHSERVE_URL": backend.url}).test_client()
    assert page.get("/readyz").status_code == status
    gone = create_app({"TORCHSERVE_URL": "http://127.0.0.1:1"}).test_client()
    assert gone.get("/readyz").status_code == 503


@pytest.mark.parametrize("path", ["/", "/nothing", "/healthz", "/static/style.css"])
def test_headers(client: FlaskClient, path: str) -> None:
    with client.get(path) as answer:  # closes the static file
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_page_keeps_to_its_own_policy(client: FlaskClient) -> None:
    page = send(client, photo()).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    assert not re.search(r'(?:src|href|action)="(?!/|data:|#)', page)


def test_a_language_without_sentences_is_no_way_to_start() -> None:
    with pytest.raises(ValueError, match=r"LANGUAGE is 'xx'; there are sentences in en\."):
        create_app({"LANGUAGE": "xx"})


@pytest.mark.parametrize(
    ("text", "secure"), [("False", False), ("0", False), ("true", True), ("True", True)]
)
def test_a_switch_is_read_however_it_is_written(
    monkeypatch: pytest.MonkeyPatch, text: str, secure: bool
) -> None:
    """Flask alone takes "False" for a text, and any text for yes."""
    monkeypatch.setenv("DEEPFAKE_SESSION_COOKIE_SECURE", text)
    assert create_app().config["SESSION_COOKIE_SECURE"] is secure


def test_a_switch_that_is_neither_on_nor_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFAKE_SESSION_COOKIE_SECURE", "off")
    with pytest.raises(
        ValueError, match="SESSION_COOKIE_SECURE is 'off'; it must be true or false"
    ):
        create_app()


def test_the_examples_ask_the_page_by_the_name_it_has(app: Flask) -> None:
    app.config["HOSTS"] = []
    text = app.test_client().get("/docs/api", base_url="http://photos.example.org:8000").text
    assert "curl -F image=@photo.jpg http://photos.example.org:8000/api/detect" in text
    assert re.findall(r"127\.0\.0\.1:5000/\w+", text) == [  # no proxy lets others ask these
        "127.0.0.1:5000/healthz",
        "127.0.0.1:5000/readyz",
    ]
    assert "at http://127.0.0.1:8080, on the machine where the service runs" in text
    app.config["SESSION_COOKIE_SECURE"] = True  # behind TLS
    text = app.test_client().get("/docs/api", base_url="http://photos.example.org").text
    assert "https://photos.example.org/api/detect" in text


def test_uploads_never_touch_the_disk(
    client: FlaskClient, backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blob = bytes(2_000_000)
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    body = head + blob + b"\r\n--x--\r\n"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))  # any temp file fails
    answer = client.post("/", data=body, content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 200
    assert backend.seen[0][3] == blob


def test_settings_come_from_the_environment(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPFAKE_TORCHSERVE_URL", backend.url + "/")
    monkeypatch.setenv("DEEPFAKE_MODEL_NAME", "a/b")
    send(create_app().test_client(), photo())
    assert backend.seen[0][0] == "/predictions/a%2Fb"
