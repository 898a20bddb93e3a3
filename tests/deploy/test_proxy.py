"""The page behind nginx with deploy/compose/nginx.conf, both run here, without containers."""

from __future__ import annotations

import contextlib
import getpass
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from deploy.torchserve import free_ports
from tests.deploy.files import DEPLOY, ROOT, load
from tests.openapi import validate

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
NGINX = (DEPLOY / "compose" / "nginx.conf").read_text(encoding="utf-8")
SETTINGS = load("deploy/compose.yaml")["services"]["page"]["environment"]


def here(folder: Path) -> tuple[str, int, int]:
    """The proxy's configuration on this machine; its port, and the one of the page behind it."""
    proxy, grafana, health, page = free_ports(4)
    text = NGINX.replace("http://page:5000", f"http://127.0.0.1:{page}")
    text = text.replace("listen 8000", f"listen 127.0.0.1:{proxy}")
    text = text.replace("listen 3000", f"listen 127.0.0.1:{grafana}")
    text = text.replace("listen 127.0.0.1:8099", f"listen 127.0.0.1:{health}")
    text = text.replace("/tmp/", f"{folder}/").replace("/dev/stdout", f"{folder}/access.log")
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    return f"{user}daemon off;\n{text}", proxy, page


@contextlib.contextmanager
def process(*command: object, **environment: str) -> Iterator[None]:
    running = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        running.terminate()
        running.wait(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nginx")


@pytest.fixture(scope="module")
def proxy(folder: Path) -> Iterator[int]:
    """Its port; the page behind it takes two photos an hour of each address."""
    text, port, page = here(folder)
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    gunicorn = [sys.executable, "-m", "gunicorn", "--config", "python:frontend.server"]
    settings = {
        "DEEPFAKE_TORCHSERVE_URL": "http://127.0.0.1:1",
        "DEEPFAKE_PROXIES": SETTINGS["DEEPFAKE_PROXIES"].rpartition("-")[2].rstrip("}"),
        "DEEPFAKE_RATE": "2 per hour",
    }
    with (
        process(*gunicorn, "--bind", f"127.0.0.1:{page}", "frontend.app:create_app()", **settings),
        process("nginx", "-e", folder / "error.log", "-c", folder / "nginx.conf"),
    ):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"http://127.0.0.1:{port}/", timeout=5).ok:
                    break
            time.sleep(0.1)
        yield port


HEAD = b"POST /api/detect HTTP/1.1\r\nHost: localhost\r\n"
LENGTH, CHUNKED = (
    b"Content-Length: 1000000\r\n\r\nabc",
    b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc",
)


def foreign(proxy: int, address: str = "127.0.0.1") -> requests.Response:
    """The answer to an upload that the page refuses without counting it."""
    with requests.Session() as session:
        session.mount("http://", From(address))
        url, headers = f"http://127.0.0.1:{proxy}/api/detect", {"Origin": "https://evil.example"}
        return session.post(url, data=b"photo", headers=headers, timeout=10)


class From(requests.adapters.HTTPAdapter):
    """Connects from this address."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, source_address=(self.address, 0), **options)


@pytest.mark.parametrize("rest", [LENGTH, CHUNKED], ids=["length", "chunks"])
def test_stalled_uploads_wait_at_the_proxy_and_fill_it_for_their_address_only(
    proxy: int, rest: bytes
) -> None:
    with contextlib.ExitStack() as stack:
        stalled = []
        for _ in range(50):
            connection = socket.create_connection(("127.0.0.1", proxy), timeout=10)
            stack.enter_context(connection).sendall(HEAD + rest)
            stalled.append(connection)
        # The page alone would be busy with the first eight of them for 10 s.
        for _ in range(10):
            assert requests.get(f"http://127.0.0.1:{proxy}/", timeout=5).ok
        answer = foreign(proxy)
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "too_many_requests"
        validate(answer.json(), "PageError")
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Cache-Control"] == "no-store"
        assert foreign(proxy, "127.0.0.2").status_code == 403, "it came to the page"
        deadline = time.monotonic() + 5  # nginx has two processes, and one may lag
        waiting = stalled
        while len(waiting) > 8 and time.monotonic() < deadline:
            waiting = [c for c in waiting if not select.select([c], [], [], 0.02)[0]]
        assert len(waiting) == 8
    deadline = time.monotonic() + 10
    while foreign(proxy).status_code == 429:
        assert time.monotonic() < deadline, "its places are free again"
        time.sleep(0.1)


def test_a_claimed_address_does_not_get_a_new_rate(proxy: int) -> None:
    statuses = [
        requests.post(
            f"http://127.0.0.1:{proxy}/api/detect",
            data=b"photo",
            headers={"X-Forwarded-For": f"192.0.2.{n}"},
            timeout=30,
        ).status_code
        for n in range(3)
    ]
    assert statuses == [502, 502, 429]


def test_what_the_proxy_itself_refuses_is_typed_and_kept_nowhere(proxy: int) -> None:
    answer = requests.post(
        f"http://127.0.0.1:{proxy}/api/detect", data=bytes(23 * 2**20), timeout=30
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "image_too_large"
    assert answer.headers["Cache-Control"] == "no-store"
    for path in ("/healthz", "/readyz"):
        assert requests.get(f"http://127.0.0.1:{proxy}{path}", timeout=10).status_code == 404


def test_a_claimed_scheme_is_not_believed(proxy: int) -> None:
    url, claimed = f"http://127.0.0.1:{proxy}/docs/api", {"X-Forwarded-Proto": "https"}
    for headers in ({}, claimed):
        text = requests.get(url, headers=headers, timeout=10).text
        assert f"http://127.0.0.1:{proxy}/api/detect" in text
        assert f"https://127.0.0.1:{proxy}" not in text


def test_while_there_is_no_page_people_and_programs_are_told_to_come_back(tmp_path: Path) -> None:
    text, port, _ = here(tmp_path)
    (tmp_path / "nginx.conf").write_text(text, encoding="utf-8")
    with process("nginx", "-e", tmp_path / "error.log", "-c", tmp_path / "nginx.conf"):
        deadline = time.monotonic() + 30
        while True:
            try:
                shown = requests.get(f"http://127.0.0.1:{port}/", timeout=20)
                break
            except requests.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        told = requests.post(f"http://127.0.0.1:{port}/api/detect", data=b"photo", timeout=20)
    for answer in (shown, told):
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Cache-Control"] == "no-store"
    assert shown.headers["Content-Type"] == "text/html"
    assert "being restarted" in shown.text
    assert told.json()["error"]["code"] == "backend_unreachable"
    validate(told.json(), "PageError")


def test_the_log_has_paths_and_addresses_and_nothing_else_of_a_visitor(
    proxy: int, folder: Path
) -> None:
    mark = "of-nobodys-business"
    headers = {"Referer": f"http://{mark}/", "User-Agent": mark, "Authorization": f"Bearer {mark}"}
    url = f"http://127.0.0.1:{proxy}/healthy"
    requests.get(f"{url}?{mark}", headers=headers, cookies={mark: mark}, timeout=10)
    deadline = time.monotonic() + 10
    while "GET /healthy" not in (log := (folder / "access.log").read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "127.0.0.1" in log
    assert mark not in log
