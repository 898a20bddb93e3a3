"""The page under gunicorn, as `make serve` and the image run it; no detector listens behind it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from deploy.torchserve import free_ports
from frontend import keys, server
from tests.conftest import ROOT

MIB = 2**20
PAUSES = {"DEEPFAKE_STALL": "1", "DEEPFAKE_HEADERS": "2", "DEEPFAKE_UPLOAD": "4"}  # seconds


class Page:
    """A running page.

    Attributes:
        url: where it is.
        log: what it and gunicorn have written.
    """

    def __init__(self, port: int, log: Path) -> None:
        self.port, self.log = port, log
        self.url = f"http://127.0.0.1:{port}"

    def send(self, blob: bytes) -> socket.socket:
        """A new connection on which so much has been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(blob)
        return connection

    def answer(self, blob: bytes) -> str:
        """All that comes back for so much, until the page closes the connection."""
        with self.send(blob) as connection:
            return received(connection)


def received(connection: socket.socket) -> str:
    chunks = []
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    return b"".join(chunks).decode("utf-8", "replace")


def post(path: str = "/api/detect", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


@contextlib.contextmanager
def running(folder: Path, *options: str, **environment: str) -> Iterator[Page]:
    """A page with these options of gunicorn and this environment."""
    (port,) = free_ports(1)
    page = Page(port, folder / "page.log")
    command = [sys.executable, "-m", "gunicorn", "--config", "python:frontend.server"]
    command += ["--bind", f"127.0.0.1:{port}", *options, "frontend.app:create_app()"]
    settings = {"DEEPFAKE_TORCHSERVE_URL": "http://127.0.0.1:1", **environment}
    with page.log.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log
        )
    try:
        wait_for(page)
        yield page
    finally:
        process.terminate()
        process.wait(30)


def wait_for(page: Page) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{page.url}/healthz", timeout=5).ok:
                return
        time.sleep(0.1)
    raise AssertionError(page.log.read_text())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with running(tmp_path_factory.mktemp("page")) as started:
        yield started


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One with little patience, so that the tests need little."""
    with running(tmp_path_factory.mktemp("hasty"), **PAUSES) as started:
        yield started


def error(answer: str) -> tuple[int, str]:
    """Status and code of an answer from the JSON route, which nobody may keep."""
    head, _, body = answer.partition("\r\n\r\n")
    assert "cache-control: no-store" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]["code"]


# Slow clients

STALLED = {
    "says nothing": b"",
    "stops in its headers": post()[:-6],
    "stops in its body": post("/api/detect", "Content-Length: 1000000") + b"abc",
    "stops in a chunk": post("/api/detect", "Transfer-Encoding: chunked") + b"ffff\r\nabc",
    "stops in its form": post(
        "/", "Content-Length: 1000000", "Content-Type: multipart/form-data; boundary=x"
    )
    + b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc',
}


def test_stalled_clients_do_not_keep_the_page_from_others(hasty: Page) -> None:
    for name, blob in STALLED.items():
        connections = [hasty.send(blob) for _ in range(server.threads + 4)]
        assert requests.get(f"{hasty.url}/healthz", timeout=30).ok, name
        for connection in connections:
            connection.close()
    assert "Traceback" not in hasty.log.read_text()


def trickle(connection: socket.socket, seconds: float) -> None:
    """Keep on sending, a byte at a time, less than a stall apart."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            connection.sendall(b"a")
            time.sleep(0.3)


@pytest.mark.parametrize("name", ["stops in its headers", "stops in its body"])
def test_a_client_that_trickles_is_dropped_in_the_end(hasty: Page, name: str) -> None:
    with hasty.send(STALLED[name]) as connection:
        trickle(connection, 10)
        connection.settimeout(0.1)
        received(connection)  # TimeoutError while it is still open


def test_an_upload_that_stalls_is_told_so(hasty: Page) -> None:
    for name in ("stops in its body", "stops in a chunk"):
        assert error(hasty.answer(STALLED[name])) == (408, "upload_incomplete")
    form = hasty.answer(STALLED["stops in its form"])
    assert form.startswith("HTTP/1.1 408")
    assert "The photo did not arrive" in form


def test_half_a_photo_is_not_judged(page: Page) -> None:
    with page.send(STALLED["stops in its body"]) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert error(received(connection)) == (408, "upload_incomplete")


# Bodies that are too long


def taken(connection: socket.socket, chunk: bytes) -> int:
    """How many of a hundred chunks can be sent before the page closes the connection."""
    for count in range(100):
        try:
            connection.sendall(chunk)
        except OSError:
            return count
    return 100


def test_a_length_over_the_limit_is_refused_before_a_byte_is_sent(page: Page) -> None:
    too_long = f"Content-Length: {22 * MIB}"
    assert error(page.answer(post("/api/detect", too_long))) == (413, "image_too_large")
    form = "Content-Type: multipart/form-data; boundary=x"
    assert page.answer(post("/", too_long, form)).startswith("HTTP/1.1 413")


def test_a_body_without_a_length_is_read_to_the_limit_only(page: Page) -> None:
    chunk = f"{MIB:x}\r\n".encode() + bytes(MIB) + b"\r\n"
    with page.send(post("/api/detect", "Transfer-Encoding: chunked")) as connection:
        assert taken(connection, chunk) < 40, "of 100"
    whole = post("/api/detect", "Transfer-Encoding: chunked") + chunk * 21 + b"1\r\na\r\n0\r\n\r\n"
    assert error(page.answer(whole)) == (413, "image_too_large")


def test_who_may_not_ask_is_told_before_a_byte_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys.add(file, "alice")
    length = f"Content-Length: {20 * MIB}"
    foreign = "Origin: https://evil.example"
    settings = {"DEEPFAKE_API_KEYS": str(file), "DEEPFAKE_RATE": "2 per hour"}
    with running(tmp_path, **settings) as page:
        assert error(page.answer(post("/api/detect", length, foreign))) == (403, "cross_site")
        assert error(page.answer(post("/api/detect", length))) == (401, "key_required")
        page.answer(post("/api/detect", length))
        assert error(page.answer(post("/api/detect", length))) == (429, "too_many_requests")


# What is not HTTP


@pytest.mark.parametrize(
    "blob",
    [
        b"\x16\x03\x01 MARKER-5b1e \r\n\r\n",
        b"GET /MARKER-5b1e HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nMARKER-5b1e bad: x\r\n\r\n",
        b"GET /" + b"MARKER-5b1e" * 1000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"MARKER-5b1e" * 1000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: MARKER-5b1e\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_nothing_of_itself_back(page: Page, blob: bytes) -> None:
    answer = page.answer(blob)
    assert re.match(r"HTTP/1.1 4\d\d ", answer)
    for text in (answer, page.log.read_text()):
        assert "MARKER" not in text
        assert "Traceback" not in text
        assert str(ROOT) not in answer


# Several processes


def test_several_workers_accept_each_others_forms(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "3") as page, requests.Session() as browser:
        found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get(page.url).text)
        assert found
        for _ in range(12):
            answer = requests.post(
                page.url,
                data={"csrf_token": found[1]},
                files={"image": b"photo"},
                cookies=browser.cookies,
                timeout=30,
            )
            assert answer.status_code == 502, "accepted; there is no detector"
