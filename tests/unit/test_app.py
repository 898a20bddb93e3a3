"""The page as a server: whether it is ready, its headers, its settings, and who asks it oddly."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from frontend.app import create_app
from tests.unit.backend import (  # noqa: F401 - the fixtures
    Backend,
    app,
    backend,
    client,
    no_form_token,
    no_pause,
    photo,
    send,
)


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
