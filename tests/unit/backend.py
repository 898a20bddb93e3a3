"""A real HTTP server in TorchServe's place, and what the page's tests ask of it and the page."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from frontend.app import create_app


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON, or with bytes as they are, and writes nothing down."""

    def reply(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        blob = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(blob))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(blob)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """The server at work, in a thread of its own."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:  # or a test that failed would never end
            server.shutdown()
            thread.join()


def photo(size: tuple[int, int] = (320, 240), kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "tan").save(buffer, kind, **options)
    return buffer.getvalue()


def face(p_fake: float, left: int = 10) -> dict[str, Any]:
    """As the backend judges it with a threshold of 0.5 and a band from 0.4 to 0.6."""
    fake = p_fake > 0.5
    label = "Fake" if fake else "Real"
    return {
        "box": [left, 20.0, left + 60, 100.0],
        "detection_score": 0.9987,
        "label": label,
        "verdict": "Uncertain" if 0.4 <= p_fake <= 0.6 else label,
        "confidence": p_fake if fake else 1 - p_fake,
        "fake_probability": p_fake,
        "views": {"original": 0.1234, "flip": 0.5678, "jitter": 0.9012},
        "crop": base64.b64encode(photo((64, 64))).decode(),
    }


def verdict(*p_fakes: float, faces_found: int = 0) -> dict[str, Any]:
    faces = [face(p, 10 + 80 * i) for i, p in enumerate(p_fakes)]
    worst = max(faces, key=lambda f: f["fake_probability"])
    return {
        **{key: worst[key] for key in ("label", "verdict", "confidence", "fake_probability")},
        "threshold": 0.5,
        "uncertain_band": [0.4, 0.6],
        "false_positive_rate": 0.125,
        "faces": faces,
        "faces_found": faces_found or len(faces),
        "image": {"width": 320, "height": 240},
        "model": {
            "name": "deepfake",
            "version": "1.0",
            "checkpoint": "0123456789abcdef" * 4,
            "backbone": "some_net",
            "runtime": "some runtime",
        },
    }


def typed(code: str, status: int, message: str = "Something about the photo.") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status}}


class Backend(ThreadingHTTPServer):
    """TorchServe's two addresses in one; answers with ``status`` and ``body`` after ``delay``.

    Photos that begin with ``refuse`` are refused as having no face.
    """

    status = 200
    body: Any = None
    delay = 0.0
    refuse = b"\xff\xfe"
    workers: tuple[str, ...] = ("READY",)
    well = True  # what its /ping says

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: list[tuple[str, str | None, str | None, bytes]] = []


class _Handler(JsonHandler):
    server: Backend

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = (self.headers["X-Crops"], self.headers["Content-Type"])
        self.server.seen.append((self.path, *asked, body))
        time.sleep(self.server.delay)
        answer = (self.server.status, self.server.body)
        if body.startswith(self.server.refuse):
            answer = (422, typed("no_face", 422))
        with contextlib.suppress(ConnectionError):  # the asker may have given up
            self.reply(*answer)

    def do_GET(self) -> None:
        if self.path == "/ping":
            status = "Healthy" if self.server.well else "Unhealthy"
            self.reply(200 if self.server.well else 500, {"status": status})
            return
        known = self.path == "/models/deepfake"
        workers = [{"id": "9000", "status": status} for status in self.server.workers]
        self.reply(200 if known else 404, [{"modelName": "deepfake", "workers": workers}])


@pytest.fixture
def backend() -> Iterator[Backend]:
    server = Backend()
    server.body = verdict(0.873)
    with serving(server):
        yield server


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Second tries come at once here; test_client.py tests when they come."""
    monkeypatch.setattr("frontend.client.BACK_OFF", (0.0, 0.0))


@pytest.fixture(autouse=True)
def no_form_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests send forms that no page gave them; test_guard.py is about that."""
    monkeypatch.setenv("DEEPFAKE_WTF_CSRF_ENABLED", "false")


@pytest.fixture
def app(backend: Backend) -> Flask:
    return create_app({"TORCHSERVE_URL": backend.url, "MANAGEMENT_URL": backend.url, "TIMEOUT": 5})


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def nowhere() -> FlaskClient:
    """A frontend whose backend's port is closed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    return create_app({"TORCHSERVE_URL": url, "MANAGEMENT_URL": url}).test_client()


def text(page: str) -> str:
    """A page, or a part of one, as a person reads it."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).strip()


def part(page: str, pattern: str) -> str:
    """The text of the first element whose start tag and content match."""
    found = re.search(pattern, page, re.DOTALL)
    assert found, pattern
    return text(found[1])


def send(client: FlaskClient, blob: bytes, path: str = "/", name: str = "me.jpg") -> Any:
    return client.post(path, data={"image": (io.BytesIO(blob), name)})
